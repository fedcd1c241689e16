"""How containers get NVIDIA's cards, by what versions of Docker and of the toolkit can do: by CDI, by the nvidia
runtime, or by the hook behind `--gpus`. Pure, no look at hosts; "" is the newest version.

CDI wherever Docker and the toolkit have it (design.md rule 7): the hook's containers lose their cards at every
`systemctl daemon-reload`, and it needs the host's cgroups, which a rootless Docker has not.
"""

import re
from typing import Literal

from gpurack.spec.host import Host
from gpurack.spec.model import Job

Access = Literal["cdi", "runtime", "gpus"]
DOCKER_HAS_CDI = (25, 0)
TOOLKIT_HAS_CDI = (1, 15)
"""From 1.15 on a spec names the cards by UUID, too (toolkit PR 314)."""
RUNTIME_HAS_NO_HOOK = (1, 18)
"""From 1.18 on the nvidia runtime edits containers by itself, like CDI (contract section 4)."""


def access_with(host: Host, docker: str, toolkit: str) -> Access:
    """The inventory's word, or for `auto` the best that these versions can do."""
    if host.nvidia.access != "auto":
        return host.nvidia.access
    return "cdi" if without_cdi(docker, toolkit) is None else "runtime"


def without_cdi(docker: str, toolkit: str) -> str | None:
    """What is too old for CDI: `Docker 20.10.24 has no CDI (25.0 and newer have it)`; None where it can be had."""
    if older(docker, DOCKER_HAS_CDI):
        return f"Docker {docker} has no CDI (25.0 and newer have it)"
    if older(toolkit, TOOLKIT_HAS_CDI):
        return f"NVIDIA Container Toolkit {toolkit} has no CDI by UUID (1.15 and newer have it)"
    return None


def by_hook_with(host: Host, docker: str, toolkit: str) -> bool:
    """Does nvidia-container-cli give the cards, for which a rootless Docker needs no-cgroups?"""
    how = access_with(host, docker, toolkit)
    return how == "gpus" or (how == "runtime" and older(toolkit, RUNTIME_HAS_NO_HOOK))


def takes_cards(host: Host, docker: str, toolkit: str) -> str | None:
    """Why `no_cgroups: system` cannot be: the hook gives cards to what runs in the host's own Docker, too."""
    if host.nvidia.no_cgroups != "system" or not by_hook_with(host, docker, toolkit):
        return None
    rootful = [
        name
        for name, entry in host.everything.items()
        if entry.enabled and entry.gpus and (isinstance(entry, Job) or not entry.user)
    ]
    what = "would take the cards from {}, in the host's own Docker. Leave it out: users get their own."
    return what.format(", ".join(rootful)) if rootful else None


def older(version: str, than: tuple[int, int]) -> bool:
    """Is a version below another? One without a number is a developer's, and new.

    >>> older("1.9.3", (1, 15)), older("28.5.2", (25, 0)), older("dev", (25, 0)), older("", (25, 0))
    (True, False, False, False)
    """
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return bool(found) and (int(found[1]), int(found[2] or 0)) < than  # type: ignore[index]
