"""A look at a host as thorough as a lock: with the sha256 of all weights, read where nobody knows it yet."""

from dataclasses import replace
from typing import Any

from pyinfra.api import Host

from gpurack.plan import weights
from gpurack.plan.questions import questions
from gpurack.remote import Command
from gpurack.resources import program, read_text
from gpurack.shell import Sh, sh
from gpurack.spec import host as spec
from gpurack.state.model import HostState
from gpurack.state.snapshot import forget, look

NO_PYTHON = "it has no python3, so the sha256 of its weights cannot be read; run deploys/gpu_host.py first."


def thorough(host: Host, wanted: spec.Host) -> HostState:
    """A look after which every file of weights has a sha256. What takes long says so on standard error."""
    seen = look(host, questions(wanted))
    paths = [path for path, size in seen.weights.items() if size is not None]
    if seen.trouble:
        return seen
    if seen.late:
        return replace(seen, trouble=" ".join(f"{part} {why}." for part, why in seen.late.items()))
    if not paths:
        return seen
    if "python3" not in seen.tools:
        return replace(seen, trouble=NO_PYTHON)
    readers = weights.readers(wanted)
    asked = "\n".join(f"{readers.get(path, '')}|{path}" for path in paths)
    ok, lines = as_root(host, seen, sh("python3 -c {}", hasher()), stdin=asked)
    if not ok:
        return replace(seen, trouble=f"the sha256 of its weights could not be read: {last(lines)}.")
    forget(host)
    return look(host, questions(wanted))


def hasher() -> str:
    """files/hashes.py with what it imports."""
    return program("hashes", "common", "safe_paths", "record", "dockerd")


def everything(host: Host, seen: HostState) -> list[str]:
    """What files/manifest.sh prints there. Raises OSError with a sentence when it fails."""
    ok, lines = as_root(host, seen, sh("sh -s"), stdin=read_text("files/manifest.sh"), shown=False)
    if not ok:
        raise OSError(last(lines))
    return lines


def last(lines: list[str]) -> str:
    """Why a command failed, by its last line."""
    return lines[-1].rstrip(".") if lines else "the host said nothing"


def as_root(host: Host, seen: HostState, command: Sh, stdin: str = "", shown: bool = True) -> tuple[bool, list[str]]:
    """(did it succeed?, the lines it printed) of a command on the host; they are shown as they come, on stderr."""
    arguments: dict[str, Any] = {"_sudo": seen.raised, "_stdin": stdin}
    ok, output = host.run_shell_command(Command(command), print_output=shown, **arguments)
    return ok, list(output.stdout_lines if ok else output.output_lines)
