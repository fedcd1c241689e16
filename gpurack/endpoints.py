"""Where people reach a model. Pure."""

from gpurack.engines import ENGINES
from gpurack.spec.model import Host, Model


def endpoint(host_name: str, host: Host, model: Model) -> str:
    """The base URL of a model's API as people type it; `localhost` for one that only the host itself reaches.

    host_name: the host's name in the inventory. Example: `http://gpu1.lab:8000/v1`.
    """
    public = host.address or host_name
    where = {"loopback": "localhost", "lan": public, "any": public, "0.0.0.0": public, "::": public}.get(
        model.bind, model.bind
    )
    where = f"[{where}]" if ":" in where else where
    return f"http://{where}:{model.port}{ENGINES[model.engine].base_path}"
