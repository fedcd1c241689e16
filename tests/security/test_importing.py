"""`gpurack import` of containers with hostile names, labels, arguments and environment: the output stays data, in
Python and in YAML.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gpurack.commands.main import main
from gpurack.commands.project import ProjectHost, files
from gpurack.importing import text as text_of
from gpurack.importing.reader import Imported, read
from gpurack.screen import printable
from tests.security.attacks import EVERYTHING, HALF, HIDDEN, VISIBLE, harmless
from tests.unit.importing.test_inspect import container, printed

CODE = ['"""\n__import__("os").system("id")\n"""', '"})\nimport os\n', "'\\\"\\\\'", "a\nb: {c: d}\n"]
CODE += ["\\", '\\"', "# x\ny"]
TEXTS = [text.replace(HALF, "") or "x" for text in [*HIDDEN, *VISIBLE, EVERYTHING, *CODE]]


def imported(tmp_path: Path, said: str, *options: str) -> tuple[int, str]:
    (tmp_path / "said.json").write_text(said, encoding="utf-8", errors="surrogatepass")
    result = CliRunner().invoke(main, ["import", str(tmp_path / "said.json"), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, harmless(result.output)


def hostile(text: str) -> dict[str, Any]:
    """A container with the text wherever its owner can put it."""
    made = container(text, Labels={text: text})
    made["Config"]["Env"] = [f"A={text}", f"{text}=b"]
    made["Config"]["Cmd"] += ["--chat-template", text, text]
    made["Config"]["Entrypoint"] = [text]
    made["HostConfig"]["IpcMode"] = text
    return made


@pytest.mark.parametrize("text", TEXTS)
def test_printed_python_is_data(text: str, tmp_path: Path) -> None:
    _, output = imported(tmp_path, printed(hostile(text)))
    tree = ast.parse(output)
    assert [type(node) for node in tree.body] == [ast.Assign]
    assert not any(isinstance(node, ast.Call | ast.Import | ast.Attribute) for node in ast.walk(tree))
    ast.literal_eval(tree.body[0].value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", TEXTS)
def test_printed_yaml_loads_as_host_said(text: str, tmp_path: Path) -> None:
    _, output = imported(tmp_path, printed(hostile(text)), "--yaml")
    data = yaml.safe_load(output)
    assert list(data) == ["hosts"]
    said = json.dumps(data, ensure_ascii=False)
    assert json.dumps(text, ensure_ascii=False)[1:-1] in said


@pytest.mark.parametrize("text", TEXTS)
def test_project_of_init_is_harmless_data(text: str) -> None:
    """The files that `gpurack init --adopt` writes are opened in an editor and shown by git."""
    host = ProjectHost("gpu1", unknown=text, unread=text, adopted=read(printed(hostile(text))), refused=[text])
    written = harmless(files("ai", [host])["lab.yaml"])
    data = yaml.safe_load(written)
    assert list(data) == ["all", "hosts"]
    assert data["hosts"]["gpu1"] == yaml.safe_load(printable(text_of.as_yaml(host.adopted, "gpu1")))["hosts"]["gpu1"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_keeps_every_text_unchanged(text: str) -> None:
    assert ast.literal_eval(harmless(text_of.text(text))) == text
    entries = Imported(host={"a": text, "b": [text]}, models={"m": {text: text}})
    assert yaml.safe_load(printable(text_of.as_yaml(entries, "h")))["hosts"]["h"] == entries.data
    ast.parse(harmless(printable(text_of.as_python(entries, "h"))))


@pytest.mark.parametrize(
    "said",
    [
        '[{"HostConfig": {}', '[{"HostConfig": NaN}]', "[" * 100_000 + '"HostConfig"', '[{"HostConfig": "\\ud800"}]',
        '[{"HostConfig": 1}] x',
    ],
)  # fmt: skip
def test_reports_incomplete_output(said: str, tmp_path: Path) -> None:
    code, output = imported(tmp_path, said)
    assert code == 2
    assert "looks like output of docker inspect but cannot be parsed (" in output


@pytest.mark.parametrize("garbage", [None, 7, "x", [], [None], {}, {"a": None}])
def test_garbage_in_one_container_keeps_others(garbage: Any, tmp_path: Path) -> None:
    for part in ("Config", "HostConfig", "Mounts", "Image", "Name"):
        bad = {**container("bad"), part: garbage}
        assert '"good"' in imported(tmp_path, printed(bad, container("good")))[1]
    for field in container()["HostConfig"]:
        bad = container("bad", **{field: garbage})
        assert '"good"' in imported(tmp_path, printed(bad, container("good")))[1]
    for field in container()["Config"]:
        bad = container("bad")
        bad["Config"][field] = garbage
        assert '"good"' in imported(tmp_path, printed(bad, container("good")))[1]
