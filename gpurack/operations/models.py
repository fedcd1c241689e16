"""The operation that brings a host's models to what the inventory says."""

import json
import secrets
from collections.abc import Generator, Iterator

from pyinfra import host
from pyinfra.api import Host as PyinfraHost
from pyinfra.api import State, operation
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.operations.commands import Refusal, Streamed, carry_out, slow
from gpurack.operations.copying import Copy
from gpurack.operations.host import announce, carry_out_plan, refused_before
from gpurack.plan.docker import unanswered
from gpurack.plan.models import ModelsPlan, plan_models
from gpurack.plan.steps import Plan
from gpurack.report import REPORT
from gpurack.spec.fleet import api_keys, read_token
from gpurack.spec.model import Host
from gpurack.state.snapshot import forget, look

PAST = {"create": "created", "recreate": "recreated", "start": "started", "wait": "was loading", "remove": "removed"}


@operation()
def models(wanted: Host) -> Generator[PyinfraCommand, None, None]:
    """
    The models of the inventory, each in its container, ready and answering; those no longer in it removed.

    + wanted: the host's spec, from `gpurack.spec.fleet.read_fleet`

    **Example:**

    .. code:: python

        models.models(name="Models", wanted=read_fleet(inventory)[host.name])
    """
    state = look(host, wanted)
    if state.trouble or refused_before("Models"):
        yield from carry_out_plan("Models", Plan(errors=(state.trouble,)))
        return
    if state.busy:
        announce("Models", [f"wait for another gpurack run on this host ({state.busy})"])
        yield slow(f"flock {paths.LOCK} true")
        forget(host)
        state = look(host, wanted)
    if host.state.is_executing and (problem := unanswered(state)):
        yield from carry_out_plan("Models", Plan(errors=(problem,)))
        return
    keys = {name: secret.read() for name, secret in api_keys(wanted).items()}
    plan = plan_models(wanted, state, keys, secrets.token_hex(16), read_token(wanted))
    if plan.nothing:
        host.noop("Models: nothing to do")
        return
    yield from carry_out_models(wanted, plan)


def carry_out_models(wanted: Host, plan: ModelsPlan) -> Iterator[PyinfraCommand]:
    """Files first, then one streamed command for all models of the host."""
    errors = [f"{name}: {sentence}" for name, sentence in plan.errors.items()]
    announce("Models", plan.reasons, errors)
    for change in plan.changes:
        if change.action in ("create", "recreate", "start"):
            REPORT.foretold(host.name, change.model, PAST[change.action])
    for step in plan.steps:
        yield from carry_out(step)
    for upload in plan.uploads:
        copy = Copy(upload)
        yield copy
        if copy.problem and plan.job:
            for model in (model for group in plan.job["groups"] for model in group):
                if model.get("fetch", {}).get("path") == upload.path:
                    model["fetch"]["problem"] = copy.problem
    if plan.job:
        yield Job(wanted, plan, errors)
    elif errors:
        yield Refusal(errors)


class Job(Streamed):
    """The runner on the host. Errors known beforehand fail it at the end, when the other models are done."""

    def __init__(self, wanted: Host, plan: ModelsPlan, errors: list[str]) -> None:
        super().__init__("python3", paths.RUNNER, "apply", _stdin=json.dumps(plan.job))
        self.wanted, self.plan, self.errors = wanted, plan, errors

    @override
    def execute(
        self, state: State, host: PyinfraHost, connector_arguments: ConnectorArguments
    ) -> tuple[bool, CommandOutput]:
        ok, output = super().execute(state, host, connector_arguments)
        for change in self.plan.changes:
            if change.action != "keep" and not REPORT.has_failed(host.name, change.model):
                REPORT.changed(host.name, change.model, PAST[change.action])
        if self.errors:
            REPORT.failed(host.name, [f"error {error}" for error in self.errors])
        look(host, self.wanted)  # for the table at the end: ssh is closed by then
        return ok and not self.errors, output
