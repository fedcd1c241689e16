"""Compose's own reading of a file: scalars, several documents, tags, variables, extends, include, profiles.

Sources: the Compose Specification (merge, interpolation, profiles, extends, include) and compose-go, whose YAML reads
`on`, `yes` and `22:22` as text, and `017`, `0o17`, `1_000` and `1e3` as numbers. What Docker Compose 2.40.3 makes of
many files is recorded in tests/unit/importing/compose_config.json.
"""

import copy
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

import yaml

from gpurack.spec.secret_names import holds_secret

NAME = "[A-Za-z_][A-Za-z0-9_]*"
VARIABLE = re.compile(rf"\$(?:\$|(?P<name>{NAME})|\{{(?P<braced>{NAME})(?P<sign>:?[-?+])?)")
"""`$$`, `$NAME`, or the beginning of `${NAME…}`."""
REPLACED = ("command", "entrypoint", "test")
"""Lists that a later file replaces; others are joined."""
ONE_OR_MORE = ("dns", "dns_search", "env_file", "label_file", "tmpfs")
"""Fields that are a text or a list of texts."""
MAPS = ("environment", "labels", "args", "annotations", "sysctls", "extra_hosts")
"""Fields that are a map or a list of `NAME=value`."""
ENV_LINE = re.compile(
    rf"""^[ \t]*(?:export[ \t]+)?({NAME})[ \t]*[=:][ \t]*(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|(.*))""", re.MULTILINE
)
ESCAPE, ESCAPED = re.compile(r"\\(.)"), {"n": "\n", "r": "\r", "t": "\t", "$": "$$"}
DEEPEST = 20
"""The most nested defaults that are followed."""
Notes = Callable[[str], None]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 with Compose's tags. A key that a map has twice is an error, as in Compose."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            first = seen.setdefault(str(key.value), key)
            if first is not key and key.value != "<<":
                what = f"key {key.value} is already in line {first.start_mark.line + 1}"
                raise yaml.composer.ComposerError(None, None, what, key.start_mark)
        return node


class _Reset:
    """The value of `!reset`, which removes the field."""


class _Override:
    """The value of `!override`, which replaces the field instead of being merged."""

    def __init__(self, value: Any) -> None:
        self.value = value


_PLAIN = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _PLAIN]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,2})?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("!reset", lambda loader, node: _Reset())
_Loader.add_constructor("!override", lambda loader, node: _Override(_value(loader, node)))


def _value(loader: Any, node: yaml.Node) -> Any:
    untagged = copy.copy(node)
    untagged.tag = loader.resolve(type(node), node.value, (True, False))
    return loader.construct_object(untagged, deep=True)


def load(text: str) -> Any:
    """The content of all documents of a text, later ones merged over earlier ones. Raises yaml.YAMLError."""
    content: Any = None
    for document in yaml.load_all(text.removeprefix("\ufeff"), Loader=_Loader):
        content = document if content is None else merged(content, document)
    return content


def merged(base: Any, over: Any, key: str = "") -> Any:
    """A value with another one merged over it, by Compose's rules."""
    if isinstance(over, _Override | _Reset) or over is None:
        return base if over is None else over
    if isinstance(base, _Override):
        return _Override(merged(base.value, over, key))
    if key in MAPS and {type(base), type(over)} == {dict, list}:
        separators = "[=:]" if key == "extra_hosts" else "="
        base, over = as_map(base, separators), as_map(over, separators)
    if key in ONE_OR_MORE:
        base, over = as_list(base), as_list(over)
    if isinstance(base, dict) and isinstance(over, dict):
        if key == "logging" and base.get("driver", over.get("driver")) != over.get("driver", base.get("driver")):
            return over  # the options are those of another driver
        keys = dict.fromkeys([*base, *over])
        return {name: merged(base[name], over[name], str(name)) if name in base and name in over else
                over.get(name, base.get(name)) for name in keys}  # fmt: skip
    if isinstance(base, list) and isinstance(over, list) and key not in REPLACED:
        if key == "volumes":
            targets = {mounted_at(item) for item in over}
            base = [item for item in base if mounted_at(item) not in targets]
        return [*base, *(item for item in over if item not in base)]
    return over


def mounted_at(volume: Any) -> str:
    """The place of a volume in the container."""
    if isinstance(volume, Mapping):
        return str(volume.get("target"))
    parts = str(volume).split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def as_map(settings: Any, separators: str = "=") -> Any:
    """A list of `NAME=value` (a host: also `NAME:address`) as a map."""
    if not isinstance(settings, list):
        return settings
    pairs = (re.split(separators, str(item), maxsplit=1) for item in settings)
    return {name: value[0] if value else None for name, *value in pairs}


def as_list(value: Any) -> list[Any]:
    """A text as a list of one."""
    return value if isinstance(value, list) else [value]


def plain(value: Any) -> Any:
    """The value without the tags that were for merging."""
    if isinstance(value, _Override):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not isinstance(item, _Reset)}
    return [plain(item) for item in value if not isinstance(item, _Reset)] if isinstance(value, list) else value


def included(
    content: dict[str, Any], files: Mapping[str, str], missing: Notes, within: Collection[str] = ()
) -> dict[str, Any]:
    """The content with the files of its `include`.

    missing: called for a file that --file does not give, or that includes itself. within: the files that include this
    one.
    """
    for entry in content.pop("include", None) or []:
        for name in map(str, as_list(entry.get("path") if isinstance(entry, dict) else entry)):
            text = files.get(name)
            if name in within:
                missing(f"{name} includes itself, which Compose refuses. Remove that `include`.")
            elif text is None:
                missing(f"includes {name}, whose services are not imported. Pass it with --file {name}=COPY.")
            else:
                try:
                    other = load(text)
                except yaml.YAMLError:
                    missing(f"includes {name}, which is not valid YAML, so its services are not imported.")
                    continue
                if isinstance(other, dict):
                    content = merged(included(other, files, missing, [*within, name]), content)
    return content


def extended(name: str, services: Mapping[str, Any], files: Mapping[str, str], seen: Collection[str] = ()) -> Any:
    """A service with the one that it extends below it. Raises LookupError with a sentence if that is unknown."""
    fields = services.get(name)
    if not isinstance(fields, dict) or "extends" not in fields:
        return copy.deepcopy(fields)
    wanted = fields["extends"]
    wanted = {"service": wanted} if isinstance(wanted, str) else dict(wanted)
    file, other = wanted.get("file"), str(wanted.get("service", name))
    among = services
    if file is not None:
        if str(file) not in files:
            raise LookupError(f"extends {other} of {file}. Pass that file with --file {file}=COPY.")
        try:
            content = load(files[str(file)])
        except yaml.YAMLError:
            raise LookupError(f"extends {other} of {file}, which is not valid YAML.") from None
        among = content.get("services") or {} if isinstance(content, dict) else {}
    mark = f"{file or ''}:{other}"
    if other not in among:
        raise LookupError(f"extends {other}, which was not found.")
    if mark in seen:
        raise LookupError(f"extends {other}, which extends itself.")
    base = extended(other, among, files, [*seen, mark])
    own = {key: value for key, value in fields.items() if key != "extends"}
    return merged({key: value for key, value in (base or {}).items() if key != "depends_on"}, own)


def interpolated(value: Any, variables: Mapping[str, str], undefined: Notes) -> Any:
    """A value with its variables. undefined: called for names without a value, which stay as `$NAME`."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables, undefined) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables, undefined) for item in value]
    return substituted(value, variables, undefined) if isinstance(value, str) else value


def substituted(text: str, variables: Mapping[str, str], undefined: Notes, depth: int = 0) -> str:
    """A text with `$A`, `${A:-default}`, `${A:+alternative}` and `$$`, also nested.

    >>> substituted("${A:-${B:-c}}/$D ${E:+x}$$", {"D": "d"}, print)
    'c/d $'
    """
    out, position = "", 0
    while found := VARIABLE.search(text, position):
        out += text[position : found.start()]
        end = closing(text, found.start()) if found["braced"] else found.end()
        name, sign, word = found["name"] or found["braced"], found["sign"] or "", text[found.end() : end - 1]
        position = end or found.start() + 1
        there = name in variables and (":" not in sign or variables[name] != "")
        if not name or not end:
            out += "$"
        elif sign[-1:] == ("+" if there else "-"):
            out += substituted(word, variables, undefined, depth + 1) if depth < DEEPEST else word
        elif there:
            out += variables[name]
        elif sign[-1:] != "+":
            undefined(name)
            out += f"${name}"
    return out + text[position:]


def closing(text: str, start: int) -> int:
    """The position after the `}` of the `${` at start; 0 without one."""
    depth = 0
    for found in re.finditer(r"\$\{|\}", text[start:]):
        depth += 1 if found[0] == "${" else -1
        if depth == 0:
            return start + found.end()
    return 0


def scalar(value: Any) -> str:
    """A value as Compose writes it into a variable or a command.

    >>> scalar(True), scalar(1.50), scalar(1e3), scalar(1e6), scalar(0.00001)
    ('true', '1.5', '1000', '1e+06', '1e-05')
    """
    if not isinstance(value, float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    number = Decimal(repr(value)).normalize()  # the shortest digits, as Go writes a float
    exponent = number.adjusted()
    return f"{number:f}" if -4 <= exponent < 6 else f"{number.scaleb(-exponent):f}e{exponent:+03d}"


def dotenv(text: str) -> dict[str, str]:
    """The variables of an `.env` file, without secrets and without those whose value needs an unknown one.

    >>> dotenv("export A=1 # one\\n# B=2\\nC='x $A'\\nD=\\"y\\nz\\"\\nE=${A}2\\nF=$UNKNOWN")
    {'A': '1', 'C': 'x $A', 'D': 'y\\nz', 'E': '12'}
    """
    found: dict[str, str] = {}
    for name, single, double, bare in ENV_LINE.findall(text.removeprefix("\ufeff")):
        missing: list[str] = []
        written = ESCAPE.sub(lambda one: ESCAPED.get(one[1], one[1]), double) or re.sub(r"(^|\s+)#.*", "", bare).strip()
        value = single or substituted(written, found, missing.append)
        if not missing and not (value and holds_secret(name, value)):
            found[name] = value
    return found
