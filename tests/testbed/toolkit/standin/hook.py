"""nvidia-container-runtime-hook: what runs before a container that asked for cards by --gpus starts."""

import os
import shutil
import sys

import golang
import settings
import tomlfile
from golang import Failure

_USAGE = """Usage of nvidia-container-runtime-hook:
  -config string
        configuration file
  -debug
        enable debug output
  -version
        enable version output

Commands:
  prestart
        run the prestart hook
  poststart
        no-op
  poststop
        no-op
"""

_CDI_MODE = (
    "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not "
    "supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead."
)


def main(arguments):
    import version

    if arguments and arguments[0].lstrip("-") == "version" and arguments[0].startswith("-"):
        print(f"NVIDIA Container Runtime Hook version {version.VERSION}\ncommit: {version.COMMIT}")
        return 0
    path = None
    while arguments and arguments[0].startswith("-"):
        name, equals, value = arguments[0].lstrip("-").partition("=")
        if name == "config":
            path = value if equals else arguments[1] if len(arguments) > 1 else None
            arguments = arguments[1 if equals else 2 :]
        elif name == "debug":
            arguments = arguments[1:]
        else:
            arguments = []
    if not arguments or arguments[0] not in ("prestart", "poststart", "poststop"):
        sys.stderr.write(_USAGE)
        return 2
    if arguments[0] != "prestart":
        return 0
    try:
        return _prestart(path or settings.default_path())
    except Failure as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _prestart(config_path):
    try:
        state = golang.decode_json(sys.stdin.buffer.read())
    except Failure as error:
        raise Failure(f"could not decode container state: {error}") from error
    bundle = state.get("bundle") or state.get("bundlePath") or ""
    spec_path = os.path.join(bundle, "config.json")
    try:
        with open(spec_path, "rb") as file:
            spec = golang.decode_json(file.read())
    except OSError as error:
        raise Failure(f"could not open OCI spec: open {spec_path}: {golang.os_error(error)}") from error
    except Failure as error:
        raise Failure(f"could not decode OCI spec: {error}") from error
    devices = ""
    capabilities = None
    for variable in (spec.get("process") or {}).get("env") or []:
        name, _, value = variable.partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES":
            devices = value
        elif name == "NVIDIA_DRIVER_CAPABILITIES":
            capabilities = value
    if devices in ("", "void"):
        return 0
    config = settings.load(config_path)
    mode = tomlfile.lookup(config, "nvidia-container-runtime.mode", "auto")
    if tomlfile.lookup(config, "nvidia-container-runtime-hook.skip-mode-detection", False):
        mode = "legacy"
    elif mode == "auto":
        sys.stderr.write("Auto-detected mode as 'legacy'\n")
        mode = "legacy"
    else:
        sys.stderr.write(f"Using requested mode '{mode}'\n")
    if mode != "legacy":
        raise Failure(_CDI_MODE)
    program = tomlfile.lookup(config, "nvidia-container-cli.path") or "nvidia-container-cli"
    found = shutil.which(program)
    if found is None:
        raise Failure(f'couldn\'t find binary {program} in PATH: exec: "{program}": executable file not found in $PATH')
    os.execv(found, [found, *_cli_arguments(config, devices, capabilities, state, spec, bundle)])
    return 1


def _cli_arguments(config, devices, capabilities, state, spec, bundle):
    arguments = []
    if tomlfile.lookup(config, "nvidia-container-cli.load-kmods", True):
        arguments.append("--load-kmods")
    arguments.append("configure")
    mode = tomlfile.lookup(config, "nvidia-container-runtime.modes.legacy.cuda-compat-mode", "ldconfig")
    arguments.append(f"--cuda-compat-mode={mode}")
    ldconfig = tomlfile.lookup(config, "nvidia-container-cli.ldconfig")
    if ldconfig:
        arguments.append(f"--ldconfig={ldconfig}")
    if tomlfile.lookup(config, "nvidia-container-cli.no-cgroups", False):
        arguments.append("--no-cgroups")
    if devices != "none":
        arguments.append(f"--device={devices}")
    wanted = (capabilities or "utility,compute").split(",")
    if "all" in wanted:
        wanted = tomlfile.lookup(config, "supported-driver-capabilities", "compute,utility").split(",")
    arguments += [f"--{name}" for name in sorted(set(wanted)) if name and name != "gpu"]
    root = (spec.get("root") or {}).get("path") or "rootfs"
    arguments += [
        f"--pid={int(state.get('pid') or 0)}",
        root if root.startswith("/") else os.path.join(bundle, root),
    ]
    return arguments
