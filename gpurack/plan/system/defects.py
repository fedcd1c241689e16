"""Known defects of a host's versions (spec/known_defects.py): of what is installed, else of what is pinned. Pure."""

from collections.abc import Iterator

from gpurack.facts.model import HostFacts
from gpurack.plan.system.gpu_access import access, docker_version, toolkit_version
from gpurack.spec.host import Host
from gpurack.spec.known_defects import ENGINES, Component, known_defects, numbers
from gpurack.spec.problems import Problem


def defect_warnings(spec: Host, facts: HostFacts) -> Iterator[Problem]:
    """Yield a warning for each known defect of the host's versions, and of its models' engines with them.

    facts: of the host, or as its inventory describes it (`imagined`). Only for a host whose inventory uses GPUs.
    """
    how = access(spec, facts)
    computes = [gpu.compute for gpu in facts.gpus if gpu.vendor == "nvidia" and gpu.compute]
    versions: dict[Component, str | None] = {
        "toolkit": toolkit_version(spec, facts),
        "docker": docker_version(spec, facts),
        "driver": facts.driver.kernel or spec.nvidia.driver,
        "compute": min(computes, key=numbers, default=None),
    }
    yield from known_defects(versions, how)
    for engine in ENGINES:
        for name, entry in spec.entries.items():
            if entry.enabled and entry.gpus and entry.engine == engine:
                path = f"{spec.path_of(name)}.version"
                yield from known_defects({**versions, engine: entry.version}, how, engine, path)
