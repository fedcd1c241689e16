"""What a run would change: `gpurack diff`, `plan --live`, `apply --dry` and the first half of `gpurack apply`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from pyinfra.api import State

from gpurack import screen
from gpurack.commands.connect import connected, snapshots_of
from gpurack.commands.lab import Lab
from gpurack.facts.machines import with_twins
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.inventory.load import apply_command
from gpurack.inventory.origin import claim
from gpurack.inventory.secrets import read_values
from gpurack.operations.run_state import host_run
from gpurack.plan.host import Preview, preview
from gpurack.plan.models.failures import retried
from gpurack.plan.models.ownership import commits
from gpurack.plan.run import Run
from gpurack.plan.steps import Finding, Kind, as_findings, down_for
from gpurack.spec import host as spec
from gpurack.spec.problems import Problem

WOULD_CHANGE, UNREACHABLE = 3, 4
"""Exit codes: `--fail-on-change` and something would change; only unreachable hosts prevent success."""
HOST_CHANGE = "host change"
"""A change that is not one of a model: of packages, Docker or files."""
LISTED = 3
"""Up to this many entries with the same change have a line each; more of them share one."""


@dataclass(frozen=True)
class HostPlan:
    """What a run would do on one host. unreachable: why it cannot be reached; "" if it can."""

    preview: Preview = field(default_factory=Preview)
    unreachable: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is printed about the host."""
        return self.preview.findings

    @property
    def changes(self) -> list[Finding]:
        """The changes, removals included."""
        return self.of("change") + self.of("removal")

    def of(self, kind: Kind) -> list[Finding]:
        """The findings of one kind. What is only announced (it waits for another run) does not count."""
        return [each for each in self.findings if each.kind == kind and not (kind == "change" and each.problems)]


Plans = Mapping[str, HostPlan]


def diff(console: screen.Console, lab: Lab, *, as_json: bool = False, fail_on_change: bool = False) -> int:
    """Connect, plan and print; nothing is changed. Return the exit code."""
    plans: Plans = {}
    if lab.asked:
        with connected(lab.inventory, lab.asked) as state:
            plans = plan_hosts(state, lab)
    if as_json:
        screen.echo(screen.as_json(as_data(plans)))
    else:
        show_plans(console, plans)
        show_resting(console, lab)
        if count := sum(map(changing, plans.values())):
            command = apply_command(lab.path)
            console.print(f"{count} of {counted(len(plans), 'host')} would change. Apply: {command}")
    return exit_code(plans, fail_on_change)


def exit_code(plans: Plans, fail_on_change: bool) -> int:
    """0: no errors; 1: errors; 3: a change, if that counts as failure; 4: only unreachable hosts.

    A test changes nothing: after a reboot the next run tests each model.

    >>> exit_code({"a": HostPlan(), "b": HostPlan(unreachable="x")}, fail_on_change=True)
    4
    """
    if any(plan.of("error") for plan in plans.values()):
        return 1
    if any(plan.unreachable for plan in plans.values()):
        return UNREACHABLE
    return WOULD_CHANGE if fail_on_change and any(map(changing, plans.values())) else 0


def changing(plan: HostPlan) -> bool:
    """Would a run change anything on the host, other than test a model?"""
    return any(not each.looks_only for each in plan.changes)


def plan_hosts(state: State, lab: Lab, unattended: bool = False) -> dict[str, HostPlan]:
    """Host → what a run would do there, in inventory order. Hosts in maintenance are left out."""
    plans = {}
    for name, facts in with_twins(snapshots_of(state, lab.fleet)).items():
        host = state.inventory.get_host(name)
        why = host_run(host).connect_error if host else ""
        plans[name] = (
            HostPlan(unreachable=why)
            if why
            else HostPlan(previewed(name, lab.fleet[name], facts, lab.data, lab.path, unattended))
        )
    return plans


def previewed(
    name: str,
    wanted: spec.Host,
    seen: HostFacts,
    data: Mapping[str, str] | None = None,
    path: Path | None = None,
    unattended: bool = False,
) -> Preview:
    """What a run would do on a host, or an error for an answer of the host that gpurack cannot read.

    data: what pyinfra's `--data` would set. path: the inventory's, whose clone may be old.
    """
    given = data or {}
    allowed = str(given.get("allow_remove", ""))
    try:
        run = Run(
            unattended,
            values=read_values(wanted),
            salt=token_hex(16),
            renew=given.get("renew") == "yes",
            retry=retried(given.get("retry"), name, wanted),
            claim=claim(
                wanted.lab,
                path,
                commits(seen),
                take_over=given.get("take_over") == "yes",
                allowed=int(allowed) if allowed.isdecimal() else None,
            ),
        )
        return preview(wanted, seen, run)
    except Exception as error:
        return Preview(tuple(as_findings("error", [Problem.of("host-answer-unreadable", what=not_understood(error))])))


def show_plans(console: screen.Console, plans: Plans) -> None:
    """Print the changes, warnings and errors of all hosts.

    Hosts with the same ones are one block, and hosts without any are one line.
    """
    width = max(map(len, plans), default=0)
    alike: dict[tuple[tuple[Finding, bool], ...], list[str]] = {}
    for name, plan in plans.items():
        if plan.unreachable:
            console.print(screen.line(("UNREACHABLE", "red"), f"  {name.ljust(width)}  {plan.unreachable}"))
        else:
            alike.setdefault(tuple((each, bool(each.down)) for each in plan.findings), []).append(name)
    quiet = alike.pop((), [])
    for names in alike.values():
        show_hosts(console, names, together([plans[name].findings for name in names]))
    if quiet:
        which = "." if len(quiet) == len(plans) else f": {named(quiet)}"
        console.print(screen.wrapped(console, f"{counted(len(quiet), 'host')} unchanged{which}", indent=2))


def together(same: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The findings that several hosts have in common, each with the downtimes of all of them.

    >>> one, two = (Finding("change", "recreate a: b", entry="a", down=(seconds,)) for seconds in (5, 9))
    >>> [finding.text for finding in together([[one], [two]])]
    ['recreate a: b (down for up to about 9 s)']
    """
    return [
        replace(alike[0], down=tuple(seconds for each in alike for seconds in each.down))
        for alike in zip(*same, strict=True)
    ]


def show_resting(console: screen.Console, lab: Lab) -> None:
    """Print which hosts are in maintenance, and why."""
    for name, why in lab.resting.items():
        console.print(screen.line((name, "bold"), f"   maintenance: {why}"))


def show_hosts(console: screen.Console, names: Sequence[str], findings: Sequence[Finding]) -> None:
    """Print the changes, warnings and errors that these hosts have in common."""
    head = headline(findings, each=len(names) > 1)
    hosts = named(names)
    if head and len(hosts) + len(head) + 3 > console.width:
        console.print(screen.line((screen.wrapped(console, hosts, indent=2), "bold")))
        console.print(screen.line(f"  {head}"))
    else:
        console.print(screen.line((hosts, "bold"), f"   {head}" if head else ""))
    alike: dict[tuple[Kind, str, bool], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.kind, finding.without_entry, bool(finding.down)), []).append(finding)
    width = max((len(each.entry) for some in alike.values() if len(some) <= LISTED for each in some), default=0)
    for (kind, text, _), some in alike.items():
        style = {"removal": "red", "error": "red", "warning": "yellow"}.get(kind, "")
        if kind in ("error", "warning"):
            console.print(screen.line("  ", (kind, style), f"  {text}"))
        elif len(some) > LISTED:
            all_ = down_for([seconds for each in some for seconds in each.down])
            console.print(screen.line((screen.wrapped(console, f"  {text}{all_}", indent=4), style)))
            entries = ", ".join(each.entry for each in some)
            console.print(screen.line((screen.wrapped(console, f"    {entries}", indent=4), style)))
        else:
            for each in some:
                front = f"  {each.entry.ljust(width)}   " if each.entry else "  "
                console.print(
                    screen.line((screen.wrapped(console, front + text + down_for(each.down), indent=len(front)), style))
                )


def named(hosts: Sequence[str], most: int = 20) -> str:
    """The names of hosts. Where there are more than `most`, those that differ in a number only are joined.

    >>> named(["gpu1.lab", "gpu2.lab"]), named(["gpu1.lab", "gpu3.lab", "gpu2.lab", "gpu7.lab", "login"], most=2)
    ('gpu1.lab, gpu2.lab', 'gpu[1-3,7].lab, login')
    >>> named(["n08", "n09", "n10", "n1"], most=2)
    'n[1,08-10]'
    """
    if len(hosts) <= most:
        return ", ".join(hosts)
    alike: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        front, number, back = re.findall(r"(?s)(\D*)(\d*)(.*)", host)[0]
        alike.setdefault((front, back), []).append(number)
    return ", ".join(f"{front}{runs(numbers)}{back}" for (front, back), numbers in alike.items())


def runs(numbers: Sequence[str]) -> str:
    """Numbers with their leading zeros as `[1-3,7]`; a single one as it is."""
    if len(numbers) == 1:
        return numbers[0]
    found: list[list[str]] = []
    for number in sorted(numbers, key=lambda text: (int(text), text)):
        if found and number == str(int(found[-1][-1]) + 1).zfill(len(found[-1][-1])):
            found[-1].append(number)
        else:
            found.append([number])
    return f"[{','.join(run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in found)}]"


def headline(findings: Sequence[Finding], each: bool = False) -> str:
    """`1 recreate, 2 host changes · Docker restarts`. each: is it about several hosts?

    >>> recreate = Finding("change", "recreate alpha: version 1 → 2", entry="alpha")
    >>> headline([recreate, Finding("change", "start Docker at boot")])
    '1 recreate, 1 host change · Docker keeps running'
    >>> headline([recreate], each=True)
    '1 recreate each · Docker keeps running'
    >>> gone = Finding("removal", "remove beta: no longer in the inventory", entry="beta")
    >>> headline([gone, Finding("removal", "1 REMOVE")])
    '1 REMOVE · Docker keeps running'
    >>> headline([gone, Finding("change", "remove eta: enabled: false", entry="eta"), Finding("removal", "1 REMOVE")])
    '2 remove · Docker keeps running'
    """
    changes = HostPlan(Preview(tuple(findings))).changes
    if not changes:
        return "" if any(finding.kind == "error" for finding in findings) else "no change"
    actions: dict[str, int] = {}
    for change in changes:
        if change.kind == "removal" and not change.entry:  # the line that counts them
            continue
        word = change.line.partition(" ")[0] if change.entry else HOST_CHANGE
        word = "REMOVE" if change.kind == "removal" else word
        actions[word] = actions.get(word, 0) + 1
    if "remove" in actions and "REMOVE" in actions:  # entries that are disabled or replaced; a line counts the others
        actions["remove"] += actions.pop("REMOVE")
    restarts = any("restart Docker" in change.line for change in changes)
    counted_words = (
        counted(count, word) if word == HOST_CHANGE else f"{count} {word}" for word, count in actions.items()
    )
    counts = ", ".join(counted_words) + (" each" if each else "")
    return f"{counts} · {'Docker restarts' if restarts else 'Docker keeps running'}"


def counted(number: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_data(plans: Plans) -> dict[str, Any]:
    """What a run would change, as JSON data. What is said without being an error is among the warnings."""

    def problems(*kinds: Kind) -> list[dict[str, Any]]:
        each = ((name, finding) for name, plan in plans.items() for finding in plan.findings)
        return [
            problem.at(name).as_data()
            for name, finding in each
            if finding.kind in kinds
            for problem in finding.problems
        ]

    unreachable = [
        Problem.of("not-inspected", name, what=plan.unreachable) for name, plan in plans.items() if plan.unreachable
    ]
    return {
        "schema": screen.SCHEMA,
        "hosts": {
            name: {
                "changes": [each.text for each in plan.findings if each.kind in ("change", "removal")],
                "reachable": not plan.unreachable,
            }
            for name, plan in plans.items()
        },
        "errors": [problem.as_data() for problem in unreachable] + problems("error"),
        "warnings": problems("warning", "change"),
    }
