"""An error of YAML itself is said in an admin's words: the line, what is probably wrong, what to write."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.inventory.load import parse_yaml, read_yaml
from gpurack.spec.problems import InventoryError

LAB = """\
hosts:
  gpu1.lab:
    hardware: {A30: 2}
    models:
      qwen: {weights: /w/q, gpus: [0], port: 8000}
"""
MORE = "      bge: {port: 8001}\n"


def error_of(tmp_path: Path, text: str) -> str:
    """The error without its file: `4: a tab, …`."""
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    with pytest.raises(InventoryError) as raised:
        parse_yaml(file)
    [problem] = raised.value.problems
    assert problem.code == "invalid-yaml"
    return str(problem).removeprefix(f"{file}:")


@pytest.mark.parametrize(
    ("wrong", "right", "sentence"),
    [
        ("\tmodels:", "    models:",
         "4: a tab, where YAML wants spaces. Write 4 spaces: `    models:`."),
        ("\tqwen: {", "      qwen: {", "5: a tab, where YAML wants spaces. Write 6 spaces: `      qwen:`."),
        ("{A30:\t2}", "{A30: 2}", "3: a tab, where YAML wants spaces. Write a space in its place."),
        ("      models:", "    models:",
         "4: is indented by 6 spaces, which fits no line above. Write 4 spaces: `    models:`."),
        ("   models:", "    models:",
         "4: is indented by 3 spaces, which fits no line above. Write 2 or 4 spaces."),
        ("    models\n", "    models:\n", "4: a colon is missing after `models`. Write `models:`."),
        ("maintenance: RMA: Jan", "hardware: {A30: 2}",
         '3: a colon followed by a space, in a value. Put the value in quotes: `maintenance: "…"`.'),
        ("maintenance: RMA\n      until: 1", "hardware: {A30: 2}",
         "4: is indented deeper than the line above, which has a value. Begin both in the same column: `    until:`."),
        ("8000", "8000}", "5: `{` is opened here and not closed. Write it as in `{gpus: [0], port: 8000}`."),
        ("[0] port", "[0], port",
         "5: a comma is missing between two values, or `}` at the end. Write it as in `{gpus: [0], port: 8000}`."),
        ("[0, port", "[0], port", "5: `[` is closed by `}`. Write it as in `[0, 1]`."),
        ("8000}}", "8000}", "5: `}` closes nothing. Remove it."),
        ('"/w/q', "/w/q", '5: a quote is opened here and not closed. Close it: `version: "1.9"`.'),
        ("@x", "/w/q", '5: a value cannot begin with "@". Put it in quotes: `weights: "@…"`.'),
        ("*x", "/w/q",
         "5: a value that begins with `*` means an `&` name, which this file does not have. If it is "
         'text, put it in quotes: `weights: "*…"`.'),
        ("!vault x", "/w/q", "5: YAML tags such as `!vault` are not supported. Write a plain value. A secret is a "
         "reference: `api_key: {env: LAB_KEY}`."),
        ('"C:\\w"', "/w/q", "5: a backslash between double quotes. Write single quotes: `weights: '…'`."),
        ("{{ w }}", "/w/q", "5: braces in braces, as of a template. Write the value itself, or put it in quotes."),
        ("'{{ w }}' gpus", "/w/q, gpus",
         "5: a comma is missing between two values, or `}` at the end. Write it as in `{gpus: [0], port: 8000}`."),
        ("models: - qwen:", "models:\n      qwen:", '4: a list begins in the line of its name, or "- " is where a name '
         'belongs. Hosts and models are names with a colon, without "- ".'),
        ("hardware: 'A30\u2028\u2028", "hardware: {A30: 2}", "3: an invisible character (U+2028). Delete it."),
        ("q\0n:", "qwen:", "5: an invisible character (U+0000). Delete it."),
        ("weights: hf: q", "weights: /w/q",
         "5: a second colon, in a value. Put the value in quotes. Write it as in `{gpus: [0], port: 8000}`."),
        (f"port: {'9' * 5000}", "port: 8000", "5: is too long for a number; write it in quotes if it is text."),
        ("no:", "qwen:", '5: YAML reads the name no as a value; write "no":, in quotes.'),
        (":", "qwen:", "5: the name in front of the colon is missing. Write `name: …`."),
        ("{? , weights", "{weights", "5: the name in front of the colon is missing."),
        ("port: 22:22", "port: 8000",
         "5: YAML reads digits with a colon as minutes and seconds; write them in quotes."),
        ("port: 020000", "port: 8000", "5: YAML reads 020000 as octal, which is 8192; write 20000."),
        ("port: !!python/name:x 5", "port: 8000",
         "5: YAML tags such as `!!python/name:x` are not supported. Write a plain value."),
        ("<<: 5, port: 8000", "port: 8000",
         "5: `<<` merges maps, and this is not a map. Write `<<: *name`, and `&name` in front of a map."),
        ("gpu1.lab: &lab {again: *lab}\n  x:", "gpu1.lab:",
         "2: an alias (`*`) inside of its own anchor (`&`), so the value would contain itself. Write the value in "
         "place of the alias."),
        ("\u00a0\u00a0\u00a0\u00a0hardware", "    hardware",
         "3: a space of another kind (U+00A0), as web pages and word processors write it. Write ordinary spaces."),
        ("port: 1, port", "port", '5: "port" is given twice: keep one of them.'),
        ("port:8000", "port: 8000", "5: a space is missing after the colon; write port: 8000."),
    ],
)  # fmt: skip
def test_says_line_cause_and_what_to_write(tmp_path: Path, wrong: str, right: str, sentence: str) -> None:
    assert error_of(tmp_path, LAB.replace(right, wrong, 1)) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAB.replace("8000}", "8000") + MORE, "5: `{` is opened here and not closed."),
        (LAB.replace("qwen:", "- qwen:") + MORE, '6: some lines of one level begin with "- ", others do not.'),
        (f"{LAB}---\n{LAB}", "6: `---` begins a second document."),
        (f"  all: {{}}\n{LAB}", "2: this line begins further left than the first one"),
        (LAB + MORE[1:], "6: is indented by 5 spaces, which fits no line above. Write 4 or 6 spaces."),
        (
            LAB.replace("    models:", "\tmodels:").replace("      qwen", "\t\tqwen"),
            "4: a tab, where YAML wants spaces. Write spaces, two more for each level.",
        ),
    ],
)
def test_names_the_line_that_is_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    assert error_of(tmp_path, text).startswith(sentence)


def test_repeats_no_value(tmp_path: Path) -> None:
    for key in ('"sk-live-1', "sk-live-1: x", "[sk-live-1", "@sk-live-1", "{sk-live-1}", "{a: 1, sk-live-1}"):
        assert "sk-live" not in error_of(tmp_path, LAB.replace("hardware: {A30: 2}", f"api_key: {key}"))
    for glued in ("api_key:sk-live-1", "HF_TOKEN=sk-live-1"):
        assert "sk-live" not in error_of(tmp_path, LAB.replace("port: 8000", glued))


@given(st.text(alphabet="ab:{}[],-'\"\n\t #&*!|>%@`?0.\x00\x85\u2028", max_size=40))
def test_any_text_is_data_or_an_explained_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text)
    try:
        parse_yaml(file)
    except InventoryError as error:
        [problem] = error.problems
        line = int(problem.path.removeprefix(f"{file}:"))
        assert 1 <= line <= text.count("\n") + 1


@given(place=st.integers(0, len(LAB) - 1), put=st.sampled_from(["", " ", "\t", "{", "}", ":", "\n", '"', "- "]))
def test_any_slip_of_a_finger_is_an_error_or_an_inventory(
    tmp_path_factory: pytest.TempPathFactory, place: int, put: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "slip.yaml"
    file.write_text(LAB[:place] + put + LAB[place + 1 :])
    with suppress(InventoryError):
        read_yaml(file)


def test_reads_dates_as_text_and_merges_maps(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("a: &a {version: 2026-01-02, port: 1}\nb: {<<: *a, port: 2}\n")
    assert parse_yaml(file)["b"] == {"version": "2026-01-02", "port": 2}
