"""Command lines of simulated engines: exactly the flags of the real one, with their types."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMS = {
    "int": r"-?\d+",
    "human_readable_int": r"-?\d+|\d+(\.\d+)?[kMGT]|\d+[KMGT]i",
    "float": r"-?\d+(\.\d*)?(e-?\d+)?",
    "natural": r"\d+",
}


class Wrong(Exception):
    """The error of the real parser for a command line."""


def knows(engine: str) -> Any:
    """The content of ENGINE_knows.json: `flags`, each with its type (flag, a form of FORMS, json, text, many; or a
    list: one of these and the choices), and the `variables` that the engine reads."""
    return json.loads(Path(__file__).resolve().with_name(f"{engine}_knows.json").read_text())


def one_of(found: Mapping[str, Any], *flags: str, default: str) -> str:
    """The value of a flag with several spellings."""
    return str(next((found[flag] for flag in flags if flag in found), default))


@dataclass(frozen=True)
class Options:
    """A parser. underscores: reads underscores in a long flag as dashes, and accepts what follows a dot. abbreviates:
    accepts a unique prefix of a flag. once: refuses a repeated flag. positional: the name of a word without a flag, ""
    if there may be none. unknown: the error for unknown flags: for all with their values after the rest was read, or
    with at_once for the first one. wrong_value, wrong_choice: the errors for a value of
    another type, and for one that is not a choice."""

    flags: Mapping[str, Any]
    underscores: bool = False
    abbreviates: bool = False
    once: bool = False
    positional: str = ""
    unknown: str = "unrecognized arguments: {}"
    at_once: bool = False
    wrong_value: str = "argument {flag}: invalid {kind} value: '{value}'"
    wrong_choice: str = "argument {flag}: invalid choice: '{value}' (choose from {choices})"

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Flag → value (True for a bare one, a list for `many`). Raises Wrong."""
        found: dict[str, Any] = {}
        rest, strange = list(argv), []
        while rest:
            word = rest.pop(0)
            written, given, value = word.partition("=")
            flag, known = self._known(written)
            if not word.startswith("-") and self.positional and self.positional not in found:
                found[self.positional] = word
                continue
            if not word.startswith("-") or known is None:
                if self.at_once:
                    raise Wrong(self.unknown.format(word))
                strange.append(word)
                continue
            if self.once and flag in found:
                raise Wrong(f"the argument '{flag}' cannot be used multiple times")
            kind = known[0] if isinstance(known, list) else known
            if kind == "flag":
                if given:
                    raise Wrong(f"argument {flag}: ignored explicit argument '{value}'")
                found[flag] = True
                continue
            values = [value] if given else [rest.pop(0)] if rest and not _is_flag(rest[0]) else []
            while kind == "many" and not given and rest and not _is_flag(rest[0]):
                values.append(rest.pop(0))
            if not values:
                raise Wrong(f"argument {flag}: expected one argument")
            for one in values:
                self.check(flag, known, one)
            found[flag] = values if kind == "many" else values[0]
        if strange:
            raise Wrong(self.unknown.format(" ".join(strange)))
        return found

    def _known(self, word: str) -> tuple[str, Any]:
        """(flag as it is stored, its type; None for an unknown one)"""
        flag = word.replace("_", "-") if self.underscores and word.startswith("--") else word
        if flag in self.flags:
            return flag, self.flags[flag]
        group, dot, _ = flag.partition(".")
        if self.underscores and dot and group in self.flags:
            return flag, self.flags[group]
        begin_so = [name for name in self.flags if name.startswith(flag)] if self.abbreviates else []
        if len(begin_so) == 1 and flag.startswith("--"):
            return begin_so[0], self.flags[begin_so[0]]
        return flag, None

    def check(self, flag: str, known: Any, value: str) -> None:
        """Refuse a value of the wrong type. Raises Wrong."""
        kind, *choices = known if isinstance(known, list) else [known]
        words = {"flag": flag, "kind": kind, "value": value, "choices": ", ".join(choices)}
        words["name"] = flag.lstrip("-").replace("-", "_").upper()
        wrong = self.wrong_value.format(**words)
        if kind in FORMS and not re.fullmatch(FORMS[kind], value):
            raise Wrong(wrong)
        if kind == "json":
            try:
                json.loads(value)
            except ValueError:
                raise Wrong(wrong.replace(" json ", " loads ")) from None
        if choices and value not in choices:
            raise Wrong(self.wrong_choice.format(**words))


def _is_flag(word: str) -> bool:
    """Is it a flag? -1 is a number."""
    return re.match(r"-[^\d.]", word) is not None
