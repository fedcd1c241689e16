"""Print what was imported as a Python or YAML inventory, with the findings as comments."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gpurack.importing.container import Finding
from gpurack.importing.reader import Imported
from gpurack.screen import printable

WIDTH = 116
TITLES = {
    "open": "To fill in or decide",
    "changed": "Converted differently",
    "left out": "Left out, not a service",
}


def as_python(imported: Imported, host: str) -> str:
    """The import as a Python inventory, or as a part to paste into one."""
    lines = ["gpu_hosts = ([", f"    ({text(host)}, {{"]
    for name, value in imported.host.items():
        lines.append(f"        {text(name)}: {inline(value)},")
    for kind, entries in imported.entries.items():
        if entries:
            lines.append(f"        {text(kind)}: {{")
            for key, fields in entries.items():
                lines += field_lines(key, fields, 12)
            lines.append("        },")
    lines += ["    }),", "], {})"]
    return "\n".join(lines) + "\n"


def field_lines(key: str, value: Any, indent: int) -> list[str]:
    """`"key": value,` on one line if it fits, else one line per part."""
    space = " " * indent
    line = f"{space}{text(key)}: {inline(value)},"
    if len(line) <= WIDTH or not isinstance(value, Mapping | list) or not value:
        return [line]
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
    return [f"{space}{text(key)}: {opening}", *parts(value, indent + 4), f"{space}{closing},"]


def parts(value: Any, indent: int) -> list[str]:
    """The lines inside a map or a list."""
    space, lines = " " * indent, []
    if isinstance(value, Mapping):
        return [line for name, item in value.items() for line in field_lines(str(name), item, indent)]
    for item in value:
        line = f"{space}{inline(item)},"
        short = len(line) <= WIDTH or not isinstance(item, Mapping) or not item
        lines += [line] if short else [f"{space}{{", *parts(item, indent + 4), f"{space}}},"]
    return lines


def inline(value: Any) -> str:
    """A value as Python code, with double quotes.

    >>> inline({"gpus": [0], "port": 8000, "weights": None})
    '{"gpus": [0], "port": 8000, "weights": None}'
    """
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{text(str(key))}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline, value)) + "]"
    return repr(value)


def text(value: str) -> str:
    """A string as Python code in double quotes."""
    quoted = repr("'" + value)  # with a ' inside, repr uses double quotes unless the text also has one
    return '"' + quoted[2:] if quoted[0] == '"' else '"' + quoted[3:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def as_yaml(imported: Imported, host: str) -> str:
    """The import as a YAML inventory, for `gpurack.load`."""
    return yaml.dump(
        {"hosts": {host: imported.data}}, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=WIDTH,
        default_flow_style=None,
    )  # fmt: skip


class _Plain(yaml.SafeDumper):
    """Write YAML without anchors, so that each entry can be copied alone. Texts with unprintable characters are in
    double quotes, where the escapes that `screen.printable` writes mean the same characters."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if printable(text) == text else '"')


_Plain.add_representer(str, _quoted)


def comments(findings: Sequence[Finding], plan: Sequence[str] = ()) -> str:
    """The findings as comments of an inventory. plan: the errors that `gpurack plan` would report."""
    lines = []
    for kind, title in TITLES.items():
        found = [finding for finding in findings if finding.kind == kind]
        if found:
            wheres: dict[str, list[str]] = {}
            for finding in found:
                wheres.setdefault(finding.what, []).append(finding.where)
            lines += [
                f"# {title}:",
                *(f"#   {one_line(', '.join(dict.fromkeys(of)))}: {one_line(what)}" for what, of in wheres.items()),
            ]
    if plan:
        lines += ["# Errors to fix before `gpurack plan` accepts it:", *(f"#   {one_line(line)}" for line in plan)]
    return "\n".join(lines) + "\n" if lines else ""


def one_line(line: str) -> str:
    """The text on one line, so that a comment cannot end early."""
    return " ".join(line.split())
