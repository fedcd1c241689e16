"""The NVIDIA Container Toolkit: its four packages together at one version, and CDI specs for the cards. Pure.

Sources: the toolkit's install guide (all four packages pinned together); 1.18.0 and newer ship
nvidia-cdi-refresh.service, which writes /var/run/cdi/nvidia.yaml.
"""

from gpurack import paths
from gpurack.plan import apt
from gpurack.plan.ledger import NO_DRIVER
from gpurack.plan.platforms import TOOLKIT_PACKAGES, platform_of
from gpurack.plan.steps import Plan, Shell, Step
from gpurack.spec.model import Host
from gpurack.state.model import HostState

URL = "https://nvidia.github.io/libnvidia-container"
CDI_VENDOR = "nvidia.com/gpu"


def plan_toolkit(spec: Host, state: HostState, models_follow: bool = False) -> Plan:
    """What makes containers get the host's cards. Nothing on a host without cards.

    models_follow: the models come next in this run, and those that want a GPU say themselves that there is no driver,
    so that the others are served all the same.
    """
    if not state.has_gpu:
        if not spec.wants_gpu or models_follow:
            return Plan()
        return Plan(errors=(f"a model wants a GPU, but {NO_DRIVER}",))
    if platform_of(state.os) is None:
        return Plan()
    steps: list[Step] = apt.repository(repository(spec), state)
    packages, held = packages_to_install(spec, state)
    if packages:
        # dockerd looks for the toolkit's hook only when it starts (contract section 4), so a restart is owed
        # from before the installation: a run killed in between leaves the mark.
        steps.append(owe_restart("the NVIDIA Container Toolkit changed"))
        steps.append(apt.install(reason(spec, state), packages, held))
    else:
        steps += holds(spec, state)
    steps += cdi(state, fresh=bool(packages))
    return Plan(tuple(steps))


def repository(spec: Host) -> apt.Repository:
    """NVIDIA's flat repository, or its mirror. `$(ARCH)` is apt's own variable."""
    mirror = spec.mirrors.get("nvidia")
    base = (mirror.url if mirror else URL).rstrip("/")
    return apt.Repository(
        name="nvidia-container-toolkit",
        uri=f"{base}/stable/deb/$(ARCH)",
        suites="/",
        components="",
        key=(mirror.read_key() if mirror else None) or apt.vendored_key("nvidia"),
        marks=("nvidia.github.io/libnvidia-container", "nvidia.github.io/nvidia-docker",
               "nvidia.github.io/nvidia-container-runtime", f"{base}/stable/deb"),
    )  # fmt: skip


def packages_to_install(spec: Host, state: HostState) -> tuple[list[str], list[str]]:
    """(what to install, what to hold); nothing when all four are there at the wanted version."""
    there = apt.installed(TOOLKIT_PACKAGES, state)
    version = spec.nvidia.toolkit
    same = len({*there.values()}) == 1
    if len(there) == len(TOOLKIT_PACKAGES) and same and version in (None, apt.upstream(next(iter(there.values())))):
        return [], []
    names = [f"{name}={version}-*" if version else name for name in TOOLKIT_PACKAGES]
    return names, list(TOOLKIT_PACKAGES) if version else []


def reason(spec: Host, state: HostState) -> str:
    """install the NVIDIA Container Toolkit 1.20.0 · NVIDIA Container Toolkit 1.19.1 → 1.20.0"""
    there = sorted({apt.upstream(version) for version in apt.installed(TOOLKIT_PACKAGES, state).values()})
    version = spec.nvidia.toolkit
    if there and version:
        return f"NVIDIA Container Toolkit {' and '.join(there)} → {version}"
    return f"install the NVIDIA Container Toolkit{f' {version}' if version else ''}"


def holds(spec: Host, state: HostState) -> list[Step]:
    """A version in the inventory holds, none lets go."""
    held = [name for name in TOOLKIT_PACKAGES if state.packages[name].held]
    loose = [name for name in TOOLKIT_PACKAGES if not state.packages[name].held]
    if spec.nvidia.toolkit:
        return [apt.hold(loose)] if loose else []
    return [apt.unhold(held)] if held else []


def owe_restart(why: str) -> Step:
    """Docker must restart before this run or the next one ends."""
    marker = paths.RESTART_MARKER
    return Shell(f"note that Docker must restart: {why}", f"mkdir -p {paths.RUN} && echo restart > {marker}")


def cdi(state: HostState, fresh: bool) -> list[Step]:
    """Specs that name every card that answers. They cannot be made while nvidia-smi fails as a whole."""
    missing = [gpu.uuid for gpu in state.gpus if f"{CDI_VENDOR}={gpu.uuid}" not in state.cdi]
    if not missing or (state.driver.exit_code and not fresh):
        return []
    # The unit exists from 1.18.0 on. It stays "active" after its run, so that only a restart makes a new spec; after
    # a boot without a driver it and its path unit have failed; its own conditions may skip it: the result is looked at.
    units = "nvidia-cdi-refresh.service nvidia-cdi-refresh.path"
    command = (
        f"mkdir -p /etc/cdi && {{ systemctl reset-failed {units} 2>/dev/null; "
        "systemctl restart nvidia-cdi-refresh.service 2>/dev/null; true; } && "
        f"{{ nvidia-ctk cdi list 2>/dev/null | grep -q '^{CDI_VENDOR}={missing[0]}$' || "
        "nvidia-ctk --quiet cdi generate --output=/etc/cdi/nvidia.yaml; }"
    )
    return [Shell(f"CDI specs for {len(missing)} GPU{'s' if len(missing) > 1 else ''}", command)]
