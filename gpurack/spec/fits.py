"""Do the engines' images run on the cards and with the driver that the inventory names? Pure, no look at hosts."""

from gpurack.engines import ENGINES
from gpurack.spec.cards import CARDS
from gpurack.spec.model import Host, Model
from gpurack.spec.seats import hardware


def unfit_problems(host: Host) -> list[tuple[str, str]]:
    """(path, sentence) for every enabled model whose engine has no image for its cards, or wants a newer driver."""
    problems = []
    for key, model in host.models.items():
        why_not = (
            ENGINES[model.engine].unfit(model, compute_of(host, model), host.nvidia.driver) if model.enabled else None
        )
        if why_not:
            problems.append((f"models.{key}.gpus", why_not))
    return problems


def compute_of(host: Host, model: Model) -> str | None:
    """The lowest compute capability among a model's cards; None where `hardware` does not say."""
    names = hardware(host)
    wanted = range(len(names)) if model.gpus == "all" else [gpu for gpu in model.gpus if isinstance(gpu, int)]
    cards = [CARDS[names[gpu]] for gpu in wanted if gpu < len(names) and names[gpu] in CARDS]
    found = [card.compute for card in cards if card.compute]
    return min(found, key=lambda text: tuple(map(int, text.split("."))), default=None)
