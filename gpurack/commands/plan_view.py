"""What `gpurack plan` shows: the GPUs of every host with their models, warnings, errors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gpurack import screen
from gpurack.engines import ENGINES
from gpurack.engines.urls import endpoint, loopback_note, on_loopback
from gpurack.plan.models.ledger import Ledger
from gpurack.plan.models.memory import UNSEEN, Estimate
from gpurack.plan.offline import Sizes, imagined_ledger
from gpurack.screen import Text
from gpurack.spec.gpus import GpuSlot, count_of, hardware, kind_of
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, by_fault, line_of, places_of

BAR = 18
"""Characters of a GPU's bar."""
LABEL = len("GPU 0-3")
"""Characters in front of it."""

Cells = tuple[str, str, str, str]
"""Name, share, engine and port of an entry."""
PROMISED = "* counted by the plan, not enforced by the engine"
UNNAMED = "lab: not set. Name this inventory in `all`, and no other inventory can change or remove its models."


def show(
    console: screen.Console, fleet: Mapping[str, Host], sizes: Sizes, warnings: Sequence[Problem], apply: str
) -> None:
    """Print the whole plan of an inventory without errors. apply: the command that applies it."""
    names = max(map(len, fleet))
    widths = column_widths(cell for host in fleet.values() for cell in cells_of(host).values())
    for name, host in fleet.items():
        resting = f" · maintenance: {host.maintenance}" if host.maintenance else ""
        console.print(screen.line((name.ljust(names), "bold"), f"   {gpus_of(host)}{resting}"))
        estimates = {key: each for (on, key), each in sizes.estimates.items() if on == name}
        for shown in gpu_map(host, estimates, widths):
            console.print(screen.line("  ", shown))
        details = not_estimated({key: why for (on, key), why in sizes.reasons.items() if on == name})
        if jobs := [key for key, job in host.jobs.items() if job.enabled]:
            details.append(f"jobs: {', '.join(jobs)}")
        for line in details:
            console.print(screen.line((screen.wrapped(console, f"  {line}", indent=4), "dim")))
    if note := loopback_note(
        (name, endpoint(name, host, model))
        for name, host in fleet.items()
        for model in host.entries.values()
        if model.enabled
    ):
        console.print(screen.line((screen.wrapped(console, note, indent=2), "dim")))
    if unseen := [key for (_, key), why in sizes.reasons.items() if why == UNSEEN]:
        many = counted(len(unseen), "model")
        how = "Run gpurack diff to inspect them."
        console.print(screen.line((f"not estimated: {many} with weights not inspected yet. {how}", "dim")))
    faults = by_fault(warnings)
    for fault in faults:
        show_warning(console, fault)
    if not any(host.lab for host in fleet.values()):
        console.print(screen.line((screen.wrapped(console, UNNAMED, indent=2), "dim")))
    warned = f" {counted(len(faults), 'warning')}." if faults else ""
    console.print(f"{summary(fleet, sizes.seen)}{warned} Next: {apply}")


def show_warning(console: screen.Console, fault: Sequence[Problem]) -> None:
    """Print one warning; where it is at several places, those below it."""
    front = "warning  "
    first = fault[0]
    text = line_of(fault) if len(fault) == 1 else f"{first.message.rstrip('.')}. {first.hint}"
    lines = screen.wrapped(console, front + text, indent=len(front)).removeprefix(front)
    console.print(screen.line((front, "yellow"), lines))
    if len(fault) == 1:
        return
    places = places_of(fault, colon=True)
    together = " · ".join(places)
    for place in [together] if len(front + together) <= console.width else places:
        console.print(screen.wrapped(console, f"{' ' * len(front)}{place}", indent=len(front)))


def summary(fleet: Mapping[str, Host], seen: str = "") -> str:
    """`3 hosts, 13 models, 1 disabled, locked. Weights as seen 2026-11-19.`"""
    entries = [model for host in fleet.values() for model in host.entries.values()]
    disabled = sum(not model.enabled for model in entries)
    off = f", {disabled} disabled" if disabled else ""
    as_seen = f" Weights as seen {seen}." if seen else ""
    locked = ", locked" if any(host.lock for host in fleet.values()) else ""
    return f"{counted(len(fleet), 'host')}, {counted(len(entries) - disabled, 'model')}{off}{locked}.{as_seen}"


def counted(number: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gpus_of(spec: Host) -> str:
    """`4 × A30 24 GiB`; without `hardware`, whether GPUs are expected."""
    if not spec.hardware:
        return "GPUs unknown (no hardware given)" if spec.wants_gpu else "CPU"
    parts = []
    for name, cards in spec.hardware.items():
        kind = kind_of(name, spec)
        parts.append(f"{count_of(cards)} × {name}{f' {kind.memory:.0f} GiB' if kind else ''}")
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
    """Model → its GiB of a GPU, None for the whole GPU; the largest share first, equal ones in inventory order."""
    here = ledger.entries_on(slot)
    found = {
        key: model.vram.of(slot.memory or 0) if model.vram else None
        for key, model in spec.models.items()
        if key in here
    }
    return dict(sorted(found.items(), key=lambda share: -(share[1] or 0)))


def on_cpu(spec: Host) -> list[str]:
    """The enabled entries without a GPU."""
    return [key for key, model in spec.entries.items() if model.enabled and not model.gpus]


def cells_of(spec: Host) -> dict[str, Cells]:
    """Entry → the cells of its line, of every entry that has one."""
    on_gpus = {key: share for gpu in filled(spec) for key, share in gpu.shares.items()}
    return {key: entry_cells(spec, key, on_gpus.get(key)) for key in (*on_gpus, *on_cpu(spec))}


def column_widths(rows: Iterable[Cells]) -> list[int]:
    """The widths of the columns that something follows, the same for all hosts."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)][:-1] or [0, 0, 0]


def gpu_map(spec: Host, estimates: Mapping[str, Estimate], widths: Sequence[int]) -> list[Text]:
    """For every GPU (adjacent ones with the same models are one) its bar, and below it a line for each of its models.

    The models on the CPU follow. widths: see `column_widths`.
    """
    alike = groupby(filled(spec), key=lambda gpu: (gpu.slot.name, gpu.slot.reserved, list(gpu.shares.items())))
    blocks = [(gpu_line(spec, list(gpus), estimates), shares) for (_, _, shares), gpus in
              ((key, list(group)) for key, group in alike)]  # fmt: skip
    cells = cells_of(spec)

    def row(label: str, key: str) -> Text:
        name, share, engine, port = cells[key]
        middle = f"{share.rjust(widths[1])}  " if widths[1] else ""
        return screen.line(f"{label.ljust(LABEL)}  {name.ljust(widths[0])}  {middle}{engine.ljust(widths[2])}  {port}")

    lines = [line for bar, shares in blocks for line in (bar, *(row("", key) for key, _ in shares))]
    lines += [row("" if number else "CPU", key) for number, key in enumerate(on_cpu(spec))]
    if any(share.endswith("*") for _, share, _, _ in cells.values()):
        lines.append(screen.line(" " * (LABEL + 2), (PROMISED, "dim")))
    return lines


def entry_cells(spec: Host, key: str, share: float | None) -> Cells:
    """Name, share of its GPU, engine and port of an entry: `("bge-m3", "6 GiB", "vllm 0.33.0", ":8003")`.

    A share that the engine does not enforce has a `*`. A port that other machines cannot reach follows its address.
    """
    model = spec.entries[key]
    mark = "" if share is None else " " if ENGINES[model.engine].enforces_vram else "*"
    bind = (
        "localhost" if on_loopback(model.bind) else "" if model.bind in ("lan", "any", "0.0.0.0", "::") else model.bind
    )
    address = f"[{bind}]" if ":" in bind else bind
    amount = "" if share is None else f"{share:g} GiB{mark}"
    return key, amount, f"{model.engine} {model.version or ''}".strip(), f"{address}:{model.port}"


def gpu_line(spec: Host, gpus: Sequence[Filled], estimates: Mapping[str, Estimate]) -> Text:
    """`GPU 0    █████████████░░░░░  17.4 / 24 GiB`"""
    first, last = gpus[0], gpus[-1].slot
    label = (f"GPU {first.slot.label}" if len(gpus) == 1 else f"GPU {first.slot.label}-{last.label}").ljust(LABEL)
    if first.slot.reserved:
        return screen.line(f"{label}  ", ("reserved", "dim"))
    if not first.shares:
        return screen.line(f"{label}  ", ("░" * BAR, "green"), "  free")
    each = " each" if len(gpus) > 1 else ""
    used, memory = used_of(first, estimates), first.slot.memory
    if used is None or memory is None:
        amount = "whole GPU" if None in first.shares.values() else "? GiB"
        return screen.line(f"{label}  ", ("█" * BAR, "blue"), f"  {amount}{each}")
    full = min(BAR, round(BAR * used / memory))
    return screen.line(f"{label}  ", ("█" * full, "blue"), f"{'░' * (BAR - full)}  {used:.1f} / {memory:.0f} GiB{each}")


def used_of(gpu: Filled, estimates: Mapping[str, Estimate]) -> float | None:
    """GiB of a GPU in use; None if unknown.

    Models with `vram` use their share. A model without `vram` has the GPU for itself and uses its estimate.
    """
    fixed = [share for share in gpu.shares.values() if share is not None]
    if len(fixed) == len(gpu.shares):
        return sum(fixed)
    (key,) = gpu.shares
    return estimates[key].total if key in estimates else None


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
                        "served_name": model.name_served(key),
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
