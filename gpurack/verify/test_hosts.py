"""Does each host match the inventory: packages, repositories, Docker, GPUs, units, secrets?"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from gpurack import paths
from gpurack.facts.gpus import MISMATCH
from gpurack.facts.model import HostFacts
from gpurack.plan.host import unfinished
from gpurack.plan.models.keys import current_key
from gpurack.plan.models.ownership import NO_CLAIM, of_others, own_view
from gpurack.plan.models.plan import host_files
from gpurack.plan.models.slots import other_than_expected
from gpurack.plan.packages.base import Pin, Repository, installed, upstream
from gpurack.plan.packages.holds import noted
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES, Platform, platform_of, unsupported
from gpurack.plan.steps import SetAside, Step, WriteFile, WriteFiles
from gpurack.plan.system import cdi_specs, daemon_json, docker, nvidia_driver, nvidia_toolkit, rootless
from gpurack.plan.system.gpu_access import access
from gpurack.shell import Sh, by_ssh, sh
from gpurack.spec.gpus import hardware
from gpurack.spec.merge import patch
from gpurack.verify.drift import Drift, Unread, on_hosts
from gpurack.verify.evidence import enabled, whole, writable
from gpurack.verify.lab import Entry, Server

IN_INFO = {
    "log-driver": "LoggingDriver", "data-root": "DockerRootDir", "storage-driver": "Driver", "debug": "Debug",
    "live-restore": "LiveRestoreEnabled", "default-runtime": "DefaultRuntime",
}  # fmt: skip
"""Keys of daemon.json → the key of `docker info` with the value that dockerd uses."""


def has_docker(server: Server) -> bool:
    """Does gpurack install Docker there?"""
    return server.spec.docker.source != "keep"


def has_models(server: Server) -> bool:
    """Should any model serve there?"""
    return bool(enabled(server.spec))


def platform_there(server: Server) -> Platform:
    """Return the platform of the host. Raises Unread if it is not supported."""
    found = platform_of(server.state.os)
    if found is None:
        raise Unread(unsupported(server.state.os).what, "another system, or another inventory entry")
    return found


def packages(server: Server) -> dict[str, Pin | None]:
    """Return the packages that the host should have, with their versions if the inventory pins them."""
    wanted, platform = docker.with_source(server.spec, server.state), platform_there(server)
    missing = platform.packages.prerequisites(server.state)
    found: dict[str, Pin | None] = dict.fromkeys(missing)
    if has_docker(server):
        found |= {**dict.fromkeys(docker.packages_of(wanted, platform)), **docker.pins(wanted, platform)}
    if server.state.has_nvidia:
        found |= {**dict.fromkeys(TOOLKIT_PACKAGES), **nvidia_toolkit.pins(wanted)}
    return found


@on_hosts()
def test_packages(server: Server) -> Iterator[Drift]:
    """Docker's, the toolkit's and required packages are fully installed, at the inventory's version."""
    there = server.state.packages
    for name, pin in packages(server).items():
        package, expected = there.get(name), pin.version if pin else "installed"
        if package is None:
            yield Drift(name, expected, "not installed")
        elif not package.whole:
            yield Drift(name, expected, f"{package.version}, half installed")
        elif pin and not pin.met_by(package.version):
            yield Drift(name, expected, package.version)


@on_hosts()
def test_holds(server: Server) -> Iterator[Drift]:
    """Pinned packages are held together with the packages that belong to them; gpurack holds no others."""
    wanted, there = docker.with_source(server.spec, server.state), server.state.packages
    platform = platform_there(server)
    expected: dict[str, bool] = {}
    if has_docker(server):
        expected |= dict.fromkeys(docker.packages_of(wanted, platform), bool(docker.pins(wanted, platform)))
    if server.state.has_nvidia:
        expected |= dict.fromkeys(TOOLKIT_PACKAGES, bool(nvidia_toolkit.pins(wanted)))
    if wanted.nvidia.driver:
        there_now = nvidia_driver.packages(server.state)
        kernel = server.state.driver.kernel
        expected |= {name: True for name, version in there_now.items() if upstream(version) == kernel}
    words = {True: "held", False: "not held"}
    for name, hold in expected.items():
        kept = not hold and name not in noted(server.state)  # on hold by an admin
        if name in there and there[name].held != hold and not kept:
            yield Drift(name, words[hold], words[there[name].held])


def repositories(server: Server) -> list[Repository]:
    """Return the repositories that packages come from."""
    platform = platform_there(server)
    found = []
    if has_docker(server) and docker.is_ce(docker.with_source(server.spec, server.state)):
        found.append(docker.ce_repository(server.spec, server.state, platform))
    if server.state.has_nvidia:
        found.append(nvidia_toolkit.repository(server.spec, platform))
    return found


@on_hosts()
def test_repositories(server: Server) -> Iterator[Drift]:
    """Each repository is in the one file that gpurack wrote, unchanged, and in no other."""
    manager = platform_there(server).packages
    for repository in repositories(server):
        for step in manager.repository(repository, server.state):
            if step_path(step) != manager.key_path(repository):
                yield from as_drift(step, server)


@on_hosts()
def test_keys(server: Server) -> Iterator[Drift]:
    """The keys that verify packages are those shipped with gpurack, or the mirror's own."""
    manager = platform_there(server).packages
    for repository in repositories(server):
        path, said = manager.key_path(repository), server.state.files.get(manager.key_path(repository))
        if said is None or said.text != repository.key:
            found = "no file" if said is None else "another key"
            yield Drift(path, f"the key of the {repository.name} repository", found)
        else:
            yield from other_access(path, "644", server)


def step_path(step: Step) -> str:
    """Return the file that a step of the plan would change."""
    return step.path if isinstance(step, WriteFile | SetAside) else ""


def as_drift(step: Step, server: Server) -> Iterator[Drift]:
    """Yield what is wrong with the file that a step would change."""
    if isinstance(step, WriteFile):
        said = server.seen["files"].get(step.path, {}).get("text")
        if said != step.content:
            yield Drift(step.path, "as written by gpurack", difference(step.content, said))
        else:
            yield from other_access(step.path, step.mode, server)
    elif isinstance(step, WriteFiles):
        for file in step.files:
            yield from as_drift(file, server)
    elif isinstance(step, SetAside):
        yield Drift(step.path, "no second file of the repository", "a file")


def other_access(path: str, mode: str, server: Server) -> Iterator[Drift]:
    """Yield a wrong owner or mode of an existing file. Only root may change what root runs or trusts."""
    file = server.seen["files"][path]
    if file["uid"] != 0:
        yield Drift(path, "owner root", f"owner {file['uid']}")
    if int(file["mode"], 8) != int(mode, 8):
        yield Drift(path, f"mode {mode}", file["mode"])


def difference(expected: str, found: str | None) -> str:
    """Describe the first line that differs."""
    if found is None:
        return "no file"
    lines = [line for line in found.splitlines() if line not in expected.splitlines()]
    missing = [line for line in expected.splitlines() if line not in found.splitlines()]
    return f'"{lines[0][:80]}"' if lines else f'a file without "{missing[0][:80]}"' if missing else "another order"


@on_hosts()
def test_docker_runs(server: Server) -> Iterator[Drift]:
    """Docker is active, enabled at boot, answers, and runs the installed version."""
    unit, info = server.seen["units"].get("docker.service", {}), server.seen.daemon()["info"]
    if unit.get("active") != "active":
        yield Drift("docker.service", "active", unit.get("active") or "no such unit")
    if unit.get("enabled") != "enabled":
        yield Drift("docker.service", "enabled at boot", unit.get("enabled") or "no such unit")
    version = engine_version(server)
    if not info:
        yield Drift("Docker", "a daemon that answers", "none on its socket")
    elif version and upstream(info["ServerVersion"]) != version:
        yield Drift("the running dockerd", f"{version}, as its package", info["ServerVersion"], restart(server))


def engine_version(server: Server) -> str | None:
    """Return upstream's version of the package with dockerd, whoever installed it; None if unknown."""
    names = ("docker-ce", *platform_there(server).distro_packages[:1])
    return next(map(upstream, installed(names, server.state).values()), None)


@on_hosts(lambda server: bool(server.spec.users))
def test_rootless_docker(server: Server) -> Iterator[Drift]:
    """Each user's Docker unit is active and enabled from boot on (linger), and answers as rootless."""
    for name in server.spec.users:
        user, info = whole(server.seen["users"].get(name), name), server.seen.daemon(name)["info"]
        if user is None:
            fix = by_ssh(server.name, sh("sudo useradd --create-home {}", name))
            yield Drift(f"user {name}", "an account", "none", fix)
            continue
        if not user["linger"]:
            yield Drift(f"linger of {name}", "on", "off")
        if user["active"] != "active":
            yield Drift(f"docker.service of {name}", "active", user["active"] or "no such unit")
        if user["enabled"] != "enabled":
            yield Drift(f"docker.service of {name}", "enabled", user["enabled"] or "no such unit")
        if not any("rootless" in option for option in info.get("SecurityOptions", [])):
            yield Drift(f"the Docker of {name}", "a rootless daemon that answers", "another" if info else "none")
        new = server.seen.daemon()["info"].get("ServerVersion")
        if info and new not in (None, info["ServerVersion"]):
            yield Drift(f"the Docker of {name}", f"{new}, as the host's own", info["ServerVersion"])


@on_hosts(lambda server: bool(server.spec.users))
def test_rootless_files(server: Server) -> Iterator[Drift]:
    """Files in each user's home and on the host that rootless Docker needs are gpurack's.

    In a home: keys of daemon.json (other keys are the user's), lines of the unit, and the configuration of NVIDIA's
    hook.
    """
    wanted, state = server.spec, server.state
    for name in server.spec.users:
        user = state.users.get(name)
        if user is None:
            continue  # test_rootless_docker says so
        path = user.daemon_json
        current, error = daemon_json.read(state, path)
        target = patch(current, rootless.wanted_keys(rootless.Account(name, wanted, state), current))
        if error:
            fix = f"{move_away(path, server)}; {server.fix}"
            yield Drift(path, "an object in JSON", dict(error.parameters)["what"], fix)
        for key in sorted({*current, *target}) if not error else ():
            if current.get(key) != target.get(key):
                yield Drift(f"{path} {key}", shown(target.get(key)), shown(current.get(key)))
        for file, text in rootless.wanted_files(wanted, state).items():
            there = state.files.get(f"{user.home}/{file}")
            found = there.text if there else None
            if found != text:
                expected = "no file" if text is None else "as written by gpurack"
                yield Drift(f"{user.home}/{file}", expected, "one" if text is None else difference(text, found))
    for step in rootless.host_steps(wanted, state, platform_there(server)):
        yield from as_drift(step, server)


def move_away(path: str, server: Server) -> Sh:
    """Return the command that moves an invalid file away, so that a new one can be written."""
    return by_ssh(server.name, sh("sudo mv {} {}", path, f"{path}.old"))


def restart(server: Server) -> Sh:
    """Return the command that makes Docker read its configuration again."""
    return by_ssh(server.name, sh("sudo systemctl restart docker"))


def reboot(server: Server) -> Sh:
    """Return the command that reboots the host."""
    return by_ssh(server.name, sh("sudo reboot"))


def close(path: str, mode: str, server: Server) -> Sh:
    """Return the command that makes root the owner of a folder and sets its mode."""
    return by_ssh(server.name, sh("sudo chown root {path} && sudo chmod {mode} {path}", path=path, mode=mode))


def desired(server: Server) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return daemon.json as it is and as it should be. Raises Unread if it is invalid."""
    current, error = daemon_json.read(server.state)
    if error:
        fix = f"{move_away(paths.DAEMON_JSON, server)}; {server.fix}"
        raise Unread(f"daemon.json: expected an object in JSON, found {error.message.rstrip('.')}", fix)
    changes = daemon_json.wanted(server.spec, server.state, current, toolkit=server.state.has_nvidia)
    return current, patch(current, changes)


def shown(value: object) -> str:
    """Return a value of daemon.json for messages."""
    return "nothing" if value is None else json.dumps(value)


@on_hosts()
def test_daemon_json(server: Server) -> Iterator[Drift]:
    """daemon.json has the inventory's keys, live-restore, log rotation and NVIDIA's runtime.

    Every other key is the admin's.
    """
    current, target = desired(server)
    for key in sorted({*current, *target}):
        if current.get(key) != target.get(key):
            yield Drift(f"daemon.json {key}", shown(target.get(key)), shown(current.get(key)))


@on_hosts()
def test_docker_took_it_up(server: Server) -> Iterator[Drift]:
    """`docker info` agrees with daemon.json, so that nothing waits for a restart."""
    _, target = desired(server)
    info = server.seen.daemon()["info"]
    for key, where in IN_INFO.items() if info else ():
        if key in target and info.get(where) != target[key]:
            yield Drift(f"dockerd's {key}", shown(target[key]), shown(info.get(where)), restart(server))
    said = info.get("RegistryConfig", {}).get("IndexConfigs", {})
    for registry in target.get("insecure-registries", []) if info else []:
        if "/" not in registry and said.get(registry, {}).get("Secure", True):
            yield Drift(f"dockerd's {registry}", "an insecure registry", "unknown to it", restart(server))


def has_nvidia(server: Server) -> bool:
    """Do the host's models want GPUs, or does `hardware` name GPUs?"""
    return bool(server.spec.hardware or server.spec.wants_gpu)


def only_amd(server: Server) -> bool:
    """Are all GPUs that were found AMD's?"""
    return bool(server.state.gpus) and not server.state.has_nvidia


@on_hosts(has_nvidia)
def test_runtime(server: Server) -> Iterator[Drift]:
    """dockerd has NVIDIA's runtime, and CDI if its version supports it."""
    info = server.seen.daemon()["info"]
    if not info or only_amd(server):
        return
    if "nvidia" not in info["Runtimes"]:
        yield Drift("dockerd's runtimes", "nvidia among them", ", ".join(sorted(info["Runtimes"])))
    if access(server.spec, server.state) == "cdi" and not info.get("CDISpecDirs"):
        yield Drift("dockerd's CDI", "on", "off", restart(server))


@on_hosts(has_nvidia)
def test_cdi_devices(server: Server) -> Iterator[Drift]:
    """A CDI spec names each GPU that answers. Its device nodes and driver files exist."""
    cards = server.seen["cards"]
    if cards is None or access(server.spec, server.state) != "cdi":
        return
    answering = cdi_specs.named(server.state)
    missing = [uuid for uuid in answering if uuid not in cards["cdi"]["devices"]]
    if missing:
        yield Drift("CDI", f"a device for each of {len(answering)} GPUs", f"none for {', '.join(missing)}")
    fix = by_ssh(server.name, sh("sudo systemctl restart nvidia-cdi-refresh"))
    if cards["cdi"]["missing"]:
        yield Drift("CDI", "existing device nodes", f"no {', '.join(cards['cdi']['missing'])}", fix)
    if gone := cards["cdi"]["gone"]:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        yield Drift("CDI", "existing files of the driver", f"no {gone[0]}{more}", fix)


@on_hosts(has_nvidia)
def test_driver(server: Server) -> Iterator[Drift]:
    """nvidia-smi answers. Kernel module and libraries have one version, the inventory's."""
    cards = server.seen["cards"]
    if cards is None:
        if not only_amd(server):
            yield Drift("the NVIDIA driver", "loaded", "no /proc/driver/nvidia", "install the driver and reboot")
        return
    if cards["exit_code"]:
        # a damaged infoROM hides no GPU, and no reboot repairs it
        fix = "check the GPU that it names" if server.state.all_gpus_answer else reboot(server)
        yield Drift("nvidia-smi", "an answer", f"{cards['message']} (exit {cards['exit_code']})", fix)
    libraries = {gpu.driver for gpu in server.state.gpus if gpu.driver} - {cards["kernel"]}
    for library in sorted(libraries) if not cards["wsl"] else ():  # Windows has the driver
        yield Drift("the driver's libraries", f"{cards['kernel']}, as the kernel module", library, reboot(server))
    version = server.spec.nvidia.driver or (server.spec.lock and server.spec.lock.driver)
    if version and not nvidia_driver.is_a(cards["kernel"], version):
        yield Drift("the driver", version, cards["kernel"] or "none", f"install {version}, then {reboot(server)}")


@on_hosts(has_nvidia)
def test_toolkit(server: Server) -> Iterator[Drift]:
    """The toolkit's four packages have one version, and its program has the same."""
    there = server.state.packages
    versions = {name: there[name].version for name in TOOLKIT_PACKAGES if name in there}
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Drift("the NVIDIA Container Toolkit", "four packages of one version", found)
    said = (server.seen["cards"] or {}).get("toolkit", "")
    base = versions.get("nvidia-container-toolkit-base")
    if base and said != upstream(base):
        yield Drift("nvidia-ctk", f"{upstream(base)}, as its package", said or "no answer")


@on_hosts(has_nvidia)
def test_gpus(server: Server) -> Iterator[Drift]:
    """The GPUs are those of `hardware`, and none that the kernel knows is lost."""
    names, gpus = hardware(server.spec), server.state.gpus
    known = server.state.driver.pci or {gpu.pci or gpu.uuid for gpu in gpus if not gpu.parent}
    if names and len(known) != len(names):
        fix = "correct `hardware`, or check why the kernel does not find them: dmesg"
        yield Drift("GPUs", str(len(names)), str(len(known)), fix)
    for gpu in gpus:
        if expected := other_than_expected(gpu, server.spec):
            yield Drift(f"GPU {gpu.index}", expected, gpu.name, "correct `hardware` in the inventory")
    for place, uuid in server.state.silent_gpus.items() if server.state.driver.exit_code != MISMATCH else ():
        yield Drift(f"GPU {uuid} at {place}" if uuid else f"GPU at {place}", "an answer from nvidia-smi", "none",
                    reboot(server))  # fmt: skip


@on_hosts(has_models)
def test_boot(server: Server) -> Iterator[Drift]:
    """The unit that starts the models at boot, and what it runs, are this gpurack's."""
    folder = server.seen["files"].get(paths.LIB, {"uid": 0, "mode": "0"})  # a missing folder is reported by its files
    if folder["uid"] != 0 or writable(folder["mode"]):
        found = f"mode {folder['mode']}, owner {folder['uid']}"
        yield Drift(paths.LIB, "writable by root only", found, close(paths.LIB, "go-w", server))
    for step in host_files(HostFacts()):  # for a host without facts the plan returns all files
        yield from as_drift(step, server)
    unit = server.seen["units"].get("gpurack.service", {})
    if unit.get("enabled") != "enabled":
        yield Drift("gpurack.service", "enabled at boot", unit.get("enabled") or "no such unit")


@on_hosts()
def test_only_our_models(server: Server) -> Iterator[Drift]:
    """No container of gpurack's is missing from the inventory or disabled there, except those of other labs."""
    wanted = enabled(server.spec)
    for (user, name), container in own_view(server.spec, server.state, NO_CLAIM).ours.items():
        if name not in wanted or wanted[name].dockerd != user:
            yield Drift(name, "no such model in the inventory", f"a container, {container.status}")
    for problem in (*server.state.foreign, *(one for found in unfinished(server.state) for one in found.problems)):
        warnings.warn(f"{server.title}: {problem.what}", stacklevel=1)


@on_hosts()
def test_secrets(server: Server) -> Iterator[Drift]:
    """Only root can change folders of keys, and they hold no other keys. No secret is anywhere else.

    Checked are compose.yaml, `docker inspect`, and the arguments of processes.
    """
    found, wanted = server.seen["secrets"], enabled(server.spec)
    theirs = {path for name in wanted for path in Entry(server, name).files}
    state = server.state
    folders = {Entry(server, name).observed.folder: name for name in wanted}
    of_labs = of_others(server.spec, state)
    others = {paths.container_file(user, current_key(name, user, state), "") for user, name in of_labs}
    for path, file in found["files"].items():
        folder = PurePosixPath(path).parent
        if file["sum"] is None:
            yield from open_folder(path, file, server)
        elif f"{folder}/" in others:
            continue
        elif f"{folder}/" not in folders:
            yield Drift(path, "no files of a model that is not in the inventory", "a file")
        elif path not in theirs:
            yield Drift(path, f"no file that {folders[f'{folder}/']} does not use", "a file")
    for user, why in found["unread"].items():
        warnings.warn(f"{server.title}: the arguments of {user}'s processes were not read: {why}.", stacklevel=1)
    for name, place in found["leaks"]:
        fix = "replace the key at its source in the inventory, then run again"
        yield Drift(f"the secret {name}", "nowhere but in its file", f"in {place}", fix)


def open_folder(path: str, folder: Mapping[str, Any], server: Server) -> Iterator[Drift]:
    """Yield how a folder of keys is open to others: the folder of all models, or a model's own."""
    found = f"mode {folder['mode']}, owner {folder['owner']}"
    if path in {f"{paths.project(user)}/secrets" for user in server.seen["daemons"]}:
        # a user's dockerd must reach the files that belong to the user
        mode = "711" if path.startswith(f"{paths.USERS}/") else "700"
        if (folder["mode"], folder["owner"]) != (mode, "root"):
            yield Drift(path, f"mode {mode}, owner root", found, close(path, mode, server))
    elif folder["owner"] != "root" or writable(folder["mode"]):
        yield Drift(path, "owner root, writable by root only", found, close(path, "go-w", server))
