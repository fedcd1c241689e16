"""The JSON Schema of a YAML inventory, from the same pydantic models that check it."""

import functools
from typing import Any

from gpurack import screen
from gpurack.inventory.checks.ssh_fields import SSH_FIELDS
from gpurack.spec.host import Host


def inventory_schema() -> dict[str, Any]:
    """A schema (draft 2020-12) for `lab.yaml`: maps all, groups, hosts.

    Hosts, groups and `all` also have the fields of pyinfra's ssh connector.

    In `all` and `groups`, and in `defaults` and `engines`, no field is required, because the layers are merged before
    they are checked.
    """
    host = Host.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = host.pop("$defs")
    entry = _optional(definitions["Model"])
    host["properties"]["defaults"] = entry
    host["properties"]["engines"] = {"type": "object", "additionalProperties": entry}
    definitions["Job"] = _optional(definitions["Job"])
    definitions["Model"] = entry  # what a model leaves out may come from defaults or engines
    layer = _optional(host) | {"patternProperties": {"^_": {}}}  # pyinfra's arguments, such as _sudo_password
    layer["properties"] |= {name: {"type": kind, "description": text} for name, (kind, text) in SSH_FIELDS.items()}
    member = {
        **layer,
        "properties": {**layer["properties"], "groups": {"type": "array", "items": {"type": "string"}}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gpurack inventory",
        "type": "object",
        "required": ["hosts"],
        "additionalProperties": False,
        "properties": {
            "all": layer,
            "groups": {"type": "object", "additionalProperties": layer},
            "hosts": {"type": "object", "additionalProperties": member},
        },
        "$defs": definitions,
    }


@functools.cache
def schema_text() -> str:
    """The schema as JSON. pydantic takes a tenth of a second for it."""
    return screen.as_json(inventory_schema())


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without `required`, and with null allowed for every property: null removes a key."""
    properties = {
        name: {"anyOf": [value, {"type": "null"}], "description": value.get("description", "")}
        for name, value in schema.get("properties", {}).items()
    }
    rest = {key: value for key, value in schema.items() if key not in ("required", "properties")}
    return {**rest, "properties": properties}
