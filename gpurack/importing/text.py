"""Print what was imported as a Python or YAML inventory, with the findings as comments."""

import re
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
    return yaml_text({"hosts": {host: imported.data}})


def yaml_text(data: Mapping[str, Any], flow: bool | None = None) -> str:
    """Data as YAML. flow: write maps on one line; None means those of plain values only."""
    return yaml.dump(
        data, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=flow,
    )  # fmt: skip


class _Plain(yaml.SafeDumper):
    """Write YAML without anchors, so that each entry can be copied alone. Texts with unprintable characters are in
    double quotes, where the escapes that `screen.printable` writes mean the same characters."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if printable(text) == text else '"')


_Plain.add_representer(str, _quoted)


def comments(imported: Imported, plan: Sequence[str] = ()) -> str:
    """What was imported, and the findings, as comments of an inventory. plan: the errors that `gpurack plan` would
    report."""
    entries = [entry for entries in imported.entries.values() for entry in entries.items()]
    sections = {"Imported": [taken(imported, key, fields) for key, fields in entries if key in imported.places]}
    for kind, title in TITLES.items():
        sections[title] = grouped([finding for finding in imported.findings if finding.kind == kind])
    sections["Errors to fix before `gpurack plan` accepts it"] = list(plan)
    lines = [line for title, found in sections.items() if found for line in (f"# {title}:", *map(comment, found))]
    return "\n".join(lines) + "\n" if lines else ""


def taken(imported: Imported, key: str, fields: Mapping[str, Any]) -> str:
    """An entry in one line: `line 3: chat (vllm, GPUs 0, 1, port 8000)`."""
    gpus = fields.get("gpus")
    named = "all GPUs" if gpus == "all" else f"GPU{'s' * (len(gpus) > 1)} {', '.join(map(str, gpus))}" if gpus else ""
    port = f"port {fields['port']}" if "port" in fields else "runs once"
    return f"{imported.places[key]}: {key} ({', '.join(filter(None, (fields['engine'], named, port)))})"


def grouped(findings: Sequence[Finding]) -> list[str]:
    """A line for each sentence, with its places. Sentences that differ in one word are one line with these words."""
    groups: list[tuple[list[str], dict[str, None], dict[int, dict[str, None]]]] = []
    for finding in findings:
        words = re.findall(r"`[^`]*`\S*|\S+", finding.what)
        for first, places, others in groups:
            differ = [at for at, pair in enumerate(zip(first, words, strict=False)) if pair[0] != pair[1]]
            if len(first) == len(words) and (not differ or differ == (list(others) or differ[:1])):
                places[finding.where] = None
                for at in differ:
                    others.setdefault(at, {first[at]: None})[words[at]] = None
                break
        else:
            groups.append((words, {finding.where: None}, {}))
    lines = []
    for first, places, others in groups:
        sentence = [one_of(list(others[at])) if at in others else word for at, word in enumerate(first)]
        lines.append(f"{few(list(places))}: {' '.join(sentence)}")
    return lines


def one_of(words: Sequence[str]) -> str:
    """Words of a sentence as one, with the punctuation of the first.

    >>> one_of(["/a.", "/b."])
    '/a, /b.'
    """
    plain = [word.rstrip(".,:;") for word in words]
    return ", ".join(plain) + words[0][len(plain[0]) :]


def few(items: Sequence[str]) -> str:
    """The items, of many the first three and their number.

    >>> few("ab"), few("abcdef")
    ('a, b', 'a, b, c and 3 more')
    """
    return ", ".join(items) if len(items) < 5 else f"{', '.join(items[:3])} and {len(items) - 3} more"


def comment(line: str) -> str:
    """A line as a comment below a title."""
    return f"#   {one_line(line)}"


def one_line(line: str) -> str:
    """The text on one line, so that a comment cannot end early."""
    return " ".join(line.split())
