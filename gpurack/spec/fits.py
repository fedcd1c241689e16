"""Do the engines' images run on the cards and with the driver that the inventory names, and may the models have the
cards? Pure, no look at hosts."""

from gpurack.engines import ENGINES
from gpurack.engines.container import Accelerator
from gpurack.spec.cards import CARDS
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.seats import hardware

AMD_OF_USER = (
    "AMD's cards open to groups of the host (/dev/kfd, /dev/dri), which are other ones in the rootless Docker of {}, "
    'so that the model could not use its card. Write "user": null for it: it then runs in the host\'s own Docker.'
)


def unfit_problems(host: Host) -> list[tuple[str, str]]:
    """(path, sentence) for every enabled model that could not open its cards, or whose engine has no image for them or
    wants a newer driver."""
    problems = []
    for key, model in host.entries.items():
        if model.enabled and model.gpus and model.user and accelerator(host, model).vendor == "amd":
            problems.append((f"{host.kind_of(key)}.{key}.user", AMD_OF_USER.format(model.user)))
    for key, model in host.models.items():
        why_not = (
            ENGINES[model.engine].unfit(model, accelerator(host, model), host.nvidia.driver) if model.enabled else None
        )
        if why_not:
            problems.append((f"models.{key}.gpus", why_not))
    return problems


def accelerator(host: Host, model: Model) -> Accelerator:
    """What a model with cards computes on, as far as `hardware` says: AMD's, or NVIDIA's of the lowest compute
    capability among them."""
    names = hardware(host)
    wanted = range(len(names)) if model.gpus == "all" else [gpu for gpu in model.gpus if isinstance(gpu, int)]
    cards = [CARDS[names[gpu]] for gpu in wanted if gpu < len(names) and names[gpu] in CARDS]
    if any(card.vendor == "amd" for card in cards):
        return Accelerator("amd")
    found = [card.compute for card in cards if card.compute]
    return Accelerator("nvidia", min(found, key=lambda text: tuple(map(int, text.split("."))), default=None))
