"""The text of compose.yaml, which an admin can read and use by hand: one service for each model. Pure.

Facts about Compose (2.26, 2.40): PyYAML writes 1e6 unquoted and Compose refuses it, so every string is quoted. `$` is
interpolated, so it is doubled. A bind mount in short form creates a missing folder, so mounts are in long form.
"""

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.shell import Sh, sh

SECTIONS = ("services", "secrets", "volumes")
HEADER = """\
# Written by gpurack from the inventory, which is where changes belong: this file is replaced at the next run.
# To look around: {docker} logs NAME, {docker} restart NAME, {docker} compose -f {path} ps.
"""


def document(services: Mapping[str, Mapping[str, Any]], user: str = "", keys: Mapping[str, str] | None = None) -> str:
    """Return the text of a user's compose.yaml.

    services: by entry. Those of models that could not be planned may be old ones, unchanged. keys: entry → its key
    (keys.py), by default its name.
    """
    models = blocks(services, user, keys)
    text = head(user)
    for section in SECTIONS:
        lines: dict[str, str] = {}
        for block in models.values():
            lines |= block[section]
        if lines:
            text += f'"{section}":\n' + "".join(lines[key] for key in sorted(lines))
        elif section == "services":
            text += '"services": {}\n'
    return text


def head(user: str = "") -> str:
    """Return the text above the services."""
    return HEADER.format(docker=docker_command(user), path=paths.compose_file(user)) + as_yaml({"name": paths.PROJECT})


def volume_name(volume: str) -> str:
    """Return the name in Docker of a volume of the project.

    >>> volume_name("open-webui-chat")
    'gpurack_open-webui-chat'
    """
    return f"{paths.PROJECT}_{volume}"


def docker_command(user: str) -> Sh:
    """Return the command by which root calls a user's docker, "" for the host's own."""
    return sh("sudo -iu {} docker", user) if user else sh("docker")


def blocks(
    services: Mapping[str, Mapping[str, Any]], user: str = "", keys: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, str]]]:
    """Return model → section of the file → item → its lines. keys: as in `document`.

    A secret's source is `NAME_FILE` in a definition, and `KEY_FILE` in the file, so that each generation mounts files
    of its own, while a new key alone changes no definition.

    The runner on the host, which has no YAML, assembles the file from these as `document` does, because a model that
    fails there keeps its old lines.
    """
    found = {}
    for name, data in services.items():
        items: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        key = (keys or {}).get(name, name)
        data = with_sources(data, name, key)
        items["services"][key] = data
        for secret in _maps(data.get("secrets")):
            if (source := str(secret.get("source"))).startswith(f"{key}_"):
                file = paths.container_file(user, key, source.removeprefix(f"{key}_"))
                items["secrets"][source] = {"file": file}
        for mount in _maps(data.get("volumes")):
            if mount.get("type") == "volume":
                items["volumes"][str(mount.get("source"))] = {}
        found[name] = {
            section: {key: textwrap.indent(as_yaml({key: value}), "  ") for key, value in values.items()}
            for section, values in items.items()
        }
    return found


def with_sources(data: Mapping[str, Any], old: str, new: str) -> Mapping[str, Any]:
    """Return a service whose secrets come from `NEW_FILE` instead of `OLD_FILE`."""
    secrets = data.get("secrets")
    if old == new or not isinstance(secrets, list):
        return data
    begin = f"{old}_"
    moved = [
        {**one, "source": f"{new}_{str(one['source']).removeprefix(begin)}"}
        if isinstance(one, Mapping) and str(one.get("source")).startswith(begin)
        else one
        for one in secrets
    ]
    return {**data, "secrets": moved}


def _maps(values: Any) -> list[Mapping[str, Any]]:
    """Return the maps of a list. An admin's `compose` may contain anything, which Compose then refuses."""
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


def as_yaml(data: Mapping[str, Any]) -> str:
    """Return data as YAML for Compose: `$` doubled, every string quoted."""
    plain = escaped(data)
    key = repr(plain)
    if key not in _WRITTEN:
        _WRITTEN[key] = yaml.dump(plain, Dumper=_Quoted, sort_keys=False, allow_unicode=True, width=10**9)
    return _WRITTEN[key]


_WRITTEN: dict[str, str] = {}
"""Data (as `repr`) → their text. A run plans each host several times, and PyYAML takes most of that time."""


def old_services(facts: HostFacts, user: str = "") -> dict[str, Any]:
    """Return the services of a user's compose.yaml on the host by entry, as in definitions; {} if it is invalid."""
    found = facts.services_of(user)
    return {
        name: with_sources(unescaped(found[key]), key, name)
        for name, key in facts.keys(user).items()
        if isinstance(found[key], dict)
    }


def escaped(value: Any) -> Any:
    """Double `$` in every value. Compose interpolates variables in values, but not in keys.

    >>> escaped({"$A": ["$B"]})
    {'$A': ['$$B']}
    """
    return _in_strings(value, "$", "$$")


def unescaped(value: Any) -> Any:
    """Undo `escaped`."""
    return _in_strings(value, "$$", "$")


def _in_strings(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {key: _in_strings(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_strings(item, old, new) for item in value]
    return value


class _Quoted(yaml.SafeDumper):
    """Writes strings in double quotes, except keys that no YAML reader can misinterpret. Writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key.value) and key.value.lower() not in _YAML_WORDS:
                key.style = None
        return node


_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
