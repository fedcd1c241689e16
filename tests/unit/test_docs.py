"""The pages that are made from the code say what the code says."""

from pathlib import Path

from gpurack.spec.reference import inventory_page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_inventory_page_is_current() -> None:
    assert (DOCS / "inventory.md").read_text(encoding="utf-8") == inventory_page(), "run make docs"
