"""Words of the vocabulary that this gpurack understands and checks, but does not carry out yet.

A deploy refuses them, because leaving out silently what an inventory asks for would be worse. `gpurack plan` only
mentions them. A line leaves this table with the change that carries it out.
"""

from collections.abc import Mapping

from gpurack.spec.model import CopyWeights, HfWeights, Host, Model, ModelScopeWeights
from gpurack.spec.problems import Problem

NEXT = "is understood, but this version of gpurack does not carry it out yet"


def not_carried_out(fleet: Mapping[str, Host]) -> list[Problem]:
    """Everything in the fleet that a deploy could not do, with what can be written instead where there is something."""
    problems = []
    for name, host in fleet.items():
        found = of_host(host)
        for model_name, model in host.models.items():
            if model.enabled:
                found += [(f"models.{model_name}.{field}", remedy) for field, remedy in of_model(model)]
        problems += [Problem(name, path, f"{NEXT}{remedy}.") for path, remedy in found]
    return problems


def of_host(host: Host) -> list[tuple[str, str]]:
    """(path, remedy) for the host's own fields."""
    found = {
        "services": (any(service.enabled for service in host.services.values()), "; set enabled: false"),
        "docker.rootless": (bool(host.docker.rootless), "; run the models in the host's own Docker"),
        "nvidia.driver": (host.nvidia.driver is not None, "; leave it out"),
        "nvidia.access": (host.nvidia.access != "auto", "; leave it out"),
        "proxy": (host.proxy is not None, "; set it in the host's own configuration of apt and Docker"),
        "ca": (host.ca is not None, "; install it on the host beforehand"),
        "hf_token": (host.hf_token is not None, "; leave it out"),
    }
    return [(path, remedy) for path, (used, remedy) in found.items() if used]


def of_model(model: Model) -> list[tuple[str, str]]:
    """(field, remedy) for one model."""
    fetched = isinstance(model.weights, HfWeights | ModelScopeWeights | CopyWeights)
    found = {
        "weights": (fetched, '; copy them to the host and write their path, or {"url": …, "sha256": …}'),
        "image": (model.image is not None and not isinstance(model.image, str), "; write the name of an image"),
        "user": (model.user is not None, "; run it in the host's own Docker"),
        "replaces": (model.replaces is not None, "; docker rm the old container first"),
        "pull": (bool(model.pull), ""),
        "config": (model.config is not None, ""),
        "connects_to": (bool(model.connects_to), ""),
    }
    return [(field, remedy) for field, (used, remedy) in found.items() if used]
