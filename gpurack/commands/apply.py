"""`gpurack apply`: plan, ask, and carry out the plan by the deploy that `pyinfra … deploys/gpu_host.py` runs."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import StateStage
from pyinfra_cli.util import load_func

from gpurack import deploys, screen
from gpurack.commands.apply_screen import Outcome, outcomes, result_code, show_interrupted, show_prepared, show_result
from gpurack.commands.connect import connected
from gpurack.commands.diff import Plans, as_data, plan_hosts, show_plans, show_resting
from gpurack.commands.lab import Lab
from gpurack.commands.progress import progress
from gpurack.commands.verbs import APPLY_FLAGS, Mistake
from gpurack.inventory.load import apply_command
from gpurack.operations.order import run_operations
from gpurack.operations.run_state import host_run, outdate
from gpurack.pyinfra_patches import confirm_removals
from gpurack.spec.problems import Problem

INTERRUPTED = 130
NO_TERMINAL = Problem.of("confirmation-missing")


@dataclass
class Apply:
    """One call of `gpurack apply`. yes: apply without asking. begun: the clock when it began."""

    console: screen.Console
    lab: Lab
    yes: bool = False
    as_json: bool = False
    verbose: bool = False
    begun: float = field(default_factory=time.monotonic)
    running: bool = False
    interrupted: Mapping[str, Outcome] = field(default_factory=dict)

    def run(self) -> int:
        """Plan, ask, carry out and print. Return the exit code."""
        show_resting(self.console, self.lab)
        if not self.lab.asked:
            self.console.print("All hosts of this run are in maintenance. Nothing was changed.")
            self.unchanged({})
            return 0
        try:
            with (
                progress(self.console, {name: spec.everything for name, spec in self.lab.fleet.items()}, self.verbose),
                connected(self.lab.inventory, self.lab.asked) as state,
            ):
                return self.on_hosts(state)
        except KeyboardInterrupt:
            if not self.running:
                self.console.print("Interrupted. Nothing was changed.")
            else:  # with closed connections: no host says more
                show_interrupted(self.console, self.interrupted, self.lab.path, time.monotonic() - self.begun)
            return INTERRUPTED

    def on_hosts(self, state: State) -> int:
        """What `run` does with connections."""
        if self.lab.data.get("prepare"):
            return self.prepare(state)
        plans = plan_hosts(state, self.lab, self.yes)
        changes = any(plan.changes for plan in plans.values())
        if any(plan.findings or plan.unreachable for plan in plans.values()):
            show_plans(self.console, plans)
        if changes and not self.yes and not (removals_confirmed(state, self.lab, plans) and confirmed(self.console)):
            self.console.print("Nothing was changed.")
            self.unchanged(plans)
            return 0
        self.running = changes
        self.carry_out(state, plans, asked=changes and not self.yes)
        return self.end(state, plans, show_result)

    def unchanged(self, plans: Plans) -> None:
        """Print the plan for programs, where none of it is carried out."""
        if self.as_json:
            screen.echo(screen.as_json(as_data(plans)))

    def prepare(self, state: State) -> int:
        """Show what a following apply changes, and bring what that needs. Nothing stops, so nothing is asked."""
        plans = plan_hosts(state, self.lab)
        if any(plan.changes for plan in plans.values()):
            self.console.print(f"Only prepares. {apply_command(self.lab.path)} will change:")
        if any(plan.findings or plan.unreachable for plan in plans.values()):
            show_plans(self.console, plans)
        self.running = True
        self.carry_out(state, plans, asked=False)
        return self.end(state, plans, show_prepared)

    def carry_out(self, state: State, plans: Plans, asked: bool) -> None:
        """Run the deploy. After Ctrl-C, keep what is known of each host."""
        try:
            carry_out(state, self.lab, plans, asked)
        except KeyboardInterrupt:
            for name in plans:
                host_run(state.inventory.get_host(name)).interrupted = True
            self.interrupted = outcomes(state, self.lab, plans)
            self.console.print("Interrupted. Closing the connections.")
            raise

    def end(
        self, state: State, plans: Plans, show: Callable[[screen.Console, Mapping[str, Outcome], float], None]
    ) -> int:
        """Print what became of the hosts. Return the exit code."""
        found = outcomes(state, self.lab, plans)
        seconds = time.monotonic() - self.begun
        if self.as_json:
            screen.echo(screen.as_json(result_data(plans, found, seconds)))
        else:
            show(self.console, found, seconds)
        return result_code(found)


def data_of(given: Mapping[str, Any]) -> dict[str, str]:
    """What pyinfra's `--data` would set for the options that are given.

    >>> data_of({"renew": True, "take_over": False, "allow_remove": 3, "retry": ("gpu1/a", "gpu1/b")})
    {'renew': 'yes', 'retry': 'gpu1/a,gpu1/b', 'allow_remove': '3'}
    """
    found = {}
    for word in APPLY_FLAGS:
        value = given.get(word)
        if value is True:
            found[word] = "yes"
        elif value:
            found[word] = ",".join(value) if isinstance(value, tuple) else str(value)
    return found


def removals_confirmed(state: State, lab: Lab, plans: Plans) -> bool:
    """Ask for the number of removals on each host that needs it."""
    for name, plan in plans.items():
        run = host_run(state.inventory.get_host(name))
        run.removals = plan.preview.removals
        allowed = str(lab.data.get("allow_remove", ""))
        run.removals_confirmed = int(allowed) if allowed.isdecimal() else None
    return confirm_removals(state)


def confirmed(console: screen.Console) -> bool:
    """Ask. Only y and yes apply."""
    console.print("Apply? [y/N]", end=" ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def require_terminal(yes: bool, otherwise: str = NO_TERMINAL.what) -> None:
    """Raise Mistake if no admin can confirm. otherwise: what it says."""
    if not yes and not (sys.stdin and sys.stdin.isatty()):  # None where it is closed
        raise Mistake([otherwise], problems=[NO_TERMINAL])


def carry_out(
    state: State, lab: Lab, plans: Plans, asked: bool, deploy: Callable[[], object] = deploys.gpu_host
) -> None:
    """Run the deploy on all connected hosts. What the plan has shown is not printed again.

    asked: minutes may have passed at the prompt, so hosts with changes are inspected again.
    """
    deploys.adopt(state, lab.fleet, lab.path)
    for name, plan in plans.items():
        host = state.inventory.get_host(name)
        run = host_run(host)
        run.confirmed = asked
        run.idle, run.refused = plan.preview.idle, plan.preview.refused
        run.announced += plan.findings
        run.refused_now += [each.line for each in plan.findings if each.kind == "error"]
        if asked and plan.changes:
            outdate(host)
    load_func(state, deploy)
    state.set_stage(StateStage.Execute)
    try:
        run_operations(state)
    except PyinfraError:  # raised when the last host failed; each has its own error
        if not state.failed_hosts:
            raise
    state.set_stage(StateStage.Disconnect)


def result_data(plans: Plans, found: Mapping[str, Outcome], seconds: float) -> dict[str, Any]:
    """The result of a run as JSON data: that of `gpurack diff --json`, with each host's state and failures."""
    data = as_data(plans)
    for name, outcome in found.items():
        data["hosts"][name] |= {
            "state": outcome.state,
            "models": {key: one.text for key, one in outcome.models.items()},
            "phases": {name: round(seconds, 1) for name, seconds in outcome.phases.items()},
        }
        data["errors"] += [problem.at(name).as_data() for problem in outcome.failures]
    return {**data, "seconds": round(seconds, 1)}
