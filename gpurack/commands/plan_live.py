"""`gpurack plan --live`: inspect every host and print what a run would change."""

from collections.abc import Iterator, Mapping
from secrets import token_hex

from pyinfra.api.inventory import Inventory

from gpurack import screen
from gpurack.commands.connect import snapshots
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.inventory.secrets import read_values
from gpurack.plan.host import Run, findings
from gpurack.plan.steps import Finding
from gpurack.spec import host as spec


def show_live(console: screen.Console, inventory: Inventory, fleet: Mapping[str, spec.Host]) -> int:
    """Connect, inspect and print. Return the exit code: 1 when a host could not be reached or has errors."""
    seen = snapshots(inventory, fleet)
    return max((show_host(console, name, fleet[name], state) for name, state in seen.items()), default=0)


def show_host(console: screen.Console, name: str, wanted: spec.Host, seen: HostFacts) -> int:
    """One host's changes and errors."""
    lines, failed = [], False
    changes = 0
    for kind, line in understood(wanted, seen):
        failed |= kind == "error"
        changes += kind != "warning"
        begin = ("~", "yellow") if kind == "change" else (kind, "red" if kind == "error" else "yellow")
        lines.append(screen.line("  ", begin, " " if kind == "change" else "  ", line))
    console.print(screen.line((name, "bold"), f"   {'' if changes else 'no change'}"))
    for text in lines:
        console.print(text)
    return int(failed)


def understood(wanted: spec.Host, seen: HostFacts) -> Iterator[Finding]:
    """Yield the findings, or an error for an answer of the host that gpurack cannot read."""
    try:
        yield from findings(wanted, seen, Run(values=read_values(wanted), salt=token_hex(16)))
    except Exception as error:
        yield "error", not_understood(error)
