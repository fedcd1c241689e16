"""A command for a host, as pyinfra takes it. Only gpurack.shell's text becomes one."""

from typing import Any

from pyinfra.api import StringCommand

from gpurack.shell import Sh


class Command(StringCommand):
    """arguments: pyinfra's connector arguments (`_stdin`, `_sudo`)."""

    def __init__(self, text: Sh, **arguments: Any) -> None:
        super().__init__(text, **arguments)
