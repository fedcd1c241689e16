"""Propose GPUs for imported models: first fit, by the memory that the names of their weights suggest."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpurack.importing.container import Finding
from gpurack.importing.reader import Imported
from gpurack.spec.gpus import GPU_KINDS, SHARED

PARAMETERS = re.compile(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z])")
"""`7b`, `0.5b`, `8x7b`, `335m` in a name."""
STORED = ((r"awq|gptq|int4|[wq]4|4bit|iq\d|q[2345]|nvfp4", 0.6), (r"fp8|int8|[wq]8|8bit|q6", 1.1))
"""Pattern in a name → bytes for each parameter; else 2."""
CHOOSE = ("Check which to use.", "List GPUs by index to share the host.")
"""The ends of the findings that ask for the choice that is made here."""
MORE, OVERHEAD = 1.2, 2.0
"""What a model takes of a GPU beside its weights: a factor for the KV cache, and GiB for everything else."""


def estimate(fields: Mapping[str, Any]) -> float | None:
    """GiB that a model takes on all its GPUs together, by the name of its weights; None if that tells nothing.

    >>> estimate({"weights": {"hf": "Qwen/Qwen3-8B-AWQ"}}), estimate({"weights": "/data/model"})
    (7.4, None)
    """
    weights = fields.get("weights")
    texts = [*weights.values()] if isinstance(weights, dict) else [weights]
    texts += [fields.get("served_name"), *fields.get("pull", []), fields.get("args", {}).get("quantization")]
    name = " ".join(str(text).lower() for text in texts)
    found = [float(times or 1) * float(size) / (1 if unit == "b" else 1000) for times, size, unit in
             PARAMETERS.findall(name)]  # fmt: skip
    stored = next((size for pattern, size in STORED if re.search(pattern, name)), 2.0)
    return round(max(found) * stored * MORE * 1e9 / 2**30 + OVERHEAD, 1) if found else None


def placed(imported: Imported, hardware: Mapping[str, int]) -> Imported:
    """The import with `hardware`, and with GPUs for its models such that none is claimed twice.

    Each model keeps its number of GPUs (`all` counts as one). They share a GPU, with `vram`, only if more find room
    so. Of three orders (the text's, least and most demanding first) the one that places most models counts. A finding
    names the places, and the models without room, which are disabled.
    """
    kinds = [kind for kind, count in hardware.items() for _ in range(count)]
    wanted = {name: fields for name, fields in imported.models.items() if fields.get("gpus")}
    needs = sorted(wanted, key=lambda name: (number(wanted[name]), estimate(wanted[name]) or math.inf))
    orders = [list(wanted), needs, needs[::-1]]
    found_places = [first_fit(wanted, order, kinds, share) for share in (False, True) for order in orders]
    places = max(found_places, key=len)
    models = dict(imported.models)
    for name, gpus in places.items():
        neighbours = [other for other, theirs in places.items() if other != name and set(gpus) & set(theirs)]
        vram = {"vram": f"{share_of(wanted[name], 0):g}GiB"} if neighbours and "vram" not in wanted[name] else {}
        models[name] = {**models[name], "gpus": gpus, **vram}
    on = {gpu: [name for name, gpus in places.items() if gpu in gpus] for gpu in range(len(kinds))}
    listed = "; ".join(f"GPU {gpu} ({kinds[gpu]}): {', '.join(names)}" for gpu, names in on.items() if names)
    what = f"placed by the names of the weights, which is an estimate. {listed}." if listed else "no model uses a GPU."
    found = [Finding("open", "--fit", what)]
    if left := wanted.keys() - places.keys():
        models |= {name: {**models[name], "enabled": False} for name in left}
        what = f"no room was found for {', '.join(sorted(left))}. Disabled; choose another host."
        found.append(Finding("open", "--fit", what))
    for name, gpus in places.items():
        total = estimate(wanted[name])
        if total and total / len(gpus) > min(GPU_KINDS[kinds[gpu]].memory for gpu in gpus):
            what = f"{name} probably needs {total:g} GiB, more than it got. Give it more GPUs."
            found.append(Finding("open", "--fit", what))
    kept = [one for one in imported.findings if not one.what.endswith(CHOOSE)]
    return replace(
        imported, models=models, host={"hardware": dict(hardware), **imported.host}, findings=[*found, *kept]
    )


def first_fit(
    wanted: Mapping[str, Mapping[str, Any]], order: Sequence[str], kinds: Sequence[str], share: bool
) -> dict[str, list[int]]:
    """Model → the first GPUs with room for it. share: may models share a GPU?"""
    memory = [GPU_KINDS[kind].memory for kind in kinds]
    left = [one * (SHARED if share else 1) for one in memory]
    found: dict[str, list[int]] = {}
    for name in order:
        fields = wanted[name]
        takes = [share_of(fields, size) if share else math.inf for size in memory]
        room = [gpu for gpu, size in enumerate(memory) if left[gpu] >= min(takes[gpu], size * (SHARED if share else 1))]
        if len(room) >= number(fields):
            found[name] = room[: number(fields)]
            for gpu in found[name]:
                left[gpu] -= takes[gpu]
    return found


def number(fields: Mapping[str, Any]) -> int:
    """The number of GPUs of a model."""
    return 1 if fields["gpus"] == "all" else len(fields["gpus"])


def share_of(fields: Mapping[str, Any], memory: float) -> float:
    """GiB that a model takes of each of its GPUs; infinite for a whole one. memory: of the GPU."""
    vram, total = str(fields.get("vram", "")), estimate(fields)
    if vram:
        return float(vram[:-1]) / 100 * memory if vram.endswith("%") else float(vram.removesuffix("GiB"))
    return math.inf if total is None else math.ceil(total / number(fields))
