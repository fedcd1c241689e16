"""Generated pages match the code."""

import re
from pathlib import Path

import click
import pytest

from gpurack.commands.apply import INTERRUPTED
from gpurack.commands.diff import UNREACHABLE, WOULD_CHANGE
from gpurack.commands.main import main
from gpurack.commands.verbs import ERRORS
from gpurack.commands.verify import CODES
from gpurack.engines import ENGINES
from gpurack.engines.reference import renewed
from gpurack.inventory.error_reference import page as errors_page
from gpurack.inventory.reference import inventory_page
from tests.unit.importing.page import page

DOCS = Path(__file__).resolve().parents[2] / "docs"
CHECK = ("spec/error_codes.py", "inventory/checks/clashes.py")


def test_inventory_page_is_current() -> None:
    assert (DOCS / "inventory.md").read_text(encoding="utf-8") == inventory_page(), "run make docs"


def test_errors_page_is_current() -> None:
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == errors_page(), "run make docs"


def test_exit_codes_are_those_of_the_code() -> None:
    """docs/apply.md has the one table; the help of `apply` has the same codes."""
    text = (DOCS / "apply.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    table = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)}
    words = {
        0: "nothing to do", 1: "failed or was refused", ERRORS: "the inventory has errors",
        WOULD_CHANGE: "--fail-on-change", UNREACHABLE: "could not be reached", INTERRUPTED: "Ctrl-C",
    }  # fmt: skip
    assert table.keys() == words.keys()
    assert [code for code, word in words.items() if word not in table[code]] == []
    assert {WOULD_CHANGE, UNREACHABLE} == {code for code, meaning in table.items() if "`gpurack` only" in meaning}
    apply = main.get_command(click.Context(main), "apply")
    assert apply
    helped = re.findall(r"\b(\d+): ", (apply.help or "").partition("Exit code")[2])
    assert {*map(int, helped)} == table.keys()
    assert {*CODES.values()} < table.keys()


def test_commands_page_is_current() -> None:
    assert (DOCS / "from-docker-run.md").read_text(encoding="utf-8") == page(), "run make docs"


def test_engines_table_is_current() -> None:
    text = (DOCS / "engines.md").read_text(encoding="utf-8")
    assert renewed(text) == text, "run make docs"


def test_every_engine_has_a_section() -> None:
    text = (DOCS / "engines.md").read_text(encoding="utf-8")
    for engine in ENGINES:
        assert f"\n## {engine}\n" in text


def test_table_of_cuda_probes_has_every_engine_that_uses_gpus() -> None:
    text = (DOCS / "changes.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| (`.*?) \|", text.partition("## CUDA is proven first")[2].partition("\n## ")[0], re.MULTILINE
    )
    models = {name for name, engine in ENGINES.items() if engine.service is not True}
    assert {name for row in table for name in re.findall(r"`([^`]+)`", row)} == models


def test_links_lead_to_existing_pages_and_headings() -> None:
    checkout = DOCS.parent
    for page_file in [*checkout.glob("*.md"), *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)]+)\)", page_file.read_text(encoding="utf-8")):
            if link.startswith("https:"):
                continue
            name, _, anchor = link.partition("#")
            target = page_file.parent / name if name else page_file
            assert target.exists(), f"{page_file.name}: {link}"
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page_file.name}: {link}"


COMMAND = re.compile(r"(?:`|^ {4,}(?:\$ )?)gpurack ([a-z]+)((?: [^`#|\n]*)?)", re.MULTILINE)
"""A command of gpurack, in backticks or in a block."""


@pytest.mark.parametrize("file", sorted([DOCS.parent / "README.md", *DOCS.glob("*.md")]), ids=lambda path: path.name)
def test_documented_commands_exist_with_their_options(file: Path) -> None:
    for verb, rest in COMMAND.findall(file.read_text(encoding="utf-8")):
        command = main.commands.get(verb)
        assert command, f"gpurack {verb}"
        known = {option for each in command.params for option in each.opts} | {"--help"}
        if isinstance(command, click.Group) or verb == "verify":  # the other options are pytest's
            continue
        given = re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", re.split(r"[;>&]", rest)[0])
        assert not set(given) - known, f"gpurack {verb}{rest}"


def test_documented_tests_exist() -> None:
    """A test that was renamed would leave a fault without one, unnoticed."""
    files = list((DOCS.parent / "tests").rglob("test_*.py"))
    known = {path.name for path in files}
    for path in files:
        known |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"`(test_\w+(?:\.py)?)`", (DOCS / "testing.md").read_text(encoding="utf-8"))
    assert named
    assert set(named) - known == set()


def test_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index]


def anchors(text: str) -> set[str]:
    """GitHub's anchors for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_recipes_of_design_page_apply() -> None:
    """Lines that a diff leaves or removes are in the code. What it only adds to a list may follow in the same line."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS.parent / "gpurack").rglob("*.py")))
    diffs = re.findall(r"```diff\n(.*?)```", (DOCS / "design.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(diffs) == 6
    kept = [line[1:] for diff in diffs for line in diff.splitlines() if line[0] in " -"]
    assert [line for line in kept if f"\n{line}" not in code] == []


def test_check_of_design_page_is_in_the_code() -> None:
    """Its diffs show a check that exists: `port-used-twice`."""
    text = (DOCS / "design.md").read_text(encoding="utf-8").partition("**A check**")[2].partition("What only a host")[0]
    added = [line[1:] for line in text.splitlines() if line.startswith("+")]
    code = "".join((DOCS.parent / "gpurack" / name).read_text(encoding="utf-8") for name in CHECK)
    assert len(added) == 8
    assert [line for line in added if f"{line}\n" not in code] == []
