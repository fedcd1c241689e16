"""Run commands on hosts by pyinfra. Only text made by gpurack.shell becomes a command."""

from typing import Any

from pyinfra.api import Host, State, StringCommand
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.util import CommandOutput, OutputLine
from typing_extensions import override

from gpurack.shell import Sh


class TooMuchOutput(Exception):
    """A command printed more than gpurack reads, so pyinfra_patches.py stopped it. The text is the error to show."""


class Command(StringCommand):
    """A shell command with pyinfra's connector arguments (`_stdin`, `_sudo`)."""

    def __init__(self, text: Sh, **arguments: Any) -> None:
        super().__init__(text, **arguments)

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        connector_arguments.update(self.connector_arguments)
        shown: dict[str, Any] = {"print_output": state.print_output, "print_input": state.print_input}
        return run(host, self, **shown, **connector_arguments)


def run(host: Host, command: StringCommand, **arguments: Any) -> tuple[bool, CommandOutput]:
    """Run a command on a host: (succeeded, output).

    A command that prints too much counts as failed, with that error as its output. An exception would end the run for
    all hosts (pyinfra 3.10.0).
    """
    try:
        ok, output = host.run_shell_command(command, **arguments)
        return ok, output
    except TooMuchOutput as error:
        return False, CommandOutput([OutputLine("stderr", str(error))])
