"""What pyinfra (3.10.0) would get wrong before any deploy file is loaded; called from a pyinfra project's config.py.

- An inventory without hosts: pyinfra loads a deploy file once per host, so never, prints an empty table and exits with
  0. A misspelled group, or a dict where pyinfra wants a list, would look like a success.
- A --limit that matches no host: the same, with exit code 0 too.
- An inventory in YAML, or a file that is not there: pyinfra runs the one as Python and takes the other for a host.
- A host that cannot be reached: its reason is to stand in the table at the end, but pyinfra connects before it loads
  the deploy file.
- No terminal, and no -y: pyinfra waits for Enter and ends in a traceback.
- --dry, or a run ended at the prompt, that has shown errors: pyinfra's exit code is 0.
- What hosts print goes to the terminal as it is (streamed output, failed commands, -v, errors of ssh): `harmless`.
- A byte that is not UTF-8 in a host's output ends the reading with a traceback, and the rest is lost; and a host can
  print until the admin's memory is full: `read_any_bytes`.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from paramiko.file import BufferedFile
from pyinfra import progress
from pyinfra.api import Config, Host, Inventory, State, output
from pyinfra.api.state import BaseStateCallback, StateStage
from pyinfra.connectors import ssh, util
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_state
from pyinfra_cli import cli
from pyinfra_cli.exceptions import CliError

from gpurack import screen
from gpurack.operations.run_state import host_run
from gpurack.remote import TooMuchOutput
from gpurack.spec.load import NO_HOSTS, YAML
from gpurack.spec.problems import InventoryError, Problem

OUTPUT_LIMIT = 64 << 20
"""Bytes of a command's output: the evidence of a host with hundreds of containers has 2 million."""
LINE_COST = 256
"""Bytes that a line costs beside its own: pyinfra keeps each as an object."""
PIECE = 8192
"""Bytes of a line that are read at once."""
NO_MATCH = "--limit and --exclude leave no host of this inventory; nothing was done. Its hosts: {}."
NOBODY = (
    "nobody can confirm, because there is no terminal; nothing was changed. "
    "Run with -y to go ahead, or with --dry to only look."
)


def guard() -> None:
    """For this run of pyinfra: empty inventories and missing terminals are sentences, connection errors are kept, and
    what hosts say is shown harmlessly."""
    harmless()
    read_any_bytes()
    called = click.get_current_context(silent=True)
    if called and (wrong := wrong_file(str(called.params.get("inventory", "")))):
        raise InventoryError([wrong])
    state: State = ctx_state.get()
    begin, confirm, end = state.init, cli._do_confirm, cli._exit

    def init(inventory: Inventory, config: Config | None, initial_limit: Any = None) -> Any:
        if not len(inventory):
            raise InventoryError([NO_HOSTS])
        if initial_limit is not None and not initial_limit:
            raise CliError(NO_MATCH.format(", ".join(host.name for host in inventory)))
        begin(inventory, config, initial_limit=initial_limit)
        state.add_callback_handler(Connections())

    def asked(message: str) -> Any:
        try:
            return confirm(message)
        except EOFError:
            raise CliError(NOBODY) from None

    def exit_() -> None:
        foreseen = any(host_run(host).foreseen for host in state.inventory)
        if foreseen and state.current_stage < StateStage.Execute:
            sys.exit(1)
        end()

    cli._exit = exit_
    state.init = init  # type: ignore[method-assign]
    cli._do_confirm = asked


def harmless() -> None:
    """All that this pyinfra prints passes `screen.Filtered`, and its own colours stay. Once or more."""
    # its spinner moves the cursor, and shows names of the inventory only
    progress.sys = SimpleNamespace(stderr=screen.unprotected(sys.stderr))  # type: ignore[assignment]
    screen.protect()
    click.style = screen.style
    output.set_formatter(screen.style)


def read_any_bytes() -> None:
    """Hosts' output is decoded whatever bytes it holds, and no more than `OUTPUT_LIMIT` of it is read. Once or more."""
    util.read_output_buffers = ssh.read_output_buffers = _read_output_buffers


_pyinfra_read_output_buffers = util.read_output_buffers


def _read_output_buffers(
    stdout_buffer: Iterable[Any],
    stderr_buffer: Iterable[Any],
    timeout: int | None,
    print_output: bool,
    print_prefix: str,
) -> CommandOutput:
    allowance = Allowance(OUTPUT_LIMIT)
    readers = (allowance.lines(stdout_buffer), allowance.lines(stderr_buffer))
    output = _pyinfra_read_output_buffers(*readers, timeout, print_output, print_prefix)
    if allowance.left < 0:
        raise TooMuchOutput(f"a command there printed more than {OUTPUT_LIMIT >> 20} MiB, and was cut off.")
    return output


class Allowance:
    """How much more a command may print, on both its outputs."""

    def __init__(self, left: int) -> None:
        self.left = left

    def lines(self, stream: Any) -> Iterator[str]:
        """The lines of an output as text. Where nothing is left, the output is closed, and the command ends."""
        if isinstance(stream, BufferedFile):
            # paramiko (4.0) has no public way to ask a command's output for bytes
            stream._flags |= stream.FLAG_BINARY  # type: ignore[attr-defined]
        line = bytearray()
        while piece := stream.readline(PIECE):
            line += piece
            self.left -= len(piece)
            if line.endswith(b"\n"):
                self.left -= LINE_COST
                yield line.decode(errors="replace")
                line.clear()
            if self.left < 0:
                getattr(stream, "channel", stream).close()
                return
        if line:
            yield line.decode(errors="replace")


def wrong_file(inventory: str) -> Problem | None:
    """What pyinfra would misunderstand: YAML, and Python that is not there. inventory: as it was given to pyinfra."""
    path = Path(inventory)
    if path.suffix == ".py" and not path.exists():
        return Problem.of("no-inventory-file", "", inventory)
    if path.suffix not in YAML:
        return None
    python = path.with_suffix(".py")
    lines = f'import gpurack; globals().update(gpurack.load("{path.name}"))'
    hint = f"Use {python} instead." if python.exists() else f"Write two lines into {python} and use that: {lines}"
    return Problem.of("yaml-given-to-pyinfra", "", inventory, hint=hint)


class Connections(BaseStateCallback):
    """Keeps with a host why it could not be reached."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: Exception) -> None:
        """pyinfra tells it once per host, and forgets it."""
        host_run(host).connect_error = str(error).replace("[Errno None] ", "")
