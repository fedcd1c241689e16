"""The NVIDIA Container Toolkit: its four packages at one version, and CDI specs for the GPUs. Pure.

Sources: the toolkit's install guide (all four packages pinned together). 1.18.0 and newer contain
nvidia-cdi-refresh.service, which writes /var/run/cdi/nvidia.yaml.
"""

from collections.abc import Mapping

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan import pins as lock
from gpurack.plan.packages.base import Pin, Repository, installed, mirrored, upstream
from gpurack.plan.packages.holds import hold, noting, of_others, release
from gpurack.plan.packages.package_errors import listed_instead
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES, Platform, platform_of
from gpurack.plan.steps import Plan, Shell, Step, WriteFile, owe_restart
from gpurack.plan.system import cdi_specs
from gpurack.plan.system.gpu_access import access, docker_version, no_driver, toolkit_version
from gpurack.plan.system.hook_config import without_cgroups
from gpurack.plan.system.nvidia_driver import driver_holds, other_driver
from gpurack.shell import sh
from gpurack.spec.gpu_access import loses_gpus
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

URL = "https://nvidia.github.io/libnvidia-container"


def plan_toolkit(spec: Host, facts: HostFacts, models_follow: bool = False) -> Plan:
    """Plan what lets containers use the host's GPUs. Nothing on a host without GPUs.

    models_follow: the models come next in this run. They report a missing or wrong driver themselves, so that the other
    models are served.
    """
    if not facts.has_nvidia:
        if not spec.wants_gpu or models_follow or facts.gpus:
            return Plan()
        return Plan(errors=(no_driver(facts, "a model wants a GPU, but "),))
    platform = platform_of(facts.os)
    if platform is None:
        return Plan()
    steps: list[Step] = platform.packages.repository(repository(spec, platform), facts)
    packages = packages_to_install(spec, facts)
    if packages and (error := not_carried(spec, facts, platform)):
        return Plan(errors=(error,))
    if packages:
        # dockerd looks for the toolkit's hook only at its start (contract section 4). The restart is noted before the
        # installation, so that a run that is killed in between leaves the mark.
        steps.append(owe_restart("the NVIDIA Container Toolkit changed"))
        held = TOOLKIT_PACKAGES if pins(spec) else ()
        steps.append(noting(platform.packages.install(reason(spec, facts), packages, facts, held), held, facts))
    else:
        steps += holds(spec, facts, platform)
    if access(spec, facts) == "cdi":
        steps += cdi(facts, fresh=bool(packages))
    # Packages to be installed have the inventory's versions, which were checked with it.
    taken = [] if packages else loses_gpus(spec, docker_version(spec, facts), toolkit_version(spec, facts))
    steps += [] if taken else no_cgroups(spec, facts, fresh=bool(packages))
    steps += driver_holds(spec, facts, platform.packages)
    wrong = None if models_follow else other_driver(spec, facts)
    conflict = Problem.of("no-cgroups-takes-gpus", path="nvidia.no_cgroups", names=", ".join(taken))
    errors = (conflict if taken else None, wrong)
    stay = () if pins(spec) else of_others(TOOLKIT_PACKAGES, facts)
    return Plan(tuple(steps), tuple(error for error in errors if error), warnings=tuple(stay))


def repository(spec: Host, platform: Platform) -> Repository:
    """Return NVIDIA's repository, or its mirror."""
    url, key = mirrored(spec, "nvidia", URL, "nvidia")
    place = platform.toolkit
    marks = ("nvidia.github.io/libnvidia-container", "nvidia.github.io/nvidia-docker",
             "nvidia.github.io/nvidia-container-runtime", f"{url}/{place.split('$')[0].rstrip('/')}")  # fmt: skip
    return Repository(
        "nvidia-container-toolkit", url, place, key, marks, direct=bool(spec.proxy and spec.proxy.spares(url))
    )


def not_carried(spec: Host, facts: HostFacts, platform: Platform) -> Problem | None:
    """Return the error if NVIDIA's repository is known not to have the wanted version."""
    wanted, package = spec.nvidia.toolkit, TOOLKIT_PACKAGES[0]
    if not wanted or any(Pin(wanted).met_by(version) for version in installed((package,), facts).values()):
        return None
    listed = platform.packages.listed_as(repository(spec, platform), facts)
    versions = listed_instead(package, wanted, facts, listed)
    parts = {"package": package, "version": wanted, "versions": versions}
    return Problem.of("version-not-found", path="nvidia.toolkit", **parts) if versions else None


def pins(spec: Host) -> Mapping[str, Pin]:
    """Return the packages that must have a certain version: all four the same."""
    version = spec.nvidia.toolkit
    wanted = dict.fromkeys(TOOLKIT_PACKAGES, Pin(version)) if version else {}
    return wanted | lock.packages(spec, TOOLKIT_PACKAGES)


def packages_to_install(spec: Host, facts: HostFacts) -> Mapping[str, Pin | None]:
    """Return all four, or none if all have the wanted version (or one version, if none is wanted)."""
    there, pinned = installed(TOOLKIT_PACKAGES, facts), pins(spec)
    same = len({*there.values()}) == 1
    if len(there) == len(TOOLKIT_PACKAGES) and same and all(pin.met_by(there[name]) for name, pin in pinned.items()):
        return {}
    return {name: pinned.get(name) for name in TOOLKIT_PACKAGES}


def reason(spec: Host, facts: HostFacts) -> str:
    """Return `install the NVIDIA Container Toolkit 1.20.1` or `NVIDIA Container Toolkit 1.19.1 → 1.20.1`."""
    there = sorted({upstream(version) for version in installed(TOOLKIT_PACKAGES, facts).values()})
    version = next((upstream(pin.version) for pin in pins(spec).values()), None)
    if there and version:
        return f"NVIDIA Container Toolkit {' and '.join(there)} → {version}"
    return f"install the NVIDIA Container Toolkit{f' {version}' if version else ''}"


def holds(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the steps that hold packages if the inventory pins a version, and release ours if it does not."""
    act = hold if pins(spec) else release
    return act(TOOLKIT_PACKAGES, facts, platform.packages)


def no_cgroups(spec: Host, facts: HostFacts, fresh: bool = False) -> list[Step]:
    """Return the step that sets no-cgroups for the whole host, if the inventory asks for it.

    Not by `nvidia-ctk config`, which writes at every run and drops comments. The hook reads the file at each start.
    fresh: a step before this one installs the packages, which create a missing file; that file has no comments of the
    admin's.
    """
    if spec.nvidia.no_cgroups != "system":
        return []
    path, file = paths.HOOK_CONFIG, facts.files.get(paths.HOOK_CONFIG)
    reason = f"no-cgroups in {path}, for the whole host"
    if fresh and file is None:
        # with a value, because a key alone is a boolean only from 1.14.4 on
        command = sh(
            "nvidia-ctk --quiet config --config-file={} --set nvidia-container-cli.no-cgroups=true --in-place", path
        )
        return [Shell(reason, command)]
    text = without_cgroups(file.text if file else "")
    if file and file.text == text:
        return []
    return [WriteFile(reason, path, text, file.mode if file else "644")]


def cdi(facts: HostFacts, fresh: bool) -> list[Step]:
    """Return the step that creates CDI specs with every GPU that answers, or replaces specs of an earlier driver.

    Impossible while nvidia-smi hides GPUs. It can also fail with all of them there (14: a damaged infoROM).
    """
    if facts.driver.exit_code and not facts.all_gpus_answer and not fresh:
        return []
    if renewal := cdi_specs.renewal(facts):
        return [renewal]
    known = {*facts.cdi, *(f"{cdi_specs.KIND}={uuid}" for uuid in doubled(facts))}
    missing = [uuid for uuid in cdi_specs.named(facts) if f"{cdi_specs.KIND}={uuid}" not in known]
    if not missing:
        return []
    # The unit exists from 1.18.0 on. It stays "active" after its run, so only a restart creates a new spec. After a
    # boot without a driver, it and its path unit have failed. Its conditions may skip it, so the command checks the
    # result.
    command = sh(
        "{}; {}; systemctl restart {} 2>/dev/null; { nvidia-ctk cdi list 2>/dev/null | grep -q {} || {}; }",
        cdi_specs.NODES,
        cdi_specs.RESET,
        cdi_specs.UNIT,
        f"^{cdi_specs.KIND}={missing[0]}$",
        cdi_specs.generate(paths.CDI_LASTING),
    )
    return [Shell(f"CDI specs for {len(missing)} GPU{'s' if len(missing) > 1 else ''}", command)]


def doubled(facts: HostFacts) -> list[str]:
    """Return the GPUs of conflicting specs, which the toolkit does not list and one more spec does not cure."""
    return [uuid for uuid in cdi_specs.named(facts) if len(cdi_specs.sources(uuid, facts)) > 1]
