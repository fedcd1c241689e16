"""The toolkit's config.toml: read, changed and written as the real programs do (pelletier/go-toml v1).

Comments and order of the file are lost, unknown keys stay, the standard optional settings appear as comments.
"""

import datetime
import re
import tomllib

from golang import Failure, parse_bool

#: Optional settings that are written as comments where they are not set: table -> key -> value.
COMMENTED = {
    (): {
        "accept-nvidia-visible-devices-as-volume-mounts": False,
        "accept-nvidia-visible-devices-envvar-when-unprivileged": True,
        "swarm-resource": "DOCKER_RESOURCE_GPU",
    },
    ("nvidia-container-cli",): {
        "debug": "/var/log/nvidia-container-toolkit.log",
        "ldcache": "/etc/ld.so.cache",
        "no-cgroups": False,
        "path": "/usr/bin/nvidia-container-cli",
        "root": "/run/nvidia/driver",
        "user": "root:video",
    },
    ("nvidia-container-runtime",): {"debug": "/var/log/nvidia-container-runtime.log"},
}

#: Every setting the programs know: name -> bool, str or list.
FIELDS = {
    "accept-nvidia-visible-devices-as-volume-mounts": bool,
    "accept-nvidia-visible-devices-envvar-when-unprivileged": bool,
    "disable-require": bool,
    "supported-driver-capabilities": str,
    "swarm-resource": str,
    "nvidia-container-cli.debug": str,
    "nvidia-container-cli.environment": list,
    "nvidia-container-cli.ldcache": str,
    "nvidia-container-cli.ldconfig": str,
    "nvidia-container-cli.load-kmods": bool,
    "nvidia-container-cli.no-cgroups": bool,
    "nvidia-container-cli.path": str,
    "nvidia-container-cli.root": str,
    "nvidia-container-cli.user": str,
    "nvidia-container-runtime.debug": str,
    "nvidia-container-runtime.log-level": str,
    "nvidia-container-runtime.mode": str,
    "nvidia-container-runtime.runtimes": list,
    "nvidia-container-runtime.modes.cdi.annotation-prefixes": list,
    "nvidia-container-runtime.modes.cdi.default-kind": str,
    "nvidia-container-runtime.modes.cdi.spec-dirs": list,
    "nvidia-container-runtime.modes.csv.mount-spec-path": str,
    "nvidia-container-runtime.modes.legacy.cuda-compat-mode": str,
    "nvidia-container-runtime-hook.path": str,
    "nvidia-container-runtime-hook.skip-mode-detection": bool,
    "nvidia-ctk.path": str,
    "features.allow-cuda-compat-libs-from-container": bool,
    "features.allow-ldconfig-from-container": bool,
    "features.disable-cuda-compat-lib-hook": bool,
    "features.disable-imex-channel-creation": bool,
    "features.ignore-imex-channel-requests": bool,
}


def defaults(ldconfig):
    """What a missing file means."""
    return {
        "disable-require": False,
        "supported-driver-capabilities": "compat32,compute,display,graphics,ngx,utility,video",
        "nvidia-container-cli": {"environment": [], "ldconfig": ldconfig, "load-kmods": True},
        "nvidia-container-runtime": {
            "log-level": "info",
            "mode": "auto",
            "runtimes": ["runc", "crun"],
            "modes": {
                "cdi": {
                    "annotation-prefixes": ["cdi.k8s.io/"],
                    "default-kind": "nvidia.com/gpu",
                    "spec-dirs": ["/etc/cdi", "/var/run/cdi"],
                },
                "csv": {"mount-spec-path": "/etc/nvidia-container-runtime/host-files-for-container.d"},
                "legacy": {"cuda-compat-mode": "ldconfig"},
            },
        },
        "nvidia-container-runtime-hook": {
            "path": "nvidia-container-runtime-hook",
            "skip-mode-detection": False,
        },
        "nvidia-ctk": {"path": "nvidia-ctk"},
    }


def parse(text):
    """The tree in this text; raises Failure with go-toml's `(line, column): reason`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failure(_go_reason(text, str(error))) from error


def _go_reason(text, reason):
    """go-toml's words for the first thing wrong, line by line; tomllib's where none is known here."""
    for number, line in enumerate(text.split("\n"), 1):
        body = line.strip()
        start = len(line) - len(line.lstrip()) + 1
        if not body or body.startswith("#"):
            continue
        if body.startswith("["):
            width = 2 if body.startswith("[[") else 1
            what = "table array key" if width == 2 else "table key"
            close, again = body.find("]", width), body.find("[", width)
            if again != -1 and (close == -1 or again < close):
                return f"({number}, {start + width}): {what} cannot contain ']'"
            if close == -1:
                return f"({number}, {start + width}): unclosed {what}"
            continue
        key, equals, value = line.partition("=")
        if not equals:
            continue
        bad = re.search(r"[^\w\-.\s\"']", key.strip(), re.ASCII)
        if bad:
            return f"({number}, {start}): keys cannot contain {bad.group()} character"
        value_start = len(key) + 2 + len(value) - len(value.lstrip())
        value = value.strip()
        if value and not re.match(r"[\[{\"'+\-\d#.,=\]}]|true|false|inf|nan", value):
            return f"({number}, {value_start}): no value can start with {value[0]}"
        if value[:1] in ("'", '"') and value[:3] not in ("'''", '"""') and not _closed(value):
            return f"({number}, {value_start + 1}): unclosed string"
    place = re.search(r" \(at line (\d+), column (\d+)\)$", reason)
    where = f"({place.group(1)}, {place.group(2)})" if place else f"({text.count(chr(10)) + 1}, 1)"
    return f"{where}: {re.sub(r' [(]at .*[)]$', '', reason).lower()}"


def _closed(value):
    end, at = value[0], 1
    while at < len(value):
        if value[at] == "\\" and end == '"':
            at += 1
        elif value[at] == end:
            return True
        at += 1
    return False


def lookup(tree, dotted, default=None):
    """The value at a.b.c of a tree."""
    for part in dotted.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return default
        tree = tree[part]
    return tree


def assign(tree, option):
    """One `--set`. Raises Failure with the real reason, before anything is opened for writing."""
    key, equals, text = option.partition("=")
    kind = FIELDS.get(key)
    try:
        if kind is None:
            raise Failure(f'invalid config option: undefined field: "{_unknown_part(key)}"')
        if not equals:
            if kind is not bool:
                raise Failure(f"invalid format: expected key=value; got {option}")
            text = "true"
        try:
            value = parse_bool(text) if kind is bool else text.split(":") if kind is list else text
        except ValueError as error:
            raise Failure(f"invalid format: {error}") from error
    except Failure as error:
        raise Failure(f"invalid --set option {option}: {error}") from error
    *tables, last = key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
    tree[last] = value


def _unknown_part(key):
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end])
        if not any(field == prefix or field.startswith(prefix + ".") for field in FIELDS):
            return parts[end - 1]
    return parts[-1]


def forget_defaults(tree):
    """What 1.18.0 to 1.19.1 do when they read a file: a setting that says its default counts as not set."""
    for table, settings in COMMENTED.items():
        here = lookup(tree, ".".join(table)) if table else tree
        for key, value in settings.items():
            if isinstance(here, dict) and here.get(key) == value:
                del here[key]


def render(tree):
    """The whole file."""
    lines = []
    _table((), tree, lines)
    return "\n".join(lines[1:] if lines and not lines[0] else lines) + "\n"


def _table(path, tree, lines):
    commented = {k: v for k, v in COMMENTED.get(path, {}).items() if k not in tree}
    simple = {k: v for k, v in tree.items() if not isinstance(v, dict) and not _tables(v)}
    for key in sorted({*commented, *simple}):
        mark, value = ("#", commented[key]) if key in commented else ("", simple[key])
        lines.append(f"{mark}{_key(key)} = {_value(value)}")
    # The tables of the optional settings are there even where the file had none.
    inner = {name[len(path)] for name in COMMENTED if len(name) > len(path) and name[: len(path)] == path}
    for key in sorted({k for k in tree if k not in simple} | inner):
        name = ".".join(_key(part) for part in (*path, key))
        value = tree.get(key, {})
        for header, content in (
            ((f"[[{name}]]", v) for v in value) if isinstance(value, list) else ((f"[{name}]", value),)
        ):
            lines += ["", header]
            _table((*path, key), content, lines)


def _tables(value):
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _key(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escapes = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
        body = "".join(escapes.get(c, c if c >= " " else f"\\u{ord(c):04X}") for c in value)
        return f'"{body}"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)
