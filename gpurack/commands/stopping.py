"""`gpurack stop`, `start` and `restart`: one model of one host; all others stay as they are."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Literal

from pyinfra.api import Host, State

from gpurack import deploys, screen
from gpurack.commands.apply import carry_out
from gpurack.commands.apply_screen import outcomes, result_code, show_failure, show_result
from gpurack.commands.diff import HostPlan, show_plans
from gpurack.commands.lab import Lab
from gpurack.commands.on_host import NotDone, connected_to, find_entry
from gpurack.facts.model import HostFacts
from gpurack.inventory.origin import claim
from gpurack.inventory.secrets import read_values
from gpurack.operations.run_state import host_run, snapshot
from gpurack.plan.host import MODELS, Preview
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import commits
from gpurack.plan.models.stopped import hold_of
from gpurack.plan.run import Run
from gpurack.shell import word
from gpurack.spec.problems import by_fault


@dataclass(frozen=True)
class OneModel:
    """A call for one model. place: HOST/MODEL. Its methods return the exit code, and raise NotDone and LookupError."""

    console: screen.Console
    lab: Lab
    place: str

    def stop(self, why: str | None) -> int:
        """Stop it. why: the reason of a hold."""
        with self.connection() as (state, lab, host, name):
            carry_out(state, lab, {host.name: HostPlan()}, asked=False, deploy=lambda: deploys.stop(name, why))
            for fault in by_fault(host_run(host).failures):
                show_failure(self.console, host.name, fault)
            if host in state.failed_hosts:
                return 1
        until = "until the next run, also over reboots. To start it" if why is None else "until you start it"
        self.say(f"{self.place} stays stopped {until}: gpurack start {word(str(self.lab.path))} {self.place}")
        return 0

    def start(self, verb: Literal["start", "restart"]) -> int:
        """Start or restart it; it must be ready and answer."""
        begun = time.monotonic()
        with self.connection() as (state, lab, host, name):
            facts = snapshot(host, lab.fleet[host.name])
            if facts.blind:
                raise NotDone(f"{host.name}: {facts.blind.what}")
            if verb == "restart" and (hold := hold_of(Observed(name, lab.fleet[host.name], facts))):
                raise NotDone(
                    f"{self.place}: {hold.message} Start it: gpurack start {word(str(lab.path))} {self.place}"
                )
            plan = MODELS.plan(lab.fleet[host.name], facts, self.run(lab, host, name, facts, verb))
            if plan.nothing and not plan.changes:
                raise NotDone(f"{self.place}: it waits for a job. Apply the inventory.")
            if plan.nothing:
                self.say(f"{self.place} runs already. Nothing was changed.")
                return 0
            plans = {host.name: HostPlan(Preview(tuple(plan.findings)))}
            show_plans(self.console, plans)
            if plan.errors:
                return 1
            carry_out(state, lab, plans, asked=False, deploy=lambda: deploys.start(name, verb))
            found = outcomes(state, lab, plans)
        show_result(self.console, found, time.monotonic() - begun)
        return result_code(found)

    def run(self, lab: Lab, host: Host, name: str, facts: HostFacts, verb: Literal["start", "restart"]) -> Run:
        """What the plan depends on."""
        spec = lab.fleet[host.name]
        rights = claim(spec.lab, lab.path, commits(facts))
        return Run(True, values=read_values(spec), salt=token_hex(16), claim=rights, only=name, verb=verb)

    @contextmanager
    def connection(self) -> Iterator[tuple[State, Lab, Host, str]]:
        """Connect to the host, and show what it prints. Yields the lab with this host alone, and the entry's name."""
        place, name = find_entry(self.lab.fleet, self.place)
        spec = self.lab.fleet[place]
        if name in spec.jobs:
            raise LookupError(f"`{name}` is a job: it runs once, and ends by itself.")
        if not spec.entries[name].enabled:
            raise LookupError(f"`{name}` is disabled in the inventory.")
        if spec.maintenance:
            raise NotDone(f"{place}: maintenance: {spec.maintenance}. Nothing was changed.")
        with connected_to(self.lab, place, self.console) as (state, lab, host):
            yield state, lab, host, name

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(screen.line(text))
