"""Where people reach a model. Pure, but for this machine's own name."""

import platform

from gpurack.engines import ENGINES
from gpurack.spec.host import Host
from gpurack.spec.model import Model


def endpoint(host_name: str, host: Host, model: Model) -> str:
    """The base URL of a model's API as people type it; `localhost` for one that only the host itself reaches.

    host_name: the host's name in the inventory; others know pyinfra's `@local` by this machine's name, and `@ssh/gpu1`
    as gpu1. Example: `http://gpu1.lab:8000/v1`.
    """
    name = host_name.removeprefix("@").partition("/")[2]
    public = host.address or (name or platform.node() if host_name.startswith("@") else host_name)
    where = {"loopback": "localhost", "lan": public, "any": public, "0.0.0.0": public, "::": public}.get(
        model.bind, model.bind
    )
    where = f"[{where}]" if ":" in where else where
    return f"http://{where}:{model.port}{ENGINES[model.engine].base_path}"


def others_reach(model: Model) -> bool:
    """Do other machines reach a model? In the host's own network its server listens where it likes, not at `bind`."""
    return not on_loopback(model.bind) or model.compose.get("network_mode") == "host"


def on_loopback(bind: str) -> bool:
    """Does nobody but the host itself reach a model that binds to this word or address?

    >>> on_loopback("loopback"), on_loopback("127.0.0.1"), on_loopback("0.0.0.0"), on_loopback("lan")
    (True, True, False, False)
    """
    return bind in ("loopback", "::1") or bind.startswith("127.")
