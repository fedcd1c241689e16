"""The cards of a host on paper and who sits on them: what the inventory says, without a look at the host. Pure."""

from dataclasses import dataclass

from gpurack.spec.cards import CARDS
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model

SHARED = 0.95
"""Of a card's memory, what models that share it may have together: each process keeps a context of its own
(vLLM sharing a GPU needs a sum of fractions of at most about 0.95)."""


@dataclass(frozen=True)
class Seat:
    """One card. card: its index or UUID prefix as text. name, memory (GiB): None where `hardware` does not say.

    occupants: model → its share in GiB (None: the whole card). usable: GiB that models may have.
    """

    card: str
    name: str | None
    memory: float | None
    reserved: bool
    occupants: tuple[tuple[str, float | None], ...]

    @property
    def usable(self) -> float | None:
        """What models may have of it: all of it for one, 95 % for several together."""
        if self.memory is None:
            return None
        return self.memory * SHARED if len(self.occupants) > 1 else self.memory


def hardware(host: Host) -> list[str]:
    """The names of a host's cards by index, from `hardware: {"A30": 4}`; [] when it does not say."""
    return [name for name, count in host.hardware.items() for _ in range(count)]


def sits_on(model: Model | Job, card: str, reserved: bool) -> bool:
    """Does a model or job ask for this card?"""
    if model.gpus == "all":
        return not reserved
    return card in map(str, model.gpus)


def seats(host: Host) -> list[Seat]:
    """Every card that the inventory knows of, in order, with the enabled models on it."""
    names = hardware(host)
    mentioned = {gpu for model in host.models.values() for gpu in model.gpus if model.gpus != "all"}
    indices = {gpu for gpu in {*mentioned, *host.reserved_gpus} if isinstance(gpu, int)}
    uuids = sorted(gpu for gpu in mentioned if isinstance(gpu, str))
    count = len(names) or max(indices, default=-1) + 1
    reserved_cards = set(map(str, host.reserved_gpus))
    found = []
    for position, card in enumerate([*map(str, range(count)), *uuids]):
        name = names[position] if position < len(names) else None
        memory = CARDS[name].memory if name in CARDS else None
        reserved = card in reserved_cards
        occupants = tuple(
            (key, model.vram.of(memory or 0) if model.vram else None)
            for key, model in host.models.items()
            if model.enabled and model.gpus and sits_on(model, card, reserved)
        )
        found.append(Seat(card, name, memory, reserved, occupants))
    return found


def seat_problems(host: Host) -> list[tuple[str, str]]:
    """(path, sentence) for every card that cannot be what the inventory wants of it."""
    names = hardware(host)
    cards = f"{len(names)} cards, 0 to {len(names) - 1}" if len(names) > 1 else "one card, 0"
    beyond = [gpu for gpu in host.reserved_gpus if isinstance(gpu, int) and names and gpu >= len(names)]
    problems = [("reserved_gpus", f"GPU {gpu} does not exist; hardware says {cards}.") for gpu in beyond]
    for key, model in host.models.items():
        if not model.enabled:
            continue
        indices = [gpu for gpu in model.gpus if isinstance(gpu, int)] if model.gpus != "all" else []
        missing = [gpu for gpu in indices if names and gpu >= len(names)]
        if missing:
            problems.append(
                (f"models.{key}.gpus", f"GPU {', '.join(map(str, missing))} does not exist; hardware says {cards}.")
            )
        taken = [gpu for gpu in model.gpus if model.gpus != "all" and gpu in host.reserved_gpus]
        if taken:
            problems.append(
                (f"models.{key}.gpus", f"GPU {', '.join(map(str, taken))} is reserved (reserved_gpus); choose another.")
            )
    for seat in seats(host):
        shares = [(key, share) for key, share in seat.occupants if share is not None]
        if seat.usable is None or len(shares) < len(seat.occupants):
            continue
        together = sum(share for _, share in shares)
        if together > seat.usable + 0.005:
            who = ", ".join(f"{key} {share:.1f}" for key, share in shares)
            problems.append(
                (
                    f"models.{shares[-1][0]}.vram",
                    f"GPU {seat.card} ({seat.name}) would hold {together:.1f} of {seat.usable:.1f} GiB: {who}. "
                    "Lower vram or choose another card.",
                )
            )
    return problems
