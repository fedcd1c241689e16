"""An engine's command line → flags and values, and the other way round what the inventory's `args` can say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpurack.engines.args import normal
from gpurack.engines.dialect import SWITCHES, Dialect

Value = str | int | float | bool


@dataclass
class Flags:
    """given: long flag (dashes, no leading ones) → its values. spelled: as it was written. positional: words that
    belong to no flag. strange: flags that `args` cannot say, as written."""

    given: dict[str, list[Value]] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def take(self, name: str) -> str | None:
        """The last value of a flag, which is gone then."""
        values = self.given.pop(name, None)
        return str(values[-1]) if values else None


def parse(words: Sequence[str], dialect: Dialect) -> Flags:
    """Words → flags, as an engine reads them.

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
        long = dialect.short.get(name, dialect.short.get(normal(name), name))
        if single and long == name and len(name) > 1 and name not in dialect.one_dash:
            found.strange.append(word)
            if position < len(words) and not is_flag(words[position]):
                found.strange.append(words[position])
                position += 1
            continue
        key = normal(long)
        switch = key in SWITCHES or key in dialect.switches
        if not equals and position < len(words) and not is_flag(words[position]) and not switch:
            value = words[position]
            position += 1
            equals = "="
        found.given.setdefault(key, []).append(typed(value) if equals else True)
        found.spelled[key] = long
    return found


def is_flag(word: str) -> bool:
    """Does a word begin a flag? Negative numbers do not."""
    return word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-\d+(\.\d+)?", word)


def typed(text: str) -> Value:
    """Numbers as numbers where they come back as the same text."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text
