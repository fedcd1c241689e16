"""daemon.json: the admin's file. The inventory's keys are merged in, every other key stays. Pure.

Which keys dockerd takes up on reload (SIGHUP): docs.docker.com "Configuration reload behavior"; seen on 26.1 and 28.5.
features.cdi and device drivers are read at start only. CDI is opt-in in Docker 25.0 to 28.1 and on from 28.2.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpurack import paths
from gpurack.plan.restart import may_stop_foreign
from gpurack.plan.steps import Plan, Step
from gpurack.spec.merge import merge, patch
from gpurack.spec.model import Host
from gpurack.state.model import HostState

RELOADED = frozenset(
    {
        "debug", "labels", "live-restore", "max-concurrent-downloads", "max-concurrent-uploads",
        "max-download-attempts", "default-runtime", "runtimes", "authorization-plugin",
        "insecure-registries", "registry-mirrors", "shutdown-timeout",
    }
)  # fmt: skip
# With these changed dockerd does not find its running containers again, live-restore or not.
BREAKS_LIVE_RESTORE = frozenset({"data-root", "exec-root", "bridge", "bip", "storage-driver"})
RUNTIME = {"args": [], "path": "nvidia-container-runtime"}
"""What `nvidia-ctk runtime configure` writes, the same bytes in 1.14.6 to 1.20.0 (contract section 1.2)."""


@dataclass(frozen=True)
class Apply(Step):
    """Write daemon.json (None: it is right already), then reload or restart Docker.

    configure_runtime: run nvidia-ctk, on a copy, and take the runtime from there. live_restore: it has to be on,
    confirmed by `docker info`, before the restart. expect: what `docker info` must say afterwards.
    """

    patch: Mapping[str, Any] | None
    configure_runtime: bool
    action: str
    live_restore: bool
    expect: Mapping[str, Any]
    probe_gpu: bool


def plan_daemon_json(spec: Host, state: HostState, unattended: bool) -> Plan:
    """What makes daemon.json and the running dockerd agree with the inventory."""
    current, error = read(state)
    if error:
        return Plan(errors=(error,))
    changes = wanted(spec, state, current)
    target = patch(current, changes)
    flag = flag_twice(target, state)
    if flag:
        return Plan(errors=(flag,))
    changed = sorted(key for key in {*current, *target} if current.get(key) != target.get(key))
    reasons = [describe(key, current.get(key), target.get(key)) for key in changed]
    action, why = needed_action(state, target, changed)
    if not changed and not action:
        return Plan()
    live_restore = bool(target.get("live-restore")) and not BREAKS_LIVE_RESTORE & set(changed)
    if action == "restart":
        refusal = may_stop_foreign(spec, state, unattended, "; ".join(reasons + why), live_restore)
        if refusal:
            return Plan(errors=(refusal,))
    verb = {"reload": "reload Docker", "restart": "restart Docker", "": "Docker takes it up by itself"}[action]
    step = Apply(
        reason=f"{', '.join(reasons) or '; '.join(why)} ({verb})",
        patch=changes if changed else None,
        configure_runtime="runtimes" in changed and state.has_gpu,
        action=action,
        live_restore=live_restore,
        expect=expectations(target),
        probe_gpu=state.has_gpu,
    )
    return Plan((step,))


def read(state: HostState) -> tuple[dict[str, Any], str | None]:
    """(the file's content, None), or ({}, why it cannot be read). A missing file is empty."""
    file = state.files.get(paths.DAEMON_JSON)
    if file is None:
        return {}, None
    remedy = f"It was not touched. Correct it, or move it away: mv {paths.DAEMON_JSON} {paths.DAEMON_JSON}.old"
    if file.content.startswith(b"\xef\xbb\xbf"):
        return {}, f"{paths.DAEMON_JSON} begins with a byte order mark (BOM), which is not JSON. {remedy}"
    if not file.content.strip():
        return {}, f"{paths.DAEMON_JSON} is empty, which is not JSON. {remedy}"
    try:
        content = json.loads(file.content)
    except ValueError as error:
        return {}, f"{paths.DAEMON_JSON} is not JSON ({error}). {remedy}"
    if not isinstance(content, dict):
        return {}, f"{paths.DAEMON_JSON} holds {json.dumps(content)[:40]}, not an object. {remedy}"
    return content, None


def wanted(spec: Host, state: HostState, current: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to set or (None) remove: our defaults where nobody said anything, then the inventory's."""
    ours: dict[str, Any] = {}
    if "live-restore" not in current:
        ours["live-restore"] = True
    if "log-driver" not in current and "log-opts" not in current and "log-opts" not in spec.docker.daemon:
        ours["log-driver"] = "local"  # rotates by itself; json-file, the default, grows without end
    if state.has_gpu:
        if "nvidia" not in (current.get("runtimes") or {}):
            ours["runtimes"] = {"nvidia": RUNTIME}
        if cdi_is_opt_in(state):
            ours["features"] = {"cdi": True}
    merged: dict[str, Any] = merge(ours, spec.docker.daemon)
    return merged


def cdi_is_opt_in(state: HostState) -> bool:
    """Docker 25.0 to 28.1: features.cdi must be set; before it is unknown, after it is the default."""
    found = re.match(r"(\d+)\.(\d+)", str(state.docker.get("ServerVersion", "")))
    return bool(found) and (25, 0) <= (int(found[1]), int(found[2])) < (28, 2)  # type: ignore[index]


def flag_twice(target: Mapping[str, Any], state: HostState) -> str | None:
    """dockerd refuses to start with a key in its unit's flags and in daemon.json."""
    names = {
        "hosts": ("-H", "--host"),
        "runtimes": ("--add-runtime",),
        "insecure-registries": ("--insecure-registry",),
    }
    words = [word.split("=")[0] for word in state.docker_flags.split()]
    for key in target:
        for flag in names.get(key, (f"--{key}",)):
            if flag in words:
                return (
                    f"docker.service starts dockerd with {flag}, and daemon.json would set {key} too: dockerd would "
                    f"not start. Remove the flag from the unit (systemctl cat docker.service) or set the key to null."
                )
    return None


def describe(key: str, old: Any, new: Any) -> str:
    """One changed key, for people: `live-restore: true`, `runtimes.nvidia`, `log-driver removed`."""
    if new is None:
        return f"{key} removed"
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        parts = sorted(name for name in {*before, *new} if before.get(name) != new.get(name))
        return ", ".join(f"{key}.{part}" for part in parts)
    if old is None:
        return f"{key}: {json.dumps(new)}"
    return f"{key}: {json.dumps(old)} → {json.dumps(new)}"


def needed_action(state: HostState, target: Mapping[str, Any], changed: list[str]) -> tuple[str, list[str]]:
    """("", "reload" or "restart", why): from the changed keys, the mark of an unfinished run, and `docker info`."""
    marker = state.files.get(paths.RESTART_MARKER)
    owed = marker.text.strip() if marker else ""
    if any(key not in RELOADED for key in changed) or owed == "restart":
        return "restart", ["Docker must still take up an earlier change"] if owed else []
    if not state.docker:
        return ("restart", []) if changed else ("", [])
    why = [f"dockerd does not know {what} yet" for what in unmet(expectations(target), state.docker)]
    if any("CDI" in sentence for sentence in why):
        return "restart", why
    return ("reload", why) if changed or owed or why else ("", [])


def expectations(target: Mapping[str, Any]) -> dict[str, Any]:
    """What `docker info` says of a dockerd that has read `target`; keys as in docker info's JSON."""
    expected: dict[str, Any] = {"LiveRestoreEnabled": bool(target.get("live-restore"))}
    if target.get("runtimes"):
        expected["Runtimes"] = sorted(target["runtimes"])
    if (target.get("features") or {}).get("cdi"):
        expected["CDISpecDirs"] = True
    return expected


def unmet(expected: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """The expectations that `docker info` does not meet, for people."""
    missing = []
    if bool(info.get("LiveRestoreEnabled")) != expected["LiveRestoreEnabled"]:
        missing.append(f"live-restore {json.dumps(expected['LiveRestoreEnabled'])}")
    missing += [f"runtime {name}" for name in expected.get("Runtimes", ()) if name not in info.get("Runtimes", {})]
    if expected.get("CDISpecDirs") and not info.get("CDISpecDirs"):
        missing.append("CDI")
    return missing
