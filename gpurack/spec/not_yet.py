"""Words of the vocabulary that this gpurack understands and checks, but does not carry out yet.

A deploy refuses them, because leaving out silently what an inventory asks for would be worse. `gpurack plan` only
mentions them. A line leaves these tables with the change that carries it out.
"""

from collections.abc import Callable, Mapping

from gpurack.spec.model import Host, Model
from gpurack.spec.problems import Problem

# path → (is it used?, what to write instead)
OF_HOST: Mapping[str, tuple[Callable[[Host], bool], str]] = {
    "services": (lambda host: any(service.enabled for service in host.services.values()), "; set enabled: false"),
    "docker.rootless": (lambda host: bool(host.docker.rootless), "; run the models in the host's own Docker"),
    "nvidia.driver": (lambda host: host.nvidia.driver is not None, "; leave it out"),
    "nvidia.access": (lambda host: host.nvidia.access != "auto", "; leave it out"),
    "proxy": (lambda host: host.proxy is not None, "; set it in the host's own configuration of apt and Docker"),
    "ca": (lambda host: host.ca is not None, "; install it on the host beforehand"),
}
OF_MODEL: Mapping[str, tuple[Callable[[Model], bool], str]] = {
    "image": (lambda model: not isinstance(model.image, str | None), "; write the name of an image"),
    "user": (lambda model: model.user is not None, "; run it in the host's own Docker"),
    "pull": (lambda model: bool(model.pull), ""),
    "config": (lambda model: model.config is not None, ""),
    "connects_to": (lambda model: bool(model.connects_to), ""),
}


def not_carried_out(fleet: Mapping[str, Host]) -> list[Problem]:
    """Everything in the fleet that a deploy could not do, with what can be written instead where there is something."""
    problems = []
    for name, host in fleet.items():
        found = [(path, remedy) for path, (used, remedy) in OF_HOST.items() if used(host)]
        found += [
            (f"models.{key}.{field}", remedy)
            for key, model in host.models.items()
            if model.enabled
            for field, (used, remedy) in OF_MODEL.items()
            if used(model)
        ]
        problems += [
            Problem(name, path, f"understood, but not carried out by this version of gpurack yet{remedy}.")
            for path, remedy in found
        ]
    return problems
