"""Copies weights and images from the admin's machine to a host, through pyinfra's connection.

Each file goes to NAME.part, continued where an earlier run stopped. It gets its name once its sha256 matches there. The
folder gets its name once all files are there. pyinfra's own files.put keeps a file in memory and shows no progress.

One run at a time writes to a copy: each of its commands holds PATH.lock, which names the run, as a download of the host
does (files/download.py). A command that finds it held, or another state than its run knew, reads nothing.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

from pyinfra.api import Host, State
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack.inventory.origin import actor
from gpurack.operations.commands import SIGN_OF_LIFE, folders_program, script
from gpurack.operations.output import errors_in
from gpurack.operations.run_state import outdate
from gpurack.plan.models.plan import Upload
from gpurack.remote import Command, run
from gpurack.shell import Sh, sh
from gpurack.spec.local_files import files_of, sha256

BLOCK = 1 << 20
MARK = "gpurack: "
"""Before each line of the host's answer: the login shell's start files may print lines of their own."""
THERE = "there"
"""Printed if an earlier run copied it, but did not use it. Nobody else can write to this folder."""
WAITING = 24 * 3600
"""Seconds that a run waits for another one's copy; as LOCK_LIMIT in files/locks.py."""
REFUSALS = 3
"""How often a file may be refused without a change on the host."""


def find(part: str, path: str) -> Sh:
    """Return a script that prints `THERE`, or the free bytes and the size and name of each file that has arrived."""
    return sh(
        """\
folders() { python3 -c {program} "$@"; }
folders make {above} || exit 1
if [ -e {path} ]; then
	said={there}
elif folders clean {part} && cd {part} && said=$(df -B1 --output=avail . | tail -n 1); then
	said="$said
$(find . -type f -printf '%s %P\\n')" || exit 1
elif [ -e {path} ]; then # another run put it into place meanwhile
	said={there}
else
	exit 1
fi
printf '%s\\n' "$said" | sed 's/^ */gpurack: /'""",
        program=folders_program(),
        above=path.rpartition("/")[0],
        path=path,
        there=THERE,
        part=part,
    )


def wait(name: str, path: str) -> Sh:
    """Return a script that waits until no other run copies to a path, and says every few seconds who does."""
    return sh(
        """\
begun=$(date +%s); told=$begun
while [ -e {lock} ] && exec 9>>{lock} && { flock -n -E 75 9; [ $? = 75 ]; }; do
	exec 9>&-
	now=$(date +%s)
	by=$(head -c 200 {lock} | head -n 1 | tr -cd '[:print:]')
	[ $((now - begun)) -lt {limit} ] ||
		{ printf 'error no end in %s s: waiting for the copy of %s by %s\\n' {limit} {path} "$by"; exit 1; }
	[ $((now - told)) -lt {every} ] || { told=$now; printf '%s: waiting for the copy of %s by %s, %s s\\n' \\
		{name} {path} "$by" $((now - begun)); }
	sleep 1
done""",
        lock=f"{path}.lock",
        name=name,
        path=path,
        limit=WAITING,
        every=SIGN_OF_LIFE,
    )


def receive(path: str, name: str, found: int, size: int, sha256: str, who: str) -> Sh:
    """Return a script that writes the rest of a file from standard input, and checks size and sha256.

    It does nothing where another run copies to the path, or has since the part of the file had `found` bytes. who: this
    run, for others that wait.
    """
    part = f"{path}.part"
    return sh(
        """\
umask 022; exec 9>>{lock} || exit 1
flock -n -E 75 9; [ $? != 75 ] || { echo {refused}; exit 1; }
[ ! -e {path} ] || { rmdir {part} 2>/dev/null; rm -f {lock}; echo {refused}; exit 1; }
[ ! -e {file} ] && [ "$(stat -c %s {file}.part 2>/dev/null || echo 0)" = {found} ] || { echo {refused}; exit 1; }
echo {who} >{lock}
mkdir -p {folder} && truncate -s {begin} {file}.part && cat >>{file}.part || exit 1
[ "$(stat -c %s {file}.part)" = {size} ] || { echo "the connection ended"; exit 1; }
[ "$(sha256sum <{file}.part)" = {sum} ] ||
	{ rm -f {file}.part; echo {name} was corrupted on the way and deleted; exit 1; }
sync {file}.part && mv -f {file}.part {file} && sync {folder}""",
        lock=f"{path}.lock",
        path=path,
        part=part,
        folder=f"{part}/{name}".rpartition("/")[0],
        file=f"{part}/{name}",
        name=name,
        found=found,
        begin=begin_of(found, size),
        size=size,
        sum=f"{sha256}  -",
        refused="another run copies it",
        who=who,
    )


def begin_of(found: int, size: int) -> int:
    """Return from which byte on a file is sent: 0 after a part of a file that was longer."""
    return found if found <= size else 0


def holder(path: str) -> Sh:
    """Return a script that prints which run wrote to a copy last."""
    return sh("head -c 200 {} | head -n 1 | sed 's/^/gpurack: /'", f"{path}.lock")


def give_name(path: str, file: str = "") -> Sh:
    """Return a script that puts a complete copy into place. file: its name in the folder, "" for the folder itself."""
    part = f"{path}.part"
    moving = sh("mv -f {} {} && rmdir {}", f"{part}/{file}", path, part) if file else sh("mv -T {} {}", part, path)
    return sh(
        "exec 9>>{lock} && flock -w 60 9; [ -e {path} ] || { {moving}; } && sync {above} && rm -f {lock}",
        lock=f"{path}.lock",
        path=path,
        moving=moving,
        above=path.rpartition("/")[0],
    )


class Copy(Command):
    """Copies an upload. It never fails: `problem` says what went wrong, and the runner leaves that model unchanged."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(sh("true"))
        self.upload, self.problem = upload, ""
        self.token = token_hex(8)

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        try:
            self._copy(host, connector_arguments)
        except (OSError, ValueError) as error:  # ValueError: the host printed no sizes
            self.problem = f"{self.upload.source} could not be copied to the host: {error}; the next run resumes."
        return True, CommandOutput([])

    def _copy(self, host: Host, arguments: ConnectorArguments) -> None:
        before, refusals = None, 0
        while (have := self._there(host, arguments)) is not None:
            try:
                self._send(host, arguments, have)
                return
            except OSError:
                last = self._marked(host, arguments, holder(self.upload.path))
                refusals = refusals + 1 if have == before else 1
                if self.token in " ".join(last) or refusals == REFUSALS:
                    raise
            before = have
            self._run(host, arguments, wait(self.upload.model, self.upload.path), shown=True)

    def _there(self, host: Host, arguments: ConnectorArguments) -> dict[str, int] | None:
        """Return file → bytes that have arrived; None if all is in place. Raises OSError if the rest does not fit."""
        path = self.upload.path
        free, *there = self._marked(host, arguments, find(f"{path}.part", path)) or ["nothing"]
        if free == THERE:
            return None
        have = {name: int(size) for size, _, name in (line.partition(" ") for line in there)}
        sizes = [file.stat().st_size for file in files_of(self.upload.source).values()]
        need = sum(sizes) - sum(have.values())
        if need > int(free):
            raise OSError(f"it needs {need / 1e9:.1f} GB more, but {path.rpartition('/')[0]} has {int(free) / 1e9:.1f}")
        return have

    def _send(self, host: Host, arguments: ConnectorArguments, have: dict[str, int]) -> None:
        """Send what is missing, and put the copy into place. Raises OSError, also where another run copies it."""
        source, path = self.upload.source, self.upload.path
        files = files_of(source)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        progress = Progress(host, self.upload.model, sum(sizes.values()))
        for name, file in files.items():
            if have.get(name) == sizes[name]:  # a file gets its name only after its sha256 matched
                progress.done += sizes[name]
                continue
            found = have.get(f"{name}.part", 0)
            begin = begin_of(found, sizes[name])
            progress.done += begin
            who = f"{actor()}@{socket.gethostname()} since {time.strftime('%H:%M')}, run {self.token}"
            command = receive(path, name, found, sizes[name], sha256(file), who)
            self._run(host, arguments, command, Content(file, begin, progress))
        alone = source.is_file() and list(files) == [source.name]
        self._run(host, arguments, give_name(path, source.name if alone else ""))

    def _marked(self, host: Host, arguments: ConnectorArguments, text: Sh) -> list[str]:
        """Return the lines of a script's answer. Raises OSError."""
        lines = [line.removeprefix(MARK) for line in self._run(host, arguments, text) if line.startswith(MARK)]
        return [line for line in lines if line]

    @staticmethod
    def _run(
        host: Host, arguments: ConnectorArguments, text: Sh, content: "Content | None" = None, shown: bool = False
    ) -> list[str]:
        """Return a script's output. Raises OSError with its last line if it fails. shown: print it as it comes."""
        given = {**arguments, "_stdin": content} if content is not None else dict(arguments)
        told = content is not None
        ok, output = run(host, Command(script(text)), told, print_output=shown, print_input=False, **given)
        if not ok:
            last = next(reversed(output.output_lines), "the host printed nothing")
            raise OSError(next(iter(errors_in([last])), last))
        return list(output.stdout_lines)


class Progress:
    """Prints the progress of a model's copy every few seconds."""

    def __init__(self, host: Host, model: str, total: int) -> None:
        self.host, self.model, self.total = host, model, total
        self.done, self.last = 0, time.monotonic()

    def add(self, more: int) -> None:
        """Count more bytes, and print the progress if it is time."""
        self.done += more
        if time.monotonic() - self.last >= SIGN_OF_LIFE:
            self.last = time.monotonic()
            self.host.log(f"{self.model}: copying, {self.done / 1e9:.2f} GB of {self.total / 1e9:.2f} GB")


class Block:
    """Bytes that pyinfra treats as a line of text (pyinfra 3.10.0, `write_stdin`)."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def endswith(self, end: str) -> bool:
        """True, so that no newline is added."""
        return True

    def encode(self) -> bytes:
        """Return the bytes unchanged."""
        return self.content


class Content(list[str]):
    """The rest of a file, in blocks, for a command's standard input. begin: offset in bytes."""

    def __init__(self, file: Path, begin: int, progress: Progress) -> None:
        super().__init__(["content"])  # not empty, because pyinfra skips an empty list
        self.file, self.begin, self.progress = file, begin, progress

    @override
    def __iter__(self) -> Iterator[str]:
        with self.file.open("rb") as file:
            file.seek(self.begin)
            while block := file.read(BLOCK):
                yield Block(block)  # type: ignore[misc]
                self.progress.add(len(block))
