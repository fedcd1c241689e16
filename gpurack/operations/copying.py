"""Weights and images of the admin's machine onto a host, through the connection that pyinfra has.

Each file goes to NAME.part, resumed where an earlier run stopped, is compared with its sha256 there, and gets its name;
the whole gets its place when all are there. pyinfra's own files.put keeps a file in memory and shows no progress.
"""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from pyinfra.api import Host, State, StringCommand
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack.operations.commands import SIGN_OF_LIFE
from gpurack.plan.models import Upload
from gpurack.spec.local_files import files_of, sha256
from gpurack.state.snapshot import forget

BLOCK = 1 << 20
LOOK = """\
[ -e {path} ] && echo {there} && exit
mkdir -p {folder} && df -B1 --output=avail {folder} | tail -n 1 && cd {part} && find . -type f -printf '%s %P\\n'"""
THERE = "there"
"""An earlier run copied it, but did not get to use it."""
RECEIVE = """\
umask 022; mkdir -p {folder} && cat >>{file}.part || exit 1
[ "$(stat -c %s {file}.part)" = {size} ] || {{ echo "the connection ended"; exit 1; }}
[ "$(sha256sum <{file}.part)" = "{sha256}  -" ] ||
	{{ rm -f {file}.part; echo {name} arrived changed and was thrown away; exit 1; }}
mv -f {file}.part {file}"""
PLACE_FILE = "mv -f {part}/{name} {path} && rmdir {part}"
PLACE_FOLDER = "mv -T {part} {path}"


class Copy(StringCommand):
    """Copies an upload. It never fails by itself: `problem` says why not, and the runner keeps that model as it is."""

    def __init__(self, upload: Upload) -> None:
        super().__init__("true")
        self.upload, self.problem = upload, ""

    @override
    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        forget(host)
        try:
            self._copy(host, connector_arguments)
        except (OSError, ValueError) as error:  # ValueError: the host named no sizes
            self.problem = f"{self.upload.source} could not be copied to the host: {error}; the next run resumes."
        return True, CommandOutput([])

    def _copy(self, host: Host, arguments: ConnectorArguments) -> None:
        source, path = self.upload.source, self.upload.path
        part, files = f"{path}.part", files_of(source)
        quoted = {"part": shlex.quote(part), "path": shlex.quote(path)}
        free, *there = self._run(host, arguments, LOOK.format(**quoted, folder=quoted["part"], there=THERE))
        if free == THERE:
            return
        have = {name: int(size) for size, _, name in (line.partition(" ") for line in there)}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        need = sum(sizes.values()) - sum(have.values())
        if need > int(free):
            raise OSError(f"it needs {need / 1e9:.1f} GB more, but {path.rpartition('/')[0]} has {int(free) / 1e9:.1f}")
        progress = Progress(host, self.upload.model, sum(sizes.values()))
        for name, file in files.items():
            if have.get(name) == sizes[name]:  # it got its name after it was compared
                progress.done += sizes[name]
                continue
            begin = have.get(f"{name}.part", 0)
            progress.done += begin
            told = {"folder": f"{part}/{name}".rpartition("/")[0], "file": f"{part}/{name}", "name": name}
            script = RECEIVE.format(
                **{key: shlex.quote(value) for key, value in told.items()}, size=sizes[name], sha256=sha256(file)
            )
            self._run(host, arguments, script, Content(file, begin, progress))
        place = PLACE_FILE if source.is_file() and list(files) == [source.name] else PLACE_FOLDER
        self._run(host, arguments, place.format(**quoted, name=shlex.quote(source.name)))

    @staticmethod
    def _run(host: Host, arguments: ConnectorArguments, script: str, content: "Content | None" = None) -> list[str]:
        """A command's output. Raises OSError with its last line when it fails."""
        given = {**arguments, "_stdin": content} if content is not None else dict(arguments)
        ok, output = host.run_shell_command(
            StringCommand("sh", "-c", shlex.quote(script)), print_output=False, print_input=False, **given
        )
        if not ok:
            raise OSError(next(reversed(output.output_lines), "the host said nothing"))
        return list(output.stdout_lines)


class Progress:
    """Says how far a model's copy is, every few seconds."""

    def __init__(self, host: Host, model: str, total: int) -> None:
        self.host, self.model, self.total = host, model, total
        self.done, self.last = 0, time.monotonic()

    def tell(self, more: int) -> None:
        """After some more bytes."""
        self.done += more
        if time.monotonic() - self.last >= SIGN_OF_LIFE:
            self.last = time.monotonic()
            self.host.log(f"{self.model}: copying, {self.done / 1e9:.2f} GB of {self.total / 1e9:.2f} GB")


class Block:
    """Bytes that pyinfra takes for a line of text (pyinfra 3.10.0, `write_stdin`)."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def endswith(self, end: str) -> bool:
        """No end of line is to be added."""
        return True

    def encode(self) -> bytes:
        """As they are."""
        return self.content


class Content(list[str]):
    """A file from some place on, block by block, for a command's standard input."""

    def __init__(self, file: Path, begin: int, progress: Progress) -> None:
        super().__init__(["content"])  # not empty: pyinfra asks
        self.file, self.begin, self.progress = file, begin, progress

    @override
    def __iter__(self) -> Iterator[str]:
        with self.file.open("rb") as file:
            file.seek(self.begin)
            while block := file.read(BLOCK):
                yield Block(block)  # type: ignore[misc]
                self.progress.tell(len(block))
