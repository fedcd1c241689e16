"""What is probably wrong in a YAML file, and what to write. PyYAML itself says what its parser expected. Pure.

Of a line only its name is repeated, never what follows it: that may be a key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

NAME = r"[\w.@/-]+"
OPENS = re.compile(r":\s*(#.*)?$")
"""A line whose value is in the lines below it."""
OTHER_LINE_END = re.compile("[\x85\u2028\u2029]")
"""Characters that end a line for PyYAML, and in no editor. The lines that it counts are not those of the file then."""
QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
OTHER_SPACE = re.compile(r"^[^#]*?(?:^|[:,{\[-]) *([\u00a0\u2000-\u200a\u202f\u205f\u3000])")
"""A line with a space that YAML reads as a letter, where it wants an ordinary one."""
AT_THE_START = {
    r"'-'|'\?'": (
        'some lines of one level begin with "- ", others do not',
        'Hosts and models are names with a colon, without "- ": `{name}: …`.',
    ),
    r"'([}\]])'": ("`{0}` closes nothing", "Remove it."),
    "':'": ("the name in front of the colon is missing", "Write `name: …`."),
    r"'<scalar>'": ("text follows a value in quotes", "Put the whole value in quotes."),
}
"""What PyYAML found in place of the next line of a map → what is wrong, what to write."""
OTHERS = {
    r"found character '(.)' that cannot start": (
        'a value cannot begin with "{0}"',
        'Put it in quotes: `{key}: "{0}…"`.',
    ),
    r"could not find expected ':'": ("a colon is missing after `{name}`", "Write `{name}:`."),
    r"expected the node content, but found ','": ("a comma without a value in front of it", "Remove the comma."),
    r"but found '<stream end>'": ("the file ends inside of a bracket", "Close it: `[0, 1]`, `{{port: 8000}}`."),
    r"found undefined alias|expected alphabetic or numeric": (
        "a value that begins with `*` means an `&` name, which this file does not have",
        'If it is text, put it in quotes: `{key}: "*…"`.',
    ),
    r"found unknown escape character": ("a backslash between double quotes", "Write single quotes: `{key}: '…'`."),
    r"found unhashable key": ("braces in braces, as of a template", "Write the value itself, or put it in quotes."),
    r"for the tag 'tag:yaml.org,2002:([^']*)'": (
        "YAML tags such as `!!{0}` are not supported",
        "Write a plain value.",
    ),
    r"unconstructable recursive": (
        "an alias (`*`) inside of its own anchor (`&`), so the value would contain itself",
        "Write the value in place of the alias.",
    ),
    r"expected a mapping or list of mappings for merging": (
        "`<<` merges maps, and this is not a map",
        "Write `<<: *name`, and `&name` in front of a map.",
    ),
    r"for the tag '(![^']*)'": (
        "YAML tags such as `{0}` are not supported",
        "Write a plain value. A secret is a reference: `api_key: {{env: LAB_KEY}}`.",
    ),
    r"sequence entries are not allowed": (
        'a list begins in the line of its name, or "- " is where a name belongs',
        'Hosts and models are names with a colon, without "- ".',
    ),
    r"found another document": ("`---` begins a second document", "Remove that line: an inventory is one document."),
    r"expected '<document start>'": (
        "this line begins further left than the first one, or the first one is complete",
        "Begin `all`, `groups` and `hosts` in the first column: `hosts:`.",
    ),
}
"""PyYAML's problem → what is wrong, what to write.

{0}: what the pattern found. {name}: the line's first name. {key}: the name in front of the value.
"""


@dataclass(frozen=True)
class Mistake:
    """line: from 1, None if unknown. what: what is probably wrong. hint: what to write."""

    line: int | None
    what: str
    hint: str = ""


def explained(error: yaml.YAMLError, text: str) -> Mistake:
    """An error of PyYAML in an admin's words. text: the whole file."""
    found = OTHER_LINE_END.search(text)
    unseen = (found.start(), ord(found[0])) if found else None
    if isinstance(error, yaml.reader.ReaderError):
        unseen = error.position, error.character
    if unseen:
        line = text[: unseen[0]].count("\n") + 1
        return Mistake(line, f"an invisible character (U+{unseen[1]:04X})", "Delete it.")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Mistake(None, str(error))
    problem, lines = str(error.problem), text.split("\n")
    at, begun = error.problem_mark, error.context_mark or error.problem_mark
    for line in range(max(0, at.line - 1), at.line + 1):
        if space := OTHER_SPACE.search(lines[line]):
            what = f"a space of another kind (U+{ord(space[1]):04X}), as web pages and word processors write it"
            return Mistake(line + 1, what, "Write ordinary spaces.")
    if (
        error.context in ("while scanning a quoted scalar", "while scanning a double-quoted scalar")
        and "end" in problem
    ):
        return Mistake(begun.line + 1, "a quote is opened here and not closed", 'Close it: `version: "1.9"`.')
    if "{{" in QUOTED.sub("", lines[at.line][: at.column]):
        return Mistake(at.line + 1, *OTHERS["found unhashable key"])
    if opened := re.match(r"expected ',' or '([}\]])', but got '(.*)'", problem):
        return _in_brackets(opened[1], opened[2], begun.line, at.line)
    if problem == "mapping values are not allowed here":
        return _second_colon(lines, at.line, at.column)
    if "found character '\\t'" in problem:
        return _tab(lines, at.line)
    if problem == "expected <block end>, but found '<block mapping start>'":
        return _indented(lines, at.line, at.column)
    line = begun.line if "expected ':'" in problem else at.line
    before = lines[line][: begun.column]
    names: Mapping[str, str] = {"name": _first_name(lines[line]), "key": _key_before(before)}
    table = AT_THE_START if problem.startswith("expected <block end>") else OTHERS
    for pattern, (what, hint) in table.items():
        if found := re.search(pattern, problem):
            return Mistake(line + 1, what.format(*found.groups(), **names), hint.format(*found.groups(), **names))
    if error.context is None:  # of our own loader, in plain words already
        return Mistake(line + 1, problem)
    return Mistake(
        line + 1, f"YAML cannot read this ({problem})", "Write `name: value`, two spaces deeper for each level."
    )


def _in_brackets(closing: str, found: str, begun: int, line: int) -> Mistake:
    """The error inside of {…} or […]. begun, line: where the bracket opens, and where the error is, from 0."""
    opening, example = {"}": ("{", "{gpus: [0], port: 8000}"), "]": ("[", "[0, 1]")}[closing]
    example = f"Write it as in `{example}`."
    if found == ":" and line == begun:
        return Mistake(line + 1, "a second colon, in a value", f"Put the value in quotes. {example}")
    if found in ("}", "]"):
        return Mistake(line + 1, f"`{opening}` is closed by `{found}`", example)
    if line > begun:
        return Mistake(begun + 1, f"`{opening}` is opened here and not closed", example)
    return Mistake(line + 1, f"a comma is missing between two values, or `{closing}` at the end", example)


def _second_colon(lines: list[str], line: int, column: int) -> Mistake:
    """The error of a colon where no name can end."""
    name = _first_name(lines[line])
    if ": " in lines[line][:column]:
        return Mistake(line + 1, "a colon followed by a space, in a value", f'Put the value in quotes: `{name}: "…"`.')
    above = next((each for each in reversed(lines[:line]) if each.strip() and each.lstrip()[0] != "#"), "")
    space = above[: len(above) - len(above.lstrip())]
    what = "is indented deeper than the line above, which has a value"
    return Mistake(line + 1, what, f"Begin both in the same column: `{space}{name}:`.")


def _indented(lines: list[str], line: int, column: int) -> Mistake:
    """The error of a line that begins in a column of its own."""
    levels = _open_levels(lines[:line])
    right = [level for level in levels if level < column][-1:] + [one for one in levels if one > column][:1]
    example = f": `{' ' * right[0]}{_first_name(lines[line])}:`" if len(right) == 1 else ""
    what = f"is indented by {column} spaces, which fits no line above"
    return Mistake(line + 1, what, f"Write {' or '.join(map(str, right))} spaces{example}.")


def _tab(lines: list[str], line: int) -> Mistake:
    """The error of a tab. The right indentation is shown where the lines around it tell it."""
    text, what = lines[line], "a tab, where YAML wants spaces"
    if "\t" not in text[: len(text) - len(text.lstrip())]:
        return Mistake(line + 1, what, "Write a space in its place.")
    above = next((each for each in reversed(lines[:line]) if _counts(each)), "")
    below = next((each for each in lines[line + 1 :] if _counts(each)), "")
    right: list[int] = []
    if "\t" in below[: len(below) - len(below.lstrip())]:
        pass  # neither line tells it
    elif OPENS.search(above):
        right = [_indent(above) + 2]
    elif OPENS.search(text):
        right = [level for level in _open_levels(lines[:line]) if level < _indent(below)]
    elif below and _indent(below) == _indent(above):
        right = [_indent(below)]
    if not right:
        return Mistake(line + 1, what, "Write spaces, two more for each level.")
    return Mistake(line + 1, what, f"Write {right[-1]} spaces: `{' ' * right[-1]}{_first_name(text)}:`.")


def _open_levels(lines: list[str]) -> list[int]:
    """The columns in which a line after these can begin, of the levels that are open."""
    levels: list[int] = []
    for each in filter(_counts, lines):
        levels = [level for level in levels if level < _indent(each)] + [_indent(each)]
    return levels


def _counts(line: str) -> bool:
    """Does a line have more than a comment?"""
    return bool(line.strip()) and line.lstrip()[0] != "#"


def _indent(line: str) -> int:
    """The number of spaces that a line begins with."""
    return len(line) - len(line.lstrip(" "))


def _first_name(line: str) -> str:
    """The first name of a line; "name" without one."""
    found = re.match(rf"""[\s'"-]*({NAME})""", line)
    return found[1] if found else "name"


def _key_before(text: str) -> str:
    """The name in front of a value, from the text up to that value; "name" without one."""
    found = re.search(rf"({NAME}):\s[^:]*$", text)
    return found[1] if found else "name"
