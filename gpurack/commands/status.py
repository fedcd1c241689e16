"""`gpurack status` in a terminal, and as JSON."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from gpurack import screen
from gpurack.commands.lab_status import WELL, GpuStatus, HostCondition, HostStatus, ModelStatus
from gpurack.engines.urls import loopback_note
from gpurack.plan.models.health import age, times
from gpurack.plan.models.states import ModelState
from gpurack.screen import Text
from gpurack.spec.problems import grouped

NOTE, RED = "note", "red"
COLOURS = dict.fromkeys((HostCondition.OK, ModelState.READY), "green") | {
    HostCondition.MAINTENANCE: "yellow", ModelState.LOADING: "yellow", ModelState.HELD: "yellow",
    ModelState.STOPPED: "yellow", NOTE: "yellow", ModelState.DISABLED: "dim",
}  # fmt: skip
"""The others are red."""
JSON_HOSTS = {HostCondition.DEGRADED: "SICK"}
"""States of hosts that `--json` has by an older name, which scripts read."""
JSON_MODELS = {ModelState.UNKNOWN: ModelState.DOWN, ModelState.DEGRADED: ModelState.READY}
"""The same of models. A model that computes on the CPU makes its host SICK."""
STOPPED = (ModelState.HELD, ModelState.STOPPED)
"""States of a model that an admin stopped."""
ATTENTION = (ModelState.DOWN, ModelState.LOADING, *STOPPED)
"""States of a model that have a line of their own, in this order."""
Row = tuple[str, str, str, str]
"""A state, its host, what is said, and the hint."""


def show(console: screen.Console, lab: Sequence[HostStatus], now: datetime, verbose: bool = False) -> None:
    """Print the status. Only tables are wrapped to the terminal, so that texts can be searched."""
    for part in parts(lab, now, verbose):
        console.print(part, soft_wrap=not isinstance(part, screen.Table))


def parts(lab: Sequence[HostStatus], now: datetime, verbose: bool = False) -> Iterator[Text | screen.Table]:
    """Yield what needs attention, then one line for each host that is well. now: when the hosts were inspected.

    verbose: also every GPU, and every model with its address.
    """
    found = list(rows(lab))
    states, names = (max((len(row[column]) for row in found), default=0) for column in (0, 1))
    for state, host, text, hint in found:
        yield screen.line((state.ljust(states), COLOURS.get(state, RED)), f"  {host.ljust(names)}  {text}")
        if hint:
            yield screen.line(f"  hint: {hint}")
    if verbose:
        yield from details(lab)
    yield screen.line(f"{summary(lab)} Checked {now.astimezone():%H:%M %Z}.")


def rows(lab: Sequence[HostStatus]) -> Iterator[Row]:
    """Yield what needs attention, then the hosts that are well."""
    troubled: dict[tuple[str, str, str], list[str]] = {}
    for host in lab:
        for model in host.models:
            if model.state in ATTENTION:
                key = (model.state, host.name, since_text(model, host.now))
                troubled.setdefault(key, []).append(f"{model.name} :{model.port}")
    for state, name, since in sorted(troubled, key=lambda each: ATTENTION.index(ModelState(each[0]))):
        yield state, name, ", ".join(troubled[state, name, since]) + since, ""
    for host in lab:
        for error in host.errors:
            yield host.state, host.name, error.message, error.hint
    for host in lab:
        if host.maintenance:
            yield host.state, host.name, host.maintenance, ""
        elif host.state == HostCondition.OK and all(model.is_up for model in host.models):
            yield host.state, host.name, counts(host), ""
        for note in grouped(host.notes):
            yield NOTE, host.name, note, ""


def details(lab: Sequence[HostStatus]) -> Iterator[Text | screen.Table]:
    """Yield every GPU and every model, host by host."""
    for host in lab:
        driver = f"   driver {host.driver}" if host.driver else ""
        yield screen.line("\n", (host.name, "bold"), driver)
        for gpu in host.gpus:
            yield screen.line("  ", *gpu_text(gpu))
        models = screen.table()
        for model in host.models:
            text = state_text(model, host.now)
            state = (
                coloured(model.state, text)
                if host.state == HostCondition.OK or model.state != ModelState.READY
                else text
            )
            models.add_row(f"  {model.name}", state, served_text(model), model.endpoint)
        if host.models:
            yield models
    yield screen.line("")
    if note := loopback_note((host.name, model.endpoint) for host in lab for model in host.models):
        yield screen.line((note, "dim"))


def counts(host: HostStatus) -> str:
    """`4 GPUs, 8 of 8 ready, 1 disabled`."""
    enabled = [model for model in host.models if model.state != ModelState.DISABLED]
    parts = [counted(len(host.gpus), "GPU") if host.gpus else "no GPUs"]
    if enabled:
        parts.append(f"{sum(model.state.serves for model in enabled)} of {len(enabled)} ready")
    states = [model.state for model in enabled]
    parts += [f"{states.count(state)} {state}" for state in STOPPED if state in states]
    if off := len(host.models) - len(enabled):
        parts.append(f"{off} disabled")
    return ", ".join(parts)


def coloured(state: str, text: str = "") -> Text:
    """A state in its colour, or a longer text that starts with it."""
    return screen.line((text or state, COLOURS.get(state, RED)))


def gpu_text(gpu: GpuStatus) -> tuple[screen.Part, ...]:
    """`GPU 0  21.3 / 24 GiB  util 63 %  61 °C  alpha, beta`, for `screen.line`."""
    label = f"GPU {gpu.index}"
    if gpu.lost:
        return ((f"{label}  {gpu.lost}", "red"),)
    texts = [label]
    if gpu.memory_used is not None and gpu.memory_total is not None:  # None where GPU and CPU share memory
        texts.append(f"{gpu.memory_used:.1f} / {gpu.memory_total:.0f} GiB")
    if gpu.utilization is not None:
        texts.append(f"util {gpu.utilization} %")
    if gpu.temperature is not None:
        texts.append(f"{gpu.temperature} °C")
    if gpu.power_limit and gpu.power_default and gpu.power_limit < gpu.power_default:
        texts.append(f"limited to {gpu.power_limit:.0f} of {gpu.power_default:.0f} W")
    if gpu.reserved:
        texts.append("reserved")
    if gpu.models:
        texts.append(", ".join(gpu.models))
    return ("  ".join(texts),)


def since_text(model: ModelStatus, now: datetime) -> str:
    """` since 02:11 (49 min), 41 restarts: exited with code 1`, to follow the names of models."""
    text = ""
    if model.since:
        text += f" since {clock(model.since, now)} ({age(model.since, now)})"
    return text + restarts_text(model, now) + (f": {model.why}" if model.why else "")


def state_text(model: ModelStatus, now: datetime) -> str:
    """`ready 6 d` · `ready 2 h, restarted 3 times since 14:02` · `DOWN 5 h: exited with code 1, 41 restarts`"""
    text = f"{model.state} {age(model.since, now)}".strip()
    text += f": {model.why}" if model.why else ""
    return text + restarts_text(model, now)


def restarts_text(model: ModelStatus, now: datetime) -> str:
    """`, restarted 3 times since 14:02` for a ready model that was since its last test; else all of Docker's count."""
    if model.state.serves and model.restarted and model.tested:
        return f", restarted {times(model.restarted)} since {clock(model.tested, now)}"
    return f", {counted(model.restarts, 'restart')}" if model.restarts else ""


def clock(moment: datetime, now: datetime) -> str:
    """`14:02`, or `2026-11-19 14:02` on another day. In the time zone of `now`."""
    local = moment.astimezone(now.tzinfo)
    return f"{local:%H:%M}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M}"


def served_text(model: ModelStatus) -> str:
    """`12,345 requests`, `1 token`"""
    if model.served is None:
        return ""
    count = f"{model.served:,.0f}"
    return f"{count} {model.unit.removesuffix('s') if count == '1' else model.unit}"


def summary(lab: Sequence[HostStatus]) -> str:
    """`11 of 13 models ready, 1 loading, 1 down. 1 host needs attention: gpu2.lab. In maintenance: gpu3.lab.`"""
    states = [model.state for host in lab for model in host.models if model.state != ModelState.DISABLED]
    bad = [host.name for host in lab if host.state not in WELL]
    text = f"{sum(state.serves for state in states)} of {counted(len(states), 'model')} ready"
    for state in (ModelState.LOADING, *STOPPED, ModelState.DOWN, ModelState.UNKNOWN):
        text += f", {states.count(state)} {state.lower()}" if state in states else ""
    if bad:
        text += f". {counted(len(bad), 'host')} {'needs' if len(bad) == 1 else 'need'} attention: {', '.join(bad)}"
    if resting := [host.name for host in lab if host.maintenance]:
        text += f". In maintenance: {', '.join(resting)}"
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
                "state": JSON_HOSTS.get(host.state, host.state),
                "maintenance": host.maintenance or None,
                "time": host.now.isoformat(timespec="seconds"),
                "driver": host.driver or None,
                "troubles": [error.what for error in host.errors],
                "remarks": [note.what for note in host.notes],
                "errors": [error.at(host.name).as_data() for error in host.errors],
                "warnings": [note.at(host.name).as_data() for note in host.notes],
                "gpus": [
                    {**vars(gpu), "models": list(gpu.models), "lost": gpu.lost or None,
                     "compute_mode": gpu.compute_mode or None, "addressing": gpu.addressing or None,
                     "memory_used": rounded(gpu.memory_used), "memory_total": rounded(gpu.memory_total)}
                    for gpu in host.gpus
                ],
                "models": {
                    model.name: {
                        "state": JSON_MODELS.get(model.state, model.state), **reasons(model, host.name),
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


def reasons(model: ModelStatus, host: str) -> dict[str, Any]:
    """Why a model is not ready, for `--json`. That one computes on the CPU is among the errors of its host."""
    problem = None if model.state.serves else model.problem
    return {"why": model.why if problem else None, "problem": problem.at(host).as_data() if problem else None}


def rounded(gib: float | None) -> float | None:
    """Rounded to two decimals."""
    return None if gib is None else round(gib, 2)
