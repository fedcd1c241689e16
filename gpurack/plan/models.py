"""The models of a host: what is, what should be, and what has to happen to each, with its reason. Pure.

The differences are found by drift.py, what stands in the way by obstacles.py; job.py makes of the rest what
the runner on the host carries out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpurack import paths
from gpurack.plan import compose, ledger, weights
from gpurack.plan.drift import Change, compare, salt_of
from gpurack.plan.job import make_job, secrets_differ
from gpurack.plan.obstacles import blocked, mismatch, obstacle, too_large, unfit
from gpurack.plan.steps import Shell, Step, WriteFile
from gpurack.resources import read_text, render
from gpurack.spec.model import CopyWeights, Host
from gpurack.state.model import MISMATCH, HostState


@dataclass(frozen=True)
class Upload:
    """Weights that a model needs and only the admin's machine has."""

    model: str
    source: Path
    path: str


@dataclass(frozen=True)
class ModelsPlan:
    """changes: one for every model of the inventory that could be planned and every container to remove.

    errors: model → sentence; nothing of such a model is touched. steps: files to write before the job. uploads: to copy
    before it, too.
    job: what the runner on the host (files/models.py) gets by standard input; None when there is nothing to do.
    """

    changes: tuple[Change, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    uploads: tuple[Upload, ...] = ()
    job: Mapping[str, Any] | None = None

    @property
    def nothing(self) -> bool:
        """No change, no error."""
        return not (self.steps or self.job or self.errors)

    @property
    def reasons(self) -> list[str]:
        """For people, before anything happens."""
        copies = [f"copy {upload.source} for {upload.model}" for upload in self.uploads]
        return [step.reason for step in self.steps] + copies + [str(c) for c in self.changes if c.action != "keep"]


def plan_models(
    spec: Host, state: HostState, keys: Mapping[str, str], salt: str, hf_token: str | None = None
) -> ModelsPlan:
    """keys: the API keys' values by model. salt: fresh random hex, used for models that have no fingerprint yet.
    hf_token: the Hugging Face token's value."""
    cards = ledger.assign(spec, state)
    changes: list[Change] = []
    errors: dict[str, str] = dict(cards.errors)
    if state.driver.exit_code == MISMATCH and spec.wants_gpu:
        errors["driver"] = mismatch(state)
    services: dict[str, Any] = {}
    enabled = [name for name, model in spec.models.items() if model.enabled]
    for name in enabled:
        if name in errors:
            continue
        if spec.models[name].gpus and state.driver.exit_code == MISMATCH:
            # Nothing is known of the cards, so nothing can be compared: what runs goes on, what does not cannot start.
            if not (name in state.ours and state.ours[name].running):
                errors[name] = "not started, because driver and library differ."
            continue
        uuids = cards.uuids[name]
        why_not = unfit(name, spec, state, uuids)
        if why_not:
            errors[name] = why_not
            continue
        words = compose.definition(name, spec, state, uuids, keys.get(name), salt_of(name, state) or salt)
        change = compare(name, spec, state, words)
        error = obstacle(name, spec, state, change) or too_large(name, spec, state, change, uuids)
        if error:
            errors[name] = error
            continue
        changes.append(change)
        services[name] = compose.labelled(name, spec, state, uuids, words)
    waiting = blocked(changes, errors, spec, state, cards.uuids)
    errors |= waiting
    changes = [change for change in changes if change.model not in waiting]
    services = {name: data for name, data in services.items() if name not in waiting}
    for name in sorted(set(state.ours) - set(enabled)):
        why = "disabled" if name in spec.models else "not in the inventory any more"
        changes.append(Change(name, "remove", (why,)))
    old = compose.old_services(state)
    services |= {name: old[name] for name in enabled if name not in services and name in old}
    text = compose.document(services)
    acting = [change for change in changes if change.action != "keep"]
    file = state.files.get(paths.COMPOSE_FILE)
    rewrite = bool(services or file) and (file is None or file.text != text)
    needs_job = bool(acting) or rewrite or secrets_differ(spec, state, keys)
    planned = {name: keys[name] for name in keys if name in services and name not in errors}
    job = make_job(spec, state, cards.uuids, acting, (services, old), planned) if needs_job else None
    if job and hf_token and any(one.get("fetch", {}).get("hub") == "hf" for group in job["groups"] for one in group):
        job["hf_token"] = hf_token
    steps = tuple(host_files(state)) if services or state.ours else ()
    return ModelsPlan(tuple(changes), errors, steps, uploads(spec, state, acting), job)


def uploads(spec: Host, state: HostState, acting: Sequence[Change]) -> tuple[Upload, ...]:
    """The weights to copy for these changes, each once."""
    found: dict[str, Upload] = {}
    for change in acting:
        model = spec.models.get(change.model)
        if change.action == "remove" or model is None or not isinstance(model.weights, CopyWeights):
            continue
        path = weights.host_path(spec, model)
        if state.weights.get(path) is None:
            found.setdefault(path, Upload(change.model, model.weights.source, path))
    return tuple(found.values())


def host_files(state: HostState) -> list[Step]:
    """The runner and the boot unit, where they are missing or differ."""
    steps: list[Step] = []
    for path, mode in ((paths.FETCH, "644"), (paths.RUNNER, "755")):
        text = read_text(f"files/{path.rpartition('/')[2]}")
        if path not in state.files or state.files[path].text != text:
            steps.append(WriteFile(f"the models' runner, {path}", path, text, mode))
    unit = render(
        "templates/gpurack.service.j2",
        compose_file=paths.COMPOSE_FILE,
        python="/usr/bin/python3",
        runner=paths.RUNNER,
    )
    known = state.units.get("gpurack.service")
    if paths.BOOT_UNIT not in state.files or state.files[paths.BOOT_UNIT].text != unit:
        steps.append(WriteFile("the unit that starts the models at boot, gpurack.service", paths.BOOT_UNIT, unit))
        steps.append(Shell("enable gpurack.service", "systemctl daemon-reload && systemctl enable -q gpurack.service"))
    elif known is None or known.enabled != "enabled":
        steps.append(Shell("enable gpurack.service", "systemctl enable -q gpurack.service"))
    return steps
