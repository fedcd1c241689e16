"""How containers get NVIDIA's GPUs on a host: spec/gpu_access.py with the host's versions. Pure."""

from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import installed, upstream
from gpurack.spec.gpu_access import Access, access_with, by_hook_with, without_cdi
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def access(spec: Host, facts: HostFacts) -> Access:
    """Return the inventory's choice, or for `auto` the best that the host's Docker and toolkit support.

    What is not installed yet counts as new enough.
    """
    return access_with(spec, docker_version(spec, facts), toolkit_version(spec, facts))


def refused(spec: Host, facts: HostFacts, path: str) -> Problem | None:
    """Return why the host does not support the inventory's `nvidia.access`; None if it does."""
    why = without_cdi(docker_version(spec, facts), toolkit_version(spec, facts))
    if spec.nvidia.access != "cdi" or why is None:
        return None
    return Problem.of("access-unavailable", path=path, why=why)


def by_hook(spec: Host, facts: HostFacts) -> bool:
    """Does nvidia-container-cli give the GPUs? A rootless Docker then needs no-cgroups."""
    return by_hook_with(spec, docker_version(spec, facts), toolkit_version(spec, facts))


def docker_version(spec: Host, facts: HostFacts) -> str:
    """Return the version of Docker on the host, else the wanted one; "" for the newest."""
    return upstream(str(facts.docker.get("ServerVersion", ""))) or spec.docker.version or ""


def toolkit_version(spec: Host, facts: HostFacts) -> str:
    """Return the toolkit's version on the host, else the wanted one; "" for the newest."""
    package = "nvidia-container-toolkit-base"
    there = installed((package,), facts).get(package)
    return upstream(there) if there else spec.nvidia.toolkit or ""


def no_driver(facts: HostFacts, wish: str = "") -> Problem:
    """Return the problem of a host without NVIDIA's driver, for which a model has this wish."""
    codes = {"jetson": "jetson", "wsl": "wsl-without-driver"}
    return Problem.of(codes.get(facts.driver.platform, "no-driver"), wish=wish)
