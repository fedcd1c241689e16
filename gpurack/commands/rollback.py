"""`gpurack rollback`: list the definitions with which a model was ready, and bring one back."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

from pyinfra.api import Host, State

from gpurack import deploys, paths, screen
from gpurack.commands import apply
from gpurack.commands.apply import carry_out, confirmed
from gpurack.commands.apply_screen import outcomes, result_code, show_result
from gpurack.commands.diff import HostPlan, show_plans
from gpurack.commands.lab import Lab
from gpurack.commands.on_host import connected_to, find_entry
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.facts.record import DatabaseCopy, Ready
from gpurack.inventory.origin import claim
from gpurack.inventory.secrets import read_values
from gpurack.operations.rolling_back import bring_back, inspected
from gpurack.operations.run_state import snapshot
from gpurack.plan.host import MODELS, Preview
from gpurack.plan.models import ledger
from gpurack.plan.models.diff import differences
from gpurack.plan.models.health import local_time
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import commits
from gpurack.plan.models.rollback import (
    database_back,
    edit,
    is_present,
    kept_database,
    mark_of,
    when,
)
from gpurack.plan.pins import host_contradictions
from gpurack.plan.run import Run
from gpurack.shell import sh
from gpurack.spec.lock import place

NO_TERMINAL = "Confirmation needs a terminal. Nothing was changed. Run with -y to bring it back."


@dataclass(frozen=True)
class Rollback:
    """One call. place: HOST/MODEL. number: in the list, None for the newest that the model does not have.

    with_data: also bring back the database of that version.
    """

    console: screen.Console
    lab: Lab
    place: str
    number: int | None = None
    yes: bool = False
    with_data: bool = False

    def run(self, only_list: bool) -> int:
        """List, or plan, ask and bring back. Return the exit code. Raises NotDone, NotPossible, LookupError."""
        name, entry = find_entry(self.lab.fleet, self.place)
        if entry in self.lab.fleet[name].jobs:
            raise LookupError(f"`{entry}` is a job, which has no earlier definitions.")
        with connected_to(self.lab, name, self.console) as (state, lab, host):
            return self.show_list(host, entry) if only_list else self.bring_back(state, lab, host, entry)

    def show_list(self, host: Host, name: str) -> int:
        """Print the known definitions."""
        spec = self.lab.fleet[host.name]
        facts, user = inspected(host, spec), spec.entries[name].dockerd
        history = facts.ready.get((user, name), ())
        copies = facts.databases.get((user, name), ())
        for line in listed(history, facts.container(name, user), facts, copies):
            self.console.print(screen.line(line))
        if not history:
            self.console.print("No definition is known: none was ready since gpurack keeps them.")
        return 0

    def bring_back(self, state: State, lab: Lab, host: Host, name: str) -> int:
        """Plan, ask and bring back."""
        begun, today = time.monotonic(), lab.fleet[host.name]
        fleet, back = bring_back(host, lab.inventory, lab.path, lab.fleet, name, self.number)
        spec = fleet[host.name]
        facts = snapshot(host, spec)
        rights = claim(spec.lab, lab.path, commits(facts))
        given = Run(
            self.yes, values=read_values(spec), salt=token_hex(16), retry=(name,), claim=rights, verb="rollback"
        )
        left = mark_of(today.entries[name], back)
        database, of_data = database_back(back.ready, Observed(name, spec, facts), self.with_data)
        plan = MODELS.plan(spec, facts, replace(given, only=name, rollback=left, database=database))
        plans = {host.name: HostPlan(Preview(tuple(plan.findings)))}
        self.console.print(
            f"{self.place}: back to the definition of {local_time(back.ready.at, facts)}, with today's keys"
        )
        for note in (*back.notes, *of_data, *other_words(plan.job, back.ready, name)):
            self.console.print(screen.line(f"  {note}"))
        show_plans(self.console, plans)
        lines = edit(spec.path_of(name), back.words)
        moved = today.lock is not None and name in [pin for _, _, pin in host_contradictions(spec, today.lock)]
        if plan.nothing or plan.errors:
            self.show_edit(host.name, name, lines, moved)
            return int(bool(plan.errors))
        apply.require_terminal(self.yes, NO_TERMINAL)  # now the admin knows what -y would do
        if not self.yes and not confirmed(self.console):
            self.console.print("Nothing was changed.")
            return 0
        patched = replace(lab, fleet=dict(fleet))
        carry_out(
            state,
            patched,
            plans,
            asked=not self.yes,
            deploy=lambda: deploys.bring_back(name, left, database),
        )
        found = outcomes(state, patched, plans)
        show_result(self.console, found, time.monotonic() - begun)
        self.show_edit(host.name, name, lines, moved)
        return result_code(found)

    def show_edit(self, host: str, name: str, lines: Sequence[str], moved: bool) -> None:
        """Print how the inventory is edited. moved: the lock pins something else then, so its pin is moved also."""
        if not lines:
            self.console.print("The inventory has this definition already.")
            return
        self.console.print(f"Edit {self.lab.path}, or the next run undoes the rollback:")
        for line in lines:
            self.console.print(screen.line(f"  {host} {line}"))
        if moved:
            command = sh("gpurack lock {} {} --upgrade", str(self.lab.path), name)
            self.console.print(f"Then move its pin in {place(self.lab.path)}: {command}")


def listed(
    history: Sequence[Ready], container: Container | None, facts: HostFacts, copies: Sequence[DatabaseCopy] = ()
) -> Iterator[str]:
    """The lines of `--list`, newest first. What an older one has else is said by its difference from the newer one.

    Times have seconds: two changes may be of the same minute.
    """
    newer: Mapping[str, Any] | None = None
    for number, ready in enumerate(history, 1):
        label = ledger.label({paths.MODEL_LABEL: ready.label})
        now = "  (now)" if is_present(ready, container) else ""
        yield f"{number}  {served(ready, facts, number == 1)}  {ready.image}{now}"
        if copy := kept_database(ready, copies):
            yield f"     database of {when(copy, facts)}"
        if newer is not None:
            yield from (f"     unlike {number - 1}: {reason}" for reason in differences(newer, label))
        newer = label


def served(ready: Ready, facts: HostFacts, newest: bool) -> str:
    """Since when a definition was ready, and until when, where that is known. newest: is no later one known?"""
    begun = local_time(ready.at, facts, seconds=True)
    if ready.until and not newest:
        return f"served from {begun} until {local_time(ready.until, facts, seconds=True)}"
    return f"ready since {begun}" if newest else f"ready {begun}"


def other_words(job: object, ready: Ready, name: str) -> Iterator[str]:
    """What still differs from that time, because it cannot be brought back."""
    batches = job.get("batches", ()) if isinstance(job, dict) else ()
    for data in (data for batch in batches for data in batch if data.get("name") == name and "label" in data):
        then, now = (ledger.label({paths.MODEL_LABEL: text}) for text in (ready.label, data["label"]))
        for reason in differences(then, now):
            yield f"differs from then: {reason}"
