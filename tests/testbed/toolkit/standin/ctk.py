"""nvidia-ctk: `runtime configure --runtime=docker`, `config`, `cdi generate`, `cdi list`, and CUDA's device nodes."""

import os
import sys

import golang
import version
from golang import Failure, Flag, Log, Panic, Quiet

LOG = Log()

_USAGE = """NAME:
   NVIDIA Container Toolkit CLI - Tools to configure the NVIDIA Container Toolkit

USAGE:
   nvidia-ctk [global options] [command [command options]]

COMMANDS:
   runtime  A collection of runtime-related utilities for the NVIDIA Container Toolkit
   cdi      Provide tools for interacting with Container Device Interface specifications
   system   A collection of system-related utilities for the NVIDIA Container Toolkit
   config   Interact with the NVIDIA Container Toolkit configuration"""


def _usage(command, flags):
    options = "\n".join("   " + ", ".join(("--" if len(n) > 1 else "-") + n for n in f.names) for f in flags)
    return f"USAGE:\n   nvidia-ctk {command} [options]\n\nOPTIONS:\n{options}"


def main(arguments):
    try:
        return _main(arguments)
    except Quiet as end:
        return end.code
    except Failure as error:
        LOG.error(str(error))
        return 1
    except Panic as panic:
        sys.stderr.write(f"panic: {panic}\n\ngoroutine 1 [running]:\nmain.main()\n")
        return 2


def _main(arguments):
    flags = [
        Flag("quiet", value=False, env=("NVIDIA_CTK_QUIET",)),
        Flag("debug", "d", value=False, env=("NVIDIA_CTK_DEBUG",)),
        Flag("config", env=("NVIDIA_CTK_CONFIG",)),  # read by no command that is here
        Flag("version", "v", value=False),
    ]
    options, words = golang.parse_flags(arguments, flags, _USAGE, stop_at_word=True)
    if options["version"]:
        print(f"NVIDIA Container Toolkit CLI version {version.VERSION}\ncommit: {version.COMMIT}")
        return 0
    LOG.level = "debug" if options["debug"] else "error" if options["quiet"] else "info"
    return _subcommand(words, {"runtime": _runtime, "cdi": _cdi, "system": _system, "config": _config}, _USAGE)


def _subcommand(words, commands, usage):
    if not words or words[0] in ("help", "h"):
        print(usage)
        return 0
    if words[0] not in commands:
        sys.stderr.write(f"No help topic for '{words[0]}'\n")
        return 3
    return commands[words[0]](words[1:])


# --- runtime configure ---------------------------------------------------------------------------------

_CONFIGURE_FLAGS = [
    Flag("dry-run", value=False),
    Flag("runtime", default="docker", env=("RUNTIME",)),
    Flag("config", default=""),
    Flag("drop-in-config", default="RUNTIME_SPECIFIC_DEFAULT"),
    Flag("executable-path", default=""),
    Flag("config-mode", default=""),
    Flag("config-source", default="file"),
    Flag("oci-hook-path", default=""),
    Flag("nvidia-runtime-name", default="nvidia"),
    Flag("nvidia-runtime-path", "runtime-path", default="nvidia-container-runtime"),
    Flag("nvidia-runtime-hook-path", default="/usr/bin/nvidia-container-runtime-hook"),
    Flag("nvidia-set-as-default", "set-as-default", value=False),
    Flag("cdi.enabled", "cdi.enable", "enable-cdi", value=False),
]


def _runtime(arguments):
    usage = (
        "USAGE:\n   nvidia-ctk runtime [command]\n\n"
        "COMMANDS:\n   configure  Add a runtime to the specified container engine"
    )
    _, words = golang.parse_flags(arguments, [], usage, stop_at_word=True)
    return _subcommand(words, {"configure": _configure}, usage)


def _configure(arguments):
    options, _ = golang.parse_flags(
        arguments, _CONFIGURE_FLAGS, _usage("runtime configure", _CONFIGURE_FLAGS), stop_at_word=False
    )
    runtime = options["runtime"]
    if runtime not in ("containerd", "crio", "docker"):
        raise Failure(f"unrecognized runtime '{runtime}'")
    if runtime != "docker":
        raise Failure(f"this stand-in knows docker alone, not {runtime}")
    if options["config-mode"] in ("oci-hook", "hook"):
        raise Failure("this stand-in does not write OCI hook files")
    if options["drop-in-config"] not in ("RUNTIME_SPECIFIC_DEFAULT", ""):
        raise Failure("runtime docker does not support drop-in configs")
    if options["config-mode"] not in ("", "config-file", "config"):
        LOG.warning(f"Ignoring unsupported config mode for docker: {golang.quote(options['config-mode'])}")
    if options["executable-path"]:
        LOG.warning(f"Ignoring executable-path={golang.quote(options['executable-path'])} flag for docker")
    if options["config-source"] == "command":
        LOG.warning("A docker config cannot be loaded from a command; falling back to the file")
    path = options["config"] or "/etc/docker/daemon.json"
    try:
        config = _load_docker(path)
    except Failure as error:
        raise Failure(f"unable to load config for runtime docker: {error}") from error
    _add_runtime(config, options)
    text = golang.encode_json(config)
    if options["dry-run"]:
        print(text)
        return 0
    try:
        folder = os.path.dirname(path)
        try:
            golang.make_dirs(folder)
        except Failure as error:
            raise Failure(f"unable to create directory {folder}: {error}") from error
        golang.write_in_place(path, text.encode("utf-8", "surrogateescape"))
    except Failure as error:
        raise Failure(f"unable to flush config: {error}") from error
    LOG.info(f"Wrote updated config to {path}")
    LOG.info("It is recommended that docker daemon be restarted.")
    return 0


def _load_docker(path):
    """The first JSON value of daemon.json; {} where there is no file."""
    try:
        os.stat(path)
    except FileNotFoundError:
        LOG.info("Config file does not exist; using empty config")
        return {}
    except OSError:
        pass  # the real one finds out when it opens the file
    LOG.info(f"Loading config from {path}")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"unable to read config: open {path}: {golang.os_error(error)}") from error
    try:
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Failure(f"unable to read config: read {path}: {golang.os_error(error)}") from error
    config = golang.decode_json(data)
    if config is not None and not isinstance(config, dict):
        kind = golang.kind_name(config)
        raise Failure(f"json: cannot unmarshal {kind} into Go value of type docker.Config")
    return config


def _add_runtime(config, options):
    """Replaces runtimes.NAME wholesale, and `features` where CDI is asked for: the real one's known fault."""
    if config is None:
        raise Panic("assignment to entry in nil map")
    runtimes = config.get("runtimes", {})
    if not isinstance(runtimes, dict):
        found = golang.type_name(runtimes)
        raise Panic(f"interface conversion: interface {{}} is {found}, not map[string]interface {{}}")
    name = options["nvidia-runtime-name"]
    runtimes[name] = {"path": options["nvidia-runtime-path"], "args": []}
    config["runtimes"] = runtimes
    if options["nvidia-set-as-default"]:
        config["default-runtime"] = name
    if options["cdi.enabled"]:
        config["features"] = {"cdi": True}


# --- config --------------------------------------------------------------------------------------------

_CONFIG_FLAGS = [
    Flag("config-file", "config", "c", default=""),
    Flag("set", many=True),
    Flag("in-place", "i", value=False),
    Flag("output", "o", default=""),
]


def _config(arguments):
    import settings
    import tomlfile

    usage = _usage("config", _CONFIG_FLAGS)
    options, words = golang.parse_flags(arguments, _CONFIG_FLAGS, usage, stop_at_word=True)
    if words and words[0] == "default":
        return _config_default(words[1:])
    path = options["config-file"] or settings.default_path()
    try:
        tree = settings.load(path)
    except Failure as error:
        raise Failure(f"unable to create config: failed to load specified config file: {error}") from error
    if (1, 18) <= version.as_tuple() <= (1, 19, 1):
        tomlfile.forget_defaults(tree)
    for option in options["set"]:
        tomlfile.assign(tree, option)
    text = tomlfile.render(tree)
    if options["in-place"]:
        _save_config(path, text, make_folder=True)
    elif options["output"]:
        _save_config(options["output"], text, make_folder=True)
    else:
        _print(text)
    return 0


def _config_default(arguments):
    import settings
    import tomlfile

    flags = [Flag("output", "o", default="")]
    options, _ = golang.parse_flags(arguments, flags, _usage("config default", flags), stop_at_word=False)
    text = tomlfile.render(settings.defaults())
    if options["output"]:
        _save_config(options["output"], text, make_folder=False)
    else:
        _print(text)
    return 0


def _save_config(path, text, make_folder):
    if make_folder:
        folder = os.path.dirname(path)
        try:
            golang.make_dirs(folder)
        except Failure as error:
            raise Failure(f"failed to create output directory {golang.quote(folder)}: {error}") from error
    golang.write_in_place(path, text.encode("utf-8", "surrogateescape"))


def _print(text):
    sys.stdout.write(text)


# --- system --------------------------------------------------------------------------------------------

_NODES_FLAGS = [
    Flag("control-devices", value=False),
    Flag("load-kernel-modules", value=False),  # the simulated driver has none to load
]


def _system(arguments):
    usage = (
        "USAGE:\n   nvidia-ctk system [command]\n\n"
        "COMMANDS:\n   create-device-nodes  A utility to create NVIDIA device nodes"
    )
    _, words = golang.parse_flags(arguments, [], usage, stop_at_word=True)
    return _subcommand(words, {"create-device-nodes": _create_device_nodes}, usage)


def _create_device_nodes(arguments):
    import cdi

    options, _ = golang.parse_flags(
        arguments, _NODES_FLAGS, _usage("system create-device-nodes", _NODES_FLAGS), stop_at_word=False
    )
    if options["control-devices"]:
        try:
            cdi.make_control_nodes()
        except OSError as error:
            raise Failure(f"failed to create control device nodes: {golang.os_error(error)}") from error
    return 0


# --- cdi -----------------------------------------------------------------------------------------------

_SPEC_DIRS = ("/etc/cdi", "/var/run/cdi")

_GENERATE_FLAGS = [
    Flag("output", default="", env=("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH",)),
    Flag("format", default="yaml", env=("NVIDIA_CTK_CDI_GENERATE_OUTPUT_FORMAT",)),
    Flag("mode", "discovery-mode", default="auto", env=("NVIDIA_CTK_CDI_GENERATE_MODE",)),
    Flag(
        "device-name-strategy",
        many=True,
        default=("index", "uuid"),
        env=("NVIDIA_CTK_CDI_GENERATE_DEVICE_NAME_STRATEGIES",),
    ),
    Flag("vendor", "cdi-vendor", default="nvidia.com", env=("NVIDIA_CTK_CDI_GENERATE_VENDOR",)),
    Flag("class", "cdi-class", default="gpu", env=("NVIDIA_CTK_CDI_GENERATE_CLASS",)),
    Flag("no-all-device", value=False),
    # Taken and of no consequence here: they say where a real driver's files lie.
    Flag("driver-root", default=""),
    Flag("dev-root", default=""),
    Flag("nvidia-cdi-hook-path", "nvidia-ctk-path", default=""),
    Flag("ldconfig-path", default=""),
    Flag("library-search-path", many=True),
    Flag("config-search-path", many=True),
    Flag("disable-hook", "disable-hooks", many=True),
    Flag("feature-flag", "feature-flags", many=True),
]


def _cdi(arguments):
    usage = (
        "USAGE:\n   nvidia-ctk cdi [command]\n\nCOMMANDS:\n"
        "   generate  Generate CDI specifications for use with CDI-enabled runtimes\n"
        "   list      List the available CDI devices"
    )
    _, words = golang.parse_flags(arguments, [], usage, stop_at_word=True)
    return _subcommand(words, {"generate": _generate, "list": _list}, usage)


def _generate(arguments):
    import cdi

    options, _ = golang.parse_flags(
        arguments, _GENERATE_FLAGS, _usage("cdi generate", _GENERATE_FLAGS), stop_at_word=False
    )
    if options["format"] not in ("yaml", "json"):
        raise Failure(f"invalid output format: {options['format']}")
    if options["mode"] not in ("auto", "nvml"):
        raise Failure(f"this stand-in has no discovery mode {options['mode']}, only auto and nvml")
    LOG.info("Auto-detected mode as 'nvml'" if options["mode"] == "auto" else "Using mode 'nvml'")
    try:
        spec = cdi.spec(
            options["vendor"], options["class"], options["device-name-strategy"], not options["no-all-device"]
        )
    except Failure as error:
        raise Failure(
            "failed to generate CDI spec: failed to create device CDI specs: "
            f"failed to construct device spec generators: {error}"
        ) from error
    for path in [f"/dev/nvidia{d['name']}" for d in spec["devices"] if d["name"].isdigit()]:
        LOG.info(f"Selecting {path} as {path}")
    if options["format"] == "json":
        text = golang.encode_json(spec, "  ") + "\n"
    else:
        text = "---\n" + "\n".join(cdi.to_yaml(spec)) + "\n"
    if options["output"]:
        _save_spec(options["output"], text)
    else:
        _print(text)
    LOG.info(f"Generated CDI spec with version {spec['cdiVersion']}")
    return 0


def _save_spec(path, text):
    """Renamed over the old one, mode 0644: a dockerd that looks meanwhile sees one of the two."""
    try:
        golang.make_dirs(os.path.dirname(path))
        temporary = f"{path}.{os.getpid()}"
        golang.write_in_place(temporary, text.encode())
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except (Failure, OSError) as error:
        raise Failure(f"failed to save CDI spec: {error}") from error


def _list(arguments):
    import cdi

    flags = [Flag("spec-dir", "spec-dirs", many=True, env=("NVIDIA_CTK_CDI_SPEC_DIRS",))]
    options, _ = golang.parse_flags(arguments, flags, _usage("cdi list", flags), stop_at_word=False)
    specs, errors = cdi.read_specs(options["spec-dir"] or _SPEC_DIRS)
    if errors:
        LOG.warning("The following registry errors were reported:")
        for path, reason in errors.items():
            LOG.warning(f"{path}: {reason}")
    names = cdi.device_names(specs)
    LOG.info(f"Found {len(names)} CDI devices")
    for name in names:
        print(name)
    return 0
