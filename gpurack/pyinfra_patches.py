"""Patches of pyinfra (3.10.0) that must apply before a deploy file is loaded. A project's config.py calls `guard`.

- Inventory without hosts: pyinfra loads a deploy file once per host, so never, and exits with 0. A misspelled group, or
  a dict instead of a list, would look like success. The same holds for a --limit that matches no host.
- Inventory in YAML: pyinfra runs it as Python. A missing file: pyinfra takes its name for a host.
- Unreachable host: pyinfra connects before it loads the deploy file, so the reason is kept for the final table.
- No host reachable: pyinfra ends before any deploy, and names no command to try.
- No terminal and no -y: pyinfra waits for Enter and ends in a traceback.
- Errors shown by --dry, or before a run was cancelled at the prompt: pyinfra exits with 0.
- A host in `maintenance` would be connected to, and fail the run.
- Output of hosts (streamed output, failed commands, -v, errors of ssh) reaches the terminal unfiltered: `harmless`.
- No host reachable: pyinfra gives no reason ("No hosts remaining!"), and paramiko prints a traceback.
- A host that dies is noticed after minutes or never: `find_dead_host`.
- Ctrl-C ends with exit code 0 and without the table: `interrupt`.
- pyinfra's prompt takes `y` for a no, and a no ends with exit code 0: `read_answer`.
- A failed operation is said to have "executed 0 commands": `without_count`.
- Every host waits for the slowest one after each operation: `run_operations`.
- It connects to 20 hosts per core of this computer at once, and through one jump host to as many, of which the jump
  host's sshd drops some: `for_all_hosts`, `queue_at_jump_hosts`.
- A byte that is not UTF-8 ends the reading of a host's output with a traceback, and a host can print until the memory
  here is full: `read_any_bytes`.
- For each operation of each host it searches source files, half of a large fleet's CPU time: `read_no_source`.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from gevent.lock import BoundedSemaphore
from paramiko import SSHException
from paramiko.file import BufferedFile
from paramiko.util import get_logger
from pyinfra import progress
from pyinfra.api import Config, Host, Inventory, State, operations, output
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.state import MAX_PARALLEL, BaseStateCallback, StateStage
from pyinfra.api.util import PYINFRA_INSTALL_DIR
from pyinfra.connectors import ssh, util
from pyinfra.connectors.sshuserclient.client import SSHClient
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_state
from pyinfra_cli import cli
from pyinfra_cli.exceptions import CliError, WrappedError

from gpurack import screen
from gpurack.facts.unreachable import why_unreachable
from gpurack.inventory.find import is_deploy, is_inventory
from gpurack.inventory.fleet import layers_of, maintenance_of
from gpurack.inventory.load import NO_HOSTS, YAML, apply_command
from gpurack.operations.order import run_operations
from gpurack.operations.run_state import host_run
from gpurack.remote import TooMuchOutput
from gpurack.spec.problems import InventoryError, Problem

OUTPUT_LIMIT = 64 << 20
"""Bytes of a command's output. The evidence of a host with hundreds of containers has 2 million."""
LONGEST_LINE = 1 << 20
"""Bytes of a line of output that is passed on as it comes."""
LINE_COST = 256
"""Bytes that pyinfra's object for a line needs, besides its text."""
PIECE = 8192
"""Bytes of a line that are read at once."""
KEEPALIVE = 10
"""Seconds between two messages of SSH that keep an idle connection open."""
TCP_OPTIONS = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 18_000}
"""Seconds, and milliseconds for the last: how long the kernel waits for a host's answer."""
LOGINS = 5
"""Logins at one jump host at once. From 10 on its sshd drops some (sshd_config(5), MaxStartups); others log in too."""
NO_MATCH = "No host matches --limit and --exclude. Nothing was changed. Hosts of this inventory: {}."
NO_HOST_REACHED = "No host could be reached. Nothing was changed."
NO_TERMINAL = (
    "Confirmation needs a terminal. Nothing was changed. Run with -y to apply, or with --dry to show the changes."
)


def guard() -> None:
    """Apply all patches to this run of pyinfra. Raises InventoryError for a file that pyinfra would misread."""
    harmless()
    read_any_bytes()
    read_no_source()
    quiet_paramiko()
    name_wrong_keys()
    queue_at_jump_hosts()
    without_our_lines()
    context = click.get_current_context(silent=True)
    words = context.params if context else {}
    given = str(words.get("inventory", ""))
    if problem := misread_file(given, [str(word) for word in words.get("operations", ())]):
        raise InventoryError([problem])
    state: State = ctx_state.get()
    begin, confirm, end, connect = state.init, cli._do_confirm, cli._exit, cli.connect_all
    declined: list[str] = []

    def init(inventory: Inventory, config: Config | None, initial_limit: Any = None) -> Any:
        if not len(inventory):
            problem = NO_HOSTS if Path(given).exists() else Problem.of("host-given-to-pyinfra", "", given, name=given)
            raise InventoryError([problem])
        if initial_limit is not None and not initial_limit:
            raise CliError(NO_MATCH.format(", ".join(host.name for host in inventory)))
        config = for_all_hosts(config or Config(), inventory)
        begin(inventory, config, initial_limit=without_maintenance(inventory, initial_limit))
        state.add_callback_handler(Connections())

    def confirm_or_fail(message: str) -> Any:
        try:
            agreed = confirm_removals(state) and confirm(message)
        except EOFError:
            raise CliError(NO_TERMINAL) from None
        declined.extend([] if agreed else [message])
        return agreed

    def connect_or_name_hosts(state: State) -> None:
        try:
            connect(state)
        except PyinfraError:
            if state.active_hosts:
                raise
            hosts = [host for host in state.inventory if state.is_host_in_limit(host)]
            lines = [f"    error  {host.name} {host_run(host).connect_error}" for host in hosts]
            raise CliError("\n".join([NO_HOST_REACHED, *lines])) from None

    def exit_() -> None:
        foreseen = any(host_run(host).foreseen for host in state.inventory)
        if declined or (foreseen and state.current_stage < StateStage.Execute):
            sys.exit(1)
        end()

    cli._exit = exit_
    cli.input = read_answer
    cli.run_ops = run_operations_or_as_asked
    if getattr(signal.getsignal(signal.SIGINT), "__module__", "") == "pyinfra_cli.main":
        signal.signal(signal.SIGINT, lambda *_: interrupt(state))
    cli.connect_all = connect_or_name_hosts
    state.init = init  # type: ignore[method-assign]
    cli._do_confirm = confirm_or_fail


def run_operations_or_as_asked(state: State, serial: bool = False, no_wait: bool = False) -> None:
    """What pyinfra calls to run the operations. serial, no_wait: its options."""
    if serial or no_wait:
        operations.run_ops(state, serial=serial, no_wait=no_wait)
        return
    try:
        run_operations(state)
    except PyinfraError as error:  # no host is left; each has its own error, and the line of ours says nothing
        raise CliError(str(error)) from None


def read_no_source() -> None:
    """Let pyinfra order operations by `lines_to` them. Can be called repeatedly."""
    module = import_module("pyinfra.api.operation")  # in `pyinfra.api` the name is the decorator's
    module.get_operation_order_from_stack = lines_to  # type: ignore[attr-defined]


def lines_to(state: State) -> list[int]:
    """The numbers of the lines that call an operation, from the deploy file on, as pyinfra's own function gives them.

    Operations of several hosts with the same numbers are one. pyinfra's function asks `inspect`, which searches the
    source of every line in all modules.
    """
    frame, calls = sys._getframe().f_back, list[tuple[str, int]]()
    while frame:
        calls.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    if deploy := state.current_deploy_filename:
        calls = list(dropwhile(lambda call: call[0] != deploy, calls))
    return [state.current_op_file_number, *(line for file, line in calls if not file.startswith(PYINFRA_INSTALL_DIR))]


def quiet_paramiko() -> None:
    """Keep paramiko's tracebacks from the terminal. Can be called repeatedly."""
    get_logger("paramiko").setLevel(60)  # above all its messages


def for_all_hosts(config: Config, inventory: Inventory) -> Config:
    """Let a run work on all hosts at once, unless the user said otherwise (`--parallel`, config.py)."""
    config.PARALLEL = config.PARALLEL or min(len(inventory), MAX_PARALLEL)
    return config


def name_wrong_keys() -> None:
    """Let an `ssh_key` that cannot be read fail its host alone, with its reason. Can be called repeatedly.

    pyinfra (3.10.0) raises no ConnectError for it, so that gevent prints a traceback and no host has a reason.
    """
    before = ssh.get_private_key
    if before.__name__ == "key_or_reason":
        return

    def key_or_reason(*given: Any, **named: Any) -> Any:
        try:
            return before(*given, **named)
        except PyinfraError as error:
            raise ConnectError(str(error)) from error

    ssh.get_private_key = key_or_reason


def queue_at_jump_hosts() -> None:
    """Let at most `LOGINS` connections log in to the same jump host (ProxyJump) at once. Can be called repeatedly."""
    before: Callable[..., Any] = SSHClient.connect
    if before.__name__ == "queued":
        return

    def queued(client: SSHClient, hostname: str, **options: Any) -> None:
        if "sock" not in options:  # pyinfra gives it for jump hosts only, None for the first
            try:
                before(client, hostname, **options)
            except UnicodeDecodeError as error:  # of ssh's configuration, which pyinfra reads here and does not catch
                file = options.get("_pyinfra_ssh_config_file") or "~/.ssh/config"
                raise SSHException(f"{file} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
            return
        with _logins.setdefault(f"{hostname}:{options.get('port')}", BoundedSemaphore(LOGINS)):
            before(client, hostname, **options)

    SSHClient.connect = queued  # type: ignore[method-assign, assignment]


_logins: dict[str, BoundedSemaphore] = {}


def read_answer(prompt: str = "") -> str:
    """The answer at pyinfra's prompt, as pyinfra wants it: "" for Enter, y and yes, else what was typed."""
    answer = input(prompt).strip()
    return "" if answer.lower() in ("y", "yes") else answer


def interrupt(state: State) -> None:
    """Ctrl-C: print the table of what is known, and end with exit code 130."""
    screen.console(stderr=True).print("\nInterrupted by Ctrl-C.")
    for host in state.inventory:
        host_run(host).interrupted = True
    for handler in state.callback_handlers:
        for host in state.inventory:
            handler.host_disconnect(state, host)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)  # not by an exception: it would end in whichever greenlet runs, and pyinfra would go on


def confirm_removals(state: State) -> bool:
    """Ask for the number of removals on each host that needs it. Returns whether all were typed."""
    console = screen.console(stderr=True, soft_wrap=True)
    for host in state.inventory:
        run = host_run(host)
        number = run.removals.number
        if number == 0 or run.removals_confirmed == number:
            continue
        names = ", ".join(run.removals.names)
        models = "1 model" if run.removals.total == 1 else f"{run.removals.total} models"
        console.print(screen.line((f"    {host.name}: REMOVE {number} of {models}: {names}", "red")))
        screen.echo(f"    Type {number} to remove them: ", err=True, nl=False)
        if input().strip() != str(number):
            return False
        run.removals_confirmed = number
    return True


def without_maintenance(inventory: Inventory, limit: list[Host] | None) -> list[Host] | None:
    """The hosts of a run without those in maintenance, to which pyinfra must not connect; None for all.

    Prints the reasons. Ends the run, successfully, if no other host is left.
    """
    chosen = list(inventory) if limit is None else limit
    resting = {host.name: why for host in chosen if (why := maintenance_of(layers_of(inventory, host)))}
    for name, why in resting.items():
        screen.echo(f"    [{name}] skipped, maintenance: {why}", err=True)
    if not resting:
        return limit
    if len(resting) == len(chosen):
        screen.echo("All hosts of this run are in maintenance. Nothing was changed.", err=True)
        sys.exit(0)
    return [host for host in chosen if host.name not in resting]


def harmless() -> None:
    """Filter all output of pyinfra by `screen.Filtered`, and keep its own colours. Can be called repeatedly."""
    # its spinner moves the cursor, and shows only names of the inventory
    progress.sys = SimpleNamespace(stderr=screen.unprotected(sys.stderr))  # type: ignore[assignment]
    screen.protect()
    click.style = screen.style
    output.set_formatter(screen.style)
    operations.log_error_or_warning = without_count


_pyinfra_log_error_or_warning = operations.log_error_or_warning


def without_count(
    host: Host,
    ignore_errors: bool,
    description: str = "",
    continue_on_error: bool = False,
    exception: Exception | None = None,
) -> None:
    """Log a failed operation without the number of its commands that succeeded, which says nothing of the failure."""
    text = "" if description.startswith("executed ") else description
    _pyinfra_log_error_or_warning(host, ignore_errors, text, continue_on_error, exception)


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
    allowance.require()
    return output


@contextmanager
def each_line(seen: Callable[[str], None], endless: bool) -> Iterator[None]:
    """Pass each line of commands' standard output to `seen` as it comes, a longer one in parts of `LONGEST_LINE`.

    It is not kept. endless: it may be longer than `OUTPUT_LIMIT`. For one host at a time. The command ends when `seen`
    raises OSError, as it does when the reader of its output has ended.
    """
    allowance = Allowance(sys.maxsize if endless else OUTPUT_LIMIT)

    def passed_on(stream: Any) -> Iterator[str]:
        for line in allowance.lines(stream, LONGEST_LINE):
            try:
                seen(line.rstrip("\n"))
            except OSError:
                getattr(stream, "channel", stream).close()  # before its end only: the exit code comes after the output
                break
        yield from ()

    def read(stdout_buffer: Any, stderr_buffer: Any, timeout: Any, print_output: Any, print_prefix: Any) -> Any:
        errors = Allowance(OUTPUT_LIMIT).lines(stderr_buffer)
        output = _pyinfra_read_output_buffers(passed_on(stdout_buffer), errors, timeout, print_output, print_prefix)
        allowance.require()
        return output

    util.read_output_buffers = ssh.read_output_buffers = read
    try:
        yield
    finally:
        read_any_bytes()


class Allowance:
    """The bytes that a command may still print, on stdout and stderr together."""

    def __init__(self, left: int) -> None:
        self.left = left

    def require(self) -> None:
        """Raise TooMuchOutput if the command printed more."""
        if self.left < 0:
            raise TooMuchOutput(f"a command printed more than {OUTPUT_LIMIT >> 20} MiB and was stopped.")

    def lines(self, stream: Any, longest: int = sys.maxsize) -> Iterator[str]:
        """The lines of an output as text. When nothing is left, it closes the output, which ends the command.

        longest: bytes of a line; a longer one comes in parts.
        """
        if isinstance(stream, BufferedFile):
            # paramiko (4.0) has no public way to read a command's output as bytes
            stream._flags |= stream.FLAG_BINARY  # type: ignore[attr-defined]
        line = bytearray()
        while piece := stream.readline(PIECE):
            line += piece
            self.left -= len(piece)
            if line.endswith(b"\n") or len(line) >= longest:
                self.left -= LINE_COST
                yield line.decode(errors="replace")
                line.clear()
            if self.left < 0:
                getattr(stream, "channel", stream).close()
                return
        if line:
            yield line.decode(errors="replace")


def without_our_lines() -> None:
    """Let pyinfra print the errors of an inventory without the line of gpurack that raised them."""
    show = WrappedError.show

    def show_error(self: WrappedError, file: Any = None) -> None:
        if isinstance(self.exception, InventoryError):
            self.traceback = None
        show(self, file)

    WrappedError.show = show_error


def misread_file(inventory: str, operations: Sequence[str] = ()) -> Problem | None:
    """An error for a YAML or missing inventory, or a deploy in its place, which pyinfra would misread.

    inventory, operations: pyinfra's arguments.
    """
    path = Path(inventory)
    if is_deploy(path):
        meant = next((word for word in operations if is_inventory(Path(word))), "INVENTORY")
        return Problem.of("deploy-before-inventory", "", inventory, inventory=meant, deploy=inventory)
    if path.suffix == ".py" and not path.exists():
        return Problem.of("no-inventory-file", "", inventory)
    if path.suffix not in YAML:
        return None
    python = path.with_suffix(".py")
    lines = f'import gpurack; globals().update(gpurack.load("{path.name}"))'
    hint = f"Run `{apply_command(path)}`, or write two lines into {python} and use that: {lines}"
    if python.exists():
        hint = f"Use {python} instead, or run `{apply_command(path)}`."
    return Problem.of("yaml-given-to-pyinfra", "", inventory, hint=hint)


class Connections(BaseStateCallback):
    """Keep the reason why a host could not be reached, and notice soon when a host dies."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: Exception) -> None:
        """Called by pyinfra once per host; pyinfra does not keep the error."""
        host_run(host).connect_error = why_unreachable(host, error)

    @staticmethod
    def host_connect(state: State, host: Host) -> None:
        """Called by pyinfra once per host that it has reached."""
        client = getattr(host.connector, "client", None)
        find_dead_host(client.get_transport() if client else None)


def find_dead_host(transport: Any) -> None:
    """End a connection whose host does not answer for 18 s, counted from the next message.

    Through a jump host that is the connection to the jump host. A ProxyCommand has no socket of its own.
    """
    while transport is not None:
        transport.set_keepalive(KEEPALIVE)
        line = transport.sock
        if hasattr(line, "setsockopt"):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in TCP_OPTIONS.items():
                if hasattr(socket, option):  # macOS has other names
                    line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        transport = line.get_transport() if hasattr(line, "get_transport") else None
