"""JSON and YAML that a host said. Whatever it is, the answer is plain data or ValueError with a sentence.

Python's readers raise other errors too (RecursionError of deep JSON, ValueError of a YAML date), and a YAML of 300
bytes with aliases stands for gigabytes ("billion laughs"). Plain data: texts that can be encoded, numbers, true, false,
null, lists, and maps whose keys are texts or numbers; not deeper than `DEPTH`.
"""

import json
import math
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

JSON_LIMIT = 64 << 20
"""Characters: all evidence of a host with hundreds of containers has 2 million."""
YAML_LIMIT = 512 << 10
"""Characters: a compose.yaml of a hundred models has 300,000."""
DEPTH = 64
LONGEST_REASON = 300
"""Characters of an error in a sentence: it may quote what the host said."""


def json_from_host(text: str | bytes, limit: int = JSON_LIMIT) -> Any:
    """The value of a JSON text. Raises ValueError."""
    found, *more = json_values(text, limit)
    if more:
        raise ValueError("more than one value of JSON")
    return found


def json_values(text: str | bytes, limit: int = JSON_LIMIT) -> list[Any]:
    """The values of JSON texts one after the other, as `docker inspect` prints lists. Raises ValueError, also for
    none."""
    if len(text) > limit:
        raise ValueError(f"longer than {limit} characters")
    if isinstance(text, bytes):
        text = text.decode()
    found: list[Any] = []
    decoder, position = json.JSONDecoder(parse_constant=_no_number), _after_space(text, 0)
    try:
        while not found or position < len(text):
            value, end = decoder.raw_decode(text, position)
            found.append(_plain(value))
            position = _after_space(text, end)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return found


def yaml_from_host(text: str) -> Any:
    """The value of one YAML document, None for an empty one. Raises ValueError."""
    if len(text) > YAML_LIMIT:
        raise ValueError(f"longer than {YAML_LIMIT} characters")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise ValueError("not plain YAML: it has an anchor or alias")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError("nested too deep")
        return _plain(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {getattr(error, 'problem', None) or error}") from None
    except (TypeError, AttributeError, LookupError) as error:  # of PyYAML's own constructors, as for `!!int ""`
        raise ValueError(f"not YAML: {error}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml where PyYAML has it, which is several times as fast. A date is text, as Compose reads it; so is `<<`."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] not in ("timestamp", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def not_understood(error: Exception) -> str:
    """The sentence about a host that said something nobody thought of: one host's, never the end for the others."""
    text = str(error)
    if isinstance(error, ValidationError):  # of a lock
        wrong = error.errors()[0]
        text = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
    return f"what the host said could not be understood ({type(error).__name__}: {text}); please report this."


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number of JSON")


def _plain(value: Any) -> Any:
    """The value itself, if it is plain data. Raises ValueError."""
    rest = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > DEPTH:
            raise ValueError("nested too deep")
        if isinstance(item, dict):
            if not all(isinstance(key, str | int | float | None) for key in item):
                raise ValueError("a key that is neither text nor number")
            rest += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            item.encode()  # UnicodeEncodeError, a ValueError, for half of a surrogate pair
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("a number too large")
        elif not isinstance(item, int | None):
            raise ValueError(f"a {type(item).__name__}, which is not plain data")
    return value
