"""Patches of pyinfra (3.10.0) that must apply before a deploy file is loaded. A project's config.py calls `guard`.

- Inventory without hosts: pyinfra loads a deploy file once per host, so never, and exits with 0. A misspelled group, or
  a dict instead of a list, would look like success. The same holds for a --limit that matches no host.
- Inventory in YAML: pyinfra runs it as Python. A missing file: pyinfra takes its name for a host.
- Unreachable host: pyinfra connects before it loads the deploy file, so the reason is kept for the final table.
- No terminal and no -y: pyinfra waits for Enter and ends in a traceback.
- Errors shown by --dry, or before a run was cancelled at the prompt: pyinfra exits with 0.
- Output of hosts (streamed output, failed commands, -v, errors of ssh) reaches the terminal unfiltered: `harmless`.
- A byte that is not UTF-8 ends the reading of a host's output with a traceback, and a host can print until the memory
  here is full: `read_any_bytes`.
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
from gpurack.inventory.load import NO_HOSTS, YAML
from gpurack.operations.run_state import host_run
from gpurack.remote import TooMuchOutput
from gpurack.spec.problems import InventoryError, Problem

OUTPUT_LIMIT = 64 << 20
"""Bytes of a command's output. The evidence of a host with hundreds of containers has 2 million."""
LINE_COST = 256
"""Bytes that pyinfra's object for a line needs, besides its text."""
PIECE = 8192
"""Bytes of a line that are read at once."""
NO_MATCH = "No host matches --limit and --exclude. Nothing was changed. Hosts of this inventory: {}."
NO_TERMINAL = (
    "Confirmation needs a terminal. Nothing was changed. Run with -y to apply, or with --dry to show the changes."
)


def guard() -> None:
    """Apply all patches to this run of pyinfra. Raises InventoryError for a file that pyinfra would misread."""
    harmless()
    read_any_bytes()
    context = click.get_current_context(silent=True)
    if context and (problem := misread_file(str(context.params.get("inventory", "")))):
        raise InventoryError([problem])
    state: State = ctx_state.get()
    begin, confirm, end = state.init, cli._do_confirm, cli._exit

    def init(inventory: Inventory, config: Config | None, initial_limit: Any = None) -> Any:
        if not len(inventory):
            raise InventoryError([NO_HOSTS])
        if initial_limit is not None and not initial_limit:
            raise CliError(NO_MATCH.format(", ".join(host.name for host in inventory)))
        begin(inventory, config, initial_limit=initial_limit)
        state.add_callback_handler(Connections())

    def confirm_or_fail(message: str) -> Any:
        try:
            return confirm(message)
        except EOFError:
            raise CliError(NO_TERMINAL) from None

    def exit_() -> None:
        foreseen = any(host_run(host).foreseen for host in state.inventory)
        if foreseen and state.current_stage < StateStage.Execute:
            sys.exit(1)
        end()

    cli._exit = exit_
    state.init = init  # type: ignore[method-assign]
    cli._do_confirm = confirm_or_fail


def harmless() -> None:
    """Filter all output of pyinfra by `screen.Filtered`, and keep its own colours. Can be called repeatedly."""
    # its spinner moves the cursor, and shows only names of the inventory
    progress.sys = SimpleNamespace(stderr=screen.unprotected(sys.stderr))  # type: ignore[assignment]
    screen.protect()
    click.style = screen.style
    output.set_formatter(screen.style)


def read_any_bytes() -> None:
    """Decode any bytes in hosts' output, and read at most `OUTPUT_LIMIT` per command. Can be called repeatedly."""
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
        raise TooMuchOutput(f"a command printed more than {OUTPUT_LIMIT >> 20} MiB and was stopped.")
    return output


class Allowance:
    """The bytes that a command may still print, on stdout and stderr together."""

    def __init__(self, left: int) -> None:
        self.left = left

    def lines(self, stream: Any) -> Iterator[str]:
        """The lines of an output as text. When nothing is left, it closes the output, which ends the command."""
        if isinstance(stream, BufferedFile):
            # paramiko (4.0) has no public way to read a command's output as bytes
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


def misread_file(inventory: str) -> Problem | None:
    """An error for a YAML or missing inventory, which pyinfra would misread. inventory: pyinfra's argument."""
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
    """Keep the reason why a host could not be reached."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: Exception) -> None:
        """Called by pyinfra once per host; pyinfra does not keep the error."""
        host_run(host).connect_error = str(error).replace("[Errno None] ", "")
