"""Docker: its packages, repository, version and holds; running and enabled. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Unit
from gpurack.plan import pins as lock
from gpurack.plan.packages.base import Pin, Repository, installed, mirrored, move, upstream
from gpurack.plan.packages.holds import hold, noting, of_others, release
from gpurack.plan.packages.package_errors import listed_instead
from gpurack.plan.packages.platforms import (
    CE_PACKAGES,
    CE_ROOTLESS,
    Platform,
    platform_of,
    unsupported,
)
from gpurack.plan.steps import DockerRestart, Plan, Shell, Step, owe_restart
from gpurack.plan.system import daemon_json, nvidia_toolkit
from gpurack.plan.system.network import plan_network
from gpurack.plan.system.restart import if_still_stuck, may_stop_foreign, stuck_ports, what_stops
from gpurack.shell import Sh, sh
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage
from gpurack.spec.problems import Problem

CE_URL = "https://download.docker.com"
CERTIFICATES = "ca-certificates"
BELOW = ("containerd", "docker-buildx", "runc")
"""Packages that a distribution's Docker depends on. Only a lock pins them."""
OTHER_VERSION = (
    "To keep it, remove `docker.version`. To have that version from the distribution, set docker: "
    '{"source": "distro"}. To replace it, set docker: {"source": "docker-ce"}.'
)
ROOM = 64 * 1024
"""KiB that must be free for Docker's data before Docker is restarted."""
RESET = sh("systemctl reset-failed docker.service 2>/dev/null")
"""Forgets earlier starts: Debian's unit fails at the fourth within a minute (StartLimitBurst=3)."""


def plan_docker(spec: Host, facts: HostFacts, unattended: bool) -> Plan:
    """Plan what makes the host's Docker match the inventory. unattended: does nobody confirm (`-y`)?

    First of all it finishes what an interrupted restart of Docker left.
    """
    plan = plan_packages(spec, facts, unattended)
    if paths.DOCKER_NOTE not in facts.files:
        return plan
    finish = DockerRestart("finish an interrupted restart of Docker", "finish")
    return replace(plan, steps=(finish, *plan.steps))


def plan_packages(spec: Host, facts: HostFacts, unattended: bool) -> Plan:
    """Plan Docker's packages, their repository and holds, and its unit."""
    platform = platform_of(facts.os)
    if platform is None:
        return Plan(errors=(unsupported(facts.os),))
    if facts.init != "systemd":
        return Plan(errors=(Problem.of("no-systemd", init=facts.init),))
    if facts.units.get("snap.docker.dockerd.service", Unit()).loaded != "not-found":
        return Plan(errors=(Problem.of("docker-snap"),))
    if spec.docker.source == "keep":
        kept = keep(spec, facts, platform)
        way_out = platform.packages.proxy(spec.proxy, facts) + plan_network(spec, facts, platform)
        return Plan((*way_out, *kept.steps), kept.errors)
    # Docker would not start after its installation if dockerd could not read daemon.json.
    error = other_version(spec, facts, platform)
    spec = with_source(spec, facts)
    error = error or conflict(spec, facts, platform) or foreign(facts, platform) or daemon_json.read(facts)[1]
    if error:
        return Plan(errors=(error,))
    if error := not_carried(spec, facts, platform):
        return Plan(errors=(error,))
    manager = platform.packages
    steps: list[Step] = manager.proxy(spec.proxy, facts)
    steps += manager.finish_interrupted(facts)
    steps += plan_network(spec, facts, platform)
    repository = ce_repository(spec, facts, platform)
    missing = lacking(spec, facts, platform)
    if is_ce(spec) and repository.url.startswith("https:") and CERTIFICATES in missing:
        # Without them the repository cannot be read.
        missing.remove(CERTIFICATES)
        steps += from_distribution([CERTIFICATES], facts, platform)
    steps += manager.repository(repository, facts) if is_ce(spec) else manager.no_repository(repository, facts)
    toolkits = nvidia_toolkit.repository(spec, platform)
    if manager.repository_path(toolkits) in facts.sources:
        # The toolkit's step comes later, but with a broken repository nothing can be installed.
        steps += manager.repository(toolkits, facts)
    packages, held = packages_to_install(spec, facts, platform)
    # A new Docker and what gpurack needs beside it are one transaction. Beside a Docker that restarts, python3 comes
    # first: it notes what the restart stops.
    beside = {} if is_installed(facts) or not packages else dict.fromkeys(missing)
    steps += [] if beside else from_distribution(missing, facts, platform)
    if packages:
        what = ", ".join([reason(spec, facts, platform, packages), *beside])
        if restarts_docker(packages):
            error = may_stop_foreign(spec, facts, unattended, what)
            if error:
                return Plan(errors=(error,))
            what += what_stops(facts)
        install = noting(manager.install(what, {**packages, **beside}, facts, held, with_room(facts)), held, facts)
        steps += around_restart(install, facts) if restarts_docker(packages) else [install]
    else:
        steps += holds(spec, facts, platform)
    steps += running(facts) + free_ports(spec, facts)
    stay = () if pins(spec, platform) else of_others((*packages_of(spec, platform), *BELOW), facts)
    return Plan(tuple(steps), warnings=tuple(stay))


def with_room(facts: HostFacts) -> list[Sh]:
    """Return the command that fails where a Docker that restarts would find its disk full; none where Docker is new.

    A dockerd that starts on a full disk loses containers and the ports of those that run (seen with 28.5).
    """
    root = facts.docker.get("DockerRootDir")
    if not root:
        return []
    free = sh("df -Pk {} 2>/dev/null | awk -v room={} 'NR == 2 && $4 < room {exit 1}'", root, ROOM)
    why = f"{root} has less than {ROOM // 1024} MiB free, and a Docker that starts on a full disk loses containers"
    return [sh("{} || { echo {} >&2; exit 1; }", free, f"Docker was not changed: {why}")]


def around_restart(install: Step, facts: HostFacts) -> list[Step]:
    """Return a step that restarts Docker, between noting what it stops on disk and starting that again."""
    install = without_start_limit(install, facts)
    stops = any(container.running and not container.user for container in facts.containers)
    if not stops or facts.docker.get("LiveRestoreEnabled"):
        return [install]
    return [
        DockerRestart("note which containers run", "record"),
        install,
        DockerRestart("start the containers that ran before", "finish"),
    ]


def without_start_limit(install: Step, facts: HostFacts) -> Step:
    """Return the step of packages whose own scripts restart a running Docker, so that earlier starts do not count.

    The scripts report no failed start."""
    if not isinstance(install, Shell) or facts.units.get("docker.service", Unit()).active != "active":
        return install
    return replace(install, command=sh("{}; {}", RESET, install.command))


def keep(spec: Host, facts: HostFacts, platform: Platform) -> Plan:
    """Plan nothing for Docker itself. It must be installed, with Compose v2."""
    if not facts.docker:
        return Plan(errors=(Problem.of("docker-kept-silent"),))
    if re.match(r"[01]\.|$", facts.compose):
        return Plan(errors=(Problem.of("docker-kept-without-compose"),))
    return Plan((*from_distribution(lacking(spec, facts, platform), facts, platform), *free_ports(spec, facts)))


def is_installed(facts: HostFacts) -> bool:
    """Is any Docker installed, running or not?"""
    return bool(facts.docker or facts.units.get("docker.service", Unit()).loaded != "not-found")


def unanswered(facts: HostFacts) -> Problem | None:
    """Return why nothing that needs a Docker daemon can be done; None if it answers."""
    if facts.docker:
        return None
    if late := facts.late.get("Docker"):
        return Problem.of("docker-late", why=late)
    return Problem.of("docker-silent" if is_installed(facts) else "docker-missing")


def with_source(spec: Host, facts: HostFacts) -> Host:
    """Return the spec with the `docker.source` that "auto" means on this host.

    It is that of the lock, so that a rebuilt host gets the same, else that of the installed Docker, else docker-ce.
    """
    if spec.docker.source != "auto":
        return spec
    platform = platform_of(facts.os)
    engines = {CE_PACKAGES[0]: "docker-ce"} | dict.fromkeys(platform.distro_packages[:1] if platform else (), "distro")
    there = [*(spec.lock.packages if spec.lock else ()), *installed(engines, facts)]
    source = next((engines[name] for name in there if name in engines), "docker-ce")
    return spec.model_copy(update={"docker": spec.docker.model_copy(update={"source": source})})


def other_version(spec: Host, facts: HostFacts, platform: Platform) -> Problem | None:
    """Return the error if "auto" means the distribution's Docker, but the inventory wants another version of it.

    A distribution usually carries one version only.
    """
    wanted = spec.docker.version
    if spec.docker.source != "auto" or not wanted or is_ce(with_source(spec, facts)):
        return None
    for name, version in installed(platform.distro_packages[:1], facts).items():
        if upstream(version) != wanted:
            parts = {"name": name, "version": upstream(version), "wanted": f"`docker.version` {wanted}"}
            return Problem.of("docker-conflict", **parts, hint=OTHER_VERSION)
    return None


def not_carried(spec: Host, facts: HostFacts, platform: Platform) -> Problem | None:
    """Return the error if the repository that Docker comes from is known not to have the wanted version."""
    wanted, engine = spec.docker.version, packages_of(spec, platform)[0]
    if not wanted or any(Pin(wanted).met_by(version) for version in installed((engine,), facts).values()):
        return None
    repository = platform.packages.listed_as(ce_repository(spec, facts, platform), facts) if is_ce(spec) else None
    versions = listed_instead(engine, wanted, facts, repository)
    if not versions:
        return None
    parts = {"path": "docker.version", "package": engine, "version": wanted, "versions": versions}
    if is_ce(spec):
        return Problem.of("version-not-found", **parts)
    return Problem.of("version-not-carried", **parts, system=facts.os.name)


def is_ce(spec: Host) -> bool:
    """Does Docker come from its own repository? spec: as with_source returns it."""
    return spec.docker.source == "docker-ce"


def conflict(spec: Host, facts: HostFacts, platform: Platform) -> Problem | None:
    """Return the error if another Docker is installed. gpurack does not replace it unasked."""
    if not is_ce(spec) and not platform.distro_packages:
        return Problem.of("distribution-without-docker", system=facts.os.name)
    wanted = packages_of(spec, platform)[0]
    rivals = {**platform.rivals, **(platform.ce_rivals if is_ce(spec) else platform.distro_rivals)}
    found = installed((name for name in rivals if name != wanted), facts)
    if found:
        name, version = next(iter(found.items()))
        together = " ".join(other for other in found if rivals[other] == rivals[name])
        hint = rivals[name].replace("{names}", together).replace("{program}", facts.manager.program)
        parts = {"name": name, "version": upstream(version), "wanted": wanted, "hint": hint}
        return Problem.of("docker-conflict", **parts)
    return None


def foreign(facts: HostFacts, platform: Platform) -> Problem | None:
    """Return the error if an admin keeps Docker from starting, or if one is installed without a package.

    Debian masks docker.service when docker.io is removed but not purged; its next installation unmasks it.
    """
    engines = {*CE_PACKAGES[:1], *platform.distro_packages[:1], *platform.rivals}
    packaged = any(name in facts.packages for name in engines)
    if "dockerd" in facts.tools and not packaged:
        return Problem.of("docker-without-package", program=facts.docker_flags.split(" ")[0] or "dockerd")
    if packaged and facts.units.get("docker.service", Unit()).loaded == "masked":
        return Problem.of("docker-masked")
    return None


def ce_repository(spec: Host, facts: HostFacts, platform: Platform) -> Repository:
    """Return Docker's repository, or its mirror."""
    url, key = mirrored(spec, "docker-ce", CE_URL, platform.docker_key)
    place = platform.docker_ce.format(codename=facts.os.codename)
    marks = ("download.docker.com/linux", f"{url}/linux/")
    return Repository("docker-ce", url, place, key, marks, direct=bool(spec.proxy and spec.proxy.spares(url)))


def from_distribution(names: Sequence[str], facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the step that installs these packages of the distribution; none for no names."""
    return [platform.packages.install(f"install {', '.join(names)}", dict.fromkeys(names), facts)] if names else []


def lacking(spec: Host, facts: HostFacts, platform: Platform) -> list[str]:
    """Return what gpurack needs and the host lacks: curl for downloads, python3, certificates.

    And what builds images, if one is to be built.
    """
    return [*platform.packages.prerequisites(facts), *builders(spec, facts)]


def builders(spec: Host, facts: HostFacts) -> list[str]:
    """Return git and BuildKit's client, if an image is to be built and the host lacks them.

    Upstream's Dockerfiles (llama.cpp) need BuildKit. docker-ce includes it.
    """
    if not any(entry.enabled and isinstance(entry.image, BuildImage) for entry in spec.everything.values()):
        return []
    wanted = {"git": "git", **({"buildx": "docker-buildx"} if spec.docker.source == "distro" else {})}
    return [package for tool, package in wanted.items() if tool not in facts.tools]


def packages_of(spec: Host, platform: Platform) -> tuple[str, ...]:
    """Return all packages of the wanted Docker, the engine first, with a lock also those below it."""
    rootless = (CE_ROOTLESS,) if spec.users else ()
    return (
        *((*CE_PACKAGES, *rootless) if is_ce(spec) else platform.distro_packages),
        *lock.packages(spec, BELOW),
    )


def versioned(spec: Host, platform: Platform) -> tuple[str, ...]:
    """Return the packages that have Docker's version."""
    rootless = (CE_ROOTLESS,) if spec.users else ()
    return ("docker-ce", "docker-ce-cli", *rootless) if is_ce(spec) else platform.distro_packages[:1]


def pins(spec: Host, platform: Platform) -> Mapping[str, Pin]:
    """Return the packages that must have a certain version."""
    version = spec.docker.version
    wanted = dict.fromkeys(versioned(spec, platform), Pin(version)) if version else {}
    return wanted | lock.packages(spec, packages_of(spec, platform))


def packages_to_install(
    spec: Host, facts: HostFacts, platform: Platform
) -> tuple[Mapping[str, Pin | None], tuple[str, ...]]:
    """Return (packages to install, packages to hold); nothing if all have the wanted version."""
    wanted, pinned = packages_of(spec, platform), pins(spec, platform)
    there = installed(wanted, facts)
    wrong = {
        name: pinned.get(name)
        for name in wanted
        if name not in there or (name in pinned and not pinned[name].met_by(there[name]))
    }
    return wrong, wanted if wrong and pinned else ()


def restarts_docker(packages: Iterable[str]) -> bool:
    """Does installing these packages restart a running dockerd? Installing Compose does not.

    >>> restarts_docker(["docker-compose-plugin"]), restarts_docker(["containerd.io"])
    (False, True)
    """
    daemons = ("docker.io", "docker-ce", "containerd", "containerd.io")
    return any(name in daemons for name in packages)


def reason(spec: Host, facts: HostFacts, platform: Platform, packages: Mapping[str, Pin | None]) -> str:
    """Return `install docker-ce 28.5.2` · `docker-ce 26.1.5 → 28.5.2` · `install docker-compose-plugin`."""
    there = installed(packages, facts)
    engine = packages_of(spec, platform)[0]
    moves = {name: f"{name} {move(there[name], pin)}" for name, pin in packages.items() if pin and name in there}
    if engine in moves:
        return moves[engine]
    missing = [name for name in packages if name not in there]
    if engine in missing:
        pin = packages[engine]
        firewall = facts.units.get("firewalld.service", Unit()).active == "active"
        note = " (firewalld runs: published ports go through Docker's own zone)" if firewall else ""
        return f"install {engine}{f' {upstream(pin.version)}' if pin else ''}{note}"
    return ", ".join([*moves.values(), *([f"install {', '.join(missing)}"] if missing else [])])


def holds(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the steps that hold packages if the inventory pins a version, and release ours if it does not."""
    wanted = packages_of(spec, platform)
    if pins(spec, platform):
        return hold(wanted, facts, platform.packages)
    return release((*wanted, *BELOW), facts, platform.packages)


def free_ports(spec: Host, facts: HostFacts) -> list[Step]:
    """Return the step that frees ports of entries at which Docker listens for containers that do not run."""
    wanted = {entry.port for entry in spec.entries.values()}
    stuck = [one for one in stuck_ports(facts) if one.port in wanted]
    known = sorted({one.port for one in stuck})
    ports = f"port{'s' if len(known) > 1 else ''} {', '.join(map(str, known))}"
    note = owe_restart(f"it listens at {ports} for a container that does not run")
    return [if_still_stuck(note, stuck)] if stuck else []


def running(facts: HostFacts) -> list[Step]:
    """Return the step that starts Docker and enables it at boot, if needed."""
    unit = facts.units.get("docker.service")
    if unit and unit.active == "active" and unit.enabled == "enabled":
        return []
    # `enable` prints about sysv scripts.
    start = sh(
        "{}; systemctl enable docker.service >/dev/null 2>&1; "
        "systemctl start docker.service && systemctl -q is-enabled docker.service",
        RESET,
    )
    return [Shell("start Docker and enable it at boot", start)]
