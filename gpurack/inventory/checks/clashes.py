"""What two entries of one host cannot both have: a name, a port, a served name. Pure."""

import ipaddress
from collections.abc import Collection
from itertools import combinations

from gpurack.listening import EVERYWHERE, overlap
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def clashes(name: str, spec: Host) -> list[Problem]:
    """Errors of entries with the same name, port or served name on one host."""
    problems = [
        Problem.of("name-used-twice", name, f"services.{key}", kind="model")
        for key in spec.services
        if key in spec.models
    ]
    problems += [
        Problem.of("name-used-twice", name, f"jobs.{key}", kind="model or service")
        for key in spec.jobs
        if key in spec.entries
    ]
    enabled = {key: model for key, model in spec.entries.items() if model.enabled}
    ports = {model.port for model in spec.entries.values()}
    for (first, one), (second, other) in combinations(enabled.items(), 2):
        path = f"{'services' if second in spec.services else 'models'}.{second}"
        if one.port == other.port and binds_overlap(one.bind, other.bind):
            words = {"port": one.port, "one": first, "other": second, "free": free_port(one.port, ports)}
            problems.append(Problem.of("port-used-twice", name, f"{path}.port", **words))
        if (served := one.name_served(first)) == other.name_served(second):
            where = f"{path}.served_name"
            problems.append(Problem.of("served-name-used-twice", name, where, name=served, one=first, other=second))
    return problems


def free_port(port: int, taken: Collection[int]) -> int:
    """The next port that no entry of the host has."""
    return next((each for each in range(port + 1, 65536) if each not in taken), port - 1)


def binds_overlap(one: str, other: str) -> bool:
    """Do two binds overlap, so that they cannot share a port? `lan` is an address that is unknown here."""
    known = {"any": "0.0.0.0", "loopback": "127.0.0.1"}
    first, second = known.get(one, one), known.get(other, other)
    if "lan" in (one, other) and one != other:
        rest = second if one == "lan" else first
        return rest in EVERYWHERE or not ipaddress.ip_address(rest).is_loopback
    return overlap(first, second)
