"""The addresses of models for clients. Pure, except that `@local` reads this machine's name."""

import platform
from collections.abc import Iterable
from urllib.parse import urlsplit

from gpurack.engines import ENGINES
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.model import Model

LOCAL = "@local"
"""pyinfra's name of this machine."""


def endpoint(host_name: str, spec: Host, model: Model) -> str:
    """Return the base URL of a model's API for clients: `http://gpu1.lab:8000/v1`.

    The host is `localhost` if the model is bound to loopback. host_name: the host's name in the inventory.
    """
    public = public_name(host_name, spec)
    where = {"loopback": "localhost", "lan": public, "any": public, "0.0.0.0": public, "::": public}.get(
        model.bind, model.bind
    )
    where = f"[{where}]" if ":" in where else where
    return f"http://{where}:{model.port}{ENGINES[model.engine].base_path}"


def public_name(host_name: str, spec: Host) -> str:
    """Return what users type for a host: its `address`, else its name in the inventory.

    For pyinfra's `@local` it is this machine's name, for `@ssh/gpu1` it is gpu1.
    """
    name = host_name.removeprefix("@").partition("/")[2]
    return spec.address or (name or platform.node() if host_name.startswith("@") else host_name)


def others_reach(model: Model) -> bool:
    """Can other machines reach the model? With `network_mode: host` its server ignores `bind`."""
    return not on_loopback(model.bind) or model.compose.get("network_mode") == "host"


def on_loopback(bind: str) -> bool:
    """Can only the host itself reach a model with this `bind`?

    >>> on_loopback("loopback"), on_loopback("127.0.0.1"), on_loopback("0.0.0.0"), on_loopback("lan")
    (True, True, False, False)
    """
    return bind in ("loopback", "::1") or bind.startswith("127.")


def only_on_host(address: str) -> bool:
    """Does an address work on the host itself only?

    >>> only_on_host("http://localhost:8000/v1"), only_on_host("http://gpu1.lab:8000/v1"), only_on_host("")
    (True, False, False)
    """
    name = urlsplit(address).hostname or ""
    return name == "localhost" or on_loopback(name)


def loopback_note(listed: Iterable[tuple[str, str]]) -> str:
    """What is printed below a list of addresses; "" if each of them can be reached from the admin's desk.

    listed: (host, address).

    >>> loopback_note([("gpu1.lab", "http://gpu1.lab:8001/v1"), ("gpu1.lab", "http://localhost:8000/v1")])
    'localhost is the host itself. From your desk: ssh -L 8000:localhost:8000 gpu1.lab. For your users: `bind: lan`.'
    """
    for host, address in listed:
        if only_on_host(address) and host != LOCAL:
            port = urlsplit(address).port or 80
            tunnel = sh("ssh -L {port}:localhost:{port} {host}", port=port, host=host.removeprefix("@ssh/"))
            return f"localhost is the host itself. From your desk: {tunnel}. For your users: `bind: lan`."
    return ""
