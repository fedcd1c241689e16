"""pyinfra without hosts, and nothing of gpurack: a bare project is what benchmarks/fleet.py compares with."""

from collections.abc import Iterator
from typing import Any

from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine


@operation()
def nothing() -> Iterator[PyinfraCommand]:
    """An operation without commands: what pyinfra itself costs."""
    yield from ()


def answer_without_ssh() -> None:
    """Let pyinfra connect to no host, and each host answer any command with its own name."""

    def connect(connector: SSHConnector) -> None:
        return None

    def run(connector: SSHConnector, *command: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
        return True, CommandOutput([OutputLine("stdout", connector.host.name)])

    SSHConnector.connect, SSHConnector.disconnect = connect, connect  # type: ignore[method-assign]
    SSHConnector.run_shell_command = run  # type: ignore[method-assign]
