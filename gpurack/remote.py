"""Run commands on hosts by pyinfra. Only text made by gpurack.shell becomes a command."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gevent
from paramiko.ssh_exception import SSHException
from pyinfra.api import Host, State, StringCommand
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.util import CommandOutput, OutputLine
from typing_extensions import override

from gpurack.screen import duration
from gpurack.shell import Sh

SIGN_OF_LIFE = 10
"""Seconds between two messages that a host's answer is waited for."""
LOST = "the connection to the host was lost. Run again to continue"


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


@contextmanager
def telling(host: Host) -> Iterator[None]:
    """Log every few seconds that the host's answer is waited for, as long as the block runs."""
    begun, log = time.monotonic(), host.log  # here: pyinfra's `host` is unknown in another greenlet

    def tell() -> None:
        while True:
            gevent.sleep(SIGN_OF_LIFE)
            log(f"waiting for an answer of the host, {duration(time.monotonic() - begun)}")

    ticker = gevent.spawn(tell)
    try:
        yield
    finally:
        ticker.kill(block=False)


def run(host: Host, command: StringCommand, told: bool = False, **arguments: Any) -> tuple[bool, CommandOutput]:
    """Run a command on a host: (succeeded, output).

    told: does the caller say what it does meanwhile? A command whose output is printed says it itself.

    A command that prints too much counts as failed, with that error as its output, and so does one whose connection
    ends. An exception would end the run for all hosts (pyinfra 3.10.0).
    """
    try:
        with nullcontext() if told or arguments.get("print_output") else telling(host):
            ok, output = host.run_shell_command(command, **arguments)
    except TooMuchOutput as error:
        return False, CommandOutput([OutputLine("stderr", str(error))])
    except (SSHException, EOFError):
        return False, CommandOutput([OutputLine("stderr", f"error {LOST}")])
    if not ok and is_lost(host):
        output = CommandOutput([*output.combined_lines, OutputLine("stderr", f"error {LOST}")])
    return ok, output


def is_lost(host: Host) -> bool:
    """Has the connection to a host ended?"""
    client = getattr(getattr(host, "connector", None), "client", None)
    transport = client.get_transport() if client else None
    return transport is not None and not transport.is_active()
