"""Jobs: which have to run, on which GPUs, and how. Pure.

A job is done if its record (JOBS/NAME.json on the host) has the hash of its definition, and its result exists. Then it
does not run again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.host_data import json_from_host
from gpurack.plan.models import compose, images, ledger, weights
from gpurack.plan.models.devices import Devices, devices
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.plan import ModelsPlan, host_files, network_and_credentials, uploads
from gpurack.plan.models.preflight import gpu_obstacle
from gpurack.plan.models.service import hardened, merge_mounts
from gpurack.plan.run import Run
from gpurack.plan.runner import proven_ids
from gpurack.plan.steps import Step, WriteFile
from gpurack.spec.fields import definition_words
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.merge import patch
from gpurack.spec.model import WEIGHTS_INSIDE, Job
from gpurack.spec.problems import Problem, Refused

HEADER = """\
# Written by gpurack from the inventory: a job, which ends. It runs again when its definition changes.
# By hand: docker compose -f {path} run --rm {name}
"""
FOLDER = "/models"
"""The path of a job's folder inside its container, as in upstream's documentation."""


@dataclass(frozen=True)
class DesiredJob:
    """A job of the inventory, and what is decided about it without facts of its host.

    folder: what it reads and writes. result: the file that it writes, None if its output is the result. weights_path:
    "" without weights. definition: the hash of what it does. GPUs and mirrors are not part of it.
    """

    name: str
    entry: Job
    folder: str
    result: str | None
    weights_path: str
    definition: str

    @property
    def path(self) -> str:
        """Its path in the inventory."""
        return f"jobs.{self.name}"


def desire_job(name: str, spec: Host) -> DesiredJob:
    """Return a job by its name."""
    job, path = spec.jobs[name], weights.host_path(spec, spec.jobs[name])
    words = {
        **job.model_dump(include={"version", "folder", "result", "env", "compose"}),  # also at their defaults
        **definition_words(job),
        "image": job.image.reference if isinstance(job.image, TarImage | BuildImage) else job.image,
        "weights": path,
    }
    definition = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    return DesiredJob(name, job, weights.job_folder(spec, name), weights.result_path(spec, name), path, definition)


def enabled_jobs(spec: Host) -> list[DesiredJob]:
    """Return the enabled jobs of a host."""
    return [desire_job(name, spec) for name, job in spec.jobs.items() if job.enabled]


def plan_jobs(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """Plan the jobs that have to run, one after the other."""
    gpus = ledger.assign(spec, facts)
    changes: list[Change] = []
    errors: dict[str, Problem] = {}
    entries: list[dict[str, Any]] = []
    steps: list[Step] = []
    for job in enabled_jobs(spec):
        reason = due(job, facts)
        if reason is None:
            continue
        if unseen := weights.unseen((job.weights_path, job.folder, job.result or ""), facts, job.path):
            errors[job.name] = unseen
            continue
        try:
            uuids = gpus.for_job(job.name) if not running(job, facts) else ()
        except Refused as error:
            errors[job.name] = error.problem.at("", job.path)
            continue
        blocked = gpu_obstacle(uuids, spec, facts) if uuids else None
        if problem := blocked.at("", job.path) if blocked else obstacle(job, facts):
            errors[job.name] = problem
            continue
        try:
            data = service(job, devices(job.entry, uuids, spec, facts), spec)
        except LookupError as error:  # the engine has no image for these GPUs
            errors[job.name] = Problem.of("no-image-for-hardware", path=job.path, what=error)
            continue
        text, path = document(job.name, data), paths.job_file(job.name)
        steps.append(WriteFile(f"the job {job.name}, {path}", path, text, "600"))
        changes.append(Change(job.name, Action.RUN, (reason,)))
        entries.append(payload(job, data, spec))
    if not entries:
        return ModelsPlan(errors=errors)
    told: dict[str, Any] = {"ours": proven_ids(facts), "groups": [[each] for each in entries]}
    told["origin"] = run.claim.origin.payload
    told |= network_and_credentials(told, spec, facts, run.values)
    steps = [*host_files(facts), *steps]
    return ModelsPlan(tuple(changes), errors, tuple(steps), uploads(spec, facts, changes), job=told)


def due(job: DesiredJob, facts: HostFacts) -> str | None:
    """Return why a job has to run; None if it is done."""
    file = facts.files.get(paths.job_record(job.name))
    if running(job, facts):
        return "still running"
    try:
        found = json_from_host(file.text)["definition"] if file else None
    except (ValueError, LookupError, TypeError):
        found = None
    if found is None:
        return "not done yet"
    if found != job.definition:
        return "its definition changed"
    return f"its result {job.result} is missing" if job.result and facts.weights.get(job.result) is None else None


def running(job: DesiredJob, facts: HostFacts) -> bool:
    """Is it already running, because an earlier run of gpurack was killed?"""
    found = facts.proven.get(("", job.name))
    return bool(found and found.job == job.definition and found.running)


def obstacle(job: DesiredJob, facts: HostFacts) -> Problem | None:
    """Return why a job cannot run now; None if it can."""
    stranger = next((c for c in facts.containers if (c.user, c.name) == (job.entry.dockerd, job.name)), None)
    if stranger and stranger not in facts.proven.values():
        told = {"name": job.name, "which": "", "hint": "Rename the job."}
        return Problem.of("container-name-taken", path=job.path, **told)
    for file, what in ((job.entry.weights, "weights"), (job.entry.folder, "folder")):
        if isinstance(file, str) and facts.weights.get(file) is None:
            missing = Problem.of("job-path-missing", path=job.path, what=what, file=file)
            return weights.irregular(file, facts, job.path) or missing
    made = job.result
    served = (
        [name for (_, name), c in facts.ours.items() if ledger.label(c.labels).get("weights") == made] if made else []
    )
    if served and facts.weights.get(str(made)) is not None:
        return Problem.of("job-result-served", path=job.path, model=served[0], result=made)
    return None


def service(desired: DesiredJob, hardware: Devices, spec: Host) -> dict[str, Any]:
    """Return a job's Compose service."""
    job, engine = desired.entry, ENGINES[desired.entry.engine]
    if isinstance(job.image, TarImage | BuildImage):
        image = job.image.reference
    else:
        own = job.image or engine.job_image(str(job.version), hardware.accelerator, job.command)
        image = images.mirrored(spec, own)
    mounts: list[dict[str, Any]] = [{"source": desired.folder, "target": FOLDER}]
    inside = ""
    if desired.weights_path:
        source, target, inside = weights.mount(desired.weights_path)
        mounts.append({"source": source, "target": target, "read_only": True})
    data: dict[str, Any] = {
        "image": image,
        "container_name": desired.name,
        "profiles": ["job"],
        "restart": "no",
        "network_mode": "bridge",
        "command": [word.replace(WEIGHTS_INSIDE, inside) if inside else word for word in job.command],
        "volumes": [{"type": "bind", **mount, "bind": {"create_host_path": False}} for mount in mounts],
    }
    given = hardware.words(engine.uses_graphics_driver(job))
    if environment := {**job.env, **given.pop("environment", {})}:
        data["environment"] = environment
    patched: dict[str, Any] = patch({**data, **given}, job.compose)
    if isinstance(job.compose.get("volumes"), list):
        patched["volumes"] = merge_mounts(data["volumes"], job.compose["volumes"])
    patched = hardened(patched, job.compose)
    labels = patched.get("labels") if isinstance(patched.get("labels"), Mapping) else {}
    patched["labels"] = {**(labels or {}), paths.JOB_LABEL: desired.definition}
    return patched


def document(name: str, data: Mapping[str, Any]) -> str:
    """Return the text of a job's own Compose file."""
    head = HEADER.format(path=paths.job_file(name), name=name)
    return head + compose.as_yaml({"name": paths.JOBS_PROJECT, "services": {name: data}})


def payload(job: DesiredJob, data: Mapping[str, Any], spec: Host) -> dict[str, Any]:
    """Return a job in the runner's payload (files/jobs.py). data: its Compose service."""
    user, wanted = job.entry.dockerd, job.entry.weights
    told = weights.fetched(spec, wanted, user) if wanted is not None else None
    return {
        "name": job.name,
        "user": user,
        "compose_file": paths.job_file(job.name),
        "image": data["image"],
        **images.obtained(spec, job.entry),
        "fetch": [told] if told else [],
        "definition": job.definition,
        "folder": job.folder,
        "result": job.result,
    }


def awaiting(spec: Host, facts: HostFacts) -> dict[str, str]:
    """Return enabled models that serve the result of a job that is not done → that job."""
    makers = {job.result: job.name for job in enabled_jobs(spec) if job.result and due(job, facts)}
    return {
        name: makers[path]
        for name, model in spec.entries.items()
        if model.enabled and (path := weights.host_path(spec, model)) in makers
    }


def serve_results(spec: Host) -> bool:
    """Does any model serve the result of a job?"""
    results = {job.result for job in enabled_jobs(spec)}
    return any(model.enabled and weights.host_path(spec, model) in results for model in spec.entries.values())
