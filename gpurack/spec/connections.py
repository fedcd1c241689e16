"""What services connect to: which entries of the fleet `connects_to` means, and whether they can be reached. Pure."""

from collections.abc import Collection, Mapping

from gpurack.engines import ENGINES
from gpurack.spec.model import Host, Model
from gpurack.spec.problems import Problem, unknown

Place = tuple[str, str]
"""(host, entry)"""


def upstreams_of(fleet: Mapping[str, Host], host: str, service: str) -> list[Place]:
    """The enabled entries a service connects to, its own host first. A name means every entry that is served under it:
    the same name on several hosts is one model with replicas. "all" means every model that can be reached."""
    wanted = fleet[host].services[service].connects_to
    order = sorted(fleet, key=lambda name: name != host)
    entries = [((where, key), model) for where in order for key, model in fleet[where].entries.items() if model.enabled]
    if wanted == "all":
        models = [(place, model) for place, model in entries if place[1] in fleet[place[0]].models]
        return [place for place, model in models if reachable(host, place[0], model)]
    return [
        place
        for name in wanted
        for place, model in entries
        if name in (place[1], model.served_name) and place != (host, service)
    ]


def reachable(service_host: str, model_host: str, model: Model) -> bool:
    """Can a container on one host reach a model on the other? On one host by its name, else by its published port."""
    return service_host == model_host or model.bind != "loopback"


def connection_problems(fleet: Mapping[str, Host], names: Collection[str]) -> list[Problem]:
    """Names that nothing has, models that cannot be reached, and a page of one model on something else. names: of all
    entries, those too that are not in the fleet because something else is wrong with them."""
    problems = []
    for host, spec in fleet.items():
        for key, service in spec.services.items():
            if service.connects_to == "all":
                continue
            path = f"services.{key}.connects_to"
            served = {model.served_name for other in fleet.values() for model in other.entries.values()}
            problems += [
                Problem(host, path, unknown("model", name, sorted(names)))
                for name in service.connects_to
                if name not in names and name not in served
            ]
            for where, name in upstreams_of(fleet, host, key):
                model = fleet[where].entries[name]
                if not reachable(host, where, model):
                    what = f'{name} on {where} is bound to loopback, so {host} cannot reach it; give it bind: "lan".'
                    problems.append(Problem(host, path, what))
                if service.engine == "llama-gpt" and ENGINES[model.engine].service is not False:
                    problems.append(Problem(host, path, f"{name} is no model; llama-gpt shows one model."))
    return problems
