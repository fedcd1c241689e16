"""Where a model's weights lie on its host. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from gpurack.engines import weights_of
from gpurack.facts.model import HostFacts, reason
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem
from gpurack.spec.weights import SPLIT, CopyWeights, HfWeights, ModelScopeWeights, UrlWeights, Weights

HUBS = {"hf": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
MIRRORS = {"hf": "huggingface", "modelscope": "modelscope"}
"""A hub's name in the inventory's `mirrors`."""


def host_path(spec: Host, model: Model | Job) -> str:
    """The path on the host, "" for a model without weights."""
    return place(spec, model.weights, model.dockerd) if model.weights is not None else ""


def of_users(spec: Host) -> str:
    """The folder below which each user's fetched weights have a folder of their own."""
    return f"{spec.weights_dir}/users"


def place(spec: Host, weights: Weights, user: str) -> str:
    """The path of weights on the host. What is fetched for a user's Docker lies where that user alone gets to."""
    if isinstance(weights, str):
        return weights
    return f"{of_users(spec)}/{user}/{weights.place}" if user else f"{spec.weights_dir}/{weights.place}"


def places(spec: Host, entry: Model | Job) -> list[str]:
    """The paths on the host of all weights of an entry."""
    return [place(spec, one, entry.dockerd) for one in weights_of(entry)]


def unseen(files: Iterable[str], facts: HostFacts, path: str) -> Problem | None:
    """The error for a model or job if one of its files did not answer in time; None if all did. path: the entry's."""
    file = next((file for file in files if f"weights {file}" in facts.late), None)
    if file is None:
        return None
    where = f" on {facts.mounts[file]}" if file in facts.mounts else ""
    why = reason(facts.late[f"weights {file}"])  # the same sentence for all models there
    return Problem.of("weights-late", path=path, where=where, why=why)


def irregular(file: str, facts: HostFacts, path: str) -> Problem | None:
    """The error for what is neither a file nor a folder on the host; None for others. path: the entry's."""
    kind = facts.irregular.get(file)
    if kind == "hidden":
        who = ", ".join(sorted(facts.owned.get(file, ()))) or "who may change it"
        return Problem.of("weights-hidden", path=path, file=file, who=who)
    return Problem.of("weights-irregular", path=path, file=file, kind=kind) if kind else None


def whole(spec: Host, weights: UrlWeights | HfWeights | ModelScopeWeights | CopyWeights, user: str) -> str:
    """Return the path of what is fetched as a whole, and put in its place when it is complete.

    It is a file, a folder, or the folder of the file that an engine is told.
    """
    return f"{of_users(spec)}/{user}/{weights.whole}" if user else f"{spec.weights_dir}/{weights.whole}"


def paths(spec: Host) -> list[str]:
    """The paths that the snapshot looks for: those of all enabled models, and what jobs read and write."""
    found = [path for model in spec.entries.values() if model.enabled for path in places(spec, model)]
    for name, job in spec.jobs.items():
        if job.enabled:
            found += [host_path(spec, job), job.folder or "", result_path(spec, name) or ""]
    return [path for path in found if path]


def by_user(spec: Host) -> Iterator[tuple[str, str]]:
    """(user, path) of all weights of enabled entries; "" for the host's own Docker."""
    for entry in spec.everything.values():
        for path in places(spec, entry) if entry.enabled else ():
            yield entry.dockerd, path


def readers(spec: Host) -> dict[str, str]:
    """Return the paths that only the entries of one user want → that user.

    The user inspects and hashes them where others than root may change them. What the host's own Docker wants, or
    several users, is inspected as files/snapshot.sh says (`inspector`), and hashed by root, who follows nobody's links
    there (files/hashes.py: `reader`).
    """
    wanted: dict[str, set[str]] = {}
    for user, path in by_user(spec):
        wanted.setdefault(path, set()).add(user)
    return {path: users.pop() for path, users in wanted.items() if len(users) == 1 and "" not in users}


def changeable(spec: Host, facts: HostFacts) -> list[Problem]:
    """A warning for all weights that users other than root, and other than the user of their Docker, may change."""
    who: set[str] = set()
    names = []
    for name, entry in spec.everything.items():
        others = {
            one for path in (places(spec, entry) if entry.enabled else ()) for one in facts.owned.get(path, ())
        } - {entry.dockerd}
        if others:
            who |= others
            names.append(name)
    if not names:
        return []
    return [Problem.of("weights-changeable", names=", ".join(names), who=", ".join(sorted(who)))]


def job_folder(spec: Host, name: str) -> str:
    """The folder that a job reads and writes."""
    return spec.jobs[name].folder or f"{spec.weights_dir}/jobs/{name}"


def result_path(spec: Host, name: str) -> str | None:
    """The file that a job makes; None where what it prints is its result."""
    result = spec.jobs[name].result
    return f"{job_folder(spec, name).rstrip('/')}/{result}" if result else None


def fetched(spec: Host, weights: Weights, user: str) -> dict[str, Any] | None:
    """What the runner on the host (files/fetch.py) is told to get, and where it belongs; None for what is there."""
    if isinstance(weights, UrlWeights):
        return {**weights.model_dump(), "path": whole(spec, weights, user), **spec.download.told}
    if isinstance(weights, CopyWeights):
        return {"copy": str(weights), "path": whole(spec, weights, user)}
    if not isinstance(weights, HfWeights | ModelScopeWeights):
        return None
    mirror = spec.mirrors.get(MIRRORS[weights.hub])
    return {
        "hub": weights.hub,
        "repo": weights.repository,
        "revision": weights.wanted_revision,
        "endpoint": (mirror.url if mirror else HUBS[weights.hub]).rstrip("/"),
        "path": whole(spec, weights, user),
        **({"file": weights.file} if weights.file else {}),
        **spec.download.told,
    }


def mount(path: str) -> tuple[str, str, str]:
    """(what to mount, where to, the weights' path inside): the file alone, or the folder of a split GGUF.

    llama.cpp is given the first part (`…-00001-of-00003.gguf`) and finds the others beside it.

    >>> mount("/data/m.gguf")
    ('/data/m.gguf', '/weights/m.gguf', '/weights/m.gguf')
    """
    folder, _, name = path.rpartition("/")
    if SPLIT.search(name):
        return folder, "/weights", f"/weights/{name}"
    return path, f"/weights/{name}", f"/weights/{name}"
