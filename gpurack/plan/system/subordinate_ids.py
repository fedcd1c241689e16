"""Subordinate ids of users: which ids on the host belong to the users inside their containers. Pure."""

import re
from collections.abc import Collection, Sequence

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import User
from gpurack.plan.steps import Shell, Step
from gpurack.shell import all_of, sh
from gpurack.spec.problems import Problem

IDS = 65536
"""Subordinate ids that a user needs: images contain files of the users 0 to 65535."""
FIRST_ID = 100000
"""The first id that useradd uses (login.defs: SUB_UID_MIN)."""


def subordinate_ids(name: str, user: User, facts: HostFacts, granted: list[str]) -> list[Step]:
    """Return the step that grants ids to a user without any. granted: lines for others in this plan."""
    files = {"/etc/subuid": facts.kernel.subuids, "/etc/subgid": facts.kernel.subgids}
    without = [
        file
        for file, lines in files.items()
        if not any((found := parse_range(line)) and found[0] in (name, str(user.uid)) for line in lines)
    ]
    if not without:
        return []
    line = f"{name}:{free_ids([*facts.kernel.subuids, *facts.kernel.subgids, *granted], facts.kernel.uids)}:{IDS}"
    granted.append(line)
    commands = []
    for file in without:
        why = f"error {name} has no subordinate ids, and {file} cannot be written. Add the line {line} there."
        # A last line without newline would be joined with ours.
        begin = sh('if [ -s {file} ] && [ -n "$(tail -c 1 {file})" ]; then echo >>{file}; fi', file=file)
        add = sh("grep -q {} {} 2>/dev/null || { {} && echo {} >>{}; }", f"^{name}:", file, begin, line, file)
        commands.append(sh("{ {}; } 2>/dev/null || { echo {}; exit 1; }", add, why))
    return [Shell(f"subordinate ids of {name}: {line.partition(':')[2]}", all_of(commands))]


def free_ids(lines: Sequence[str], uids: Collection[int]) -> int:
    """Return the first id of a range that overlaps no other range and contains no account's id.

    >>> free_ids(["ada:100000:65536"], {165540})
    165541
    """
    taken = [(start, start + count) for line in lines if (found := parse_range(line)) for _, start, count in [found]]
    taken += [(uid, uid + 1) for uid in uids]
    start = FIRST_ID
    while overlapping := [end for begin, end in taken if begin < start + IDS and start < end]:
        start = max(overlapping)
    return start


def wrong_range(name: str, user: User, file: str, lines: Sequence[str]) -> Problem | None:
    """Return why a user's subordinate ids are not sufficient or not safe; None if they are."""
    ranges = [parsed for line in lines if (parsed := parse_range(line))]
    mine = [one for one in ranges if one[0] in (name, str(user.uid))]
    if mine and sum(count for _, _, count in mine) < IDS:
        return Problem.of("too-few-subordinate-ids", path=f"docker.rootless.{name}", user=name, ids=IDS, file=file)
    for _, start, count in mine:
        for who, other, length in ranges:
            if who not in (name, str(user.uid)) and start < other + length and other < start + count:
                path = f"docker.rootless.{name}"
                return Problem.of("subordinate-ids-overlap", path=path, user=name, file=file, other=who)
    return None


def parse_range(line: str) -> tuple[str, int, int] | None:
    """Return (user, first id, count) of a line of /etc/subuid; None for a comment.

    >>> parse_range("ada:100000:65536"), parse_range("# none")
    (('ada', 100000, 65536), None)
    """
    found = re.fullmatch(r"([^#:]+):(\d+):(\d+)", line.strip())
    return (found[1], int(found[2]), int(found[3])) if found else None
