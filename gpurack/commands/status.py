"""`gpurack status` in a terminal, and as JSON."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gpurack import screen
from gpurack.commands.lab_status import GpuStatus, HostStatus, ModelStatus
from gpurack.screen import Text

COLOURS = {"ok": "green", "DEGRADED": "red", "UNREACHABLE": "red"} | {
    "ready": "green", "loading": "yellow", "DOWN": "red", "UNKNOWN": "red", "disabled": "dim",
}  # fmt: skip
JSON_STATES = {"DEGRADED": "SICK", "UNKNOWN": "DOWN"}
"""States that `--json` has by an older name, which scripts read."""
BAD = ("DOWN", "UNKNOWN")
"""The models that are listed first."""


def show(console: screen.Console, lab: Sequence[HostStatus]) -> None:
    """Print the hosts with their GPUs, the models with those that are down first, and all errors and notes."""
    hosts = screen.table()
    for host in lab:
        driver = f"driver {host.driver}" if host.driver else ""
        texts = [part for index, gpu in enumerate(host.gpus) for part in (" · ", *gpu_text(gpu, index == 0))][1:]
        gpus = screen.line(*(texts or ["no GPUs" if host.reached else ""]))
        hosts.add_row(host.name, coloured(host.state), driver, gpus)
    console.print(hosts)
    rows = [(host, model) for host in lab for model in host.models]
    if rows:
        models = screen.table("MODEL", "HOST", "GPU", "STATE", "SERVED", "ENDPOINT")
        for host, model in sorted(rows, key=lambda row: row[1].state not in BAD):
            models.add_row(
                model.name, host.name, model.gpus, coloured(model.state, state_text(model, host.now)),
                served_text(model), model.endpoint,
            )  # fmt: skip
        console.print()
        console.print(models)
    for host in lab:
        for error in host.errors:
            console.print(screen.line(("error", "red"), " ", (host.name, "bold"), f" {error.what}"), soft_wrap=True)
        for note in host.notes:
            console.print(screen.line(("note", "yellow"), " ", (host.name, "bold"), f" {note.what}"), soft_wrap=True)
    console.print(summary(lab))


def coloured(state: str, text: str = "") -> Text:
    """A state in its colour, or a longer text that starts with it."""
    return screen.line((text or state, COLOURS[state]))


def gpu_text(gpu: GpuStatus, first: bool = True) -> tuple[screen.Part, ...]:
    """`GPU 0 20.9 GiB 63 %`, for `screen.line`. Only the host's first GPU carries the word and the unit."""
    label = f"GPU {gpu.index}" if first else f"{gpu.index}"
    if gpu.lost:
        return ((f"{label} lost", "red"),)
    if gpu.reserved:
        return (f"{label} ", ("reserved", "dim"))
    utilization = f" {gpu.utilization} %" if gpu.utilization is not None else ""
    return (f"{label} {gpu.memory_used:.1f}{' GiB' if first else ''}{utilization}",)


def state_text(model: ModelStatus, now: datetime) -> str:
    """`ready 6 d` · `loading 40 s` · `DOWN 5 h: exited with code 1, 41 restarts` · `disabled`"""
    text = f"{model.state} {age(model.since, now)}".strip()
    text += f": {model.why}" if model.why else ""
    return text + (f", {counted(model.restarts, 'restart')}" if model.restarts else "")


def served_text(model: ModelStatus) -> str:
    """`12,345 requests`"""
    return f"{model.served:,.0f} {model.unit}" if model.served is not None else ""


def age(since: datetime | None, now: datetime) -> str:
    """The time between two moments in its largest unit; "" without a start.

    >>> from datetime import UTC
    >>> age(datetime(2026, 11, 14, tzinfo=UTC), datetime(2026, 11, 20, 9, tzinfo=UTC))
    '6 d'
    """
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def summary(lab: Sequence[HostStatus]) -> str:
    """`11 of 13 ready, 1 loading, 1 down. 1 host needs attention: gpu2.lab.`"""
    states = [model.state for host in lab for model in host.models if model.state != "disabled"]
    bad = [host.name for host in lab if host.state != "ok"]
    text = f"{states.count('ready')} of {len(states)} ready"
    for state in ("loading", "DOWN", "UNKNOWN"):
        text += f", {states.count(state)} {state.lower()}" if state in states else ""
    if bad:
        text += f". {counted(len(bad), 'host')} {'needs' if len(bad) == 1 else 'need'} attention: {', '.join(bad)}"
    return f"{text}."


def counted(number: int, noun: str) -> str:
    """`1 restart`, `2 restarts`"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_data(lab: Sequence[HostStatus]) -> dict[str, Any]:
    """The status for programs (`--json`). Its keys and states never change."""
    return {
        "schema": screen.SCHEMA,
        "hosts": {
            host.name: {
                "state": JSON_STATES.get(host.state, host.state),
                "time": host.now.isoformat(timespec="seconds"),
                "driver": host.driver or None,
                "troubles": [error.what for error in host.errors],
                "remarks": [note.what for note in host.notes],
                "errors": [error.at(host.name).as_data() for error in host.errors],
                "warnings": [note.at(host.name).as_data() for note in host.notes],
                "gpus": [
                    {**vars(gpu), "models": list(gpu.models), "lost": gpu.lost or None,
                     "memory_used": rounded(gpu.memory_used), "memory_total": rounded(gpu.memory_total)}
                    for gpu in host.gpus
                ],
                "models": {
                    model.name: {
                        "state": JSON_STATES.get(model.state, model.state), "why": model.why or None,
                        "problem": model.problem.at(host.name).as_data() if model.problem else None,
                        "engine": model.engine, "gpus": model.gpus,
                        "endpoint": model.endpoint or None, "restarts": model.restarts,
                        "since": model.since.isoformat(timespec="seconds") if model.since else None,
                        "served": None if model.served is None else {"count": model.served, "unit": model.unit},
                    }
                    for model in host.models
                },
            }
            for host in lab
        },
        "summary": summary(lab),
    }  # fmt: skip


def rounded(gib: float | None) -> float | None:
    """Rounded to two decimals."""
    return None if gib is None else round(gib, 2)
