"""What can be said of a host before it was looked at: its Compose project, and whether its models fit. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpurack.engines.base import NotEstimated
from gpurack.plan import compose, weights
from gpurack.plan.desired import desire
from gpurack.plan.estimate import Estimate, estimate, refusal, tight
from gpurack.plan.ledger import assign
from gpurack.spec.cards import CARDS, Card
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from gpurack.spec.seats import seats
from gpurack.state.model import Gpu, Header, HostState

NOTE = """\
# Offline: the cards' UUIDs and the address of `bind: lan` are placeholders, and labels are left out.
"""


def imagined(spec: Host) -> HostState:
    """A host with the inventory's cards and nothing on it."""
    found = []
    for position, seat in enumerate(seats(spec)):
        uuid = f"GPU-of-index-{seat.card}" if seat.card.isdecimal() else seat.card
        card = CARDS.get(seat.name or "", Card(0, "unknown"))
        memory = int((seat.memory or 0) * 1024)
        node = f"/dev/dri/render-node-of-index-{seat.card}"
        found.append(
            Gpu(position, uuid, seat.name or "", memory, 0, "", card.compute or "", "", None, card.vendor, node)
        )
    return HostState(address="lan-address", gpus=tuple(found))


def compose_text(spec: Host) -> str:
    """compose.yaml as a run on a fresh host would write it."""
    state = imagined(spec)
    cards = assign(spec, state).uuids
    desired = [desire(name, spec, state, uuids) for name, uuids in cards.items()]
    users = sorted({one.user for one in desired}) or [""]
    return NOTE + "---\n".join(
        compose.document({one.name: one.service for one in desired if one.user == user}, user) for user in users
    )


@dataclass(frozen=True)
class Sizes:
    """What is known of the memory that the enabled models of a fleet need.

    estimates: (host, model) → what it needs of each card. reasons: (host, model) → why there is no estimate. seen: the
    oldest day on which weights that count here were seen, "" for none. problems: what cannot fit; warnings: what is
    tight.
    """

    estimates: Mapping[tuple[str, str], Estimate]
    reasons: Mapping[tuple[str, str], str]
    seen: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def sizes(fleet: Mapping[str, Host], remembered: Mapping[str, Mapping[str, Header]]) -> Sizes:
    """remembered: host → path of weights → its header, as it was last seen there."""
    estimates, reasons, days = {}, {}, []
    problems, warnings = [], []
    for name, host in fleet.items():
        places = seats(host)
        for key, model in host.models.items():
            if not model.enabled:
                continue
            header = remembered.get(name, {}).get(weights.host_path(host, model))
            mine = [seat for seat in places if key in dict(seat.occupants)]
            cards = [
                (f"GPU {seat.card} ({seat.name})" if seat.name else f"GPU {seat.card}", seat.memory) for seat in mine
            ]
            try:
                if model.gpus and not cards:
                    raise NotEstimated("its cards are not known; write hardware")
                estimates[name, key] = estimate(model, header, len(cards))
            except NotEstimated as reason:
                reasons[name, key] = str(reason)
            if header:
                days.append(header.seen)
            if error := refusal(model, header, cards):
                seen = f" Weights as seen {header.seen}." if header else ""
                problems.append(Problem(name, f"models.{key}", f"{error}{seen}"))
            if warning := tight(model, header, cards):
                warnings.append(Problem(name, f"models.{key}", warning))
    return Sizes(estimates, reasons, min(days, default=""), tuple(problems), tuple(warnings))
