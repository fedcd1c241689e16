"""The models of a host: what is, what should be, and what has to happen to each, with its reason. Pure.

The differences are found by drift.py, what stands in the way by obstacles.py; job.py makes of the rest what
the runner on the host carries out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES, weights_of
from gpurack.plan import compose, files, images, ledger, pins, refusals, weights
from gpurack.plan.drift import Change, compare, mapping, salt_of
from gpurack.plan.job import Project, make_job
from gpurack.plan.nvidia_driver import other_driver
from gpurack.plan.obstacles import blocked, mismatch, obstacle, too_large, unfit
from gpurack.plan.steps import Shell, Step, WriteFile, WriteFiles, is_written, written
from gpurack.resources import read_text, render
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.image import TarImage
from gpurack.spec.weights import CopyWeights
from gpurack.state.model import MISMATCH, HostState
from gpurack.state.record import has


@dataclass(frozen=True)
class Upload:
    """What a model needs and only the admin's machine has: weights, or an image's tar file."""

    model: str
    source: Path
    path: str


@dataclass(frozen=True)
class ModelsPlan:
    """changes: one for every model of the inventory that could be planned and every container to remove.

    errors: model → sentence; nothing of such a model is touched. steps: files to write before the job. uploads: to copy
    before it, too.
    job: what the runner on the host (files/models.py) gets by standard input; None when there is nothing to do.
    warnings: sentences about the host's models; they neither change nor block anything.
    """

    changes: tuple[Change, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    uploads: tuple[Upload, ...] = ()
    job: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

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
    spec: Host,
    state: HostState,
    secrets: Mapping[str, Mapping[str, str]],
    salt: str,
    hf_token: str | None = None,
    logins: Mapping[str, Mapping[str, str]] | None = None,
    prune: bool = False,
    down: Mapping[str, str] | None = None,
    left_out: Collection[str] = (),
    renew: bool = False,
) -> ModelsPlan:
    """secrets: their values, as spec.secrets.read_secrets gives them. salt: fresh random hex, used for models that have
    no fingerprint yet. hf_token: the Hugging Face token's value. logins: of registries, with their passwords.
    prune: do models that an ollama has beside those listed go? down: users in whose Docker nothing can run now → why;
    it is said of their models, or of the user who has none.
    left_out: models that stay as they are until a job has made what they serve. renew: do containers with settings of
    an older gpurack get those of this one?"""
    cards = ledger.assign(spec, state)
    changes: list[Change] = []
    errors: dict[str, str] = dict(cards.errors)
    if state.driver.exit_code == MISMATCH and spec.wants_gpu:
        errors["driver"] = mismatch(state)
    elif spec.wants_gpu and (other := other_driver(spec, state)):
        errors["driver"] = other
    services: dict[str, Any] = {}
    kept: dict[str, str] = {}
    enabled = [name for name, model in spec.entries.items() if model.enabled]
    served = {spec.entries[name].dockerd for name in enabled}
    errors |= {f"docker.rootless.{user}": why for user, why in (down or {}).items() if user not in served}
    for name in enabled:
        if why_not := (down or {}).get(spec.entries[name].dockerd):
            errors[name] = why_not
        elif unseen := weights.unseen(spec, name, state):
            errors[name] = unseen
        if name in errors or name in left_out:
            continue
        if spec.entries[name].gpus and state.driver.exit_code == MISMATCH:
            # Nothing is known of the cards, so nothing can be compared: what runs goes on, what does not cannot start.
            container = state.container(name, spec.entries[name].dockerd)
            if not (container and container.running):
                errors[name] = "not started, because driver and library differ."
            continue
        uuids = cards.uuids[name]
        why_not = unfit(name, spec, state, uuids)
        if why_not:
            errors[name] = why_not
            continue
        words = compose.definition(name, spec, state, uuids, secrets.get(name, {}), salt_of(name, spec, state) or salt)
        change = compare(name, spec, state, words, prune, renew)
        refusal = refusals.refusal(name, spec, state)
        if refusal and change.action not in refusals.MADE:
            kept[name] = refusal
        error = (
            (refusal if change.action in refusals.MADE else None)
            or pins.changed_weights(spec, name, state)
            or pins.changed_pulls(spec, name, state)
            or obstacle(name, spec, state, change)
            or too_large(name, spec, state, change, uuids)
        )
        if error:
            errors[name] = error
            continue
        changes.append(change)
        services[name] = change.lines or compose.labelled(name, spec, state, uuids, words)
    waiting = blocked(changes, errors, spec, state, cards.uuids)
    errors |= waiting
    changes = [change for change in changes if change.model not in waiting]
    services = {name: data for name, data in services.items() if name not in waiting}
    wanted = {id(state.container(name, spec.entries[name].dockerd)) for name in enabled}
    for (user, name), container in sorted(state.ours.items()):
        if id(container) not in wanted and user not in (down or {}):
            why = "disabled" if name in spec.entries else "not in the inventory any more"
            why = "it runs in another Docker now" if name in enabled else why
            changes.append(Change(name, "remove", (why,), user=user))
    outdated_ones = {change.model for change in changes if change.outdated}
    own_files = {
        name: mounted(name, spec, state, cards.uuids[name], secrets.get(name, {}), name in outdated_ones)
        for name in services
    }
    everything = projects(spec, state, services, own_files)
    acting = [change for change in changes if change.action != "keep"]
    unrecorded = any(not has(state.record, user) for user, _ in state.proven)
    needs_job = bool(acting) or unrecorded or any(project.differs(state) for project in everything)
    job = make_job(spec, state, cards.uuids, acting, everything) if needs_job else None
    if job and spec.proxy:
        job["proxy"] = spec.proxy.env
    if job and hf_token and any(told.get("hub") == "hf" for told in awaited(job)):
        job["hf_token"] = hf_token
    if job:
        job["logins"] = images.logins_for(job, logins or {}, state)
        job["prune"] = prune
    steps = [*(host_files(state) if job or services or state.ours else []), *closed_to_others(state)]
    warnings = (*refusals.warnings(kept, spec, state), *weights.changeable(spec, state), *outdated(changes))
    return ModelsPlan(tuple(changes), errors, tuple(steps), uploads(spec, state, acting), job, warnings)


def outdated(changes: Sequence[Change]) -> Iterator[str]:
    """What gpurack alone would make differently now, and leaves as it is: counted."""
    if count := sum(change.outdated for change in changes):
        models = "1 model runs" if count == 1 else f"{count} models run"
        them = "it" if count == 1 else "them"
        yield f"{models} with settings of an older gpurack; --data renew=yes recreates {them}."


def mounted(
    name: str, spec: Host, state: HostState, uuids: tuple[str, ...], secrets: Mapping[str, str], outdated: bool
) -> dict[str, str | None]:
    """A container's files on the host → their text; None for one that stays as it is. outdated: does the container keep
    what an older gpurack gave it?"""
    model = spec.entries[name]
    engine = compose.of_engine(name, spec, state, uuids)
    texts = files.contents(engine, secrets, ENGINES[model.engine].sums)
    container = state.container(name, model.dockerd)
    if not (outdated and container):
        return dict(texts)
    folder = paths.container_file(model.dockerd, name, "")
    there = {path.removeprefix(folder) for path in state.secrets if path.startswith(folder)}
    return files.kept(texts, engine, mapping(ledger.label(container.labels).get("files")), there)


def projects(
    spec: Host, state: HostState, services: Mapping[str, Any], own_files: Mapping[str, Mapping[str, str | None]]
) -> tuple[Project, ...]:
    """The Compose project of each daemon that has models, or had some. services, own_files: of those that could be
    planned; the others keep what compose.yaml says of them, and their files."""
    users = {container.user for container in state.ours.values()}
    users |= {model.dockerd for model in spec.entries.values() if model.enabled}
    found = []
    for user in sorted({"", *users}):
        old = compose.old_services(state, user)
        mine = {name: data for name, data in services.items() if spec.entries[name].dockerd == user}
        mine |= {
            name: old[name] for name, model in spec.entries.items() if model.enabled and name in old.keys() - services
        }
        given = {name: texts for name, texts in own_files.items() if spec.entries[name].dockerd == user}
        found.append(Project(user, mine, old, given))
    return tuple(found)


def uploads(spec: Host, state: HostState, acting: Sequence[Change]) -> tuple[Upload, ...]:
    """The weights and images to copy for these changes, each once."""
    found: dict[str, Upload] = {}
    for change in acting:
        model = spec.everything.get(change.model)
        if change.action == "remove" or model is None:
            continue
        for one in weights_of(model):
            if isinstance(one, CopyWeights) and state.weights.get(weights.place(spec, one, model.dockerd)) is None:
                path = weights.whole(spec, one, model.dockerd)
                found.setdefault(path, Upload(change.model, one.source, path))
        if isinstance(model.image, TarImage) and model.image.reference not in state.images_of(model.dockerd):
            path = images.place(spec, model.image, model.dockerd)
            found.setdefault(path, Upload(change.model, model.image.source, path))
    return tuple(found.values())


def awaited(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All weights and images that a job fetches, or that are copied for it."""
    models = [model for group in job["groups"] for model in group]
    return [
        told for model in models for told in (*model.get("fetch", ()), *([model["load"]] if "load" in model else []))
    ]


def closed_to_others(state: HostState) -> list[Step]:
    """What earlier versions left readable for everybody: digests, what jobs printed, backups."""
    if not state.exposed:
        return []
    reason = f"close {len(state.exposed)} of gpurack's notes, logs and backups to others than root"
    return [Shell(reason, sh("chmod go= -- {}", sorted(state.exposed)))]


def host_files(state: HostState) -> list[Step]:
    """The runner and the boot unit, where they are missing or differ."""
    steps: list[Step] = []
    runner = [
        WriteFile("", path, read_text(f"files/{path.rpartition('/')[2]}"), mode)
        for path, mode in (*((part, "644") for part in paths.RUNNER_PARTS), (paths.RUNNER, "755"))
    ]
    if stale_files := tuple(file for file in runner if not is_written(file, state)):
        steps.append(WriteFiles(f"the models' runner, {paths.LIB}", stale_files))
    unit = render(
        "templates/gpurack.service.j2",
        compose_file=paths.compose_file(""),
        python="/usr/bin/python3",
        runner=paths.RUNNER,
    )
    known = state.units.get("gpurack.service")
    if stale := written("the unit that starts the models at boot, gpurack.service", paths.BOOT_UNIT, unit, state):
        steps += stale
        steps.append(
            Shell("enable gpurack.service", sh("systemctl daemon-reload && systemctl enable -q gpurack.service"))
        )
    elif known is None or known.enabled != "enabled":
        steps.append(Shell("enable gpurack.service", sh("systemctl enable -q gpurack.service")))
    return steps
