"""NVIDIA's driver: compared with the inventory and held, never installed. Pure.

If the driver is upgraded under running models, kernel module and libraries differ until the host is rebooted. What runs
continues, but nothing can start.
"""

import re
from collections.abc import Mapping

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import NAME, Packages, upstream
from gpurack.plan.steps import Shell, Step, WriteFile
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

DEBIAN_NAMES = ("libcuda1", "libcudadebugger1", "libnvcuvid1", "libnvoptix1", "libnvsdm")
"""Packages of the driver without NVIDIA's name. (nvlsm and DCGM have versions of their own.)"""

NO_DRIVER = ("container", "nvidia-driver-pinning", "nvidia-driver-assistant")
"""In names of packages that are no part of the driver. nvidia-driver-pinning-580 has the version 580-2ubuntu1."""


def other_driver(spec: Host, facts: HostFacts) -> Problem | None:
    """Return the error if the host runs another driver than the inventory's; None if it says nothing."""
    wanted, found = spec.nvidia.driver, facts.driver.kernel
    if not wanted or not found or is_a(found, wanted):
        return None
    there = {upstream(version) for version in packages(facts).values()}
    waiting = next((f" {each} is installed and needs a reboot." for each in there if is_a(each, wanted)), "")
    return Problem.of("other-driver", path="driver", found=found, wanted=wanted, waiting=waiting)


def is_a(version: str, wanted: str) -> bool:
    """Is a version this one, or of this branch?

    >>> is_a("580.159.04", "580"), is_a("580.159.04", "58")
    (True, False)
    """
    return version == wanted or version.startswith(f"{wanted}.")


def packages(facts: HostFacts) -> Mapping[str, str]:
    """Return the driver's installed packages → versions, without the toolkit's and NVIDIA's preferences for apt.

    They have NVIDIA's name, except for Debian's (libcuda1 …), which depend on the driver's exact version.
    """
    return {
        name: package.version
        for name, package in facts.packages.items()
        if package.whole
        and ("nvidia" in name or name.startswith("cuda-drivers") or name in DEBIAN_NAMES)
        and not any(word in name for word in NO_DRIVER)
        and re.fullmatch(NAME, name)
    }


def driver_holds(spec: Host, facts: HostFacts, manager: Packages) -> list[Step]:
    """Return the steps that hold the packages of the inventory's driver.

    Without one, those that gpurack held are released, and no others.
    """
    there = packages(facts)
    noted = facts.files[paths.DRIVER_HELD].text.split() if paths.DRIVER_HELD in facts.files else []
    if spec.nvidia.driver is None:
        if not noted:
            return []
        ours = [name for name in noted if name in there and facts.packages[name].held]
        note = Shell("forget that the driver was held", sh("rm -f {}", paths.DRIVER_HELD))
        return [*([manager.unhold(ours, facts)] if ours else []), note]
    loose = sorted(
        name
        for name, version in there.items()
        if upstream(version) == facts.driver.kernel and not facts.packages[name].held
    )
    if not loose or other_driver(spec, facts):
        return []
    names = "".join(f"{name}\n" for name in sorted({*noted, *loose}))
    # noted first, so that a run that is killed in between knows what it may have held
    return [
        WriteFile("note which packages of the driver are held", paths.DRIVER_HELD, names),
        manager.hold(loose, facts),
    ]
