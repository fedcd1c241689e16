"""What a host does once and ends: which jobs have to run, on which cards, and how. Pure.

A job is done when its record (JOBS/NAME.json, written on the host) has the hash of its definition, and its result is
there. It never runs again then.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.host_data import json_from_host
from gpurack.plan import compose, images, ledger, weights
from gpurack.plan.drift import Change
from gpurack.plan.job import ours
from gpurack.plan.models import ModelsPlan, host_files, uploads
from gpurack.plan.steps import Step, WriteFile
from gpurack.spec.fields import definition_words
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.merge import patch
from gpurack.spec.model import WEIGHTS_INSIDE
from gpurack.state.model import HostState

HEADER = """\
# Written by gpurack from the inventory: a job, which ends. It runs again when its definition changes.
# By hand: docker compose -f {path} run --rm {name}
"""
FOLDER = "/models"
"""Where a job finds its folder inside: the place that people have always given it."""


def plan_jobs(
    spec: Host,
    state: HostState,
    hf_token: str | None = None,
    logins: Mapping[str, Mapping[str, str]] | None = None,
) -> ModelsPlan:
    """The jobs that have to run, one after the other. hf_token, logins: as for plan_models."""
    cards = ledger.assign(spec, state).uuids
    changes: list[Change] = []
    errors: dict[str, str] = {}
    entries: list[dict[str, Any]] = []
    steps: list[Step] = []
    for name, job in spec.jobs.items():
        reason = due(name, spec, state) if job.enabled else None
        if reason is None:
            continue
        if unseen := weights.unseen(spec, name, state):
            errors[name] = unseen
            continue
        try:
            uuids = ledger.for_job(name, spec, state, cards) if not running(name, spec, state) else ()
            if problem := obstacle(name, spec, state):
                raise LookupError(problem)
            data = service(name, spec, state, uuids)
        except LookupError as error:
            errors[name] = str(error)
            continue
        text, path = document(name, data), paths.job_file(name)
        steps.append(WriteFile(f"the job {name}, {path}", path, text, "600"))
        changes.append(Change(name, "run", (reason,)))
        entries.append(entry(name, spec, data))
    if not entries:
        return ModelsPlan(errors=errors)
    told: dict[str, Any] = {"ours": ours(state), "groups": [[each] for each in entries]}
    told["logins"] = images.logins_for(told, logins or {}, state)
    if hf_token and any(fetch.get("hub") == "hf" for each in entries for fetch in each["fetch"]):
        told["hf_token"] = hf_token
    if spec.proxy:
        told["proxy"] = spec.proxy.env
    steps = [*host_files(state), *steps]
    return ModelsPlan(tuple(changes), errors, tuple(steps), uploads(spec, state, changes), job=told)


def due(name: str, spec: Host, state: HostState) -> str | None:
    """Why a job has to run; None when it is done."""
    file = state.files.get(paths.job_record(name))
    if running(name, spec, state):
        return "still running"
    try:
        found = json_from_host(file.text)["definition"] if file else None
    except (ValueError, LookupError, TypeError):
        found = None
    if found is None:
        return "not done yet"
    if found != definition(name, spec):
        return "its definition changed"
    result = weights.result_path(spec, name)
    return f"its result {result} is gone" if result and state.weights.get(result) is None else None


def running(name: str, spec: Host, state: HostState) -> bool:
    """Does it run already, because an earlier run of gpurack was killed meanwhile?"""
    wanted = definition(name, spec)
    found = state.proven.get(("", name))
    return bool(found and found.job == wanted and found.running)


def definition(name: str, spec: Host) -> str:
    """The hash of what a job does; on which cards, and through which mirror, is no part of it."""
    job = spec.jobs[name]
    image = job.image.reference if isinstance(job.image, TarImage | BuildImage) else job.image
    words = {
        **job.model_dump(include={"version", "folder", "result", "env", "compose"}),  # at their default, too
        **definition_words(job),
        "image": image,
        "weights": weights.host_path(spec, job),
    }
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


def obstacle(name: str, spec: Host, state: HostState) -> str | None:
    """Why a job cannot run now."""
    job = spec.jobs[name]
    stranger = next((c for c in state.containers if (c.user, c.name) == (job.dockerd, name)), None)
    if stranger and stranger not in state.proven.values():
        return f"the container name {name} is taken by one that is not gpurack's; give the job another name."
    for path, what in ((job.weights, "weights"), (job.folder, "folder")):
        if isinstance(path, str) and state.weights.get(path) is None:
            missing = f"{what} {path} does not exist on the host; make it, or correct the path."
            return weights.irregular(path, state) or missing
    result = weights.result_path(spec, name)
    served = [c.name for c in state.ours.values() if ledger.label(c.labels).get("weights") == result] if result else []
    if served and state.weights.get(str(result)) is not None:
        return (
            f"its result {result} is what {served[0]} serves, and would change under it; give result and the model's "
            "weights another name."
        )
    return None


def service(name: str, spec: Host, state: HostState, uuids: tuple[str, ...]) -> dict[str, Any]:
    """A job's Compose service."""
    job = spec.jobs[name]
    hardware = compose.accelerator(job, uuids, state)
    if isinstance(job.image, TarImage | BuildImage):
        image = job.image.reference
    else:
        engine = ENGINES[job.engine]
        image = compose.mirrored(spec, job.image or engine.job_image(str(job.version), hardware, job.command))
    mounts: list[dict[str, Any]] = [{"source": weights.job_folder(spec, name), "target": FOLDER}]
    inside, path = "", weights.host_path(spec, job)
    if path:
        source, target, inside = weights.mount(path)
        mounts.append({"source": source, "target": target, "read_only": True})
    data: dict[str, Any] = {
        "image": image,
        "container_name": name,
        "profiles": ["job"],
        "restart": "no",
        "network_mode": "bridge",
        "command": [word.replace(WEIGHTS_INSIDE, inside) if inside else word for word in job.command],
        "volumes": [{"type": "bind", **mount, "bind": {"create_host_path": False}} for mount in mounts],
    }
    given = compose.cards(uuids, spec, state, ENGINES[job.engine].draws(job))
    if environment := {**job.env, **given.pop("environment", {})}:
        data["environment"] = environment
    patched: dict[str, Any] = patch({**data, **given}, job.compose)
    if isinstance(job.compose.get("volumes"), list):
        patched["volumes"] = compose.together(data["volumes"], job.compose["volumes"])
    patched = compose.hardened(patched, job.compose)
    labels = patched.get("labels") if isinstance(patched.get("labels"), Mapping) else {}
    patched["labels"] = {**(labels or {}), "gpurack.job": definition(name, spec)}
    return patched


def document(name: str, data: Mapping[str, Any]) -> str:
    """The text of a job's own Compose file."""
    head = HEADER.format(path=paths.job_file(name), name=name)
    return head + compose.as_yaml({"name": paths.JOBS_PROJECT, "services": {name: data}})


def entry(name: str, spec: Host, data: Mapping[str, Any]) -> dict[str, Any]:
    """One job, as the runner (files/jobs.py) is told of it."""
    job = spec.jobs[name]
    told = weights.fetched(spec, job.weights, job.dockerd) if job.weights is not None else None
    return {
        "name": name,
        "user": job.dockerd,
        "compose_file": paths.job_file(name),
        "image": data["image"],
        **images.obtained(spec, job),
        "fetch": [told] if told else [],
        "definition": definition(name, spec),
        "folder": weights.job_folder(spec, name),
        "result": weights.result_path(spec, name),
    }


def awaiting(spec: Host, state: HostState) -> dict[str, str]:
    """Enabled models that serve the result of a job that is not done → that job."""
    makers = {
        weights.result_path(spec, name): name
        for name, job in spec.jobs.items()
        if job.enabled and job.result and due(name, spec, state)
    }
    return {
        name: makers[path]
        for name, model in spec.entries.items()
        if model.enabled and (path := weights.host_path(spec, model)) in makers
    }


def serve_results(spec: Host) -> bool:
    """Does any model serve what a job makes?"""
    results = {weights.result_path(spec, name) for name, job in spec.jobs.items() if job.enabled and job.result}
    return any(model.enabled and weights.host_path(spec, model) in results for model in spec.entries.values())
