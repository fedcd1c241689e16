"""What is wrong with an inventory, said so that the reader can mend it: where, what, what to write instead."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pyinfra.api.exceptions import PyinfraError

from gpurack.spec.error_codes import CODES


@dataclass(frozen=True, order=True)
class Problem:
    """One error or warning of an inventory.

    host: its name in the inventory, "" for the inventory as a whole. path: dotted, as in `models.bge-m3.port`.
    what: what is wrong and what to do, one or two sentences. code: stable, one of spec/error_codes.py. parameters: what
    the sentences were made of, name and text.
    """

    host: str
    path: str
    what: str
    code: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, code: str, host: str = "", path: str = "", **parameters: object) -> "Problem":
        """A problem of a kind in spec/error_codes.py. Raises KeyError for an unknown code or a missing parameter.

        >>> print(Problem.of("port-used-twice", "gpu1", "models.a.port", port=8000, one="a", other="b"))
        gpu1 models.a.port: port 8000 is used by both `a` and `b`. Change one of them.
        """
        given = {name: str(value) for name, value in parameters.items()}
        return cls(host, path, CODES[code].text(given), code, tuple(sorted(given.items())))

    @property
    def hint(self) -> str:
        """What to do; "" where the code has none."""
        return CODES[self.code].hint.format_map(dict(self.parameters)) if self.code else ""

    @property
    def message(self) -> str:
        """What is wrong."""
        return self.what.removesuffix(self.hint).rstrip()

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        said = {"code": self.code, "message": self.message, "hint": self.hint, "parameters": dict(self.parameters)}
        return {"host": self.host, "path": self.path, "what": self.what, **said}

    def __str__(self) -> str:
        where = " ".join(part for part in (self.host, self.path) if part)
        return f"{where}: {self.what}" if where else self.what


class Wrong(ValueError):
    """A value that a field refuses, by its code in spec/error_codes.py: `raise Wrong("secret-in-inventory")`."""

    def __init__(self, code: str, **parameters: object) -> None:
        self.code, self.parameters = code, parameters
        super().__init__(CODES[code].text({name: str(value) for name, value in parameters.items()}))


class InventoryError(PyinfraError):
    """The inventory cannot work. Nothing has been done on any host.

    A PyinfraError, so that the pyinfra command prints it without a traceback and exits with 1.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        count = f"{len(self.problems)} error" + ("s" if len(self.problems) != 1 else "")
        lines = [f"{count} in the inventory; nothing was done on any host"]
        lines += [f"    error  {problem}" for problem in self.problems]
        super().__init__("\n".join(lines))


class NotAsked(InventoryError):
    """What was asked for is not in the inventory, or not there yet; the inventory itself may be right."""


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that was probably meant, or None. cutoff: how alike they must be (difflib's ratio).

    >>> nearest("wieghts", ["weights", "gpus"])
    'weights'
    """
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def unknown(kind: str, word: object, known: Sequence[str]) -> str:
    """The sentence for a word that is not one of `known`.

    >>> unknown("engine", "llamacpp", ["llama.cpp"])
    'unknown engine "llamacpp"; did you mean "llama.cpp"?'
    """
    guess = nearest(word, known) or nearest(str(word).lower(), known)
    remedy = f'did you mean "{guess}"?' if guess else f"known: {', '.join(sorted(known))}."
    return f'unknown {kind} "{word}"; {remedy}'


def from_pydantic(host: str, prefix: str, error: ValidationError, fields: Mapping[str, Sequence[str]]) -> list[Problem]:
    """pydantic's findings in our words. fields: the names that are known at the level of `prefix` (key "") and in the
    maps below it (key: the field's name)."""
    problems = []
    for item in error.errors():
        written, last = item["loc"][:-1], item["loc"][-1:]  # an unknown field is named last, and may look like a tag
        tagged = [*written, *(last if item["type"] != "extra_forbidden" else ())]
        location = [str(part) for part in tagged if not _is_union_tag(part)]
        location += [str(part) for part in last] if item["type"] == "extra_forbidden" else []
        path = ".".join(part for part in (prefix, *location) if part)
        known = fields.get(location[0] if len(location) > 1 else "", ()) if location else ()
        wrong = item.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            problems.append(Problem.of(wrong.code, host, path, **wrong.parameters))
        else:
            problems.append(Problem(host, path, _sentence(item, known)))
    return problems


SHAPES = {
    "model_type": "a map",
    "dict_type": "a map",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
}
"""pydantic's type errors → what an admin calls it."""


def _is_union_tag(part: Any) -> bool:
    """pydantic puts the tried type of a union into the location (`weights.UrlWeights.sha256`)."""
    return isinstance(part, str) and (part[:1].isupper() or part.startswith(("function-", "list[", "constrained")))


def _sentence(item: Any, fields: Sequence[str]) -> str:
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return unknown("field", item["loc"][-1], fields) if fields else "unknown field."
    if kind == "missing":
        return "is missing."
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "literal_error":
        return f"{given!r} is not one of {item['ctx']['expected']}."
    if kind in ("string_too_short", "too_short"):
        return "is empty."
    if kind in SHAPES:
        return f"should be {SHAPES[kind]}, not {given!r}."
    message = str(item["msg"]).removeprefix("Input should be ").rstrip(".")
    return f"should be {message}, not {given!r}."
