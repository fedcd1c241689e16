"""Docker: which packages from where, at which version, held or not; running and enabled. Pure."""

import re
from collections.abc import Sequence

from gpurack.plan import apt, daemon_json
from gpurack.plan.platforms import CE_PACKAGES, Platform, platform_of, unsupported
from gpurack.plan.restart import may_stop_foreign, stops_foreign
from gpurack.plan.steps import Plan, Shell, Step
from gpurack.spec.model import Host
from gpurack.state.model import HostState, Unit

CE_URL = "https://download.docker.com"


def plan_docker(spec: Host, state: HostState, unattended: bool) -> Plan:
    """What makes the host's Docker the inventory's. unattended: nobody can be asked (`-y`)."""
    platform = platform_of(state.os)
    if platform is None:
        return Plan(errors=(unsupported(state.os),))
    if state.init != "systemd":
        return Plan(errors=(f"the host's init is {state.init}; gpurack needs systemd.",))
    if spec.docker.source == "keep":
        return keep(state)
    # With a daemon.json that dockerd cannot read an installed Docker would not start.
    error = conflict(spec, state, platform) or daemon_json.read(state)[1]
    if error:
        return Plan(errors=(error,))
    steps: list[Step] = apt.finish_interrupted(state)
    repository = ce_repository(spec, state, platform)
    steps += apt.repository(repository, state) if is_ce(spec) else apt.no_repository(repository, state)
    steps += prerequisites(state)
    packages, held = packages_to_install(spec, state, platform)
    if packages:
        what = reason(spec, state, platform)
        if restarts_docker(packages):
            error = may_stop_foreign(spec, state, unattended, what)
            if error:
                return Plan(errors=(error,))
            what += stops_foreign(state)
        steps.append(apt.install(what, packages, held))
    else:
        steps += holds(spec, state, platform)
    steps += running(state)
    return Plan(tuple(steps))


def keep(state: HostState) -> Plan:
    """Docker stays what it is; it only has to be there, with Compose v2."""
    if not state.docker:
        return Plan(
            errors=("docker.source is keep, but no Docker daemon answers; start it or choose docker-ce or distro.",)
        )
    if re.match(r"[01]\.|$", state.compose):
        return Plan(
            errors=("docker.source is keep, but Docker has no Compose v2 (`docker compose version`); install it.",)
        )
    return Plan(tuple(prerequisites(state)))


MISSING = "Docker is not there; run deploys/gpu_host.py, or deploys/docker.py first."


def is_installed(state: HostState) -> bool:
    """Is any Docker there, running or not?"""
    return bool(state.docker or state.units.get("docker.service", Unit()).loaded != "not-found")


def unanswered(state: HostState) -> str | None:
    """Why nothing that needs a Docker daemon can be done; None when it answers."""
    if state.docker:
        return None
    if is_installed(state):
        return "Docker does not answer. Look: systemctl status docker; journalctl -u docker -n 30."
    return MISSING


def is_ce(spec: Host) -> bool:
    """From Docker's own repository?"""
    return spec.docker.source == "docker-ce"


def conflict(spec: Host, state: HostState, platform: Platform) -> str | None:
    """Two Dockers cannot live on one host, and gpurack does not swap them unasked."""
    if not is_ce(spec) and not platform.distro_packages:
        return f'{state.os.name}\'s own Docker has no Compose v2; write docker: {{"source": "docker-ce"}}.'
    other = ("docker.io", "podman-docker") if is_ce(spec) else ("docker-ce", "podman-docker")
    found = apt.installed(other, state)
    if found:
        name, version = next(iter(found.items()))
        wanted = "docker-ce" if is_ce(spec) else "docker.io"
        keep_it = {"docker.io": "distro", "docker-ce": "docker-ce"}.get(name, "keep")
        return (
            f"{name} {apt.upstream(version)} is installed and cannot live beside {wanted}. To keep it write "
            f'docker: {{"source": "{keep_it}"}}; to change over, stop its containers and apt-get remove {name}.'
        )
    return None


def ce_repository(spec: Host, state: HostState, platform: Platform) -> apt.Repository:
    """Docker's repository, or its mirror."""
    mirror = spec.mirrors.get("docker-ce")
    base = (mirror.url if mirror else CE_URL).rstrip("/")
    uri = f"{base}/linux/{platform.docker_repository}"
    return apt.Repository(
        name="docker-ce",
        uri=uri,
        suites=state.os.codename,
        components="stable",
        key=(mirror.read_key() if mirror else None) or apt.vendored_key("docker"),
        marks=("download.docker.com/linux", uri),
    )


def prerequisites(state: HostState) -> list[Step]:
    """curl, python3 and certificates: for downloads, for the models' runner on the host, for https."""
    missing = apt.prerequisites(state)
    return [apt.install(f"install {', '.join(missing)}", missing)] if missing else []


def packages_of(spec: Host, platform: Platform) -> tuple[str, ...]:
    """All packages of the wanted Docker, the engine first."""
    return CE_PACKAGES if is_ce(spec) else platform.distro_packages


def versioned(spec: Host) -> tuple[str, ...]:
    """Those whose version is Docker's own."""
    return ("docker-ce", "docker-ce-cli") if is_ce(spec) else ("docker.io",)


def packages_to_install(spec: Host, state: HostState, platform: Platform) -> tuple[list[str], list[str]]:
    """(what to install, what to hold); nothing when all is there at the wanted version."""
    wanted = packages_of(spec, platform)
    there = apt.installed(wanted, state)
    version = spec.docker.version
    right = not version or all(apt.upstream(there.get(name, "")) == version for name in versioned(spec))
    if len(there) == len(wanted) and right:
        return [], []
    prefix = f"5:{version}-*" if is_ce(spec) else f"{version}*"
    names = []
    for name in wanted:
        if version and name in versioned(spec):
            if apt.upstream(there.get(name, "")) != version:
                names.append(f"{name}={prefix}")
        elif name not in there:
            names.append(name)
    return names, list(wanted) if version else []


def restarts_docker(packages: Sequence[str]) -> bool:
    """Does installing these restart a dockerd that is there? A missing Compose beside it does not."""
    daemons = ("docker.io", "docker-ce", "containerd", "containerd.io")
    return any(package.split("=")[0] in daemons for package in packages)


def reason(spec: Host, state: HostState, platform: Platform) -> str:
    """install docker-ce 28.5.2 · docker-ce 26.1.5 → 28.5.2 · install docker-compose-plugin"""
    wanted = packages_of(spec, platform)
    there = apt.installed(wanted, state)
    engine, version = wanted[0], spec.docker.version
    if engine not in there:
        return f"install {engine}{f' {version}' if version else ''}"
    if version and apt.upstream(there[engine]) != version:
        return f"{engine} {apt.upstream(there[engine])} → {version}"
    return f"install {', '.join(name for name in wanted if name not in there) or ', '.join(versioned(spec))}"


def holds(spec: Host, state: HostState, platform: Platform) -> list[Step]:
    """A version in the inventory holds, none lets go what gpurack held."""
    wanted = packages_of(spec, platform)
    if spec.docker.version:
        loose = [name for name in wanted if not state.packages[name].held]
        return [apt.hold(loose)] if loose else []
    held = [name for name in wanted if state.packages[name].held]
    return [apt.unhold(held)] if held else []


def running(state: HostState) -> list[Step]:
    """Enabled at boot and running now."""
    unit = state.units.get("docker.service")
    if unit and unit.active == "active" and unit.enabled == "enabled":
        return []
    # Debian's unit gives up at the fourth start within a minute (StartLimitBurst=3); `enable` tells of sysv scripts.
    start = (
        "systemctl reset-failed docker.service 2>/dev/null; systemctl enable docker.service >/dev/null 2>&1; "
        "systemctl start docker.service && systemctl -q is-enabled docker.service"
    )
    if unit and unit.loaded == "masked":
        start = f"systemctl unmask docker.service && {start}"
    return [Shell("start Docker and enable it at boot", start)]
