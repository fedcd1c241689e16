"""How steps become pyinfra commands. These classes act; gpurack/plan decided what to do."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyinfra.api import Host, State
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.operations.run_state import host_run, outdate, reasons_of, refresh
from gpurack.plan.steps import DockerRestart, Folder, SetAside, Shell, Step, WriteFile, WriteFiles
from gpurack.plan.system.daemon_json import Apply
from gpurack.plan.system.rootless import SetUp
from gpurack.remote import Command, run
from gpurack.resources import program as whole_program
from gpurack.shell import NOTHING, Sh, all_of, sh, word
from gpurack.spec.problems import Problem, grouped

USER_PROGRAM = 300
"""Seconds that a program may run as a user. It waits for that user's daemon, which may never answer."""
QUICK = 1800
"""Seconds that a step without a progress line may take: systemctl, nvidia-ctk, rm."""
NAMED = 60
"""Characters of a command that a message has."""
PYTHON = sh("python3 -")
ALIVE = sh("kill -0 $$ 2>/dev/null")
"""Does the shell of this subshell still run? If it was killed, its signs of life would keep the connection open."""
SIGN_OF_LIFE = 5
"""Seconds between two lines of output of a slow command."""


class Changing(Command):
    """A command that changes the host. The snapshot is outdated afterwards, also if it fails."""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        ok, output = super().execute(state, host, connector_arguments)
        if not ok:
            host_run(host).failed(output.output_lines)
            refresh(host)
        return ok, output


class Streamed(Command):
    """A changing command whose output appears line by line while it runs, also without -vvv.

    A line "error NAME: …" is remembered for the table at the end, and so is the sentence that `explain` returns for a
    failure. of_user: it is for one user's rootless Docker and never fails; `problem` then says what went wrong, so that
    other users are served.
    """

    explain: Callable[[Sequence[str]], Problem | None] = staticmethod(lambda lines: None)
    of_user = False
    problem: Problem | None = None

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        connector_arguments.update(self.connector_arguments)
        ok, output = run(host, self, print_output=True, print_input=state.print_input, **connector_arguments)
        if not ok:
            known = self.explain(output.output_lines)
            if known:
                host.log_styled(f"error {known.what}", fg="red")
            if self.of_user:
                why = " ".join(reasons_of(output.output_lines)) or "a command failed without output."
                self.problem = known or Problem.of("rootless-failed", what=why)
            elif known:
                host_run(host).failures.append(known)
            else:
                host_run(host).failed(output.output_lines)
            if not self.of_user:
                refresh(host)
        # pyinfra would print the output of a failed command again.
        return ok or self.of_user, CommandOutput([])


class Refusal(Command):
    """Fails the host with sentences, without connecting to it.

    A problem of one host is never an exception, because that would abort all hosts (pyinfra 3.10.0).
    """

    def __init__(self, failures: Sequence[Problem]) -> None:
        super().__init__(sh("false"))
        self.failures = failures

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        run = host_run(host)
        for line in grouped(self.failures):
            # Errors printed at Prepare are printed again: minutes may have passed at the prompt.
            if line not in run.refused_now:
                host.log_styled(f"error {line}", fg="red")
        run.failures += self.failures
        return False, CommandOutput([])


def carry_out(step: Step) -> Iterator[PyinfraCommand]:
    """Yield the commands of one step of a plan."""
    if isinstance(step, WriteFile):
        yield write_file(step.path, step.content, step.mode)
    elif isinstance(step, WriteFiles):
        yield write_files(step.files)
    elif isinstance(step, SetAside):
        kept = sh(
            "install -d -m 700 {folder} && mv {} {kept} && chmod 600 {kept}",
            step.path,
            folder=paths.BACKUPS,
            kept=f"{paths.BACKUPS}/{step.path.strip('/').replace('/', '_')}",
        )
        yield Changing(kept)
    elif isinstance(step, Shell):
        text, told = step.command if step.slow else within_limit(step.command), {}
        if step.locks:
            text, told = PYTHON, {"_stdin": under_lock(text, step.reason, step.locks)}
        command = slow(text, **told) if step.slow else Streamed(script(text), **told)
        command.explain = step.explain
        yield command
    elif isinstance(step, Folder):
        yield Streamed(sh("python3 - {} {} {}", step.kind, step.path, step.owner), _stdin=folders_program())
    elif isinstance(step, Apply):
        yield apply_daemon_json(step)
    elif isinstance(step, DockerRestart):
        yield program("docker_restart", step.what)
    elif isinstance(step, SetUp):
        yield program("rootless", {"files": dict(step.files)}, step.user, step.become)
    else:
        raise TypeError(f"no commands for {step!r}")


def folders_program() -> str:
    """Return files/folders.py with the modules that it imports."""
    return whole_program("folders")


def write_file(path: str, content: str, mode: str) -> Changing:
    """Write a file beside its place, then rename it: if killed, the old file or the new one is there.

    pyinfra's files.put stages in /tmp, copies, then changes the mode. The content comes by standard input, so that it
    is in no argv.
    """
    return write_files([WriteFile("", path, content, mode)])


def write_files(files: Sequence[WriteFile]) -> Changing:
    """Write several files by one command, each as `write_file` does."""
    beside = {file.path: f"{file.path}.gpurack-new" for file in files}
    folders = sorted({file.path.rpartition("/")[0] for file in files})
    # Two runs on a fresh host may write the same file. The models' lock would block for minutes, so there is another.
    commands = [
        sh("umask 077 && install -d -m 700 {run} && exec 9>{run}/files && flock 9", run=paths.RUN),
        sh("(umask 022 && mkdir -p {})", folders),  # also the folders above them are for everyone
    ]
    for file in files:
        new, size = beside[file.path], len(file.content.encode())
        commands.append(sh("head -c {size} > {new} && chmod {mode} {new}", size=size, new=new, mode=file.mode))
    # On disk before a file gets its name, and the names before what comes next: a power cut leaves old or new files.
    commands.append(sh("sync {}", list(beside.values())))
    commands += [sh("mv -f {} {}", new, path) for path, new in beside.items()]
    commands.append(sh("sync {}", folders))
    text = "".join(file.content for file in files)
    return Changing(script(all_of(commands)), _stdin=text)


def apply_daemon_json(step: Apply) -> Streamed:
    """Return the command that runs files/daemon_json.py for a step."""
    keys = ("patch", "configure_runtime", "action", "live_restore", "expect", "probe_gpu")
    job = {**{key: getattr(step, key) for key in keys}, "of_user": bool(step.become)}
    return program("daemon_json", job, step.user, step.become)


def under_lock(command: Sh, what: str, users: Sequence[str] = ("",), stdin: str | None = None) -> str:
    """Return input for `python3 -` that runs a command while it holds the locks of these users' Dockers.

    No other run changes their containers meanwhile. users: "" is the host's own Docker. what: the text for other runs
    that wait.
    """
    job = {"folder": paths.RUN, "what": what, "users": list(users), "argv": ["sh", "-c", command], "stdin": stdin}
    return f"JOB = {json.dumps(job)!r}\n{whole_program('with_lock')}"


def program(name: str, job: Mapping[str, Any] | str, user: str = "", become: Sh = NOTHING) -> Streamed:
    """Return the command that runs files/NAME.py with a job, under the lock of the user's Docker.

    The program does not inherit the lock. become: the words in front of a command that run it as this user. A user's
    program has a time limit, and its output goes to a file, so that processes that it leaves behind cannot keep the
    connection open.
    """
    text = f"JOB = {json.dumps(job)!r}\n{whole_program(name)}"
    if not become:
        return Streamed(PYTHON, _stdin=under_lock(PYTHON, name, [user], text))
    limited = under_lock(sh("timeout -k 5 {} {} python3 -", USER_PROGRAM, become), name, [user], text)
    command = sh(
        "said=$(mktemp) && trap 'rm -f \"$said\"' EXIT && "
        '( ulimit -f 20480; exec python3 - >"$said" 2>&1 ); code=$?; '
        "[ $code != 124 ] && [ $code != 137 ] || echo {}; "
        'head -c 100000 "$said"; exit $code',
        f"error {user}'s Docker: no end in {USER_PROGRAM} s",
    )
    return Streamed(script(command), _stdin=limited)


def slow(command: Sh, _stdin: str | None = None) -> Streamed:
    """Return a long command: it prints its last line every few seconds, and its last 15 lines if it fails."""
    text = sh(
        "log=$(mktemp) || exit 1; trap 'rm -f \"$log\"' EXIT; begun=$(date +%s); exec 3<{stdin}; "
        '( {command} ) >"$log" 2>&1 <&3 & work=$!; '
        "( while sleep {seconds} >/dev/null 2>&1 </dev/null && {alive}; do spent=$(( $(date +%s) - begun )); "
        'printf "%d:%02d  %s\\n" $((spent / 60)) $((spent % 60)) '
        '"$(tail -c 400 "$log" | tr "\\r" "\\n" | grep . | tail -n 1 | cut -c 1-110)"; done ) & life=$!; '
        'wait $work; code=$?; kill $life 2>/dev/null; [ $code = 0 ] || { tail -n 15 "$log"; exit $code; }',
        command=command,
        stdin=sh("/dev/null") if _stdin is None else sh("&0"),
        seconds=SIGN_OF_LIFE,
        alive=ALIVE,
    )
    return Streamed(script(text)) if _stdin is None else Streamed(script(text), _stdin=_stdin)


def within_limit(command: Sh) -> Sh:
    """Return a quick command that says every few seconds what it waits for, and is killed after QUICK seconds."""
    words = " ".join(command.split())
    name = words if len(words) <= NAMED else f"{words[:NAMED]}…"
    return sh(
        "( while sleep {seconds} >/dev/null 2>&1 </dev/null && {alive}; do printf '%s\\n' {waits}; done ) & life=$!; "
        "timeout -k 5 {limit} {command}; code=$?; kill $life 2>/dev/null; "
        "[ $code != 124 ] && [ $code != 137 ] || printf '%s\\n' {late}; exit $code",
        seconds=SIGN_OF_LIFE,
        alive=ALIVE,
        waits=f"waiting for {name}",
        limit=QUICK,
        command=script(command),
        late=f"error {name}: no end in {QUICK} s",
    )


def script(text: Sh) -> Sh:
    """Return shell text as one command, so that sudo can run it."""
    return sh("sh -c {}", word(text))
