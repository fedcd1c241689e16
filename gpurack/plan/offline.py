"""What can be said of a host's Compose project before the host was looked at. Pure."""

from gpurack.plan import compose
from gpurack.plan.ledger import assign
from gpurack.spec.cards import CARDS
from gpurack.spec.model import Host
from gpurack.spec.seats import seats
from gpurack.state.model import Gpu, HostState

NOTE = """\
# Offline: the cards' UUIDs and the address of `bind: lan` are placeholders, and labels are left out.
"""


def imagined(spec: Host) -> HostState:
    """A host with the inventory's cards and nothing on it."""
    found = []
    for position, seat in enumerate(seats(spec)):
        uuid = seat.card if seat.card.startswith("GPU-") else f"GPU-of-index-{seat.card}"
        compute = (CARDS[seat.name].compute if seat.name in CARDS else None) or ""
        memory = int((seat.memory or 0) * 1024)
        found.append(Gpu(position, uuid, seat.name or "", memory, 0, "", compute, ""))
    return HostState(address="lan-address", gpus=tuple(found))


def compose_text(spec: Host) -> str:
    """compose.yaml as a run on a fresh host would write it."""
    state = imagined(spec)
    cards = assign(spec, state).uuids
    services = {name: compose.service(name, spec, state, uuids) for name, uuids in cards.items()}
    return NOTE + compose.document(services)
