"""Keys of compose.yaml: each generation of an entry's container has one of its own. Pure.

The first is the entry's name, then `NAME.2`, `NAME.3`, … Compose finds a container by its project and key, never by its
name, so two generations of one entry can exist side by side only under two keys.
"""

from collections.abc import Collection

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.record import PROJECTS, is_generation


def current_key(name: str, user: str, facts: HostFacts) -> str:
    """Return the key of an entry's container in a user's Docker; without a container, that in compose.yaml.

    The name of the entry if there is neither.
    """
    container = facts.ours.get((user, name))
    key = container.labels.get(f"{paths.COMPOSE}service") if container else None
    return key if key is not None and is_generation(key, name) else facts.keys(user).get(name, name)


def following(name: str, current: str, taken: Collection[str]) -> str:
    """Return the first free key after the current one; the name itself if that is free.

    >>> following("a", "a", []), following("a", "a", ["a"]), following("a", "a.2", ["a.2", "a.3"])
    ('a', 'a.2', 'a.4')
    """
    if current not in taken:
        return current
    number = int(current[len(name) + 1 :] or 1) if is_generation(current, name) else 1
    keys = (f"{name}.{after}" for after in range(number + 1, number + len(taken) + 2))
    return next(key for key in keys if key not in taken)


def taken_keys(user: str, facts: HostFacts) -> set[str]:
    """Return the keys in use in a user's Docker: by compose.yaml, by containers, and by the record."""
    taken = set(facts.services_of(user))
    for container in facts.containers:
        if container.user == user and container.labels.get(f"{paths.COMPOSE}project") == PROJECTS["model"]:
            taken.add(container.labels.get(f"{paths.COMPOSE}service", ""))
    for one in facts.replacing:
        for member in one.members:
            taken |= {member.old_key or "", member.new_key or ""}
    return taken - {""}
