"""Where an entry listens on its host, and where the host asks it. Pure."""

from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.spec.host import Host


def address(bind: str, facts: HostFacts) -> str:
    """The host's address that a bind means. `lan` is the one that the default route uses, "" where there is none."""
    return {"loopback": "127.0.0.1", "any": "0.0.0.0", "lan": facts.address}.get(bind, bind)


def address_of(name: str, spec: Host, facts: HostFacts) -> str:
    """The host's address of an entry. While `lan` means none, that of its container; "" without one (refusals.py
    keeps such an entry from being made)."""
    container = facts.container(name, spec.entries[name].dockerd)
    now = next((ip for ip, _ in container.ports), "") if container else ""
    return address(spec.entries[name].bind, facts) or now


def probe_url(name: str, spec: Host, facts: HostFacts) -> str:
    """Where a model is asked whether it is ready, from the host itself."""
    model = spec.entries[name]
    ip = address_of(name, spec, facts)
    ip = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip)
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{model.port}{ENGINES[model.engine].ready_at(model)}"
