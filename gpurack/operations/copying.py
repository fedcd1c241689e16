"""Copies weights and images from the admin's machine to a host, through pyinfra's connection.

Each file goes to NAME.part, continued where an earlier run stopped. It gets its name once its sha256 matches there. The
folder gets its name once all files are there. pyinfra's own files.put keeps a file in memory and shows no progress.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from pyinfra.api import Host, State
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack.operations.commands import SIGN_OF_LIFE, folders_program, script
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


def find(part: str, path: str) -> Sh:
    """Return a script that prints `THERE`, or the free bytes and the size and name of each file that has arrived."""
    return sh(
        """\
folders() { python3 -c {program} "$@"; }
folders make {above} || exit 1
if [ -e {path} ]; then
	said={there}
else
	folders clean {part} && cd {part} && said=$(df -B1 --output=avail . | tail -n 1) || exit 1
	said="$said
$(find . -type f -printf '%s %P\\n')" || exit 1
fi
printf '%s\\n' "$said" | sed 's/^ */gpurack: /'""",
        program=folders_program(),
        above=path.rpartition("/")[0],
        path=path,
        there=THERE,
        part=part,
    )


def receive(part: str, name: str, begin: int, size: int, sha256: str) -> Sh:
    """Return a script that writes standard input to a partial file from a byte on, and checks size and sha256."""
    return sh(
        """\
umask 022; mkdir -p {folder} && truncate -s {begin} {file}.part && cat >>{file}.part || exit 1
[ "$(stat -c %s {file}.part)" = {size} ] || { echo "the connection ended"; exit 1; }
[ "$(sha256sum <{file}.part)" = {sum} ] ||
	{ rm -f {file}.part; echo {name} was corrupted on the way and deleted; exit 1; }
sync {file}.part && mv -f {file}.part {file} && sync {folder}""",
        folder=f"{part}/{name}".rpartition("/")[0],
        file=f"{part}/{name}",
        name=name,
        begin=begin,
        size=size,
        sum=f"{sha256}  -",
    )


class Copy(Command):
    """Copies an upload. It never fails: `problem` says what went wrong, and the runner leaves that model unchanged."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(sh("true"))
        self.upload, self.problem = upload, ""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        outdate(host)
        try:
            self._copy(host, connector_arguments)
        except (OSError, ValueError) as error:  # ValueError: the host printed no sizes
            self.problem = f"{self.upload.source} could not be copied to the host: {error}; the next run resumes."
        return True, CommandOutput([])

    def _copy(self, host: Host, arguments: ConnectorArguments) -> None:
        source, path = self.upload.source, self.upload.path
        part, files = f"{path}.part", files_of(source)
        answer = self._run(host, arguments, find(part, path))
        lines = [line.removeprefix(MARK) for line in answer if line.startswith(MARK)]
        free, *there = [line for line in lines if line] or ["nothing"]
        if free == THERE:
            return
        have = {name: int(size) for size, _, name in (line.partition(" ") for line in there)}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        need = sum(sizes.values()) - sum(have.values())
        if need > int(free):
            raise OSError(f"it needs {need / 1e9:.1f} GB more, but {path.rpartition('/')[0]} has {int(free) / 1e9:.1f}")
        progress = Progress(host, self.upload.model, sum(sizes.values()))
        for name, file in files.items():
            if have.get(name) == sizes[name]:  # a file gets its name only after its sha256 matched
                progress.done += sizes[name]
                continue
            begin = have.get(f"{name}.part", 0)
            begin = begin if begin <= sizes[name] else 0  # of a file that was longer
            progress.done += begin
            command = receive(part, name, begin, sizes[name], sha256(file))
            self._run(host, arguments, command, Content(file, begin, progress))
        if source.is_file() and list(files) == [source.name]:
            place = sh("mv -f {part}/{} {} && rmdir {part}", source.name, path, part=part)
        else:
            place = sh("mv -T {} {}", part, path)
        self._run(host, arguments, sh("{} && sync {}", place, path.rpartition("/")[0]))

    @staticmethod
    def _run(host: Host, arguments: ConnectorArguments, text: Sh, content: "Content | None" = None) -> list[str]:
        """Return a script's output. Raises OSError with its last line if it fails."""
        given = {**arguments, "_stdin": content} if content is not None else dict(arguments)
        ok, output = run(host, Command(script(text)), print_output=False, print_input=False, **given)
        if not ok:
            raise OSError(next(reversed(output.output_lines), "the host printed nothing").removeprefix("error "))
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
