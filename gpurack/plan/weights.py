"""Where a model's weights lie on its host. Pure."""

import re
from typing import Any

from gpurack.spec.model import CopyWeights, HfWeights, Host, Model, ModelScopeWeights, UrlWeights, Weights

HUBS = {"hf": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
MIRRORS = {"hf": "huggingface", "modelscope": "modelscope"}
"""A hub's name in the inventory's `mirrors`."""


def host_path(spec: Host, model: Model) -> str:
    """The path on the host, "" for a model without weights."""
    return place(spec, model.weights) if model.weights is not None else ""


def place(spec: Host, weights: Weights) -> str:
    """The path of weights on the host."""
    return weights if isinstance(weights, str) else f"{spec.weights_dir}/{weights.place}"


def paths(spec: Host) -> list[str]:
    """The paths that the snapshot looks for: those of all enabled models."""
    return [path for model in spec.entries.values() if model.enabled and (path := host_path(spec, model))]


def fetched(spec: Host, weights: Weights | None) -> dict[str, Any] | None:
    """What the runner on the host (files/fetch.py) is told to get, and where it belongs; None for what is there."""
    if isinstance(weights, UrlWeights):
        return {**weights.model_dump(), "path": place(spec, weights)}
    if isinstance(weights, CopyWeights):
        return {"copy": str(weights), "path": place(spec, weights)}
    if not isinstance(weights, HfWeights | ModelScopeWeights):
        return None
    hub, repo = ("hf", weights.hf) if isinstance(weights, HfWeights) else ("modelscope", weights.modelscope)
    mirror = spec.mirrors.get(MIRRORS[hub])
    return {
        "hub": hub,
        "repo": repo,
        "revision": weights.wanted_revision,
        "endpoint": (mirror.url if mirror else HUBS[hub]).rstrip("/"),
        "path": place(spec, weights),
    }


def mount(path: str) -> tuple[str, str, str]:
    """(what to mount, where to, the weights' path inside): the file alone, or the folder of a split GGUF.

    llama.cpp is given the first part (`…-00001-of-00003.gguf`) and finds the others beside it.

    >>> mount("/data/m.gguf")
    ('/data/m.gguf', '/weights/m.gguf', '/weights/m.gguf')
    """
    folder, _, name = path.rpartition("/")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", name):
        return folder, "/weights", f"/weights/{name}"
    return path, f"/weights/{name}", f"/weights/{name}"
