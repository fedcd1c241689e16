"""The base of the inventory's levels: strict models, patterns of text, an entry's definition."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from gpurack.spec.problems import Wrong


class Strict(BaseModel):
    """A level of the inventory: no unknown fields, no silent conversions, immutable.

    Its validator is built on first use. Most levels are only validated as a part of a host or model.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


@dataclass(frozen=True)
class OutsideDefinition:
    """Annotates a field whose change alone recreates no container: the definition does not name it.

    why: what follows the field instead, or why nothing has to.
    """

    why: str


@dataclass(frozen=True)
class OnlySome:
    """Annotates a field that only engines with it in their `fields` support.

    others: the hint for the others.
    """

    others: str


def of_some(level: type[BaseModel]) -> dict[str, str]:
    """The fields of a level that only some engines support → the hint for the others."""
    fields = level.model_fields.items()
    return {name: word.others for name, field in fields for word in field.metadata if isinstance(word, OnlySome)}


def definition_words(entry: BaseModel) -> dict[str, Any]:
    """The fields of an entry's definition with their values: all but those OutsideDefinition.

    Fields at their default are left out, so that a field added by a later gpurack changes no definition until it is
    used.
    """
    return {
        name: getattr(entry, name)
        for name, field in type(entry).model_fields.items()
        if not any(isinstance(word, OutsideDefinition) for word in field.metadata)
        and getattr(entry, name) != field.get_default(call_default_factory=True)
    }


def in_order(level: type[BaseModel], words: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a level in the order of their declaration, as in the documentation.

    Raises ValueError for others.
    """
    order = list(level.model_fields)
    return dict(sorted(words.items(), key=lambda item: order.index(item[0])))


def _version_is_text(value: Any) -> Any:
    """A number is refused, with its text in a YAML file: Python and YAML read 0.10 as 0.1."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = getattr(value, "written", None) or (str(value) if isinstance(value, int) else None)
        hint = f'Write "{text}", in quotes.' if text else "Write it in quotes, with all its zeros."
        raise Wrong("version-not-text", hint=hint)
    return value


def _version_without_v(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"[vV]\d", value):
        raise Wrong("version-with-v", value=value, right=value[1:])
    return _version_is_text(value)


class Like:
    """Text that matches a pattern, which is also in the JSON schema; anything else is refused with a code."""

    def __init__(self, pattern: str, code: str, **parameters: str) -> None:
        self.pattern, self.code, self.parameters = pattern, code, parameters

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise Wrong(self.code, value=value, **self.parameters)
        return value


Version = Annotated[
    str,
    BeforeValidator(_version_without_v),
    Like(r"[0-9][0-9A-Za-z.+~_-]*", "invalid-version"),
]
"""The version of a package. It begins with a digit."""
EngineVersion = Annotated[
    str,
    BeforeValidator(_version_is_text),
    Like(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*", "invalid-version"),
]
"""The version of an engine's image. Whether it may begin with v depends on the engine."""
AbsolutePath = Annotated[str, Like(r"/.*", "path-not-absolute")]


def _repository(value: Any) -> Any:
    """A hub's address in place of owner/name is refused with the name in it."""
    found = re.match(r"https?://[^/]+/([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)", value) if isinstance(value, str) else None
    if found:
        raise Wrong("invalid-repository", value=value, hint=f'Write "{found[1]}".')
    apart = re.fullmatch(r"([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)[@:]([A-Za-z0-9._/-]+)", str(value))
    if apart:
        hint = f'Write "{apart[1]}", and beside it "revision": "{apart[2]}".'
        raise Wrong("invalid-repository", value=value, hint=hint)
    return value


Repository = Annotated[
    str,
    BeforeValidator(_repository),
    Like(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", "invalid-repository", hint='Include its owner: "facebook/opt-125m".'),
]

Revision = Annotated[
    str,
    BeforeValidator(_version_is_text),
    Like(r"[A-Za-z0-9][A-Za-z0-9._/-]*", "invalid-revision"),
]


def text_values(value: Any, what: str) -> Any:
    """A map with text values: numbers and booleans are not converted.

    what: the values, for messages. Raises Wrong.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(item, str):
                raise Wrong(
                    "value-not-text", name=name, what=what, item=str(item).lower() if isinstance(item, bool) else item
                )
    return value


def plain_data(value: Any) -> Any:
    """A value that JSON can represent. Raises Wrong for anything else."""
    try:
        json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise Wrong("not-plain-data") from None
    return value
