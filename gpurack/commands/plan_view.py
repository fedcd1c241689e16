"""What `gpurack plan` shows: the GPUs of every host with their models, endpoints, warnings, errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gpurack import screen
from gpurack.engines import ENGINES
from gpurack.engines.urls import endpoint
from gpurack.plan.models.ledger import Ledger
from gpurack.plan.models.memory import UNSEEN, Estimate
from gpurack.plan.offline import Sizes, imagined_ledger
from gpurack.screen import Text
from gpurack.spec.gpus import GPU_KINDS, GpuSlot, hardware
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped

BAR = 17
"""Characters of a GPU's bar."""
LABEL = len("GPU 0-3")
"""Characters in front of it."""


def show(
    console: screen.Console, fleet: Mapping[str, Host], sizes: Sizes, warnings: Sequence[Problem], apply: str
) -> None:
    """Print the whole plan of an inventory without errors. apply: the command that applies it."""
    console.print(headline(fleet, sizes.seen))
    for name, host in fleet.items():
        console.print(screen.line((name, "bold"), f"   {gpus_of(host)}"))
        for gpu in gpu_map(host, {key: each for (on, key), each in sizes.estimates.items() if on == name}):
            console.print(screen.line("  ", gpu))
        details = not_estimated({key: why for (on, key), why in sizes.reasons.items() if on == name})
        details += endpoints(name, host)
        if jobs := [key for key, job in host.jobs.items() if job.enabled]:
            details.append(f"jobs: {', '.join(jobs)}")
        for line in details:
            console.print(screen.line("  ", (line, "dim")))
    if unseen := [key for (_, key), why in sizes.reasons.items() if why == UNSEEN]:
        many = counted(len(unseen), "model")
        how = "Run gpurack plan --live to inspect them."
        console.print(screen.line((f"not estimated: {many} with weights not inspected yet. {how}", "dim")))
    lines = grouped(warnings)
    for line in lines:
        console.print(screen.line(("warning", "yellow"), f"  {line}"))
    console.print(f"0 errors, {counted(len(lines), 'warning')}. Apply: {apply}")


def headline(fleet: Mapping[str, Host], seen: str = "") -> str:
    """`3 hosts, 14 models (1 disabled) · offline · weights as seen 2026-11-19 · locked`"""
    entries = [model for host in fleet.values() for model in host.entries.values()]
    disabled = sum(not model.enabled for model in entries)
    off = f" ({disabled} disabled)" if disabled else ""
    as_seen = f" · weights as seen {seen}" if seen else ""
    locked = " · locked" if any(host.lock for host in fleet.values()) else ""
    return f"{counted(len(fleet), 'host')}, {counted(len(entries), 'model')}{off} · offline{as_seen}{locked}"


def counted(number: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gpus_of(spec: Host) -> str:
    """`4 × A30, 24.0 GiB`; without `hardware`, whether GPUs are expected."""
    if not spec.hardware:
        return "GPUs unknown (no hardware given)" if spec.wants_gpu else "CPU"
    parts = []
    for name, count in spec.hardware.items():
        size = f", {GPU_KINDS[name].memory:.1f} GiB" if name in GPU_KINDS else ""
        parts.append(f"{count} × {name}{size}")
    return " + ".join(parts)


def not_estimated(reasons: Mapping[str, str]) -> list[str]:
    """One line per reason, with its models. Weights not inspected yet (`UNSEEN`) are counted once for all hosts."""
    models: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        if reason != UNSEEN:
            models.setdefault(reason, []).append(key)
    return [f"not estimated: {', '.join(keys)} ({reason})" for reason, keys in models.items()]


@dataclass(frozen=True)
class Filled:
    """One GPU with its models. shares: model → its GiB, None for the whole GPU."""

    slot: GpuSlot
    shares: Mapping[str, float | None]

    @property
    def usable(self) -> float | None:
        """GiB that its models may use together."""
        return self.slot.usable(len(self.shares))


def filled(spec: Host) -> list[Filled]:
    """Every GPU of a host in `hardware`."""
    ledger = imagined_ledger(spec)
    return [Filled(slot, shares(spec, ledger, slot)) for slot in ledger.slots]


def shares(spec: Host, ledger: Ledger, slot: GpuSlot) -> dict[str, float | None]:
    """Model → its GiB of a GPU, None for the whole GPU; in inventory order."""
    here = ledger.entries_on(slot)
    return {
        key: model.vram.of(slot.memory or 0) if model.vram else None
        for key, model in spec.models.items()
        if key in here
    }


def gpu_map(spec: Host, estimates: Mapping[str, Estimate]) -> list[Text]:
    """One line per GPU (adjacent GPUs with the same models share a line) and one for the models on the CPU."""
    alike = groupby(filled(spec), key=lambda gpu: (gpu.slot.name, gpu.slot.reserved, list(gpu.shares.items())))
    lines = [gpu_line(spec, list(gpus), estimates) for _, gpus in alike]
    on_cpu = [key for key, model in spec.entries.items() if model.enabled and not model.gpus]
    if on_cpu:
        lines.append(screen.line(f"{'CPU'.ljust(LABEL)}  {', '.join(on_cpu)}"))
    return lines


def gpu_line(spec: Host, gpus: Sequence[Filled], estimates: Mapping[str, Estimate]) -> Text:
    """`GPU 0  ██████████████░░░  17.4 of 21.6 GiB  qwen-7b`"""
    first, last = gpus[0], gpus[-1].slot
    label = (f"GPU {first.slot.label}" if len(gpus) == 1 else f"GPU {first.slot.label}-{last.label}").ljust(LABEL)
    if first.slot.reserved:
        return screen.line(f"{label}  ", ("reserved", "dim"))
    if not first.shares:
        return screen.line(f"{label}  ", ("░" * BAR, "green"), "  free")
    each = " each" if len(gpus) > 1 else ""
    used, usable = used_and_usable(spec, first, estimates)
    models = model_names(spec, first)
    if used is None:
        amount = "whole GPU" if None in first.shares.values() else "? GiB"
        return screen.line(f"{label}  ", ("█" * BAR, "blue"), f"  {amount}{each}  {models}")
    size = f" of {usable:.1f}" if usable else ""
    full = min(BAR, round(BAR * used / usable)) if usable else BAR
    amount = f"{'░' * (BAR - full)}  {used:.1f}{size} GiB{each}  {models}"
    return screen.line(f"{label}  ", ("█" * full, "blue"), amount)


def used_and_usable(spec: Host, gpu: Filled, estimates: Mapping[str, Estimate]) -> tuple[float | None, float | None]:
    """(GiB of a GPU in use, GiB that its models may use); None if unknown.

    Models with `vram` use their share. A model without `vram` has the GPU for itself and uses its estimate.
    """
    fixed = [share for share in gpu.shares.values() if share is not None]
    if len(fixed) == len(gpu.shares):
        return (sum(fixed), gpu.usable) if gpu.usable else (None, None)
    (key,) = gpu.shares
    if key not in estimates:
        return None, None
    memory = gpu.slot.memory
    return estimates[key].total, ENGINES[spec.models[key].engine].budget(spec.models[key], memory) if memory else None


def model_names(spec: Host, gpu: Filled) -> str:
    """The models on a GPU, with their shares if there are several; `(promised)` if the engine cannot enforce `vram`."""
    texts = []
    for key, share in gpu.shares.items():
        amount = f" {share:g}" if share is not None and len(gpu.shares) > 1 else ""
        promised = " (promised)" if share is not None and not ENGINES[spec.models[key].engine].enforces_vram else ""
        texts.append(f"{key}{amount}{promised}")
    return ", ".join(texts)


def endpoints(name: str, spec: Host) -> list[str]:
    """`http://gpu1.lab:8000/v1  qwen2.5-7b-instruct`, the address for clients; `localhost` for loopback."""
    return [f"{endpoint(name, spec, model)}  {key}" for key, model in spec.entries.items() if model.enabled]


def as_data(fleet: Mapping[str, Host], sizes: Sizes, warnings: Sequence[Problem]) -> dict[str, Any]:
    """The plan as JSON data (`--json`)."""
    return {
        "schema": screen.SCHEMA,
        "weights_seen": sizes.seen or None,
        "hosts": {
            name: {
                "hardware": hardware(host),
                "gpus": [
                    {
                        "gpu": gpu.slot.label,
                        "name": gpu.slot.name or None,
                        "usable_gib": None if gpu.usable is None else round(gpu.usable, 3),
                        "reserved": gpu.slot.reserved,
                        "models": gpu.shares,
                    }
                    for gpu in filled(host)
                ],
                "models": {
                    key: {
                        "engine": model.engine,
                        "enabled": model.enabled,
                        "gpus": model.gpus,
                        "port": model.port,
                        "bind": model.bind,
                        "served_name": model.served_name or key,
                        "estimate": estimate_data(sizes, name, key),
                    }
                    for key, model in host.entries.items()
                },
                "jobs": [key for key, job in host.jobs.items() if job.enabled],
            }
            for name, host in fleet.items()
        },
        "errors": [],
        "warnings": [problem.as_data() for problem in warnings],
    }


def estimate_data(sizes: Sizes, host: str, model: str) -> dict[str, Any] | None:
    """The estimate in GiB per GPU, or why there is none; None for disabled entries and services."""
    if each := sizes.estimates.get((host, model)):
        parts = {"weights": each.weights, "kv": each.kv, "overhead": each.overhead, "total": each.total}
        return {**{key: round(value, 3) for key, value in parts.items()}, "tokens": each.tokens}
    reason = sizes.reasons.get((host, model))
    return {"not_estimated": reason} if reason else None
