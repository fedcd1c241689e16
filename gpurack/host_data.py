"""Parse JSON and YAML that a host sent. Any input gives plain data or ValueError with a sentence.

Python's parsers also raise other errors (RecursionError for deep JSON, ValueError for a YAML date), and 300 bytes of
YAML with aliases can expand to gigabytes ("billion laughs"). Plain data: encodable texts, finite numbers, true, false,
null, lists, and maps with text or number keys, at most `DEPTH` levels deep.
"""

import json
import math
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

JSON_LIMIT = 64 << 20
"""Characters. The evidence of a host with hundreds of containers has 2 million."""
YAML_LIMIT = 512 << 10
"""Characters. A compose.yaml of a hundred models has 300,000."""
DEPTH = 64
LONGEST_REASON = 300
"""Characters of an error that are shown. It may quote the host's output."""


def json_from_host(text: str | bytes, limit: int = JSON_LIMIT) -> Any:
    """The value of a JSON text. Raises ValueError."""
    found, *more = json_values(text, limit)
    if more:
        raise ValueError("more than one JSON value")
    return found


def json_values(text: str | bytes, limit: int = JSON_LIMIT) -> list[Any]:
    """The values of concatenated JSON texts, as two `docker inspect` print them. Raises ValueError, also for none."""
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
                raise ValueError("nested too deeply")
        return _plain(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {getattr(error, 'problem', None) or error}") from None
    except (TypeError, AttributeError, LookupError) as error:  # from PyYAML's own constructors, as for `!!int ""`
        raise ValueError(f"not YAML: {error}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's loader if available, which is several times faster. Dates and `<<` are text, as Compose reads them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] not in ("timestamp", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def not_understood(error: Exception) -> str:
    """The error for a host whose output gpurack cannot interpret. It fails that host alone."""
    text = str(error)
    if isinstance(error, ValidationError):  # of a lock
        wrong = error.errors()[0]
        text = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
    return (
        f"could not interpret the host's output ({type(error).__name__}: {text}). "
        "This is a bug in gpurack, please report it."
    )


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _plain(value: Any) -> Any:
    """The same value. Raises ValueError if it is not plain data."""
    rest = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(item, dict):
            if not all(isinstance(key, str | int | float | None) for key in item):
                raise ValueError("a key is neither text nor number")
            rest += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            item.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("a number is too large")
        elif not isinstance(item, int | None):
            raise ValueError(f"a {type(item).__name__}, which is not plain data")
    return value
