"""`gpurack status` in a terminal, and as JSON."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gpurack import screen
from gpurack.screen import Text
from gpurack.status.lab import CardStatus, HostStatus, ModelStatus

COLOURS = {"ok": "green", "SICK": "red", "UNREACHABLE": "red"} | {
    "ready": "green", "loading": "yellow", "DOWN": "red", "disabled": "dim",
}  # fmt: skip


def show(console: screen.Console, lab: Sequence[HostStatus]) -> None:
    """Hosts with their cards, models with the bad ones first, and what is wrong."""
    hosts = screen.table()
    for host in lab:
        driver = f"driver {host.driver}" if host.driver else ""
        texts = [part for index, card in enumerate(host.cards) for part in (" · ", *card_text(card, index == 0))][1:]
        cards = screen.line(*(texts or ["no cards" if host.reached else ""]))
        hosts.add_row(host.name, coloured(host.word), driver, cards)
    console.print(hosts)
    rows = [(host, model) for host in lab for model in host.models]
    if rows:
        models = screen.table("MODEL", "HOST", "GPU", "STATE", "SERVED", "ENDPOINT")
        for host, model in sorted(rows, key=lambda row: row[1].word != "DOWN"):
            models.add_row(
                model.name, host.name, model.gpus, coloured(model.word, state_text(model, host.now)),
                served_text(model), model.endpoint,
            )  # fmt: skip
        console.print()
        console.print(models)
    for host in lab:
        for trouble in host.troubles:
            console.print(screen.line(("error", "red"), " ", (host.name, "bold"), f" {trouble}"), soft_wrap=True)
        for remark in host.remarks:
            console.print(screen.line(("note", "yellow"), " ", (host.name, "bold"), f" {remark}"), soft_wrap=True)
    console.print(summary(lab))


def coloured(word: str, text: str = "") -> Text:
    """A word in its colour, or a longer text that it begins."""
    return screen.line((text or word, COLOURS[word]))


def card_text(card: CardStatus, first: bool = True) -> tuple[screen.Part, ...]:
    """`GPU 0 20.9 GiB 63 %`, for `screen.line`; units with the first only, as in a table."""
    label = f"GPU {card.index}" if first else f"{card.index}"
    if card.lost:
        return ((f"{label} lost", "red"),)
    if card.reserved:
        return (f"{label} ", ("reserved", "dim"))
    busy = f" {card.utilization} %" if card.utilization is not None else ""
    return (f"{label} {card.memory_used:.1f}{' GiB' if first else ''}{busy}",)


def state_text(model: ModelStatus, now: datetime) -> str:
    """`ready 6 d` · `loading 40 s` · `DOWN 5 h, it exited with code 1, 41 restarts` · `disabled`"""
    parts = [f"{model.word} {age(model.since, now)}".strip()]
    parts += [model.why] if model.why else []
    parts += [counted(model.restarts, "restart")] if model.restarts else []
    return ", ".join(parts)


def served_text(model: ModelStatus) -> str:
    """`12,345 requests`"""
    return f"{model.served:,.0f} {model.unit}" if model.served is not None else ""


def age(since: datetime | None, now: datetime) -> str:
    """The time from one to the other in its largest unit; "" for no time.

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
    """`11 of 13 ready, 1 loading, 1 down; gpu2.lab needs you.`"""
    words = [model.word for host in lab for model in host.models if model.word != "disabled"]
    sick = [host.name for host in lab if host.word != "ok"]
    text = f"{words.count('ready')} of {len(words)} ready"
    for word in ("loading", "DOWN"):
        text += f", {words.count(word)} {word.lower()}" if word in words else ""
    return text + (f"; {', '.join(sick)} {'needs' if len(sick) == 1 else 'need'} you." if sick else ".")


def counted(number: int, noun: str) -> str:
    """`1 restart`, `2 restarts`"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_data(lab: Sequence[HostStatus]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": screen.SCHEMA,
        "hosts": {
            host.name: {
                "state": host.word,
                "time": host.now.isoformat(timespec="seconds"),
                "driver": host.driver or None,
                "troubles": list(host.troubles),
                "remarks": list(host.remarks),
                "gpus": [
                    {**vars(card), "models": list(card.models), "lost": card.lost or None,
                     "memory_used": rounded(card.memory_used), "memory_total": rounded(card.memory_total)}
                    for card in host.cards
                ],
                "models": {
                    model.name: {
                        "state": model.word, "why": model.why or None, "engine": model.engine, "gpus": model.gpus,
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
    """GiB with two decimals."""
    return None if gib is None else round(gib, 2)
