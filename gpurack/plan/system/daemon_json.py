"""daemon.json belongs to the admin: the inventory's keys are merged in, every other key stays. Pure.

Which keys dockerd reads again on reload (SIGHUP): docs.docker.com "Configuration reload behavior", seen on 26.1 and
28.5. features.cdi and device drivers are read only at the start. CDI is opt-in in Docker 25.0 to 28.1, and on from
28.2.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.host_data import json_from_host
from gpurack.plan.packages.base import installed
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES
from gpurack.plan.steps import Plan, Step
from gpurack.plan.system.restart import may_stop_foreign, what_stops
from gpurack.shell import NOTHING, Sh, sh
from gpurack.spec.host import Host
from gpurack.spec.merge import merge, patch
from gpurack.spec.problems import Problem

RELOADED = frozenset(
    {
        "debug", "labels", "live-restore", "max-concurrent-downloads", "max-concurrent-uploads",
        "max-download-attempts", "default-runtime", "runtimes", "authorization-plugins",
        "insecure-registries", "registry-mirrors", "shutdown-timeout",
    }
)  # fmt: skip
# After a change of these, dockerd does not find its running containers again, even with live-restore.
BREAKS_LIVE_RESTORE = frozenset({"data-root", "exec-root", "bridge", "bip", "storage-driver"})
FLAGS = {
    "hosts": ("-H", "--host"), "runtimes": ("--add-runtime",), "features": ("--feature",),
    "insecure-registries": ("--insecure-registry",), "registry-mirrors": ("--registry-mirror",),
    "debug": ("-D", "--debug"), "log-level": ("-l", "--log-level"), "log-opts": ("--log-opt",),
    "storage-driver": ("-s", "--storage-driver"), "storage-opts": ("--storage-opt",), "bridge": ("-b", "--bridge"),
    "group": ("-G", "--group"), "pidfile": ("-p", "--pidfile"), "labels": ("--label",), "dns-opts": ("--dns-opt",),
    "exec-opts": ("--exec-opt",), "default-ulimits": ("--default-ulimit",), "cdi-spec-dirs": ("--cdi-spec-dir",),
    "default-address-pools": ("--default-address-pool",), "authorization-plugins": ("--authorization-plugin",),
    "node-generic-resources": ("--node-generic-resource",),
}  # fmt: skip
"""Keys of daemon.json whose flag is not just `--key` (dockerd --help)."""
RUNTIME = {"args": [], "path": "nvidia-container-runtime"}
"""What `nvidia-ctk runtime configure` writes, identical in 1.14.6 to 1.20.0 (contract section 1.2)."""


@dataclass(frozen=True)
class Apply(Step):
    """Write daemon.json, then reload or restart Docker.

    patch: keys to set or (None) remove; None if the file is right. configure_runtime: run nvidia-ctk on a copy, and
    take the runtime from it. live_restore: it must be on before the restart, confirmed by `docker info`. expect: what
    `docker info` must say afterwards. become: for a user's rootless Docker the words in front of a command that run it
    as this user, else "".
    """

    patch: Mapping[str, Any] | None
    configure_runtime: bool
    action: str
    live_restore: bool
    expect: Mapping[str, Any]
    probe_gpu: bool
    become: Sh = NOTHING


def plan_daemon_json(spec: Host, facts: HostFacts, unattended: bool, toolkit: bool = True) -> Plan:
    """Plan what makes daemon.json and the running dockerd match the inventory.

    unattended: does nobody confirm (`-y`)? toolkit: does this run install the NVIDIA Container Toolkit?
    """
    toolkit = facts.has_nvidia and (toolkit or bool(installed(TOOLKIT_PACKAGES, facts)))
    current, error = read(facts)
    if error:
        return Plan(errors=(error,))
    changes = wanted(spec, facts, current, toolkit)
    target = patch(current, changes)
    flag = flag_twice(target, facts)
    if flag:
        return Plan(errors=(flag,))
    if in_swarm(facts) and target.get("live-restore"):
        return Plan(errors=(Problem.of("swarm-live-restore"),))
    changed = sorted(key for key in {*current, *target} if current.get(key) != target.get(key))
    reasons = [describe(key, current.get(key), target.get(key)) for key in changed]
    if (
        facts.has_nvidia
        and not facts.docker
        and not spec.docker.version
        and "cdi" not in (target.get("features") or {})
    ):
        reasons.append("features.cdi if the Docker to be installed is older than 28.2")  # the version is known then
    expected = expectations(target, facts)
    action, why = needed_action(facts, expected, changed)
    if not changed and not action:
        return Plan()
    live_restore = bool(target.get("live-restore")) and not BREAKS_LIVE_RESTORE & set(changed)
    if action == "restart":
        refusal = may_stop_foreign(spec, facts, unattended, "; ".join(reasons + why), live_restore)
        if refusal:
            return Plan(errors=(refusal,))
    restart = f"restart Docker{what_stops(facts, live_restore)}"
    verb = {"reload": "reload Docker", "restart": restart, "": "Docker applies it by itself"}[action]
    step = Apply(
        reason=f"{', '.join(reasons) or '; '.join(why)} ({verb})",
        patch=changes if changed else None,
        configure_runtime=runtime_is_ours(current, target) and facts.has_nvidia,
        action=action,
        live_restore=live_restore,
        expect=expected,
        probe_gpu=toolkit,
    )
    return Plan((step,))


def read(facts: HostFacts, path: str = paths.DAEMON_JSON) -> tuple[dict[str, Any], Problem | None]:
    """Return (the file's content, None), or ({}, why it is invalid). A missing file is empty."""
    file = facts.files.get(path)
    if file is None:
        return {}, None

    def unreadable(what: str) -> tuple[dict[str, Any], Problem]:
        return {}, Problem.of("daemon-json-unreadable", file=path, what=what, move=sh("mv {} {}", path, f"{path}.old"))

    if file.content.startswith(b"\xef\xbb\xbf"):
        return unreadable("begins with a byte order mark (BOM), which is not JSON")
    if not file.content.strip():
        return unreadable("is empty, which is not JSON")
    try:
        content = json_from_host(file.content)
    except ValueError as error:
        return unreadable(f"is not JSON ({error})")
    if not isinstance(content, dict):
        return unreadable(f"holds {json.dumps(content)[:40]}, not an object")
    for key in ("features", "runtimes"):
        if not isinstance(content.get(key), dict | None):
            return unreadable(f"has {key} that are not an object, which dockerd refuses")
    return content, None


def wanted(spec: Host, facts: HostFacts, current: Mapping[str, Any], toolkit: bool) -> dict[str, Any]:
    """Return the keys to set or (None) remove: our defaults for keys that nobody set, then the inventory's."""
    ours: dict[str, Any] = {}
    if "live-restore" not in current and not flag_of("live-restore", facts) and not in_swarm(facts):
        ours["live-restore"] = True
    said = {*current, *spec.docker.daemon}
    if not (flag_of("log-driver", facts) or flag_of("log-opts", facts)):
        ours |= default_logging(said)
    if toolkit:
        ours |= gpu_keys(spec, facts, current)
    merged: dict[str, Any] = merge(ours, spec.docker.daemon)
    return merged


def in_swarm(facts: HostFacts) -> bool:
    """Is the host's Docker a node of a Swarm? With live-restore, dockerd does not start then (daemon/config)."""
    swarm = facts.docker.get("Swarm")
    return isinstance(swarm, Mapping) and swarm.get("LocalNodeState") not in (None, "", "inactive")


def swarm_warning(facts: HostFacts) -> list[Problem]:
    """Return the warning for a node of a Swarm: a restart of Docker stops its models."""
    return [Problem.of("swarm-without-live-restore")] if in_swarm(facts) else []


def default_logging(said: Collection[str]) -> dict[str, Any]:
    """Return our default for the logs of containers, if nobody has set (said) any of its keys."""
    if {"log-driver", "log-opts"} & set(said):
        return {}
    return {"log-driver": "local"}  # rotates by itself; json-file, the default, grows without end


def gpu_keys(spec: Host, facts: HostFacts, current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that dockerd needs to give GPUs to containers."""
    ours: dict[str, Any] = {}
    if "nvidia" not in (current.get("runtimes") or {}):
        ours["runtimes"] = {"nvidia": RUNTIME}
    # The version to be installed counts as well, so that --dry names the key. It has no effect where CDI is on already.
    if cdi_is_opt_in(str(facts.docker.get("ServerVersion", ""))) or cdi_is_opt_in(spec.docker.version or ""):
        ours["features"] = {"cdi": True}
    return ours


def cdi_is_opt_in(version: str) -> bool:
    """Must features.cdi be set? In Docker 25.0 to 28.1. Older versions do not know it; newer ones have it on.

    >>> [cdi_is_opt_in(version) for version in ("24.0.9", "25.0.0", "28.1.1", "28.2.0", "")]
    [False, True, True, False, False]
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    return bool(found) and (25, 0) <= (int(found[1]), int(found[2])) < (28, 2)  # type: ignore[index]


def flag_twice(target: Mapping[str, Any], facts: HostFacts) -> Problem | None:
    """Return the error if a key is also a flag of dockerd in its unit, because dockerd then refuses to start."""
    for key in target:
        flag = flag_of(key, facts)
        if flag:
            return Problem.of("daemon-key-and-flag", flag=flag, key=key)
    return None


def flag_of(key: str, facts: HostFacts) -> str | None:
    """Return the flag of docker.service that sets a key of daemon.json; None if there is none."""
    words = [word.split("=")[0] for word in facts.docker_flags.split()]
    return next((flag for flag in FLAGS.get(key, (f"--{key}",)) if flag in words), None)


def describe(key: str, old: Any, new: Any) -> str:
    """Return one changed key for messages: `live-restore: true`, `runtimes.nvidia`, `log-driver removed`.

    >>> describe("debug", True, False), describe("runtimes", None, {"nvidia": {}}), describe("dns", [], None)
    ('debug: true → false', 'runtimes.nvidia', 'dns removed')
    """
    if new is None:
        return f"{key} removed"
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        parts = sorted(name for name in {*before, *new} if before.get(name) != new.get(name))
        return ", ".join(f"{key}.{part}" for part in parts) or f"{key}: {json.dumps(new)}"
    if old is None:
        return f"{key}: {json.dumps(new)}"
    return f"{key}: {json.dumps(old)} → {json.dumps(new)}"


def runtime_is_ours(current: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Is NVIDIA's runtime new, and as nvidia-ctk writes it? The admin's own path stays."""
    before, after = ((said.get("runtimes") or {}).get("nvidia") for said in (current, target))
    return before is None and after == RUNTIME


def needed_action(facts: HostFacts, expected: Mapping[str, Any], changed: list[str]) -> tuple[str, list[str]]:
    """Return ("", "reload" or "restart", why).

    Decided by the changed keys, the mark of an unfinished run, and `docker info`.
    """
    marker = facts.files.get(paths.RESTART_MARKER)
    owed = marker.text.strip() if marker else ""
    if any(key not in RELOADED for key in changed) or owed == "restart":
        return "restart", ["an earlier change still needs a restart of Docker"] if owed else []
    if not facts.docker:
        return ("restart", []) if changed else ("", [])
    why = [f"dockerd does not know {what} yet" for what in unmet(expected, facts.docker)]
    if any("CDI" in sentence for sentence in why):
        return "restart", why
    return ("reload", why) if changed or owed or why else ("", [])


def expectations(target: Mapping[str, Any], facts: HostFacts) -> dict[str, Any]:
    """Return what `docker info` says once dockerd has read `target`, with the keys of its JSON."""
    by_flag = flag_of("live-restore", facts) and "--live-restore=false" not in facts.docker_flags.split()
    expected: dict[str, Any] = {"LiveRestoreEnabled": bool(target.get("live-restore") or by_flag)}
    if target.get("runtimes"):
        expected["Runtimes"] = sorted(target["runtimes"])
    if (target.get("features") or {}).get("cdi"):
        expected["CDISpecDirs"] = True
    return expected


def unmet(expected: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """Return the expectations that `docker info` does not meet, for messages."""
    missing = []
    if bool(info.get("LiveRestoreEnabled")) != expected["LiveRestoreEnabled"]:
        missing.append(f"live-restore {json.dumps(expected['LiveRestoreEnabled'])}")
    missing += [f"runtime {name}" for name in expected.get("Runtimes", ()) if name not in info.get("Runtimes", {})]
    if expected.get("CDISpecDirs") and not info.get("CDISpecDirs"):
        missing.append("CDI")
    return missing
