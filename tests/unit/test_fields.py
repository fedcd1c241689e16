"""Fields of entries: declared once, in gpurack/spec/model.py; definition, import and documentation follow."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import gpurack
from gpurack.engines import ENGINES
from gpurack.inventory import reference
from gpurack.plan.models.desired import desire
from gpurack.plan.models.jobs import desire_job
from gpurack.spec.fields import OutsideDefinition, Strict, definition_words, in_order, of_some
from gpurack.spec.model import Job, Model
from tests.given import SALT, host_state, models, spec
from tests.sources import nodes, tree

BARE = {"engine": "custom", "image": "lab/a:1", "port": 8000}
OF_MODEL: dict[str, Any] = {
    "engine": "custom", "version": "1.2", "image": "lab/b:1", "weights": "/w/a.gguf", "pull": ["a:1"],
    "config": {"models": []}, "connects_to": ["beta"], "gpus": [0], "vram": "6GiB", "context": 512, "port": 8001,
    "bind": "lan", "served_name": "a", "api_key": {"env": "KEY"}, "keys": {"lab": {"env": "KEY"}}, "args": {"a": 1},
    "env": {"A": "1"}, "user": "alice", "enabled": False, "replaces": "old", "ready_timeout": "2h",
    "compose": {"shm_size": "1gb"},
}  # fmt: skip
"""Field → a value that is not its default."""
OUTSIDE = {"pull", "config", "api_key", "keys", "enabled", "replaces", "ready_timeout"}
BARE_JOB = {"engine": "llama.cpp", "image": "lab/a:1", "command": ["-p", "hi"]}
OF_JOB: dict[str, Any] = {
    "engine": "llama.cpp", "version": "b7000", "image": "lab/b:1", "folder": "/f", "command": ["-p"], "result": "r",
    "weights": "/w/a.gguf", "gpus": [0], "vram": "6GiB", "env": {"A": "1"}, "enabled": False, "compose": {"cpus": "1"},
}  # fmt: skip
OUTSIDE_OF_JOB = {"gpus", "vram", "enabled"}


def words_of(level: type[Strict], bare: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    other = {"version": "image", "image": "version"}.get(field)
    return definition_words(level.model_validate({**{key: bare[key] for key in bare if key != other}, field: value}))


def test_covers_every_field() -> None:
    assert set(OF_MODEL) == set(Model.model_fields)
    assert set(OF_JOB) == set(Job.model_fields)


def test_only_one_place_says_by_which_name_clients_ask() -> None:
    package = Path(gpurack.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in nodes(tree(path))
        if isinstance(node, ast.BoolOp)
        and isinstance(node.values[0], ast.Attribute)
        and node.values[0].attr == "served_name"
        and not isinstance(node.values[1], ast.Constant)
    ]
    assert found == ["spec/model.py"]
    assert (Model(**BARE).name_served("key"), Model(**BARE, served_name="a").name_served("key")) == ("key", "a")


@pytest.mark.parametrize("field", OF_MODEL)
def test_definition_of_model_has_all_but_outside_fields(field: str) -> None:
    assert (field in words_of(Model, BARE, field, OF_MODEL[field])) is (field not in OUTSIDE)


@pytest.mark.parametrize("field", OF_JOB)
def test_definition_of_job_has_all_but_outside_fields(field: str) -> None:
    assert (field in words_of(Job, BARE_JOB, field, OF_JOB[field])) is (field not in OUTSIDE_OF_JOB)


def test_only_some_fields_belong_to_an_engine() -> None:
    assert {field for engine in ENGINES.values() for field in engine.fields} == set(of_some(Model))


def test_outside_fields_have_a_reason() -> None:
    for level in (Model, Job):
        for field in level.model_fields.values():
            assert all(word.why for word in field.metadata if isinstance(word, OutsideDefinition))


def test_new_field_is_in_definition_only_when_used() -> None:
    class Later(Model):
        priority: int = 0

    class LaterJob(Job):
        priority: int = 0

    before = models(alpha={})
    alpha = before.models["alpha"].model_dump()

    def definition(priority: int) -> dict[str, Any]:
        later = Later.model_construct(**{**alpha, "priority": priority})
        host = before.model_copy(update={"models": {"alpha": later}})
        return desire("alpha", host, host_state(), (), {}, SALT).definition

    old = desire("alpha", before, host_state(), (), {}, SALT).definition
    assert definition(0) == old
    assert definition(3) == {**old, "priority": 3}

    job = spec({"jobs": {"quantize": {"engine": "llama.cpp", "version": "b7000", "command": ["-p", "hi"]}}})

    def of_job(priority: int) -> str:
        later = LaterJob.model_construct(**{**job.jobs["quantize"].model_dump(), "priority": priority})
        return desire_job("quantize", job.model_copy(update={"jobs": {"quantize": later}})).definition

    assert of_job(0) == desire_job("quantize", job).definition != of_job(3)


def test_definition_is_json_with_all_fields_of_entry() -> None:
    entry = {"gpus": [0], "vram": "6GiB", "context": 512, "served_name": "a", "args": {"threads": 1}, "env": {"A": "1"}}
    host = models(alpha={**entry, "bind": "lan", "compose": {"shm_size": "1gb"}})
    found = desire("alpha", host, host_state(gpus=1), ("GPU-00000000-0000",), {}, SALT).definition
    assert set(definition_words(host.models["alpha"])) <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_definition_of_job_is_unchanged_since_earlier_versions() -> None:
    words = {"engine": "llama.cpp", "version": "b7000", "command": ["-p", "hi"]}
    assert desire_job("quantize", spec({"jobs": {"quantize": words}})).definition == "dbaf84d8d30ca5ee"
    more = {"folder": "/f", "result": "r", "weights": "/w/a.gguf", "gpus": [0]}
    every = {**words, **more, "env": {"A": "1"}, "compose": {"cpus": "1"}}
    assert desire_job("quantize", spec({"jobs": {"quantize": every}})).definition == "199cde92ee0c1a5e"


def test_imported_entry_has_order_of_declaration() -> None:
    words = dict.fromkeys(reversed(Model.model_fields), 1)
    assert list(in_order(Model, words)) == list(Model.model_fields)
    with pytest.raises(ValueError, match="no_field"):
        in_order(Model, {"no_field": 1})


def test_documentation_has_order_of_declaration() -> None:
    rows = reference.table(Model).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(Model.model_fields)
