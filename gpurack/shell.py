r"""Build the text of every shell command that gpurack runs or prints, with all values quoted.

No other module builds shell text (tests/security/test_shell_lint.py).

    sh("rm -f {}", path)                        a value becomes one quoted word
    sh("rm -f {files}", files=["/a", "/b c"])   a list becomes several words
    sh("{} && {}", first, second)               text made by `sh` is inserted unchanged
    sh("sh -c {}", word(script))                `word` makes it one quoted word

Placeholders are {} and {name}, in lower case. All other braces belong to the shell and its programs and need no
escapes: `{ a; b; }`, `${Version}`, `%{name}`, `{{.Id}}`.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import LiteralString, Self

from gpurack.resources import read_text


class Sh(str):
    """Shell text in which every value is quoted. Only this module makes it.

    An f-string, `+` or `join` of it is plain str again, which no shell operation accepts.
    """

    __slots__ = ()

    def __new__(cls, *text: object) -> Self:
        """Always raises TypeError; call `sh`."""
        raise TypeError("call gpurack.shell.sh to make shell text")

    def __reduce__(self) -> tuple[Callable[[str], "Sh"], tuple[str]]:
        """Support copies (`dataclasses.asdict`)."""
        return _made, (str(self),)


Word = str | int | float
Value = Word | Iterable[Word]


def sh(template: LiteralString, *values: Value, **named: Value) -> Sh:
    """A literal template with its placeholders replaced by quoted values.

    Raises ValueError for a text that cannot be part of a command (NUL, a lone surrogate) and for a placeholder inside
    quotes; TypeError if values and placeholders do not match.

    >>> str(sh("docker rm -- {names} >/dev/null", names=["alpha", "x;id", "it's"]))
    'docker rm -- alpha \\'x;id\\' \\'it\\'"\\'"\\'s\\' >/dev/null'
    >>> str(sh("cd {}/{} && { {}; }", "/a b", "c", sh("ls | wc -l")))
    "cd '/a b'/c && { ls | wc -l; }"
    """
    found = placeholders(template)
    if sum(not place.name for place in found) != len(values) or {place.name for place in found} - {""} != set(named):
        raise TypeError(f"values do not match the placeholders of {template!r}")
    positional, text, end = iter(values), "", 0
    for place in found:
        value = named[place.name] if place.name else next(positional)
        text += template[end : place.start] + _inserted(value, place.quoted)
        end = place.end
    return _made(text + template[end:])


def word(text: str) -> Sh:
    """A text, or shell text (for `sh -c`), as one quoted word. Raises ValueError for NUL or a lone surrogate."""
    if "\0" in text:
        raise ValueError(f"{text[:80]!r} contains NUL, which a command cannot")
    text.encode()  # raises UnicodeEncodeError, a ValueError
    return _made(shlex.quote(text))


def joined(between: LiteralString, texts: Iterable[Sh]) -> Sh:
    """Shell texts joined by a literal."""
    return _made(between.join(texts))


def all_of(commands: Iterable[Sh]) -> Sh:
    """Commands joined by `&&`. Each must be a simple command, or one with a `||` that ends the script
    whichever command before it failed."""
    return joined(" && ", commands)


def grouped(commands: Iterable[Sh]) -> Sh:
    """Commands joined by `&&`, each in braces, so that they may contain `;` and `||`."""
    return all_of(sh("{ {}; }", command) for command in commands)


def of_file(path: LiteralString, **variables: str) -> Sh:
    """A script of files/, preceded by assignments of variables."""
    return _made("".join(f"{name}={word(value)}\n" for name, value in variables.items()) + read_text(path))


def by_ssh(host: str, command: Sh) -> Sh:
    """A command line for an admin to paste that runs a command on a host, quoted for both shells.

    >>> str(by_ssh("gpu1", sh("sudo docker logs {}", "alpha"))), str(by_ssh("gpu1", sh("sudo rm {}", "$(id)")))
    ('ssh gpu1 sudo docker logs alpha', 'ssh gpu1 \\'sudo rm \\'"\\'"\\'$(id)\\'"\\'"\\'\\'')
    """
    plain = re.fullmatch(r"[\w@%+=:,./ -]+", command, re.ASCII)
    return sh("ssh {} {}", host, command if plain else word(command))


@dataclass(frozen=True)
class Placeholder:
    """A placeholder in a template.

    start, end: its position. quoted: is it inside double quotes, where quoting a value would not work?
    """

    name: str
    start: int
    end: int
    quoted: bool


@cache  # templates are literals of this program, and a run uses each for many hosts
def placeholders(template: str) -> tuple[Placeholder, ...]:
    """The placeholders of a template. Raises ValueError for one inside single quotes and for unclosed quotes."""
    return tuple(_placeholders(template))


def _placeholders(template: str) -> Iterator[Placeholder]:
    inside, position = [""], 0  # "", a quote, or "(" for `$(…)`, whose content is unquoted inside double quotes
    while position < len(template):
        char, now = template[position], inside[-1]
        if found := re.compile(r"(?<![$%])\{([a-z_]*)\}").match(template, position):
            if now == "'":
                raise ValueError(f"{found[0]} is inside single quotes in {template!r}")
            yield Placeholder(found[1], *found.span(), quoted=now == '"')
            position = found.end()
            continue
        if now == "'":
            inside = inside[:-1] if char == "'" else inside
        elif char == "\\":
            position += 1
        elif char == '"':
            inside = inside[:-1] if now == '"' else [*inside, char]
        elif char == "'" and now != '"':
            inside = [*inside, char]
        elif template.startswith("$(", position):
            inside = [*inside, "("]
            position += 1
        elif char == "(" and now == "(":
            inside = [*inside, char]
        elif char == ")" and now == "(":
            inside = inside[:-1]
        position += 1
    if inside != [""]:
        raise ValueError(f"{inside[-1]} is not closed in {template!r}")


def _inserted(value: Value, quoted: bool) -> str:
    """The text that replaces a placeholder."""
    if isinstance(value, Sh):
        if quoted and re.search(r"['\"\\`]", value):
            raise ValueError(f"{value!r} contains quotes and cannot be inserted inside double quotes")
        return value
    if isinstance(value, int | float):
        return str(value)
    if quoted:
        raise ValueError("a placeholder for text cannot be inside double quotes")
    return word(value) if isinstance(value, str) else " ".join(_inserted(each, quoted) for each in value)


def _made(text: str) -> Sh:
    return str.__new__(Sh, text)


NOTHING = sh("")
"""Empty shell text, where a template has an optional part."""
