"""What happens to each model of a host, with its reason. Pure.

diff.py finds the differences, preflight.py what blocks a change. plan/runner.py turns the rest into the payload for the
runner on the host.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpurack import paths
from gpurack.engines import weights_of
from gpurack.facts.model import MISMATCH, HostFacts
from gpurack.facts.record import has
from gpurack.plan import pins
from gpurack.plan.models import compose, files, images, ledger, refusals, weights
from gpurack.plan.models.compatibility import accelerator
from gpurack.plan.models.desired import DesiredService, desire
from gpurack.plan.models.diff import Action, Change, compare, mapping
from gpurack.plan.models.preflight import blocked, mismatch, obstacle, too_large, unfit
from gpurack.plan.runner import Project, make_job
from gpurack.plan.steps import Finding, Shell, Step, WriteFile, WriteFiles, as_findings, is_written, written
from gpurack.plan.system.nvidia_driver import other_driver
from gpurack.resources import read_text, render
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.image import TarImage
from gpurack.spec.problems import Problem, grouped
from gpurack.spec.weights import CopyWeights


@dataclass(frozen=True)
class Upload:
    """What a model needs that only the admin's machine has: weights, or an image's tar file."""

    model: str
    source: Path
    path: str


@dataclass(frozen=True)
class ModelsPlan:
    """The plan of a host's models or jobs.

    changes: one for every model that could be planned, and one for every container to remove. errors: model → sentence;
    nothing of such a model is touched. steps: files to write before the job. uploads: to copy before the job. job:
    standard input of the runner on the host (files/models.py); None if there is nothing to do. warnings: sentences
    about the host's models, which change and block nothing. later: model → the job that it waits for; it is planned
    after that job.
    """

    changes: tuple[Change, ...] = ()
    errors: Mapping[str, Problem] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    uploads: tuple[Upload, ...] = ()
    job: Mapping[str, Any] | None = None
    warnings: tuple[Problem, ...] = ()
    later: Mapping[str, str] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Is there neither a change nor an error?"""
        return not (self.steps or self.job or self.errors)

    @property
    def reasons(self) -> list[str]:
        """What will happen, as printed before anything happens."""
        copies = [f"copy {upload.source} for {upload.model}" for upload in self.uploads]
        return [step.reason for step in self.steps] + copies + [str(c) for c in self.changes if c.action != Action.KEEP]

    @property
    def sentences(self) -> list[str]:
        """The errors, one line for each sentence, with the models that it is about."""
        return grouped(self.errors.values())

    @property
    def findings(self) -> list[Finding]:
        """What is printed before anything happens: by a run, `--dry` and `plan --live` alike."""
        reasons = [*self.reasons, *(f"{name}: after the job {job}" for name, job in self.later.items())]
        changes = [Finding("change", reason) for reason in reasons]
        return [*as_findings("warning", self.warnings), *changes, *as_findings("error", self.errors.values())]


@dataclass(frozen=True)
class Decision:
    """What happens to one model.

    error: why nothing does. refusal: why it must not be created like this. That is an error only if it would be
    created.
    """

    desired: DesiredService
    change: Change
    error: Problem | None
    refusal: Problem | None

    @property
    def service(self) -> Mapping[str, Any]:
        """Its lines of compose.yaml."""
        return self.change.lines or self.desired.labelled


def plan_models(
    spec: Host,
    facts: HostFacts,
    secrets: Mapping[str, Mapping[str, str]],
    salt: str,
    hf_token: str | None = None,
    logins: Mapping[str, Mapping[str, str]] | None = None,
    prune: bool = False,
    down: Mapping[str, Problem] | None = None,
    left_out: Collection[str] = (),
    renew: bool = False,
) -> ModelsPlan:
    """Plan what happens to every model of a host, and the payload for the runner there.

    secrets: their values, as inventory.secrets.read_secrets returns them. salt: fresh random hex, for models without a
    fingerprint. hf_token: the value of the Hugging Face token. logins: of registries, with their passwords. prune:
    remove models of an ollama that are not listed? down: user → why nothing can run in that user's Docker now; the
    error names the user's models, or the user if there are none. left_out: models that stay unchanged until a job has
    created what they serve. renew: recreate containers with settings of an older gpurack?
    """
    down = down or {}
    cards = ledger.assign(spec, facts)
    errors = {name: why.at("", spec.path_of(name)) for name, why in cards.errors.items()}
    errors |= host_errors(spec, facts, down)
    decisions: dict[str, Decision] = {}
    for name, entry in spec.entries.items():
        if entry.enabled and (why_not := unreachable(name, spec, facts, down)):
            errors[name] = why_not
        if not entry.enabled or name in errors or name in left_out:
            continue
        mine = secrets.get(name, {})
        decision = decide(name, spec, facts, cards.uuids[name], mine, salt, prune=prune, renew=renew)
        if isinstance(decision, Problem):
            errors[name] = decision
        elif decision:
            decisions[name] = decision
            errors |= {name: decision.error} if decision.error else {}
    desired = {name: one.desired for name, one in decisions.items()}
    errors |= blocked(
        [one.change for name, one in decisions.items() if name not in errors], errors, desired, spec, facts
    )
    planned = {name: one for name, one in decisions.items() if name not in errors}
    changes = [*(one.change for one in planned.values()), *removals(spec, facts, down)]
    acting = [change for change in changes if change.action != Action.KEEP]
    everything = projects(spec, facts, planned)
    unrecorded = any(not has(facts.record, user) for user, _ in facts.proven)
    needs_job = bool(acting) or unrecorded or any(project.differs(facts) for project in everything)
    job = make_job(acting, desired, everything, spec, facts) if needs_job else None
    if job:
        job |= {**network_and_credentials(job, spec, facts, hf_token, logins or {}), "prune": prune}
    steps = [*(host_files(facts) if job or planned or facts.ours else []), *close_to_others(facts)]
    kept = [one.refusal for one in decisions.values() if one.refusal and one.refusal != one.error]
    warnings = (*refusals.warnings(kept, spec, facts), *weights.changeable(spec, facts), *outdated(changes))
    return ModelsPlan(tuple(changes), errors, tuple(steps), uploads(spec, facts, acting), job, warnings)


def host_errors(spec: Host, facts: HostFacts, down: Mapping[str, Problem]) -> dict[str, Problem]:
    """Return errors of the host's driver, and of users without enabled models. down: as in plan_models."""
    errors: dict[str, Problem] = {}
    if facts.driver.exit_code == MISMATCH and spec.wants_gpu:
        errors["driver"] = mismatch(facts)
    elif spec.wants_gpu and (other := other_driver(spec, facts)):
        errors["driver"] = other
    served = {entry.dockerd for entry in spec.entries.values() if entry.enabled}
    places = {user: f"docker.rootless.{user}" for user in down if user not in served}
    return errors | {place: replace(down[user], path=place) for user, place in places.items()}


def unreachable(name: str, spec: Host, facts: HostFacts, down: Mapping[str, Problem]) -> Problem | None:
    """Return why nothing is known about what a model needs: its Docker, or its weights."""
    why = down.get(spec.entries[name].dockerd)
    return replace(why, path=spec.path_of(name)) if why else weights.unseen(spec, name, facts)


def decide(
    name: str,
    spec: Host,
    facts: HostFacts,
    uuids: tuple[str, ...],
    secrets: Mapping[str, str],
    salt: str,
    *,
    prune: bool,
    renew: bool,
) -> Decision | Problem | None:
    """Decide what happens to a model that has its GPUs (uuids).

    A sentence if it cannot run on them; None if it stays unchanged, because nothing can be compared. secrets: of this
    model. The other parameters are those of plan_models.
    """
    entry = spec.entries[name]
    container = facts.container(name, entry.dockerd)
    if entry.gpus and facts.driver.exit_code == MISMATCH:
        # Nothing is known about the GPUs, so nothing can be compared. Running models continue; others cannot start.
        runs = container and container.running
        return None if runs else Problem.of("not-started", path=spec.path_of(name))
    if why_not := unfit(spec.path_of(name), entry, accelerator(entry, ledger.slots_of(uuids, facts)), container, facts):
        return why_not
    desired = desire(name, spec, facts, uuids, secrets, salt)
    change = compare(desired, facts, prune, renew)
    refusal, made = refusals.refusal(desired, facts), change.action in refusals.MADE
    error = (
        (refusal if made else None)
        or pins.changed_weights(desired, facts)
        or pins.changed_pulls(desired, facts)
        or obstacle(desired, spec, facts, change)
        or too_large(desired, facts, change)
    )
    return Decision(desired, change, error, refusal)


def removals(spec: Host, facts: HostFacts, down: Mapping[str, Problem]) -> Iterator[Change]:
    """Yield the removal of each container of ours without an enabled entry."""
    enabled = {name: entry for name, entry in spec.entries.items() if entry.enabled}
    wanted = {id(facts.container(name, entry.dockerd)) for name, entry in enabled.items()}
    for (user, name), container in sorted(facts.ours.items()):
        if id(container) not in wanted and user not in down:
            why = "disabled" if name in spec.entries else "no longer in the inventory"
            why = "moved to another Docker" if name in enabled else why
            yield Change(name, Action.REMOVE, (why,), user=user)


def network_and_credentials(
    job: Mapping[str, Any],
    spec: Host,
    facts: HostFacts,
    hf_token: str | None,
    logins: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Return what the runner needs to reach others: the proxy, and the token and logins for a job."""
    needs_token = hf_token and any(told.get("hub") == "hf" for told in awaited(job))
    return {
        **({"proxy": spec.proxy.env} if spec.proxy else {}),
        **({"hf_token": hf_token} if needs_token else {}),
        "logins": images.logins_for(job, logins, facts),
    }


def outdated(changes: Sequence[Change]) -> Iterator[Problem]:
    """Yield a sentence that counts the containers with settings of an older gpurack."""
    if count := sum(change.outdated for change in changes):
        models = "1 model runs" if count == 1 else f"{count} models run"
        them = "it" if count == 1 else "them"
        yield Problem.of("older-settings", models=models, them=them)


def projects(spec: Host, facts: HostFacts, planned: Mapping[str, Decision]) -> tuple[Project, ...]:
    """Return the Compose project of each daemon that has models, or had some.

    planned: the models that could be planned. The others keep their lines in compose.yaml, and their files.
    """
    users = {container.user for container in facts.ours.values()}
    users |= {model.dockerd for model in spec.entries.values() if model.enabled}
    found = []
    for user in sorted({"", *users}):
        old = compose.old_services(facts, user)
        mine = {name: one for name, one in planned.items() if one.desired.user == user}
        services = {name: one.service for name, one in mine.items()}
        services |= {
            name: old[name] for name, model in spec.entries.items() if model.enabled and name in old.keys() - planned
        }
        found.append(
            Project(
                user,
                services,
                old,
                {name: mounted(one.desired, one.change.outdated, facts) for name, one in mine.items()},
            )
        )
    return tuple(found)


def mounted(desired: DesiredService, outdated: bool, facts: HostFacts) -> dict[str, str | None]:
    """Return a container's files on the host → their text; None for one that stays unchanged.

    outdated: does the container keep what an older gpurack gave it?
    """
    container = facts.container(desired.name, desired.user)
    if not (outdated and container):
        return dict(desired.files)
    folder = paths.container_file(desired.user, desired.name, "")
    there = {path.removeprefix(folder) for path in facts.secrets if path.startswith(folder)}
    return files.kept(desired.files, desired.container, mapping(ledger.label(container.labels).get("files")), there)


def uploads(spec: Host, facts: HostFacts, acting: Sequence[Change]) -> tuple[Upload, ...]:
    """Return the weights and images to copy for these changes, each once."""
    found: dict[str, Upload] = {}
    for change in acting:
        model = spec.everything.get(change.model)
        if change.action == Action.REMOVE or model is None:
            continue
        for one in weights_of(model):
            if isinstance(one, CopyWeights) and facts.weights.get(weights.place(spec, one, model.dockerd)) is None:
                path = weights.whole(spec, one, model.dockerd)
                found.setdefault(path, Upload(change.model, one.source, path))
        if isinstance(model.image, TarImage) and model.image.reference not in facts.images_of(model.dockerd):
            path = images.place(spec, model.image, model.dockerd)
            found.setdefault(path, Upload(change.model, model.image.source, path))
    return tuple(found.values())


def awaited(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all weights and images that a job fetches, or that are copied for it."""
    models = [model for group in job["groups"] for model in group]
    return [
        told for model in models for told in (*model.get("fetch", ()), *([model["load"]] if "load" in model else []))
    ]


def close_to_others(facts: HostFacts) -> list[Step]:
    """Return the step that closes files which earlier versions left readable for everyone.

    Digests, output of jobs, backups.
    """
    if not facts.exposed:
        return []
    reason = f"close {len(facts.exposed)} of gpurack's notes, logs and backups to everyone but root"
    return [Shell(reason, sh("chmod go= -- {}", sorted(facts.exposed)))]


def host_files(facts: HostFacts) -> list[Step]:
    """Return the steps that install the runner and the boot unit, if they are missing or differ."""
    steps: list[Step] = []
    runner = [
        WriteFile("", path, read_text(f"files/{path.rpartition('/')[2]}"), mode)
        for path, mode in (*((part, "644") for part in paths.RUNNER_PARTS), (paths.RUNNER, "755"))
    ]
    if stale_files := tuple(file for file in runner if not is_written(file, facts)):
        steps.append(WriteFiles(f"install the model runner in {paths.LIB}", stale_files))
    unit = render(
        "templates/gpurack.service.j2",
        compose_file=paths.compose_file(""),
        python="/usr/bin/python3",
        runner=paths.RUNNER,
    )
    known = facts.units.get("gpurack.service")
    if stale := written("install gpurack.service, which starts the models at boot", paths.BOOT_UNIT, unit, facts):
        steps += stale
        steps.append(
            Shell("enable gpurack.service", sh("systemctl daemon-reload && systemctl enable -q gpurack.service"))
        )
    elif known is None or known.enabled != "enabled":
        steps.append(Shell("enable gpurack.service", sh("systemctl enable -q gpurack.service")))
    return steps
