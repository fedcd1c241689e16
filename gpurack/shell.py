r"""The text of every shell command that gpurack runs or prints. No other module builds any
(tests/security/test_shell_lint.py).

    sh("rm -f {}", path)                        a value is one quoted word
    sh("rm -f {files}", files=["/a", "/b c"])   a list is several
    sh("{} && {}", first, second)               what `sh` made is inserted as it is
    sh("sh -c {}", word(script))                unless it is to be one word

Placeholders are {} and {name}, in lower case. All other braces are the shell's and its programs' own: `{ a; b; }`,
`${Version}`, `%{name}`, `{{.Id}}`. So templates need no escapes.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import LiteralString, Self

from gpurack.resources import read_text


class Sh(str):
    """Shell text in which every foreign word is quoted. Only this module makes it; an f-string, `+` and `join` of it
    are plain text again, which no shell operation takes."""

    __slots__ = ()

    def __new__(cls, *text: object) -> Self:
        """Raises TypeError: `sh` makes it."""
        raise TypeError("shell text is made by gpurack.shell.sh")

    def __reduce__(self) -> tuple[Callable[[str], "Sh"], tuple[str]]:
        """For copies (`dataclasses.asdict`)."""
        return _made, (str(self),)


Word = str | int | float
Value = Word | Iterable[Word]


def sh(template: LiteralString, *values: Value, **named: Value) -> Sh:
    """The template, a literal, with its placeholders replaced.

    Raises ValueError for a text that cannot be a word of a command (NUL, a lone surrogate), and for a placeholder where
    quoting would not hold; TypeError for values that do not match the placeholders.

    >>> str(sh("docker rm -- {names} >/dev/null", names=["alpha", "x;id", "it's"]))
    'docker rm -- alpha \\'x;id\\' \\'it\\'"\\'"\\'s\\' >/dev/null'
    >>> str(sh("cd {}/{} && { {}; }", "/a b", "c", sh("ls | wc -l")))
    "cd '/a b'/c && { ls | wc -l; }"
    """
    found = list(placeholders(template))
    if sum(not place.name for place in found) != len(values) or {place.name for place in found} - {""} != set(named):
        raise TypeError(f"values do not match the placeholders of {template!r}")
    given, text, end = iter(values), "", 0
    for place in found:
        value = named[place.name] if place.name else next(given)
        text += template[end : place.start] + _inserted(value, place.quoted)
        end = place.end
    return _made(text + template[end:])


def word(text: str) -> Sh:
    """One quoted word, also of shell text (for `sh -c`)."""
    if "\0" in text:
        raise ValueError(f"{text[:80]!r} holds a NUL, so it cannot be a word of a command")
    text.encode()  # raises UnicodeEncodeError, a ValueError
    return _made(shlex.quote(text))


def joined(between: LiteralString, texts: Iterable[Sh]) -> Sh:
    """Texts with a literal between them."""
    return _made(between.join(texts))


def all_of(commands: Iterable[Sh]) -> Sh:
    """One after the other, as long as they succeed. Each is a simple command, or one whose `||` ends the script."""
    return joined(" && ", commands)


def grouped(commands: Iterable[Sh]) -> Sh:
    """The same of commands that may hold `;` and `||`: each in braces."""
    return all_of(sh("{ {}; }", command) for command in commands)


def of_file(path: LiteralString, **variables: str) -> Sh:
    """A script of files/ with variables in front."""
    return _made("".join(f"{name}={word(value)}\n" for name, value in variables.items()) + read_text(path))


def by_ssh(host: str, command: Sh) -> Sh:
    """A line for an admin to paste: a command on a host, whose shell reads its words once more.

    >>> str(by_ssh("gpu1", sh("sudo docker logs {}", "alpha"))), str(by_ssh("gpu1", sh("sudo rm {}", "$(id)")))
    ('ssh gpu1 sudo docker logs alpha', 'ssh gpu1 \\'sudo rm \\'"\\'"\\'$(id)\\'"\\'"\\'\\'')
    """
    plain = re.fullmatch(r"[\w@%+=:,./ -]+", command, re.ASCII)
    return sh("ssh {} {}", host, command if plain else word(command))


@dataclass(frozen=True)
class Placeholder:
    """start, end: where it is in the template. quoted: it is inside double quotes, where a quoted word would not be
    one."""

    name: str
    start: int
    end: int
    quoted: bool


def placeholders(template: str) -> Iterator[Placeholder]:
    """A template's placeholders. Raises ValueError for one inside single quotes, and for quotes that do not end."""
    inside, position = [""], 0  # "", a quote, or "(" of `$(…)`, which is unquoted inside double quotes
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
        raise ValueError(f"{inside[-1]} does not end in {template!r}")


def _inserted(value: Value, quoted: bool) -> str:
    """What stands in a placeholder's place."""
    if isinstance(value, Sh):
        if quoted and re.search(r"['\"\\`]", value):
            raise ValueError(f"{value!r} would lose its own quotes inside double quotes")
        return value
    if isinstance(value, int | float):
        return str(value)
    if quoted:
        raise ValueError("a text inside double quotes could end them; place it outside")
    return word(value) if isinstance(value, str) else " ".join(_inserted(each, quoted) for each in value)


def _made(text: str) -> Sh:
    return str.__new__(Sh, text)


NOTHING = sh("")
"""No words, where there could be some."""
