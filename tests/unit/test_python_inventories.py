"""Mistakes in Python inventories that Python and pyinfra would ignore, or report as a traceback."""

from pathlib import Path

import pytest

from gpurack.inventory.load import read_inventory
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
        (TWICE, 'lab.py:4: "alpha" is given twice; Python keeps only the last. Rename or remove one.'),
        ('lab = ["gpu1" "gpu2",', "is not valid Python ('[' was never closed)"),
        ('lab = [\n  ("gpu1", {"a": 1 "b": 2}),\n]', "lab.py:2: is not valid Python ("),
        ("lab = hosts_of_mine", "lab.py:1: Python stopped here: NameError: name 'hosts_of_mine' is not defined."),
        ("import no_such_module_here", "lab.py:1: Python stopped here: ModuleNotFoundError: No module named"),
        (
            'import os\n\nlab = (["gpu1"], {"_sudo_password": os.environ["GPURACK_TEST_IS_NOT_SET"]})',
            "lab.py:3: Python stopped here: KeyError: 'GPURACK_TEST_IS_NOT_SET'. Is the environment variable "
            "'GPURACK_TEST_IS_NOT_SET' set?",
        ),
        ("", "the inventory has no hosts."),
        ('lab = {"gpu1": {}}', "the inventory has no hosts."),
        ('_lab = ["gpu1"]', "names that begin with _."),
        ("import sys\nsys.exit(0)", "lab.py:2: Python stopped here: it ends the command (`exit`). Remove that line."),
        ("exit()", "lab.py:1: Python stopped here: it ends the command (`exit`). Remove that line."),
    ],
)
def test_reports_exception_with_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "lab.py").write_text(text)
    with pytest.raises(InventoryError) as error:
        read_inventory(tmp_path / "lab.py")
    assert sentence in str(error.value)


def test_reports_mistake_in_group_data_with_file(tmp_path: Path) -> None:
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text("docker = dokcer\n")
    (tmp_path / "lab.py").write_text('lab = ["gpu1"]\n')
    with pytest.raises(InventoryError, match=r"all\.py:1: Python stopped here: NameError"):
        read_inventory(tmp_path / "lab.py")


@pytest.mark.parametrize("name", ["lab.py", "lab.yaml"])
def test_reports_file_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'# caf\xe9\nhosts = ["gpu1"]\n')
    with pytest.raises(InventoryError, match=rf"{name}: is not UTF-8 text \(byte 6\)\. Save it as UTF-8\."):
        read_inventory(tmp_path / name)


def test_reports_yaml_inventory_without_hosts(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("hosts: {}\n")
    with pytest.raises(InventoryError, match='needs a map "hosts"'):
        read_inventory(tmp_path / "lab.yaml")
