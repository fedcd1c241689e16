"""`gpurack history`: who changed what on the hosts, when, from which commit, and with what result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gpurack import screen
from gpurack.commands.apply_screen import with_logs_command
from gpurack.commands.connect import connected, snapshots_of
from gpurack.commands.lab import Lab
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Event
from gpurack.plan.models.health import local_time
from gpurack.plan.models.ownership import SHORT_COMMIT

UNCOMMITTED = "uncommitted changes"


def history(console: screen.Console, lab: Lab, as_json: bool) -> int:
    """Ask the hosts and print. Return the exit code: 1 if one could not be asked."""
    seen: Mapping[str, HostFacts] = {}
    if lab.asked:
        with connected(lab.inventory, lab.asked) as state:
            seen = snapshots_of(state, lab.fleet)
    if as_json:
        screen.echo(screen.as_json(as_data(seen)))
    else:
        for name, facts in seen.items():
            show(console, name, facts, lab.path)
        for name, why in lab.resting.items():
            console.print(screen.line((name, "bold"), f"   maintenance: {why}"))
    return int(any(facts.trouble for facts in seen.values()))


def show(console: screen.Console, name: str, facts: HostFacts, inventory: object) -> None:
    """Print one host's runs, the newest first."""
    none = "no run has changed anything since gpurack keeps a history" if not facts.history else ""
    why = facts.trouble.what if facts.trouble else none
    console.print(screen.line((name, "bold"), f"   {why}".rstrip()))
    for event in reversed(facts.history):
        console.print(screen.line(f"  {headline(event, facts)}"), soft_wrap=True)
        for text in details(event):
            console.print(screen.line(f"    {with_logs_command(text, name, inventory)}"), soft_wrap=True)


def headline(event: Event, facts: HostFacts) -> str:
    """`2026-11-29 14:02 CET  ada  apply  ok  (lab.py, 3f2a91c, uncommitted changes)`."""
    parts = (event.inventory, event.commit[:SHORT_COMMIT], UNCOMMITTED if event.uncommitted else "")
    place = ", ".join(part for part in parts if part)
    words = (local_time(event.at, facts), event.by or "unknown", event.verb, "FAILED" if event.failed else "ok")
    return "  ".join(words) + (f"  ({place})" if place else "")


def details(event: Event) -> Iterator[str]:
    """What a run did, and what failed."""
    if event.changes:
        yield ", ".join(event.changes)
    yield from (f"failed: {text}" for text in event.failed)


def as_data(seen: Mapping[str, HostFacts]) -> dict[str, Any]:
    """The same for programs, the newest first."""
    hosts = {}
    for name, facts in seen.items():
        error, code = (facts.trouble.what, facts.trouble.code) if facts.trouble else (None, None)
        hosts[name] = {"runs": runs(facts.history), "error": error, "code": code}
    return {"schema": screen.SCHEMA, "hosts": hosts}


def runs(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Runs as JSON data."""
    return [{**asdict(event), "result": "failed" if event.failed else "ok"} for event in reversed(events)]
