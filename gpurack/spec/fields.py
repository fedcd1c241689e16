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
    """A level of the inventory: no unknown fields, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Wrong("version-not-text", value=value)
    return value


class Like:
    """Text that matches a pattern, which is also in the JSON schema; anything else is refused with a code."""

    def __init__(self, pattern: str, code: str) -> None:
        self.pattern, self.code = pattern, code

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise Wrong(self.code, value=value)
        return value


Version = Annotated[
    str,
    BeforeValidator(_version_is_text),
    Like(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*", "invalid-version"),
]
AbsolutePath = Annotated[str, Like(r"/.*", "path-not-absolute")]
Repository = Annotated[str, Like(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", "invalid-repository")]

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
                raise Wrong("value-not-text", name=name, what=what, item=item)
    return value


def plain_data(value: Any) -> Any:
    """A value that JSON can represent. Raises Wrong for anything else."""
    try:
        json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise Wrong("not-plain-data") from None
    return value
