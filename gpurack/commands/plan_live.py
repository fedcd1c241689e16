"""`gpurack plan --live`: inspect every host and print what a run would change."""

from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from pyinfra.api.inventory import Inventory

from gpurack import screen
from gpurack.commands.connect import snapshots
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.inventory.secrets import read_values
from gpurack.plan.host import Run, findings
from gpurack.plan.steps import Finding, Kind, as_findings
from gpurack.spec import host as spec
from gpurack.spec.problems import Problem


def show_live(
    console: screen.Console, inventory: Inventory, fleet: Mapping[str, spec.Host], as_json: bool = False
) -> int:
    """Connect, inspect and print. Return the exit code: 1 when a host could not be reached or has errors."""
    seen = snapshots(inventory, fleet)
    lab = {name: understood(fleet[name], facts) for name, facts in seen.items()}
    if as_json:
        screen.echo(screen.as_json(as_data(lab)))
    else:
        for name, findings_of_host in lab.items():
            show_host(console, name, findings_of_host)
    return int(any(finding.kind == "error" for each in lab.values() for finding in each))


def show_host(console: screen.Console, name: str, lines: Sequence[Finding]) -> None:
    """Print one host's changes, warnings and errors."""
    changes = any(finding.kind != "warning" for finding in lines)
    console.print(screen.line((name, "bold"), f"   {'' if changes else 'no change'}"))
    for finding in lines:
        kind = finding.kind
        begin = ("~", "yellow") if kind == "change" else (kind, "red" if kind == "error" else "yellow")
        console.print(screen.line("  ", begin, " " if kind == "change" else "  ", finding.line))


def as_data(lab: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    """What a run would change, as JSON data. What is said without being an error is among the warnings."""

    def problems(*kinds: Kind) -> list[dict[str, Any]]:
        each = ((name, finding) for name, findings_of_host in lab.items() for finding in findings_of_host)
        return [
            problem.at(name).as_data()
            for name, finding in each
            if finding.kind in kinds
            for problem in finding.problems
        ]

    changes = {
        name: {"changes": [finding.line for finding in each if finding.kind == "change"]} for name, each in lab.items()
    }
    return {
        "schema": screen.SCHEMA,
        "hosts": changes,
        "errors": problems("error"),
        "warnings": problems("warning", "change"),
    }


def understood(wanted: spec.Host, seen: HostFacts) -> list[Finding]:
    """The findings, or an error for an answer of the host that gpurack cannot read."""
    try:
        return findings(wanted, seen, Run(values=read_values(wanted), salt=token_hex(16)))
    except Exception as error:
        return as_findings("error", [Problem.of("host-answer-unreadable", what=not_understood(error))])
