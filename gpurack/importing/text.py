"""Print what was imported as a Python or YAML inventory, with the findings as comments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gpurack.importing.container import Finding
from gpurack.importing.reader import Imported
from gpurack.screen import printable, representation

WIDTH = 116
SCHEMA = "gpurack.schema.json"
"""The file that `gpurack schema` is written to, beside the inventory."""
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA}"
"""The first line of a YAML inventory, for editors."""
TITLES = {
    "open": "To fill in or decide",
    "changed": "Converted differently",
    "left out": "Left out, not a service",
}


def as_python(imported: Imported, host: str) -> str:
    """The import as a Python inventory, or as a part to paste into one."""
    lines = ["gpu_hosts = ([", f"    ({text(host)}, {{"]
    for name, value in imported.host.items():
        lines.append(f"        {text(name)}: {quoted(value)!r},")
    for kind, entries in imported.entries.items():
        refused = imported.refused.get(kind, {})
        if entries or refused:
            inside = [line for key, fields in entries.items() for line in field_lines(key, fields)]
            inside += [f"# {line}" for key, fields in refused.items() for line in field_lines(key, fields)]
            lines += [f"        {text(kind)}: {{", *(f"            {line}" for line in inside), "        },"]
    lines += ["    }),", "], {})"]
    return "\n".join(lines) + "\n"


def field_lines(key: str, value: Any) -> list[str]:
    """`"key": value,` on one line if it fits, else one line per part."""
    lines = representation(quoted({key: value}), WIDTH - 9).split("\n")
    lines = [line[4:] for line in lines[1:-1]] if len(lines) > 1 else [lines[0][1:-1]]
    return [line if line.endswith(("{", "[", ",")) else f"{line}," for line in lines]


class _Text(str):
    """A text whose representation has double quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return text(self)


def quoted(value: Any) -> Any:
    """A value whose representation is Python code with double quotes.

    >>> quoted({"gpus": [0], "port": 8000, "weights": None})
    {"gpus": [0], "port": 8000, "weights": None}
    """
    if isinstance(value, Mapping):
        return {_Text(key): quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(quoted, value))
    return _Text(value) if isinstance(value, str) else value


def text(value: str) -> str:
    """A string as Python code in double quotes."""
    quoted = repr("'" + value)  # with a ' inside, repr uses double quotes unless the text also has one
    return '"' + quoted[2:] if quoted[0] == '"' else '"' + quoted[3:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def as_yaml(imported: Imported, host: str) -> str:
    """The import as a YAML inventory, for `gpurack.load`."""
    refused = yaml_text({kind: entries for kind, entries in imported.refused.items() if entries}).splitlines()
    more = "".join(f"    # {line}\n" for line in refused) if imported.refused else ""
    return f"{SCHEMA_LINE}\n{yaml_text({'hosts': {host: imported.data}})}{more}"


def yaml_text(data: Mapping[str, Any], flow: bool | None = None) -> str:
    """Data as YAML. flow: write maps on one line; None means those of plain values only."""
    return yaml.dump(
        data, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=flow,
    )  # fmt: skip


class _Plain(yaml.SafeDumper):
    """Write YAML without anchors, so that each entry can be copied alone.

    Texts with unprintable characters are in double quotes, where the escapes that `screen.printable` writes mean the
    same characters.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if printable(text) == text else '"')


_Plain.add_representer(str, _represented)


def comments(imported: Imported, plan: Sequence[str] = ()) -> str:
    """Return what was imported, and the findings, as comments of an inventory.

    plan: the errors that `gpurack plan` would report.
    """
    entries = [entry for entries in imported.entries.values() for entry in entries.items()]
    sections = {"Imported": [taken(imported, key, fields) for key, fields in entries if key in imported.places]}
    for kind, title in TITLES.items():
        sections[title] = grouped([finding for finding in imported.findings if finding.kind == kind])
    sections["Errors to fix before `gpurack plan` accepts it"] = list(plan)
    lines = [
        line
        for title, found in sections.items()
        if found
        for line in (f"# {title}:", *(f"#   {one_line(line)}" for line in found))
    ]
    return "\n".join(lines) + "\n" if lines else ""


def taken(imported: Imported, key: str, fields: Mapping[str, Any]) -> str:
    """An entry in one line: `line 3: chat (vllm, GPUs 0, 1, port 8000)`."""
    gpus = fields.get("gpus")
    named = "all GPUs" if gpus == "all" else f"GPU{'s' * (len(gpus) > 1)} {', '.join(map(str, gpus))}" if gpus else ""
    port = f"port {fields['port']}" if "port" in fields else "runs once"
    off = "" if fields.get("enabled", True) else "disabled"
    return f"{imported.places[key]}: {key} ({', '.join(filter(None, (fields['engine'], named, port, off)))})"


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

    >>> one_of(["/a.", "/b."]), one_of(["any)", "::1)"])
    ('/a, /b.', 'any, ::1)')
    """
    plain = [word.rstrip(".,:;") for word in words]
    if all(word.endswith(")") and "(" not in word for word in plain):
        plain = [word[:-1] for word in plain]
    return ", ".join(plain) + words[0][len(plain[0]) :]


def few(items: Sequence[str]) -> str:
    """The items, of many the first three and their number.

    >>> few("ab"), few("abcdef")
    ('a, b', 'a, b, c and 3 more')
    """
    return ", ".join(items) if len(items) < 5 else f"{', '.join(items[:3])} and {len(items) - 3} more"


def one_line(line: str) -> str:
    """The text on one line, so that a comment cannot end early."""
    return " ".join(line.split())
