"""Every test that docs/security.md names as a proof is there."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs/security.md").read_text(encoding="utf-8")
HOSTILE = "tests/security/testbed/test_hostile_user.py"


def test_the_proofs_of_the_security_page_exist() -> None:
    tree = ast.parse((CHECKOUT / HOSTILE).read_text(encoding="utf-8"))
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    named = set(re.findall(r"hostile::(\w+)", PAGE))
    assert named
    assert named - there == set()


def test_the_page_names_every_file_of_attacks() -> None:
    """And no other: `test_x.py` there is a file of this folder."""
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert set(re.findall(r"`(test_\w+\.py)`", PAGE)) == here


def test_the_files_that_the_security_page_names_exist() -> None:
    named = re.findall(r"`((?:tests|docs)/[\w./*-]+)`", PAGE)
    assert HOSTILE in named
    assert [name for name in named if not list(CHECKOUT.glob(name))] == []


def test_every_promise_names_a_proof() -> None:
    """Each row of a table of promises: what is promised, and at least one test."""
    tables = PAGE.split("| gpurack promises | test |\n|---|---|\n")[1:]
    rows = [line for table in tables for line in table.partition("\n\n")[0].splitlines()]
    assert len(rows) > 20
    proof = re.compile(r"`(?:hostile::\w+|test_\w+\.py|tests/[\w./]+)`")
    assert [row for row in rows if not proof.search(row.split("|")[2])] == []


def test_every_sentence_names_existing_tests() -> None:
    lines = (CHECKOUT / "tests/security/sentences.md").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line.startswith("- ")]
    assert len(sentences) > 50
    for line in sentences:
        proofs = re.findall(r"`([\w./]+)::(\w+)`", line)
        assert proofs, line
        for place, name in proofs:
            path = HOSTILE if place == "hostile" else place if "/" in place else f"tests/security/{place}"
            assert f"def {name}(" in (CHECKOUT / path).read_text(encoding="utf-8"), (line, name)


@pytest.mark.parametrize(
    "topic",
    [
        "### A user of a host", "### A compromised host", "### The network", "### A client of a model",
        "## Docker's ports and UFW", "## Plain HTTP on a LAN", "## Pinning the SSH keys of hosts",
        "## Where prompts are kept",
    ],
)  # fmt: skip
def test_the_page_is_about(topic: str) -> None:
    text = PAGE.partition(f"\n{topic}\n")[2].partition("\n## ")[0]
    assert len(text.split()) > 40


def test_each_attacker_has_promises_and_what_is_not_promised() -> None:
    attackers = PAGE.partition("\n## Attackers and promises\n")[2].partition("\n## ")[0]
    parts = {part.partition("\n")[0]: part for part in attackers.split("\n### ")[1:] if "| gpurack promises |" in part}
    assert len(parts) == 4
    assert [name for name, part in parts.items() if not re.search("Not promised:|does not sandbox", part)] == []
