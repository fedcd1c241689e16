"""How containers get NVIDIA's GPUs, by versions of Docker and the toolkit. Pure.

The ways are CDI, the nvidia runtime, and the hook behind `--gpus`. The version "" means the newest. CDI is used where
Docker and the toolkit support it (design.md rule 7): containers of the hook lose their GPUs at every `systemctl
daemon-reload`, and the hook needs the host's cgroups, which a rootless Docker does not have.
"""

import re
from typing import Literal

from gpurack.spec.host import Host
from gpurack.spec.model import Job

Access = Literal["cdi", "runtime", "gpus"]
DOCKER_HAS_CDI = (25, 0)
TOOLKIT_HAS_CDI = (1, 15)
"""From 1.15 on a CDI spec also names GPUs by UUID (toolkit PR 314)."""
RUNTIME_HAS_NO_HOOK = (1, 18)
"""From 1.18 on the nvidia runtime edits containers by itself, like CDI (contract section 4)."""


def access_with(spec: Host, docker: str, toolkit: str) -> Access:
    """The inventory's `access`; for `auto`, the best that these versions support."""
    if spec.nvidia.access != "auto":
        return spec.nvidia.access
    return "cdi" if without_cdi(docker, toolkit) is None else "runtime"


def without_cdi(docker: str, toolkit: str) -> str | None:
    """What is too old for CDI: `Docker 20.10.24 has no CDI (25.0 and newer have it)`; None if CDI works."""
    if older(docker, DOCKER_HAS_CDI):
        return f"Docker {docker} has no CDI (25.0 and newer have it)"
    if older(toolkit, TOOLKIT_HAS_CDI):
        return f"NVIDIA Container Toolkit {toolkit} has no CDI by UUID (1.15 and newer have it)"
    return None


def by_hook_with(spec: Host, docker: str, toolkit: str) -> bool:
    """Does nvidia-container-cli (the hook) provide the GPUs? A rootless Docker then needs no-cgroups."""
    how = access_with(spec, docker, toolkit)
    return how == "gpus" or (how == "runtime" and older(toolkit, RUNTIME_HAS_NO_HOOK))


def loses_gpus(spec: Host, docker: str, toolkit: str) -> list[str]:
    """The entries in the host's own Docker that `no_cgroups: system` would leave without GPUs."""
    if spec.nvidia.no_cgroups != "system" or not by_hook_with(spec, docker, toolkit):
        return []
    return [
        name
        for name, entry in spec.everything.items()
        if entry.enabled and entry.gpus and (isinstance(entry, Job) or not entry.user)
    ]


def older(version: str, than: tuple[int, int]) -> bool:
    """Is a version below another? One without a number is a development version, and new.

    >>> older("1.9.3", (1, 15)), older("28.5.2", (25, 0)), older("dev", (25, 0)), older("", (25, 0))
    (True, False, False, False)
    """
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return bool(found) and (int(found[1]), int(found[2] or 0)) < than  # type: ignore[index]
