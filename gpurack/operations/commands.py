"""How steps become pyinfra commands. These classes act; gpurack/plan decided what to do."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyinfra.api import Host, State
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.facts.record import Replacing
from gpurack.operations.output import PROGRESS, reasons_of
from gpurack.operations.phases import INSTALL, said
from gpurack.operations.run_state import host_run, outdate, refresh
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
CHANGING = 3600
"""Seconds that a run waits until another one has ended a change in several Dockers."""
LONG = 4
"""Hours that a step with progress lines may take: packages, containers to remove."""
MERCY = 60
"""Seconds in which such a step ends by itself after that, before it is killed."""
WRITING = 120
"""Seconds that a run waits while another one writes gpurack's files."""
NAMED = 60
"""Characters of a command that a message has."""
PYTHON = sh("python3 -")
ALIVE = sh("kill -0 $$ 2>/dev/null")
"""Does the shell of this subshell still run? If it was killed, its signs of life would keep the connection open."""
SIGN_OF_LIFE = 5
"""Seconds between two lines of output of a slow command."""


FAILURES = {
    "daemon_json": "daemon-json-not-applied",
    "docker_restart": "docker-not-restarted",
    "rootless": "rootless-failed",
}
"""Program of files/ → the code of its failure."""


class Changing(Command):
    """A command that changes the host. The snapshot is outdated afterwards, also if it fails."""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        begun = time.monotonic()
        ok, output = super().execute(state, host, connector_arguments)
        host_run(host).took({INSTALL: time.monotonic() - begun})
        if not ok:
            host_run(host).failed(list(output.output_lines))
            refresh(host)
            # pyinfra prints the output of a failed command, and the end of the run says why it failed
            known = {line for why in reasons_of(output.output_lines) for line in (why.split("\n")[0], f"error {why}")}
            output = CommandOutput([each for each in output if each.line not in known])
        return ok, output


class Streamed(Command):
    """A changing command whose output appears line by line while it runs, also without -vvv.

    A line "error NAME: …" is remembered for the table at the end, and so is the sentence that `explain` returns for a
    failure. code: of a failure for which the program names none. of_user: it is for one user's rootless Docker and
    never fails; `problem` then says what went wrong, so that other users are served. of_models: it calls the models'
    runner, which says itself how long its phases took. waits: it changes nothing, and only waits for another run.
    """

    explain: Callable[[Sequence[str]], Problem | None] = staticmethod(lambda lines: None)
    code = "step-failed"
    of_user = False
    of_models = False
    waits = False
    problem: Problem | None = None

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        (host_run(host).waited if self.waits else host_run(host).acted).add(host.executing_op_hash)
        connector_arguments.update(self.connector_arguments)
        begun = time.monotonic()
        ok, output = run(host, self, print_output=True, print_input=state.print_input, **connector_arguments)
        installing = {} if self.of_models or self.waits else {INSTALL: time.monotonic() - begun}
        host_run(host).took(said(output.output_lines) or installing)
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
                host_run(host).failed(list(output.output_lines), self.code)
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
            "install -d -m 700 {folder} && (umask 077 && cp --preserve=timestamps {path} {kept}.new) && "
            "sync {kept}.new && mv -f {kept}.new {kept} && sync {folder} && rm -f {path} && sync {left}",
            path=step.path,
            left=step.path.rpartition("/")[0],
            folder=paths.BACKUPS,
            kept=f"{paths.BACKUPS}/{step.path.strip('/').replace('/', '_')}",
        )
        yield Changing(kept)
    elif isinstance(step, Shell):
        text, told = telling(within_hours(step.command)) if step.slow else within_limit(step.command), {}
        if step.locks:  # it prints while it waits for them: only so it sees a lost connection
            text, told = PYTHON, {"_stdin": under_lock(text, step.reason, step.locks)}
        command = Streamed(script(text), **told)
        command.explain = step.explain
        yield command
    elif isinstance(step, Folder):
        making = Streamed(sh("python3 - {} {} {}", step.kind, step.path, step.owner), _stdin=folders_program())
        making.code = "folder-not-made"
        yield making
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
    """Write a file below its folder, then rename it: if killed, the old file or the new one is there.

    pyinfra's files.put stages in /tmp, copies, then changes the mode. The content comes by standard input, so that it
    is in no argv.
    """
    return write_files([WriteFile("", path, content, mode)])


NEW = ".gpurack-new"
"""A folder in which files wait for their names."""
WHOLE = "whole"
"""Follows the content of files. The shell of a run that was killed while it sent gets the beginning only."""


def write_files(files: Sequence[WriteFile]) -> Changing:
    """Write several files by one command, each as `write_file` does.

    One `mv` renames all of a folder: the runner's modules import each other, and between two of its renames fits no
    kill, only a power cut at that very moment.
    """
    waiting: dict[str, list[str]] = {}  # folder → its files under their first names
    for file in files:
        folder = file.path.rpartition("/")[0]
        waiting.setdefault(folder, []).append(first_name(file.path))
    text = "".join([*(file.content for file in files), WHOLE, "\n"])
    # Two runs on a fresh host may write the same file. The models' lock would block for minutes, so there is another.
    # It is taken once all has arrived: a run whose connection is dead waits for hours, and must keep none waiting.
    commands = [
        sh("umask 077 && install -d -m 700 {run} && sent=$(mktemp {run}/sent.XXXXXX)", run=paths.RUN),
        sh("trap 'rm -f \"$sent\"' EXIT"),
        sh('head -c {} >"$sent"', len(text.encode())),
        sh('exec 9>{run}/files <"$sent"', run=paths.RUN),
        # in braces: only this failed, and nothing before it
        sh(
            "{ flock -w {} 9 || { echo {}; exit 1; }; }",
            WRITING,
            "error another run writes gpurack's files on this host",
        ),
        sh("(umask 022 && mkdir -p {})", list(waiting)),  # also the folders above them are for everyone
        sh("rm -rf {new} && mkdir {new}", new=[f"{folder}/{NEW}" for folder in waiting]),  # of a run that was killed
    ]
    for file in files:
        new, size = first_name(file.path), len(file.content.encode())
        commands.append(sh("head -c {size} > {new} && chmod {mode} {new}", size=size, new=new, mode=file.mode))
    commands.append(sh('read -r end && [ "$end" = {} ]', WHOLE))
    # On disk before a file gets its name, and the names before what comes next: a power cut leaves old or new files.
    commands.append(sh("sync {}", [first_name(file.path) for file in files]))
    for folder, names in waiting.items():
        commands.append(sh("mv -f -t {} {} && rmdir {}", folder, names, f"{folder}/{NEW}"))
    commands.append(sh("sync {}", list(waiting)))
    return Changing(script(all_of(commands)), _stdin=text)


def first_name(path: str) -> str:
    """Return where a file is written before it is renamed.

    >>> first_name("/etc/docker/daemon.json")
    '/etc/docker/.gpurack-new/daemon.json'
    """
    folder, _, name = path.rpartition("/")
    return f"{folder}/{NEW}/{name}"


def apply_daemon_json(step: Apply) -> Streamed:
    """Return the command that runs files/daemon_json.py for a step."""
    keys = ("patch", "configure_runtime", "action", "live_restore", "expect", "probe_gpu")
    job = {**{key: getattr(step, key) for key in keys}, "of_user": bool(step.become)}
    return program("daemon_json", job, step.user, step.become)


def under_lock(
    command: Sh, what: str, users: Sequence[str] = ("",), stdin: str | None = None, heard: bool = True
) -> str:
    """Return input for `python3 -` that runs a command while it holds the locks of these users' Dockers.

    No other run changes their containers meanwhile. users: "" is the host's own Docker. what: the text for other runs
    that wait. heard: end where the connection is lost while it waits, as nothing was changed yet?
    """
    job: dict[str, Any] = {"folder": paths.RUN, "what": what, "users": list(users), "heard": heard}
    job |= {"argv": ["sh", "-c", command], "stdin": stdin}
    return f"JOB = {json.dumps(job)!r}\n{whole_program('with_lock')}"


def until_changed(change: Replacing, folder: str = paths.RUN) -> Sh:
    """Return the command that waits until another run has ended a change in several Dockers, or for CHANGING seconds.

    That run holds a file of its own meanwhile, and not the host's lock (files/claims.py).
    """
    return sh(
        '[ ! -e {file} ] || { read -r by <{file}; echo waiting for another gpurack run, which changes {names}: "$by"; '
        "flock -s -o -w {limit} {file} true || echo it has not ended; }",
        file=f"{folder}/change.{change.batch}",
        names=", ".join(sorted(change.names)),
        limit=CHANGING,
    )


def program(name: str, job: Mapping[str, Any] | str, user: str = "", become: Sh = NOTHING) -> Streamed:
    """Return the command that runs files/NAME.py with a job, under the lock of the user's Docker.

    The program does not inherit the lock. become: the words in front of a command that run it as this user. A user's
    program has a time limit, and its output goes to a file, so that processes that it leaves behind cannot keep the
    connection open. Each line of it names whose it is: its user can make it print anything, as if it were of another
    model.
    """
    text = f"JOB = {json.dumps(job)!r}\n{whole_program(name)}"
    if not become:
        # What a restart of Docker stopped is started again, whatever happens.
        alone = Streamed(PYTHON, _stdin=under_lock(PYTHON, name, [user], text, heard=name != "docker_restart"))
        alone.code = FAILURES.get(name, Streamed.code)
        return alone
    command = sh(
        "said=$(mktemp) && trap 'rm -f \"$said\"' EXIT && "
        '( ulimit -f 20480; exec timeout -k 5 {limit} {become} python3 - >"$said" 2>&1 ); code=$?; '
        "[ $code != 124 ] && [ $code != 137 ] || echo {late}; "
        'head -c 100000 "$said" | awk -v who={who} \'index($0, "error " who) == 1 || /^    [|] / { print; next } '
        'sub(/^error /, "") { print "error " who $0; next } { print who $0 }\'; exit $code',
        limit=USER_PROGRAM,
        become=become,
        late=f"error {user}'s Docker: no end in {USER_PROGRAM} s",
        who=f"{user}'s Docker: ",
    )
    return Streamed(PYTHON, _stdin=under_lock(command, name, [user], text))


def slow(command: Sh) -> Streamed:
    """Return a long command that needs no lock."""
    return Streamed(script(telling(command)))


def telling(command: Sh) -> Sh:
    """Return a long command that prints its last line every few seconds, and its last 15 lines if it fails."""
    return sh(
        "log=$(mktemp) || exit 1; trap 'rm -f \"$log\"' EXIT; begun=$(date +%s); "
        '( {command} ) >"$log" 2>&1 </dev/null & work=$!; '
        "( while sleep {seconds} >/dev/null 2>&1 </dev/null && {alive}; do spent=$(( $(date +%s) - begun )); "
        "printf {progress} $((spent / 60)) $((spent % 60)) "
        '"$(tail -c 400 "$log" | tr "\\r" "\\n" | grep . | tail -n 1 | cut -c 1-110)"; done ) & life=$!; '
        'wait $work; code=$?; kill $life 2>/dev/null; [ $code = 0 ] || { tail -n 15 "$log"; exit $code; }',
        command=command,
        seconds=SIGN_OF_LIFE,
        alive=ALIVE,
        progress=PROGRESS,
    )


def waiting_command(command: Streamed) -> Streamed:
    """Return a command as one that waits for another run. Its time is none of the installation."""
    command.waits = True
    return command


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


def within_hours(command: Sh) -> Sh:
    """Return a long command that is ended after LONG hours: even a slow mirror has answered by then."""
    return sh(
        "timeout -k {mercy} {limit}h {command}; code=$?; "
        "[ $code != 124 ] && [ $code != 137 ] || printf '%s\\n' {late}; exit $code",
        mercy=MERCY,
        limit=LONG,
        command=script(command),
        late=f"error this step did not end within {LONG} h",
    )


def script(text: Sh) -> Sh:
    """Return shell text as one command, so that sudo can run it."""
    return sh("sh -c {}", word(text))
