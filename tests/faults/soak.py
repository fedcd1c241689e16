"""Random inventories of one host, and random changes of them. Pure: the same for a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.acceptance.conftest import model

GPUS = 4
PORTS = range(8000, 8012)
SERVED = ("alpha", "beta", "gamma", "delta")
"""The models that the testbed serves; an entry has a name of its own."""
NAMES = tuple(f"{name}-{number}" for name in SERVED for number in (1, 2))
Models = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """A change of the inventory, and the models that it has afterwards. reboot: the host reboots after the run."""

    what: str
    models: Models
    reboot: bool


def served(name: str) -> str:
    """The model that an entry serves.

    >>> served("alpha-2")
    'alpha'
    """
    return name.rpartition("-")[0]


def free_gpus(models: Models) -> list[int]:
    """The GPUs that no entry has."""
    return [gpu for gpu in range(GPUS) if all(gpu not in entry["gpus"] for entry in models.values())]


def free_port(models: Models, chance: random.Random) -> int:
    """A port that no entry has."""
    return chance.choice([port for port in PORTS if all(port != entry["port"] for entry in models.values())])


def some_gpus(models: Models, chance: random.Random) -> list[int]:
    """None, one or two of the free GPUs."""
    free = free_gpus(models)
    return sorted(chance.sample(free, min(chance.randint(0, 2), len(free))))


def add(models: Models, chance: random.Random) -> str:
    """One entry more."""
    name = chance.choice([name for name in NAMES if name not in models])
    models[name] = model(served(name), some_gpus(models, chance), free_port(models, chance))
    return f"add {name}"


def remove(models: Models, chance: random.Random) -> str:
    """One entry less."""
    name = chance.choice(sorted(serving(models)))
    del models[name]
    return f"remove {name}"


def configure(models: Models, chance: random.Random) -> str:
    """Another context."""
    name = chance.choice(sorted(models))
    models[name]["context"] = chance.choice([size for size in (256, 512, 1024) if size != models[name].get("context")])
    return f"change the context of {name}"


def upgrade(models: Models, chance: random.Random) -> str:
    """The other version of the engine."""
    name = chance.choice(sorted(models))
    models[name]["version"] = "b7000" if models[name].get("version") == "b7001" else "b7001"
    return f"another version of {name}"


def move(models: Models, chance: random.Random) -> str:
    """Other GPUs and another port."""
    name = chance.choice(sorted(models))
    models[name]["port"] = free_port(models, chance)
    models[name]["gpus"] = []
    models[name]["gpus"] = some_gpus(models, chance)
    return f"move {name}"


def swap(models: Models, chance: random.Random) -> str:
    """Two entries swap GPUs and ports."""
    one, other = (models[name] for name in chance.sample(sorted(models), 2))
    for word in ("gpus", "port"):
        one[word], other[word] = other[word], one[word]
    return "swap two"


def toggle(models: Models, chance: random.Random) -> str:
    """An entry is disabled, or enabled again."""
    name = chance.choice(sorted(models))
    models[name]["enabled"] = not models[name].get("enabled", True)
    return f"{'enable' if models[name]['enabled'] else 'disable'} {name}"


def nothing(models: Models, chance: random.Random) -> str:
    """The same inventory again."""
    return "nothing"


CHANGES: dict[Callable[[Models, random.Random], str], Callable[[Models], bool]] = {
    add: lambda models: len(models) < len(NAMES),
    remove: lambda models: len(serving(models)) > 1,
    configure: lambda models: True,
    upgrade: lambda models: True,
    move: lambda models: True,
    swap: lambda models: len(models) > 1,
    toggle: lambda models: len(serving(models)) > 1,
    nothing: lambda models: True,
}
"""Change → whether it is possible."""


def steps(seed: int, number: int) -> Iterator[Step]:
    """A random inventory, then so many random changes of it. A reboot follows each tenth on average."""
    chance = random.Random(seed)
    models: Models = {}
    for _ in range(chance.randint(2, 4)):
        add(models, chance)
    yield Step("begin", copy.deepcopy(models), False)
    for _ in range(number):
        what = chance.choice([change for change, possible in CHANGES.items() if possible(models)])(models, chance)
        yield Step(what, copy.deepcopy(models), chance.random() < 0.1)


def serving(models: Models) -> dict[str, tuple[int, str]]:
    """Entry → port and model that must answer there."""
    return {name: (entry["port"], served(name)) for name, entry in models.items() if entry.get("enabled", True)}
