"""JSON and YAML of hosts: plain data or ValueError, for any input, and quickly."""

import ast
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurack import paths
from gpurack.host_data import DEPTH, JSON_LIMIT, YAML_LIMIT, json_from_host, json_values, not_understood, yaml_from_host
from gpurack.plan.models import compose, jobs, ledger, pulls
from gpurack.plan.system import daemon_json
from tests.given import container, host_state, spec
from tests.sources import nodes, tree

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP_JSON, DEEP_YAML = "[" * 100_000 + "]" * 100_000, "[" * 3000 + "]" * 3000
NESTED = json.dumps({"a": 1})


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS, "a: &a 1\n", "a: *b\n", "base: &b {x: 1}\nmore: {<<: *b}\n", DEEP_YAML, "- " * 3000, "a: [", "\x00",
        "a: !!python/object/apply:os.system [id]\n", "a: !!binary aGk=\n", "a: !!set {x}\n", "? [a]\n: b\n",
        "a: !!timestamp 2001-99-99\n", "a: !!timestamp 2001-01-01\n", "a: !!int ''\n", "a: .inf\n", 'a: "\\ud800"\n',
        "a: 1\n---\nb: 2\n", "#" * (YAML_LIMIT + 1),
    ],
)  # fmt: skip
def test_refuses_yaml_that_is_not_plain_data(text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"."):
        yaml_from_host(text)
    assert time.monotonic() - begun < 10


def test_reads_yaml_of_compose() -> None:
    text = 'services:\n  alpha:\n    image: "a:1"\n    ports: ["127.0.0.1:8000:8000"]\n    since: 2026-11-28\n'
    service = {"image": "a:1", "ports": ["127.0.0.1:8000:8000"], "since": "2026-11-28"}
    assert yaml_from_host(text) == {"services": {"alpha": service}}
    assert yaml_from_host("") is None


@pytest.mark.parametrize("text", [LAUGHS, DEEP_YAML, "services: {alpha: &a {image: x}}\n", "services: 2001-99-99\n"])
def test_ignores_hostile_compose_file(text: str) -> None:
    facts = host_state(files={"/etc/gpurack/compose.yaml": text})
    assert compose.old_services(facts) == {}


@pytest.mark.parametrize(
    "text",
    [
        DEEP_JSON, '{"a":' * 100_000, "[" * (DEPTH + 2) + "]" * (DEPTH + 2), "NaN", "[Infinity]", "1e999", "9" * 5000,
        '"\\ud800"', '{"\\udc00": 1}', "{} {}", "", " ", "{", b"\xff", b"", "\ufeff{}",
    ],
)  # fmt: skip
def test_refuses_json_that_is_not_plain_data(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_from_host(text)


def test_limits_size_of_json() -> None:
    with pytest.raises(ValueError, match="longer than 10 characters"):
        json_from_host('"' + "a" * 10 + '"', limit=10)
    assert JSON_LIMIT < 1 << 30


def test_reads_json_of_docker() -> None:
    assert json_from_host(b' {"a": [1, 2.5, null, true, "\\ud83d\\ude80"]}\n') == {"a": [1, 2.5, None, True, "🚀"]}
    assert json_values("[1]\n[2]\n") == [[1], [2]]


@settings(max_examples=100)
@given(st.text() | st.binary())
def test_any_text_is_value_or_valueerror(text: str | bytes) -> None:
    for read in (
        json_from_host,
        lambda said: yaml_from_host(said if isinstance(said, str) else said.decode("latin-1")),
    ):
        try:
            value = read(text)
        except ValueError:
            continue
        json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("text", [DEEP_JSON, "[" * 900, '"\\ud800"', "NaN", "{", "[]", "1", '{"models": [1]}'])
def test_every_reader_of_plan_ignores_invalid_data(text: str) -> None:
    facts = host_state(
        containers=[container("alpha", label=text)],
        probes={"alpha": [200, text]},
        files={"/etc/docker/daemon.json": text, paths.job_record("ask"): text},
    )
    wanted = spec({"models": {"alpha": {"port": 8000}}, "jobs": {"ask": {"command": ["-p", "Who are you?"]}}})
    assert jobs.due(jobs.desire_job("ask", wanted), facts) == "not done yet"
    assert ledger.label(facts.containers[0].labels) in ({}, {"models": [1]})
    assert pulls.answered(facts.probes["", "alpha"]) is None
    content, error = daemon_json.read(facts)
    assert error or content == {"models": [1]}


READERS = {("json", "loads"), ("json", "load"), ("yaml", "load"), ("yaml", "safe_load"), ("yaml", "full_load")}
OWN = {"host_data.py", "inventory/load.py", "importing/compose_file.py", "facts/remembered.py", "spec/local_files.py"}
"""Modules that also parse the admin's own files: the inventory, an imported compose file, what gpurack remembers."""


def readers(module: ast.Module) -> set[str]:
    """The parsers of JSON and YAML that a module calls directly."""
    names = [node for node in nodes(module) if isinstance(node, ast.Attribute)]
    found = {f"{node.value.id}.{node.attr}" for node in names if isinstance(node.value, ast.Name)
             and (node.value.id, node.attr) in READERS}  # fmt: skip
    return found | {node.attr for node in names if node.attr in ("raw_decode", "JSONDecoder")}


def test_unexpected_error_is_one_short_line() -> None:
    said = not_understood(KeyError("x\n" * 100_000)), not_understood(ValueError("a\nerror gpu2 all is lost\n" * 1000))
    for sentence in said:
        assert len(sentence) < 400
        assert "\n" not in sentence
        assert sentence.endswith("please report it.")


def test_host_output_is_parsed_in_one_module() -> None:
    folder = Path(__file__).parents[2] / "gpurack"
    for file in sorted(folder.rglob("*.py")):
        if str(file.relative_to(folder)) not in OWN:
            assert not readers(tree(file)), file


def test_lint_finds_other_parsers() -> None:
    assert readers(ast.parse("import json, yaml\njson.loads(a)\nyaml.safe_load(b)\n")) == {
        "json.loads",
        "yaml.safe_load",
    }
