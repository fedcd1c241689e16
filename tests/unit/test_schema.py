"""`gpurack schema`, and the line by which editors find it."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pyinfra.connectors.ssh import connector_data_meta

from gpurack.engines import ENGINES
from gpurack.inventory.checks.ssh_fields import DESCRIPTIONS, SSH_FIELDS, passwords_in
from gpurack.inventory.fleet import check_fleet
from gpurack.inventory.schema import inventory_schema

WHOLE = inventory_schema()
LAYERS = {
    "all": WHOLE["properties"]["all"],
    "groups": WHOLE["properties"]["groups"]["additionalProperties"],
    "hosts": WHOLE["properties"]["hosts"]["additionalProperties"],
}
SCHEMA = jsonschema.Draft202012Validator(WHOLE)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_accepts_fields_of_pyinfra(layer: str) -> None:
    assert LAYERS[layer]["properties"].keys() >= SSH_FIELDS.keys()
    assert any(re.match(pattern, "_sudo_password") for pattern in LAYERS[layer]["patternProperties"])
    assert LAYERS[layer]["properties"]["ssh_port"]["type"] == "integer"  # pyinfra takes no null


def test_knows_the_fields_of_this_pyinfra() -> None:
    assert SSH_FIELDS.keys() == connector_data_meta.keys() == DESCRIPTIONS.keys()


def test_every_yaml_inventory_of_the_docs_names_its_schema() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if re.search(r"^(all|groups|hosts):", text, re.MULTILINE):
                assert text.startswith("# yaml-language-server: $schema="), page.name


def test_accepts_every_yaml_inventory_of_the_docs() -> None:
    checked = 0
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if re.search(r"^hosts:", text, re.MULTILINE):
                SCHEMA.validate(yaml.safe_load(text))
                checked += 1
    assert checked


HOST_FIELDS: list[dict[str, Any]] = [
    {"download": {"rate": "50MB/s", "connections": 4}},
    {"mirrors": {"docker.io": "mirror.lab", "huggingface": {"url": "https://mirror.lab"}}},
    {"proxy": "http://proxy.lab:3128"},
    {"proxy": {"url": "http://proxy.lab:3128", "no_proxy": ["10.0.0.0/8"]}},
    {"hardware": {"A30": 2, "My Card": {"count": 2, "memory": "24GiB"}}},
    {"registries": {"ghcr.io": {"user": "lab", "password": {"env": "TOKEN"}}}},
    {"reserved_gpus": [0, "GPU-0a1b2c3d"]},
    {"defaults": {"vram": "50%"}, "engines": {"vllm": {"version": "0.33.0", "vram": "6GiB"}}},
]


@pytest.mark.parametrize("fields", HOST_FIELDS, ids=lambda fields: next(iter(fields)))
def test_accepts_every_form_of_a_hosts_fields(fields: dict[str, Any]) -> None:
    check_fleet({"gpu1": [fields]}, secrets=False)
    SCHEMA.validate({"all": fields, "hosts": {"gpu1": {}}})


def test_accepts_what_the_inventory_accepts() -> None:
    """The entries of all engines' cases."""
    checked = 0
    for path in sorted(Path(__file__).parent.glob("engines/*/*.json")):
        case = json.loads(path.read_text())
        if "service" in case:
            kind = "services" if ENGINES[case["model"]["engine"]].service else "models"
            SCHEMA.validate({"hosts": {"gpu1": {**case.get("host", {}), kind: {case["name"]: case["model"]}}}})
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("fields", [{"vram": 50}, {"port": "8000"}, {"gpus": "0,1"}, {"prot": 8000}], ids=str)
def test_refuses_what_the_inventory_refuses(fields: dict[str, Any]) -> None:
    entry = {"engine": "vllm", "version": "0.33.0", "port": 8000, **fields}
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"hosts": {"gpu1": {"models": {"alpha": entry}}}})


def test_password_that_an_inventory_contains_is_warned_of() -> None:
    data = {"gpu1": {"ssh_password": "hush", "_sudo_password": "asked", "ssh_user": "root"}, "gpu2": {"port": 1}}
    found = passwords_in('{"ssh_password": "hush", "_sudo_password": getpass()}', "lab.py", data)
    assert [(one.host, one.path, one.code) for one in found] == [("gpu1", "ssh_password", "password-in-inventory")]
    assert "hush" not in f"{found}"


@pytest.mark.parametrize(
    ("text", "value", "warned"),
    [
        ('{"ssh_password": "hush"}', "hush", True),
        ("{'ssh_password': 'pa\\'ss'}", "pa'ss", True),
        ('{"gpu1.lab": {"ssh_password": os.environ["PW"]}}', "gpu1", False),
    ],
)
def test_password_that_python_reads_from_elsewhere_is_not_warned_of(text: str, value: str, warned: bool) -> None:
    assert bool(passwords_in(text, "lab.py", {"gpu1.lab": {"ssh_password": value}})) == warned


@pytest.mark.parametrize(("text", "value"), [(r'"pa\"ss"', 'pa"ss'), ("1234", 1234), ("0x10", 16)])
def test_every_password_of_yaml_is_warned_of(text: str, value: object) -> None:
    assert passwords_in(f"_sudo_password: {text}", "lab.yaml", {"gpu1": {"_sudo_password": value}})
