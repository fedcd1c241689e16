"""What `gpurack plan` shows: the cards of every host with who sits on them, endpoints, warnings, errors."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpurack import screen
from gpurack.endpoints import endpoint
from gpurack.engines import ENGINES
from gpurack.plan.estimate import UNSEEN, Estimate
from gpurack.plan.offline import Sizes
from gpurack.screen import Text
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from gpurack.spec.seats import Seat, hardware, seats

BAR = 17
"""Characters of a card's bar."""
LABEL = len("GPU 0-3")
"""Characters in front of it."""


def show(
    console: screen.Console, fleet: Mapping[str, Host], sizes: Sizes, warnings: Sequence[Problem], apply: str
) -> None:
    """The whole plan of an inventory without errors."""
    console.print(headline(fleet, sizes.seen))
    for name, host in fleet.items():
        console.print(screen.line((name, "bold"), f"   {cards_of(host)}"))
        for card in gpu_map(host, {key: each for (on, key), each in sizes.estimates.items() if on == name}):
            console.print(screen.line("  ", card))
        quiet = not_estimated({key: why for (on, key), why in sizes.reasons.items() if on == name})
        quiet += endpoints(name, host)
        if once := [key for key, job in host.jobs.items() if job.enabled]:
            quiet.append(f"once: {', '.join(once)}")
        for line in quiet:
            console.print(screen.line("  ", (line, "dim")))
    if unseen := [key for (_, key), why in sizes.reasons.items() if why == UNSEEN]:
        many = counted(len(unseen), "model")
        how = "gpurack plan --live does, and any run"
        console.print(screen.line((f"not estimated: {many} whose weights nobody has looked at yet; {how}", "dim")))
    for line in grouped(warnings):
        console.print(screen.line(("warning", "yellow"), f"  {line}"))
    console.print(f"0 errors, {counted(len(warnings), 'warning')}. Apply: {apply}")


def grouped(warnings: Sequence[Problem]) -> list[str]:
    """One line per sentence, with all that it is true of: a lab of forty models has few kinds of warnings.

    >>> grouped([Problem("a", "models.x", "no key."), Problem("b", "models.y", "no key.")])
    ['no key: a x · b y']
    """
    places: dict[str, dict[str, list[str]]] = {}
    for problem in warnings:
        name = problem.path.partition(".")[2] or problem.path
        places.setdefault(problem.what, {}).setdefault(problem.host, []).append(name)
    lines = []
    for what, hosts in places.items():
        if sum(map(len, hosts.values())) == 1:
            lines.append(str(next(problem for problem in warnings if problem.what == what)))
        else:
            where = " · ".join(f"{host} {', '.join(names)}".strip() for host, names in hosts.items())
            lines.append(f"{what.rstrip('.')}: {where}")
    return lines


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


def cards_of(host: Host) -> str:
    """`4 × A30, 24.0 GiB`, or what can be said without `hardware`."""
    if not host.hardware:
        return "cards unknown (no hardware given)" if host.wants_gpu else "CPU"
    memory = {seat.name: seat.memory for seat in seats(host)}
    parts = []
    for name, count in host.hardware.items():
        size = f", {memory[name]:.1f} GiB" if memory.get(name) else ""
        parts.append(f"{count} × {name}{size}")
    return " + ".join(parts)


def not_estimated(reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason, with the models that have it; those that were never seen are counted elsewhere."""
    models: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        if reason != UNSEEN:
            models.setdefault(reason, []).append(key)
    return [f"not estimated: {', '.join(keys)} ({reason})" for reason, keys in models.items()]


def gpu_map(host: Host, estimates: Mapping[str, Estimate]) -> list[Text]:
    """One line per card, neighbours with the same content as one, and one for the models on the CPU."""
    lines: list[Text] = []
    run: list[Seat] = []
    for seat in [*seats(host), None]:
        if seat and run and same(seat, run[-1]):
            run.append(seat)
            continue
        if run:
            lines.append(card_line(host, run, estimates))
        run = [seat] if seat else []
    on_cpu = [key for key, model in host.entries.items() if model.enabled and not model.gpus]
    if on_cpu:
        lines.append(screen.line(f"{'CPU'.ljust(LABEL)}  {', '.join(on_cpu)}"))
    return lines


def same(one: Seat, other: Seat) -> bool:
    """Do two cards hold the same, so that one line is enough?"""
    return (one.name, one.reserved, one.occupants) == (other.name, other.reserved, other.occupants)


def card_line(host: Host, cards: Sequence[Seat], estimates: Mapping[str, Estimate]) -> Text:
    """`GPU 0  ██████████████░░░  17.4 of 21.6 GiB  who`"""
    seat = cards[0]
    label = (f"GPU {seat.card}" if len(cards) == 1 else f"GPU {seat.card}-{cards[-1].card}").ljust(LABEL)
    if seat.reserved:
        return screen.line(f"{label}  ", ("reserved", "dim"))
    if not seat.occupants:
        return screen.line(f"{label}  ", ("░" * BAR, "green"), "  free")
    each = " each" if len(cards) > 1 else ""
    used, usable = filling(host, seat, estimates)
    who = names(host, seat)
    if used is None:
        amount = "the whole card" if None in dict(seat.occupants).values() else "? GiB"
        return screen.line(f"{label}  ", ("█" * BAR, "blue"), f"  {amount}{each}  {who}")
    size = f" of {usable:.1f}" if usable else ""
    full = min(BAR, round(BAR * used / usable)) if usable else BAR
    amount = f"{'░' * (BAR - full)}  {used:.1f}{size} GiB{each}  {who}"
    return screen.line(f"{label}  ", ("█" * full, "blue"), amount)


def filling(host: Host, seat: Seat, estimates: Mapping[str, Estimate]) -> tuple[float | None, float | None]:
    """(GiB of a card that are taken, GiB that its models may take); None where it is not known. Models with `vram` take
    their share; one without has the card for itself and takes what is estimated."""
    shares = [share for _, share in seat.occupants if share is not None]
    if len(shares) == len(seat.occupants):
        return (sum(shares), seat.usable) if seat.usable else (None, None)
    key = seat.occupants[0][0]
    if key not in estimates:
        return None, None
    model = host.models[key]
    return estimates[key].total, ENGINES[model.engine].budget(model, seat.memory) if seat.memory else None


def names(host: Host, seat: Seat) -> str:
    """Who sits on a card: shares of several, `(promised)` where the engine does not keep to it."""
    texts = []
    for key, share in seat.occupants:
        amount = f" {share:g}" if share is not None and len(seat.occupants) > 1 else ""
        promised = " (promised)" if share is not None and not ENGINES[host.models[key].engine].enforces_vram else ""
        texts.append(f"{key}{amount}{promised}")
    return ", ".join(texts)


def endpoints(name: str, host: Host) -> list[str]:
    """`http://gpu1.lab:8000/v1  qwen2.5-7b-instruct`, as people reach it; loopback ones only on the host itself."""
    return [f"{endpoint(name, host, model)}  {key}" for key, model in host.entries.items() if model.enabled]


def as_data(fleet: Mapping[str, Host], sizes: Sizes, warnings: Sequence[Problem]) -> dict[str, Any]:
    """The plan for programs (`--json`)."""
    return {
        "schema": screen.SCHEMA,
        "weights_seen": sizes.seen or None,
        "hosts": {
            name: {
                "hardware": hardware(host),
                "gpus": [
                    {
                        "gpu": seat.card,
                        "name": seat.name,
                        "usable_gib": None if seat.usable is None else round(seat.usable, 3),
                        "reserved": seat.reserved,
                        "models": dict(seat.occupants),
                    }
                    for seat in seats(host)
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
    """GiB of each card; or why there is no estimate; None for what is disabled or a service."""
    if each := sizes.estimates.get((host, model)):
        parts = {"weights": each.weights, "kv": each.kv, "overhead": each.overhead, "total": each.total}
        return {**{key: round(value, 3) for key, value in parts.items()}, "tokens": each.tokens}
    reason = sizes.reasons.get((host, model))
    return {"not_estimated": reason} if reason else None
