"""Parse an engine's command line into flags and values."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gpurack.engines.args import with_dashes
from gpurack.engines.dialect import SWITCHES, Dialect

Value = str | int | float | bool


@dataclass
class Flags:
    """The flags of a command.

    given: long flag (with dashes, without leading ones) → its values. spelled: flag → its original spelling.
    positional: words without a flag. strange: flags that `args` does not support, as written.
    """

    given: dict[str, list[Value]] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def take(self, name: str) -> str | None:
        """Remove a flag and return its last value, None without it."""
        values = self.given.pop(name, None)
        return str(values[-1]) if values else None


def parse(words: Sequence[str], dialect: Dialect, known: Collection[str] = ()) -> Flags:
    """Parse the words of a command as the engine does. known: its flags.

    >>> parse(["--port", "80", "-ngl", "1", "--jinja"], Dialect(short={"ngl": "n-gpu-layers"})).given
    {'port': [80], 'n-gpu-layers': [1], 'jinja': [True]}
    """
    found = Flags()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not is_flag(word):
            found.positional.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        single = not word.startswith("--")
        long = dialect.short.get(name, dialect.short.get(with_dashes(name), name))
        if single and long == name and len(name) > 1 and name not in dialect.one_dash:
            found.strange.append(word)
            if position < len(words) and not is_flag(words[position]):
                found.strange.append(words[position])
                position += 1
            continue
        key = with_dashes(long)
        paired = dialect.paired and (f"no-{key}" in known or key.startswith("no-"))
        switch = key in SWITCHES or key in dialect.switches or paired
        if not equals and position < len(words) and not is_flag(words[position]) and not switch:
            value = words[position]
            position += 1
            equals = "="
        found.given.setdefault(key, []).append(typed(value) if equals else True)
        while equals and key in dialect.several and position < len(words) and not ends_values(words[position]):
            found.given[key].append(typed(words[position]))
            position += 1
        found.spelled[key] = long
    return found


def is_flag(word: str) -> bool:
    """True if a word is a flag. Negative numbers are not."""
    return word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-\d+(\.\d+)?", word)


def ends_values(word: str) -> bool:
    """True if a word is no further value of the flag before it. A variable without a value usually holds flags."""
    return is_flag(word) or bool(re.fullmatch(r"\$(\w+|[@*]|\{.*\})", word))


def typed(text: str) -> Value:
    """The text as a number, if that number is written the same way."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text
