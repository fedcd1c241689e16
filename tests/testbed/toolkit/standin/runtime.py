"""nvidia-container-runtime: runc, and for a container that asks for cards, CDI edits made just in time."""

import json
import os
import stat
import time

import cdi
import launch
import settings
import tomlfile
import version
from golang import Failure, Log


def main(arguments):
    try:
        config = settings.load(settings.default_path())
        if arguments[:1] in (["--version"], ["-v"]):
            print(f"NVIDIA Container Runtime version {version.VERSION}\ncommit: {version.COMMIT}\n")
        elif _creates(arguments):
            mode = tomlfile.lookup(config, "nvidia-container-runtime.mode", "auto")
            _modify(_option(arguments, "bundle", "b") or ".", mode, config)
        launch.become(tomlfile.lookup(config, "nvidia-container-runtime.runtimes", ["runc", "crun"]), arguments)
    except FileNotFoundError as error:
        return _fail(arguments, f"failed to construct low-level runtime: {error}")
    except Failure as error:
        what = "could not apply required modification to OCI specification: error modifying OCI spec"
        return _fail(arguments, f"{what}: {error}")


def _fail(arguments, message):
    """Where runc would log (containerd reads the reason from there), else on stderr."""
    log = _option(arguments, "log")
    if log:
        with open(log, "a", encoding="utf-8") as file:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.write(json.dumps({"level": "error", "msg": message, "time": now}) + "\n")
    else:
        Log().error(message)
    return 1


def _creates(arguments):
    """Is this `runc … create …` (options of runc that take a value may stand before it)?"""
    return "create" in arguments


def _option(arguments, *names):
    """The value of the first of these options on runc's command line, "" where there is none."""
    for at, word in enumerate(arguments):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name in names:
            return value if equals else "".join(arguments[at + 1 : at + 2])
    return ""


def _modify(bundle, mode, config):
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
    except (OSError, ValueError) as error:
        raise Failure(f"error loading OCI specification for modification: {error}") from error
    env = spec.get("process", {}).get("env") or []
    requested = None
    for variable in env:
        if variable.startswith("NVIDIA_VISIBLE_DEVICES="):
            requested = variable.partition("=")[2]
    if requested in (None, "", "void"):
        return
    if mode == "legacy":
        _add_hook(spec, config)
    elif requested != "none":
        for edits in _edits(requested, mode, config):
            _apply(spec, edits)
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _edits(requested, mode, config):
    """The containerEdits for what NVIDIA_VISIBLE_DEVICES asks; Failure for a card that is not there."""
    kind = tomlfile.lookup(config, "nvidia-container-runtime.modes.cdi.default-kind", "nvidia.com/gpu")
    names = [name.partition("=")[2] if "=" in name else name for name in requested.split(",") if name]
    if mode == "cdi":
        folders = tomlfile.lookup(config, "nvidia-container-runtime.modes.cdi.spec-dirs", ["/etc/cdi", "/var/run/cdi"])
        specs = [found for found in cdi.read_specs(folders)[0] if found["kind"] == kind]
        if not all(any(d["name"] == name for found in specs for d in found["devices"]) for name in names):
            missing = ", ".join(
                f"{kind}={n}" for n in names if not any(d["name"] == n for found in specs for d in found["devices"])
            )
            raise Failure(f"failed to inject CDI devices: unresolvable CDI devices {missing}")
    else:
        try:
            specs = [cdi.spec()]
            for name in names:
                if not any(device["name"] == name for device in specs[0]["devices"]):
                    how = "UUID" if name.startswith("GPU-") else "index"
                    raise Failure(f"failed to get device handle from {how}: Invalid Argument")
        except Failure as error:
            raise Failure(
                "failed to create the automatic CDI modifier: failed to generate CDI spec for mode "
                f'"auto": failed to construct device spec generators: {error}'
            ) from error
    for found in specs:
        chosen = [device["containerEdits"] for device in found["devices"] if device["name"] in names]
        if chosen:
            yield from chosen
            yield found.get("containerEdits", {})


def _apply(spec, edits):
    """One containerEdits onto an OCI spec, as the CDI specification says."""
    process = spec.setdefault("process", {})
    env = process.get("env") or []
    for variable in edits.get("env", ()):
        name = variable.partition("=")[0] + "="
        env = [other for other in env if not other.startswith(name)] + [variable]
    process["env"] = env
    linux = spec.setdefault("linux", {})
    for node in edits.get("deviceNodes", ()):
        _add_device(linux, node["path"], node.get("hostPath", node["path"]))
    mounts = spec.setdefault("mounts", [])
    for mount in edits.get("mounts", ()):
        mounts[:] = [other for other in mounts if other["destination"] != mount["containerPath"]]
        mounts.append(
            {
                "destination": mount["containerPath"],
                "type": "bind",
                "source": mount["hostPath"],
                "options": mount.get("options", ["ro"]),
            }
        )


def _add_device(linux, path, host_path):
    try:
        found = os.stat(host_path)
    except OSError as error:
        raise Failure(f"failed to inject CDI devices: failed to stat CDI host device {host_path!r}") from error
    if not stat.S_ISCHR(found.st_mode):
        raise Failure(f"failed to inject CDI devices: {host_path} is no character device")
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    devices = linux["devices"] = [d for d in linux.get("devices") or [] if d["path"] != path]
    devices.append(
        {
            "path": path,
            "type": "c",
            "major": major,
            "minor": minor,
            "fileMode": stat.S_IMODE(found.st_mode),
            "uid": found.st_uid,
            "gid": found.st_gid,
        }
    )
    resources = linux.setdefault("resources", {})
    rules = resources["devices"] = resources.get("devices") or []
    rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})


def _add_hook(spec, config):
    name = tomlfile.lookup(config, "nvidia-container-runtime-hook.path", "nvidia-container-runtime-hook")
    path = name if "/" in name else f"/usr/bin/{name}"
    hooks = spec.setdefault("hooks", {}).setdefault("prestart", [])
    if not any(os.path.basename(hook["path"]) == os.path.basename(path) for hook in hooks):
        hooks.append({"path": path, "args": [os.path.basename(path), "prestart"]})
