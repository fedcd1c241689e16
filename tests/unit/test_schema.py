"""`gpurack schema`, and the line by which editors find it."""

import re
from pathlib import Path

import pytest
from pyinfra.connectors.ssh import connector_data_meta

from gpurack.inventory.checks.ssh_fields import SSH_FIELDS
from gpurack.inventory.schema import inventory_schema

LAYERS = {
    "all": inventory_schema()["properties"]["all"],
    "groups": inventory_schema()["properties"]["groups"]["additionalProperties"],
    "hosts": inventory_schema()["properties"]["hosts"]["additionalProperties"],
}
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_accepts_fields_of_pyinfra(layer: str) -> None:
    assert LAYERS[layer]["properties"].keys() >= SSH_FIELDS.keys()
    assert any(re.match(pattern, "_sudo_password") for pattern in LAYERS[layer]["patternProperties"])
    assert LAYERS[layer]["properties"]["ssh_port"]["anyOf"][0]["type"] == "integer"


def test_knows_the_fields_of_this_pyinfra() -> None:
    assert SSH_FIELDS.keys() == connector_data_meta.keys()


def test_every_yaml_inventory_of_the_docs_names_its_schema() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if re.search(r"^(all|groups|hosts):", text, re.MULTILINE):
                assert text.startswith("# yaml-language-server: $schema="), page.name
