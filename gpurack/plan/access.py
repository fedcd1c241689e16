"""How containers get NVIDIA's cards: by CDI, by the nvidia runtime, or by the hook behind `--gpus`. Pure.

CDI wherever Docker and the toolkit have it (design.md rule 7): the hook's containers lose their cards at every
`systemctl daemon-reload`, and it needs the host's cgroups, which a rootless Docker has not.
"""

import re
from typing import Literal

from gpurack.plan.packages import installed, upstream
from gpurack.spec.model import Host
from gpurack.state.model import HostState

Access = Literal["cdi", "runtime", "gpus"]
DOCKER_HAS_CDI = (25, 0)
TOOLKIT_HAS_CDI = (1, 15)
"""From 1.15 on a spec names the cards by UUID, too (toolkit PR 314)."""
RUNTIME_HAS_NO_HOOK = (1, 18)
"""From 1.18 on the nvidia runtime edits containers by itself, like CDI (contract section 4)."""


def access(spec: Host, state: HostState) -> Access:
    """The inventory's word, or for `auto` the best that the host's Docker and toolkit can do. What is not installed yet
    counts as new enough."""
    if spec.nvidia.access != "auto":
        return spec.nvidia.access
    return "cdi" if without_cdi(spec, state) is None else "runtime"


def without_cdi(spec: Host, state: HostState) -> str | None:
    """What is too old for CDI: `Docker 20.10.24 has no CDI (25.0 and newer have it)`; None where it can be had."""
    docker, toolkit = docker_version(spec, state), toolkit_version(spec, state)
    if older(docker, DOCKER_HAS_CDI):
        return f"Docker {docker} has no CDI (25.0 and newer have it)"
    if older(toolkit, TOOLKIT_HAS_CDI):
        return f"NVIDIA Container Toolkit {toolkit} has no CDI by UUID (1.15 and newer have it)"
    return None


def refused(spec: Host, state: HostState) -> str | None:
    """Why the inventory's `nvidia.access` cannot be had on this host; None when it can."""
    if spec.nvidia.access != "cdi" or (why := without_cdi(spec, state)) is None:
        return None
    return f'nvidia.access is cdi, but {why}. Write "auto", or a newer version.'


def by_hook(spec: Host, state: HostState) -> bool:
    """Does nvidia-container-cli give the cards, for which a rootless Docker needs no-cgroups?"""
    how = access(spec, state)
    return how == "gpus" or (how == "runtime" and older(toolkit_version(spec, state), RUNTIME_HAS_NO_HOOK))


def docker_version(spec: Host, state: HostState) -> str:
    """The version of the Docker that is there, or else wanted; "" for the newest."""
    return upstream(str(state.docker.get("ServerVersion", ""))) or spec.docker.version or ""


def toolkit_version(spec: Host, state: HostState) -> str:
    """The toolkit's version that is there, or else wanted; "" for the newest."""
    package = "nvidia-container-toolkit-base"
    there = installed((package,), state).get(package)
    return upstream(there) if there else spec.nvidia.toolkit or ""


def older(version: str, than: tuple[int, int]) -> bool:
    """Is a version below another? One without a number is a developer's, and new.

    >>> older("1.9.3", (1, 15)), older("28.5.2", (25, 0)), older("dev", (25, 0)), older("", (25, 0))
    (True, False, False, False)
    """
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return bool(found) and (int(found[1]), int(found[2] or 0)) < than  # type: ignore[index]
