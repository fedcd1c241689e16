"""How steps become pyinfra commands. These classes act; what to do was decided in gpurack/plan."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyinfra.api import Host, State, StringCommand
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.plan.daemon_json import Apply
from gpurack.plan.rootless import SetUp
from gpurack.plan.steps import SetAside, Shell, Step, WriteFile
from gpurack.report import REPORT, reasons_of
from gpurack.resources import read_text
from gpurack.state.snapshot import forget

SAID_NOW = "gpurack errors said at Execute"
"""Key in pyinfra's host data: sentences that need not be said twice in a row."""
LOCK_FOLDER = f"install -d -m 700 {paths.RUN}"
"""Makes the folder of locks, or closes it: whoever can open a lock can hold it. (Older versions made it with 0755.)"""
USER_PROGRAM = 900
"""Seconds that a program may run as a user: it waits for that user's daemon, which may never answer."""
SIGN_OF_LIFE = 5
"""Seconds between two lines of a slow command."""


class Changing(StringCommand):
    """A command that changes the host, so that what was seen there before is forgotten, also when it fails."""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        forget(host)
        ok, output = super().execute(state, host, connector_arguments)
        if not ok:
            REPORT.failed(host.name, output.output_lines)
        return ok, output


class Streamed(StringCommand):
    """A changing command whose output appears line by line while it runs, also without -vvv. A line "error NAME: …"
    is remembered for the table at the end, and so is what `explain` makes of the output when it fails.

    of_user: it is for one user's rootless Docker, and does not fail: `problem` says why not, and others are served."""

    explain: Callable[[Sequence[str]], str | None] = staticmethod(lambda lines: None)
    of_user = False
    problem = ""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        forget(host)
        connector_arguments.update(self.connector_arguments)
        ok, output = host.run_shell_command(
            self, print_output=True, print_input=state.print_input, **connector_arguments
        )
        if not ok:
            sentence = self.explain(output.output_lines)
            if sentence:
                host.log_styled(f"error {sentence}", fg="red")
            lines = [f"error {sentence}"] if sentence else output.output_lines
            if self.of_user:
                self.problem = " ".join(reasons_of(lines)) or "a command failed and said nothing."
            else:
                REPORT.failed(host.name, lines)
        # pyinfra prints a failed command's output once more unless there is none
        return ok or self.of_user, CommandOutput([])


class Refusal(StringCommand):
    """Fails the host with sentences, without touching it: a problem of one host is never an exception, which would
    abort all (pyinfra 3.10.0)."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("false")
        self.sentences = sentences

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        for sentence in self.sentences:
            # said at Prepare, that is long ago: minutes may lie between, at the prompt
            if sentence not in host.connector_data.get(SAID_NOW, ()):
                host.log_styled(f"error {sentence}", fg="red")
        REPORT.failed(host.name, [f"error {sentence}" for sentence in self.sentences])
        return False, CommandOutput([])


def carry_out(step: Step) -> Iterator[PyinfraCommand]:
    """The commands of one step of a plan."""
    if isinstance(step, WriteFile):
        yield write_file(step.path, step.content, step.mode)
    elif isinstance(step, SetAside):
        kept = f"{paths.BACKUPS}/{step.path.strip('/').replace('/', '_')}"
        closed = f"install -d -m 700 {paths.BACKUPS}"  # before anything is in it
        yield Changing(f"{closed} && mv {shlex.quote(step.path)} {kept} && chmod 600 {kept}")
    elif isinstance(step, Shell):
        command = slow(step.command) if step.slow else Streamed("sh", "-c", shlex.quote(step.command))
        command.explain = step.explain
        yield command
    elif isinstance(step, Apply):
        yield apply_daemon_json(step)
    elif isinstance(step, SetUp):
        yield program("files/rootless.py", {"files": dict(step.files)}, step.user, step.become)
    else:
        raise TypeError(f"no commands for {step!r}")


def write_file(path: str, content: str, mode: str) -> Changing:
    """Beside its place, then renamed: killed at any point there is the old file or the new one. (pyinfra's files.put
    stages in /tmp, copies, then changes the mode.) The content goes by standard input, so it is in no argv."""
    place, beside = shlex.quote(path), shlex.quote(f"{path}.gpurack-new")
    folder = shlex.quote(path.rpartition("/")[0])
    # two runs at once on a fresh host write the same file; the lock of the models may be held for minutes
    alone = f"exec 9>{paths.RUN}/files && flock 9"
    script = (
        f"umask 077 && mkdir -p -m 755 {folder} && {LOCK_FOLDER} && {alone} && "
        f"cat > {beside} && chmod {mode} {beside} && mv -f {beside} {place}"
    )
    arguments: dict[str, Any] = {"_stdin": content}
    return Changing("sh", "-c", shlex.quote(script), **arguments)


def apply_daemon_json(step: Apply) -> Streamed:
    """files/daemon_json.py with what it has to do."""
    keys = ("patch", "configure_runtime", "action", "live_restore", "expect", "probe_gpu")
    job = {**{key: getattr(step, key) for key in keys}, "of_user": bool(step.become)}
    return program("files/daemon_json.py", job, step.user, step.become)


def program(name: str, job: Mapping[str, Any], user: str = "", become: str = "") -> Streamed:
    """A program of files/ with its job in front, under the lock that keeps the models of that Docker from changing
    meanwhile; the lock is not the program's (`flock -o`). become: the words that make a command a user's own. A user's
    program has a limit, and what it leaves behind can hold a file open, but not the connection."""
    run = f"flock -o {shlex.quote(paths.lock(user))}"
    if not become:
        script = f"{LOCK_FOLDER} && exec {run} python3 -"
    else:
        script = (
            f"{LOCK_FOLDER} && said=$(mktemp) && trap 'rm -f \"$said\"' EXIT && "
            f'{run} timeout -k 5 {USER_PROGRAM} {become} python3 - >"$said" 2>&1; code=$?; '
            f'[ $code != 124 ] && [ $code != 137 ] || echo "error {user}\'s Docker: no end in {USER_PROGRAM} s"; '
            f'head -c 100000 "$said"; exit $code'
        )
    return Streamed("sh", "-c", shlex.quote(script), _stdin=f"JOB = {json.dumps(job)!r}\n{read_text(name)}")


def slow(command: str) -> Streamed:
    """A long command: its last line every few seconds, and its last 15 lines when it fails."""
    script = (
        "log=$(mktemp) || exit 1; trap 'rm -f \"$log\"' EXIT; begun=$(date +%s); "
        f'( {command} ) >"$log" 2>&1 </dev/null & work=$!; '
        f"( while sleep {SIGN_OF_LIFE} >/dev/null 2>&1 </dev/null; do spent=$(( $(date +%s) - begun )); "
        'printf "%d:%02d  %s\\n" $((spent / 60)) $((spent % 60)) '
        '"$(tail -c 400 "$log" | tr "\\r" "\\n" | grep . | tail -n 1 | cut -c 1-110)"; done ) & life=$!; '
        'wait $work; code=$?; kill $life 2>/dev/null; [ $code = 0 ] || { tail -n 15 "$log"; exit $code; }'
    )
    return Streamed("sh", "-c", shlex.quote(script))
