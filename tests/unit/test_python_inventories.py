"""Mistakes in Python inventories of which neither Python nor pyinfra would say a word, or only in a traceback."""

from pathlib import Path

import pytest

from gpurack.spec.load import read_inventory
from gpurack.spec.problems import InventoryError

TWICE = """
lab = ([("gpu1", {"models": {
    "alpha": {"port": 8000},
    "alpha": {"port": 8001},
}})], {})
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TWICE, 'lab.py:4: "alpha" is there twice; Python keeps only the last. Rename or remove one.'),
        ('lab = ["gpu1" "gpu2",', "is not Python ('[' was never closed)"),
        ('lab = [\n  ("gpu1", {"a": 1 "b": 2}),\n]', "lab.py:2: is not Python ("),
        ("", "it has no hosts."),
        ('lab = {"gpu1": {}}', "it has no hosts."),
        ('_lab = ["gpu1"]', "any name that begins with _."),
    ],
)
def test_a_sentence_and_where(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "lab.py").write_text(text)
    with pytest.raises(InventoryError) as error:
        read_inventory(tmp_path / "lab.py")
    assert sentence in str(error.value)


def test_a_yaml_inventory_without_hosts(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("hosts: {}\n")
    with pytest.raises(InventoryError, match="it has no hosts"):
        read_inventory(tmp_path / "lab.yaml")
