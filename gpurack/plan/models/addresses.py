"""Where an entry listens on its host, and where the host asks it. Pure."""

from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.plan.models.observed import Observed


def address(bind: str, facts: HostFacts) -> str:
    """Return the host's address that `bind` means.

    `lan` is the address of the default route, "" if there is none.

    >>> address("lan", HostFacts(address="10.0.0.7")), address("loopback", HostFacts())
    ('10.0.0.7', '127.0.0.1')
    """
    return {"loopback": "127.0.0.1", "any": "0.0.0.0", "lan": facts.address}.get(bind, bind)


def address_of(one: Observed) -> str:
    """Return the host's address of an entry.

    Without a default route, `lan` is the address of its container, "" without one. refusals.py refuses to create such
    an entry.
    """
    now = next((ip for ip, _ in one.container.ports), "") if one.container else ""
    return address(one.entry.bind, one.facts) or now


def probe_url(one: Observed) -> str:
    """Return the URL at which the host asks a model whether it is ready."""
    model, ip = one.entry, address_of(one)
    ip = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip)
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{model.port}{ENGINES[model.engine].ready_at(model)}"
