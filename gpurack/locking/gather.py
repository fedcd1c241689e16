"""Snapshots for locks, with the sha256 of all weights, and the output of files/manifest.sh."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyinfra.api import Host

from gpurack.facts.model import HostFacts
from gpurack.operations.run_state import outdate, snapshot
from gpurack.plan.models import weights
from gpurack.remote import Command, run
from gpurack.resources import program, read_text
from gpurack.shell import Sh, sh
from gpurack.spec import host as spec
from gpurack.spec.problems import Problem

MANIFEST_LIMIT = 300
"""Seconds for files/manifest.sh; 32 homes at once take at most 40 of them."""
NO_PYTHON = "python3 is not installed, so the sha256 of the weights cannot be read. Run gpurack apply first."


def snapshot_with_hashes(host: Host, wanted: spec.Host) -> HostFacts:
    """A snapshot in which every file of weights has a sha256. Progress is shown on stderr.

    Users and weights that did not answer are in `late`: they keep no other model from the lock (observe.unread).
    """
    seen = snapshot(host, wanted)
    paths = [path for path, size in seen.weights.items() if size is not None]
    if seen.trouble:
        return seen
    apart = [part for part in seen.late if part.startswith(("user ", "weights "))]
    if missing := seen.hanging(without=apart):
        alone = missing[0] if len(missing) == 1 else None
        return replace(seen, trouble=alone or Problem.of("not-inspected", what=" ".join(one.what for one in missing)))
    if not paths:
        return seen
    if "python3" not in seen.tools:
        return replace(seen, trouble=Problem.of("not-inspected", what=NO_PYTHON))
    readers = weights.readers(wanted)
    asked = "\n".join(f"{readers.get(path, '')}|{path}" for path in paths)
    ok, lines = run_as_root(host, seen, sh("python3 -c {}", hasher()), stdin=asked)
    if not ok:
        why = f"could not read the sha256 of the weights: {last_line(lines)}."
        return replace(seen, trouble=Problem.of("not-inspected", what=why))
    outdate(host)
    seen = snapshot(host, wanted)
    late = {f"user {user}": f"did not finish reading their weights: {why}" for user, why in unanswered(lines).items()}
    return replace(seen, late={**late, **seen.late})


def unanswered(lines: Sequence[str]) -> dict[str, str]:
    """User → why files/hashes.py asked them no more."""
    found = (re.fullmatch(r"late ([A-Za-z_][A-Za-z0-9_.-]*\$?): (.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def hasher() -> str:
    """The text of files/hashes.py with what it imports."""
    return program("hashes")


def manifest_lines(host: Host, seen: HostFacts) -> list[str]:
    """The output of files/manifest.sh on a host. Raises OSError with a sentence if it fails."""
    script = read_text("files/manifest.sh")
    try:
        ok, lines = run_as_root(host, seen, sh("sh -s"), stdin=script, shown=False, _timeout=MANIFEST_LIMIT)
    except TimeoutError:
        raise OSError(f"files/manifest.sh did not finish in {MANIFEST_LIMIT} s") from None
    if not ok:
        raise OSError(last_line(lines))
    return lines


def last_line(lines: list[str]) -> str:
    """The last line of a failed command's output, as its reason."""
    return lines[-1].rstrip(".") if lines else "no output"


def run_as_root(
    host: Host, seen: HostFacts, command: Sh, stdin: str = "", shown: bool = True, **more: Any
) -> tuple[bool, list[str]]:
    """Run a command as root: (succeeded, its output lines).

    shown: print the output on stderr while it runs. more: pyinfra's connector arguments. Raises TimeoutError after
    `_timeout` seconds.
    """
    arguments: dict[str, Any] = {"_sudo": seen.raised, "_stdin": stdin, **more}
    ok, output = run(host, Command(command), print_output=shown, **arguments)
    return ok, list(output.stdout_lines if ok else output.output_lines)
