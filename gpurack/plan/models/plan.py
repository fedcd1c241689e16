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
from gpurack.engines.known_flags import unknown_flag_warnings
from gpurack.facts.gpus import MISMATCH
from gpurack.facts.model import HostFacts
from gpurack.facts.record import has
from gpurack.plan import pins
from gpurack.plan.models import (
    compose,
    files,
    images,
    keys,
    ledger,
    ownership,
    refusals,
    removal,
    stopped,
    unused,
    weights,
)
from gpurack.plan.models.compatibility import driver_doubt, incompatibility
from gpurack.plan.models.computing import on_the_cpu
from gpurack.plan.models.desired import DesiredService, desire_on
from gpurack.plan.models.devices import devices
from gpurack.plan.models.diff import Action, Change, compare, mapping
from gpurack.plan.models.downtime import expect_downtime
from gpurack.plan.models.failures import failed_before
from gpurack.plan.models.observed import Observed, observed
from gpurack.plan.models.preflight import blocked, mismatch, obstacle, too_large
from gpurack.plan.models.removal import NOTHING, Removals
from gpurack.plan.models.rollback import forward_again
from gpurack.plan.run import Run
from gpurack.plan.runner import Project, make_job
from gpurack.plan.steps import Finding, Shell, Step, WriteFile, WriteFiles, as_findings, is_written, written
from gpurack.plan.system.nvidia_driver import other_driver
from gpurack.resources import SHIPPED, read_text, render
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.image import TarImage
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem, grouped
from gpurack.spec.secret import Values
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
    after that job. removals: what the inventory does not have. taking: which models change their owner, as printed.
    """

    changes: tuple[Change, ...] = ()
    errors: Mapping[str, Problem] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    uploads: tuple[Upload, ...] = ()
    job: Mapping[str, Any] | None = None
    warnings: tuple[Problem, ...] = ()
    later: Mapping[str, str] = field(default_factory=dict)
    removals: Removals = NOTHING
    taking: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Is there neither a change nor an error?"""
        return not (self.steps or self.job or self.errors)

    @property
    def concerned(self) -> set[str]:
        """The entries that it changes or cannot change."""
        return {each.model for each in self.changes if each.action != Action.KEEP} | self.errors.keys()

    @property
    def reasons(self) -> list[str]:
        """What will happen, as printed before anything happens."""
        return [*self._before, *(str(change) for change in self._changing)]

    @property
    def _before(self) -> list[str]:
        copies = [f"copy {upload.source} for {upload.model}" for upload in self.uploads]
        return [*(step.reason for step in self.steps), *copies, *self.taking]

    @property
    def _changing(self) -> list[Change]:
        return [each for each in self.changes if each.action != Action.KEEP and not self.removed(each)]

    def removed(self, change: Change) -> bool:
        """Is it a removal that counts?"""
        return change.action == Action.REMOVE and change.model in self.removals.names

    @property
    def sentences(self) -> list[str]:
        """The errors, one line for each sentence, with the models that it is about."""
        return grouped(self.errors.values())

    @property
    def findings(self) -> list[Finding]:
        """What is printed before anything happens: by a run, `--dry` and `plan --live` alike."""
        changes = [Finding("change", reason) for reason in self._before]
        changes += [
            Finding(
                "change",
                str(each),
                entry=each.model,
                down=() if each.down is None else (each.down,),
                looks_only=each.looks_only,
            )
            for each in self._changing
        ]
        changes += [Finding("change", f"{name}: after the job {job}") for name, job in self.later.items()]
        gone = [Finding("removal", str(each), entry=each.model) for each in self.changes if self.removed(each)]
        counts = [Finding("removal", removal.summary(self.removals))] if gone else []
        changes += [*gone, *counts]
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


def plan_models(spec: Host, facts: HostFacts, run: Run, left_out: Collection[str] = ()) -> ModelsPlan:
    """Plan what happens to every model of a host, and the payload for the runner there.

    left_out: models that stay unchanged until a job has created what they serve.
    """
    only, verb = run.only, run.verb
    facts = ownership.own_view(spec, facts, run.claim)
    assigned = ledger.assign(spec, facts)
    errors = {name: why.at("", spec.path_of(name)) for name, why in assigned.errors.items()}
    errors |= {**ownership.same_names(spec, facts), **host_errors(spec, facts, run.down)}
    if only:
        errors = {place: why for place, why in errors.items() if place in (only, "driver")}
    entries = observed(spec, facts)
    held = {one.name: hold for one in entries if (hold := stopped.hold_of(one))}
    if verb == "start":
        held.pop(only, None)
    errors = {place: why for place, why in errors.items() if place not in held}
    decisions: dict[str, Decision] = {}
    for one in entries:
        name = one.name
        if only not in ("", name) or name in held or not one.entry.enabled:
            continue
        if why_not := unreachable(one, run.down):
            errors[name] = why_not
        if name in errors or name in left_out:
            continue
        decision = decide(one, assigned.uuids[name], run)
        if isinstance(decision, Problem):
            errors[name] = decision
        elif decision:
            decisions[name] = decision
            errors |= {name: decision.error} if decision.error else {}
    desired = {name: one.desired for name, one in decisions.items()}
    possible = [one.change for name, one in decisions.items() if name not in errors]
    errors |= blocked(possible, errors, desired, entries, facts)
    planned = {name: one for name, one in decisions.items() if name not in errors}
    leaving = [] if only else [*removals(entries, facts, run.down)]
    stays = removal.kept_for_successors(leaving, failing(errors, decisions, entries), spec, facts)
    leaving = [change for change in leaving if (change.user, change.model) not in stays]
    changes = [*(one.change for one in planned.values()), *leaving]
    gone = removal.removals_of(changes, desired, spec, facts, run.claim)
    if unconfirmed := removal.refusal(gone, changes, facts, run.claim, run.unattended, run.executing):
        return ModelsPlan(tuple(changes), {"": unconfirmed}, removals=gone)
    changes = expect_downtime(changes, desired, facts)
    acting = [change for change in changes if change.action != Action.KEEP]
    take = ownership.taken(spec, facts, {(c.user, c.model) for c in acting if c.action == Action.REMOVE})
    running = [change.model for change in acting if change.action != Action.REMOVE]
    release = stopped.released(planned if verb == "start" else running, spec, facts)
    everything = projects(spec, facts, planned, stays, everything=bool(only))
    unrecorded = any(not has(facts.record, user) for user, _ in facts.proven)
    needs_job = bool(acting or take or release) or unrecorded or any(project.differs(facts) for project in everything)
    touched = {*take, *release}
    job = None
    if needs_job:
        job = make_job(acting, desired, everything, facts, touched, run.rollback, run.database)
    if job:
        job |= {**network_and_credentials(job, spec, facts, run.values), "prune": run.prune}
        job |= {"verb": verb, "origin": run.claim.origin.payload}
        job |= {**({"take": take} if take else {}), **({"release": release} if release else {})}
    steps = [*(host_files(facts) if job or planned or facts.ours else []), *close_to_others(facts)]
    kept = [one.refusal for one in decisions.values() if one.refusal and one.refusal != one.error]
    warnings = (*refusals.warnings(kept, spec, facts), *weights.changeable(spec, facts), *outdated(changes))
    warnings = (*warnings, *removal.old_clone(gone, changes, facts, run.claim), *stays.values())
    made = [one for one in decisions.values() if one.change.action in refusals.MADE and one.desired.name not in errors]
    doubts = (doubt(one.desired, facts) for one in made)
    warnings = (*warnings, *(problem for problem in doubts if problem), *unknown_flags(made))
    slow = on_the_cpu(spec, facts)
    started = {change.model for change in acting if not change.looks_only}
    warnings = (*warnings, *(slow[name] for name in slow if only in ("", name) and name not in started))
    warnings = (*warnings, *(why for name, why in held.items() if only in ("", name)))
    return ModelsPlan(
        tuple(changes),
        errors,
        tuple(steps),
        uploads(spec, facts, acting),
        job,
        warnings,
        removals=gone,
        taking=tuple(ownership.taking(take, facts)),
    )


def host_errors(spec: Host, facts: HostFacts, down: Mapping[str, Problem]) -> dict[str, Problem]:
    """Return errors of the host's driver, and of users without enabled models. down: as in Run."""
    errors: dict[str, Problem] = {}
    if facts.driver.exit_code == MISMATCH and spec.wants_gpu:
        errors["driver"] = mismatch(facts)
    elif spec.wants_gpu and (other := other_driver(spec, facts)):
        errors["driver"] = other
    served = {entry.dockerd for entry in spec.entries.values() if entry.enabled}
    places = {user: f"docker.rootless.{user}" for user in down if user not in served}
    return errors | {place: replace(down[user], path=place) for user, place in places.items()}


def unreachable(one: Observed, down: Mapping[str, Problem]) -> Problem | None:
    """Return why nothing is known about what a model needs: its Docker, or its weights."""
    why = down.get(one.entry.dockerd)
    if why:
        return replace(why, path=one.path)
    return weights.unseen(weights.places(one.spec, one.entry), one.facts, one.path)


def decide(one: Observed, uuids: tuple[str, ...], run: Run) -> Decision | Problem | None:
    """Decide what happens to a model that has its GPUs (uuids).

    A sentence if it cannot run on them; None if it stays unchanged, because nothing can be compared.
    """
    name, entry, facts, path = one.name, one.entry, one.facts, one.path
    secrets = run.values.entries.get(name, {})
    if entry.gpus and facts.driver.exit_code == MISMATCH:
        # Nothing is known about the GPUs, so nothing can be compared. Running models continue; others cannot start.
        return None if one.running else Problem.of("not-started", path=path)
    hardware = devices(entry, uuids, one.spec, facts)
    if why_not := incompatibility(entry, hardware.accelerator, facts.driver.kernel or None, one.running):
        return replace(why_not, path=path)
    desired = desire_on(hardware, one, secrets, run.salt)
    change = compare(desired, facts, run.prune, run.renew)
    if run.verb != "rollback":
        change = forward_again(change, entry, facts)
    restart = run.verb == "restart"
    if restart and change.action in refusals.MADE:
        return Problem.of("restart-changes", path=path, change=str(change))
    if restart:
        change = replace(change, action=Action.RESTART, reasons=())
    refusal, made = refusals.refusal(desired, facts), change.action in refusals.MADE
    starts = change.action == Action.START and run.verb != "start"
    tried = (made or starts) and name not in run.retry
    error = (
        (refusal if made else None)
        or pins.changed_weights(desired, facts)
        or pins.changed_pulls(desired, facts)
        or ownership.taken_port(desired, change, facts)
        or obstacle(desired, facts, change)
        or too_large(desired, facts, change)
        or (failed_before(desired, facts, secrets, starts) if tried else None)
    )
    return Decision(desired, change, error, refusal)


def removals(entries: Sequence[Observed], facts: HostFacts, down: Mapping[str, Problem]) -> Iterator[Change]:
    """Yield the removal of each container of ours without an enabled entry."""
    known = {one.name: one.entry.enabled for one in entries}
    wanted = {id(one.container) for one in entries if one.entry.enabled}
    for (user, name), container in sorted(facts.ours.items()):
        if id(container) not in wanted and user not in down:
            why = "disabled" if name in known else "no longer in the inventory"
            why = "moved to another Docker" if known.get(name) else why
            yield Change(name, Action.REMOVE, (why,), user=user)


def network_and_credentials(job: Mapping[str, Any], spec: Host, facts: HostFacts, values: Values) -> dict[str, Any]:
    """Return what the runner needs to bring things: proxy, token and logins, and what prune would need to know."""
    needs_token = values.hf_token and any(told.get("hub") == "hf" for told in awaited(job))
    return {
        **({"proxy": spec.proxy.env} if spec.proxy else {}),
        **({"hf_token": values.hf_token} if needs_token else {}),
        "logins": images.logins_for(job, values.logins, facts),
        "unused": unused.question(spec),
    }


def doubt(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return a warning if an entry's image is for a newer driver than the host's, and may run with it nevertheless."""
    found = driver_doubt(desired.entry, desired.devices.accelerator, facts.driver.kernel or None)
    return found.at("", desired.path) if found else None


def unknown_flags(made: Sequence[Decision]) -> Iterator[Problem]:
    """Yield the warnings of flags that the engines of new containers may not have."""
    for one in made:
        if isinstance(one.desired.entry, Model):
            yield from (problem.at("", one.desired.path) for problem in unknown_flag_warnings(one.desired.entry))


def outdated(changes: Sequence[Change]) -> Iterator[Problem]:
    """Yield a sentence that counts the containers with settings of an older gpurack."""
    if count := sum(change.outdated for change in changes):
        models = "1 model runs" if count == 1 else f"{count} models run"
        them = "it" if count == 1 else "them"
        yield Problem.of("older-settings", models=models, them=them)


def failing(
    errors: Mapping[str, Problem], decisions: Mapping[str, Decision], entries: Sequence[Observed]
) -> dict[str, DesiredService | Observed]:
    """Return the enabled entries with an error that have no container yet → what they would be, as far as known."""
    return {
        one.name: decisions[one.name].desired if one.name in decisions else one
        for one in entries
        if one.name in errors and one.entry.enabled and not one.container
    }


def projects(
    spec: Host,
    facts: HostFacts,
    planned: Mapping[str, Decision],
    stays: Collection[tuple[str, str]] = (),
    everything: bool = False,
) -> tuple[Project, ...]:
    """Return the Compose project of each daemon that has models, or had some.

    planned: the models that could be planned. The others keep their lines in compose.yaml, and their files. stays:
    (user, name) of those that do although the inventory does not have them. everything: also all others that are
    disabled or not in the inventory.
    """
    users = {container.user for container in facts.ours.values()} | {user for user, _ in facts.others}
    users |= {model.dockerd for model in spec.entries.values() if model.enabled}
    found = []
    for user in sorted({"", *users}):
        old = compose.old_services(facts, user)
        mine = {name: one for name, one in planned.items() if one.desired.user == user}
        services = {name: one.service for name, one in mine.items()}
        services |= {name: old[name] for name in ownership.kept_services(facts, user, old)}
        stay = {*old} if everything else {name for name, model in spec.entries.items() if model.enabled}
        stay |= {name for whose, name in stays if whose == user}
        services |= {name: lines for name, lines in old.items() if name in stay - planned.keys()}
        made = {name for name, one in mine.items() if one.change.action in refusals.MADE}
        now = {name: keys.current_key(name, user, facts) for name in {*services, *old}}
        found.append(
            Project(
                user,
                services,
                old,
                {name: mounted(one.desired, one.change.outdated, facts) for name, one in mine.items()},
                {name: mine[name].desired.observed(facts).next_key if name in made else now[name] for name in services},
                {name: facts.keys(user).get(name, name) for name in old} | {name: now[name] for name in made},
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
    folder = desired.observed(facts).folder
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
    return [
        told
        for model in images.entries_of(job)
        for told in (*model.get("fetch", ()), *([model["load"]] if "load" in model else []))
    ]


def close_to_others(facts: HostFacts) -> list[Step]:
    """Return the step that closes files which earlier versions left readable for everyone.

    Digests, output of jobs, backups.
    """
    if not facts.exposed:
        return []
    reason = f"close {len(facts.exposed)} of gpurack's notes, logs and backups to everyone but root"
    return [Shell(reason, sh("chmod go= -- {}", sorted(facts.exposed)))]


def runner_files() -> list[WriteFile]:
    """Return the files of the runner, and how long what it keeps is kept."""
    modes = (*((part, "644") for part in paths.RUNNER_PARTS), (paths.RUNNER, "755"))
    files = [WriteFile("", path, read_text(SHIPPED[path]), mode) for path, mode in modes]
    return [*files, WriteFile("", paths.LOG_AGE, f"e {paths.LOGS} - - - {paths.LOG_DAYS}d\n")]


def host_files(facts: HostFacts) -> list[Step]:
    """Return the steps that install the runner and the boot unit, if they are missing or differ."""
    steps: list[Step] = []
    if stale_files := tuple(file for file in runner_files() if not is_written(file, facts)):
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
