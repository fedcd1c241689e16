"""What the lines mean that a command on a host prints: of the models' runner, of other programs, of apt. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from gpurack.paths import NEW_SERVES, SERVES_AGAIN
from gpurack.plan.packages.package_errors import AVAILABLE
from gpurack.spec.problems import Problem
from gpurack.spec.step_codes import STEPS

PROGRESS = "%d:%02d  %s\\n"
"""A line of progress, for printf (operations/commands.py: slow)."""
SAYS_IT_SERVES = re.compile(rf"` {SERVES_AGAIN} |^{NEW_SERVES} ")
"""Failures that say which container serves now."""


class Says(Enum):
    """What a line says.

    ERROR: why something failed, `error alpha: why`. MORE: a further line of that message. CODES: the codes of all
    failures (files/messages.py: say_codes). PHASES: how long the phases took (files/phases.py: tell). TRACEBACK: its
    first line. PACKAGES: why apt or dpkg failed. NO_REASON: never why a command failed: lists of packages, lines of
    `PROGRESS`, and what a shell says of a command that a signal ended. OTHER: anything else.
    """

    ERROR = re.compile(r"error ")
    MORE = re.compile(r" {4}\| ")
    CODES = re.compile(r"codes: ")
    PHASES = re.compile(r"\s*took: (?=(?:[a-z ]{1,20} \d{1,7}\.\d s(?:, )?)+\s*\Z)")
    TRACEBACK = re.compile(r"Traceback ")
    PACKAGES = re.compile(r"E: |dpkg: error")
    NO_REASON = re.compile(rf"{AVAILABLE}|\d+:\d\d  |(Killed|Terminated) *$")
    OTHER = re.compile("")


@dataclass(frozen=True)
class Line:
    """A line of output. text: without the mark at its beginning that shows what it says."""

    says: Says
    text: str
    whole: str


def parse(line: str) -> Line:
    """Return what a line says.

    >>> [(line.says.name, line.text) for line in map(parse, ["error alpha: oh", "    | CUDA", "alpha: ready"])]
    [('ERROR', 'alpha: oh'), ('MORE', 'CUDA'), ('OTHER', 'alpha: ready')]
    """
    says, mark = next((says, mark) for says in Says if (mark := says.value.match(line)))
    return Line(says, line[mark.end() :], line)


def errors_in(lines: Iterable[str]) -> list[str]:
    """Return the first lines of errors, without the quoted lines below them."""
    return [line.text for line in map(parse, lines) if line.says is Says.ERROR]


def reasons_of(lines: Iterable[str]) -> list[str]:
    """Return why a command failed, from its output.

    Errors with the quoted lines below them; else apt's own first error; else the last line.
    """
    found = [line for line in map(parse, lines) if line.whole.strip()]
    sentences: list[str] = []
    for line in found:
        if line.says is Says.ERROR:
            sentences.append(line.text)
        elif sentences and line.says is Says.MORE:
            sentences[-1] += f"\n{line.whole}"
    of_packages = [line.whole for line in found if line.says is Says.PACKAGES]
    last = [line.whole for line in found if line.says not in (Says.NO_REASON, Says.CODES)][-1:]
    return sentences or of_packages[:1] or last


def codes_in(lines: Iterable[str]) -> dict[str, str]:
    """Return name → code of its failure, from the output of the runner. That of an older gpurack says none.

    >>> codes_in(["error ada's Docker: oh", "codes: ada's Docker time-is-up, beta unheard-of"])
    {"ada's Docker": 'time-is-up'}
    """
    said = [part for line in map(parse, lines) if line.says is Says.CODES for part in line.text.split(", ")]
    pairs = (part.rpartition(" ") for part in said)
    return {name: code for name, _, code in pairs if code in STEPS}


def was_killed(lines: Iterable[str]) -> bool:
    """Did a failed runner not end by itself? Else its output says why."""
    return not any(line.says in (Says.ERROR, Says.TRACEBACK) for line in map(parse, lines))


def failure_in(text: str, places: Mapping[str, str], codes: Mapping[str, str], code: str) -> Problem:
    """Return the failure in a line of a host's program (`alpha: why`), about an entry or the host.

    codes: of `codes_in`. code: for what they do not have.

    >>> failure_in("alpha: oh", {"alpha": "models.alpha"}, {"alpha": "exited"}, "step-failed")
    Problem(host='', path='models.alpha', code='exited', parameters=(('what', 'oh'),))
    >>> failure_in("E: no", {}, {}, "step-failed").what
    'E: no'
    """
    about, colon, sentence = text.partition(": ")
    if colon and about in places:
        return Problem.of(codes.get(about, code), path=places[about], what=sentence)
    return Problem.of(codes.get(about, code), what=text)
