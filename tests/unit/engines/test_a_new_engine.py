"""A new engine is one class: gpurack asks that class for everything it does with the engine."""

import ast
import importlib
import json
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gpurack import engines
from gpurack.commands import endpoints
from gpurack.engines import ENGINES, reference
from gpurack.engines.args import explicit_args, flags
from gpurack.engines.base import Engine, Row
from gpurack.engines.container import Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import HUB_CACHE, Dialect
from gpurack.engines.hints import Hint
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.facts.parts import Header
from gpurack.importing.reader import read
from gpurack.inventory.checks.warnings import warnings
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models.desired import desire
from gpurack.plan.models.memory import estimate, refusal
from gpurack.spec.gpus import GpuSlot
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import InventoryError, Problem
from tests.given import SALT, host_state, models_plan, uuid
from tests.unit.host_programs import load

SOURCES = Path(engines.__file__).parents[1]


class Toy(Engine):
    """A server of GGUF files."""

    name = "toy"
    title = "Toy"
    row = Row("GGUF: chat", "`toy/server:1.2`", "one", "exported", "name, address", "a toy", "tried nowhere")
    dialect = Dialect(
        images="toy/server",
        moved={"old.example/toy/server": "toy/server"},
        programs=(("toyd", "serve"),),
        short={"c": "ctx"},
        switches=("fast",),
        variables={"TOY_KEY": "key", "TOY_HOME": "gpurack keeps it"},
        caches={"/cache": HUB_CACHE},
        share="share",
        renamed={"threads-old": "threads"},
    )
    hints = (Hint(r"toy box is full", "Empty the box."),)
    api = "vllm"
    port = 9000
    weights_suffixes = (".gguf",)
    one_gpu = True
    min_compute = "8.0"
    own_args: ClassVar = {"model": "weights", "ctx": "context", "key": "api_key", "port": "port"}
    removed_args: ClassVar = {"threads-old": "use --threads."}
    removed_since = (1,)

    def image(self, version: str, accelerator: Accelerator) -> str:
        """For any GPU, or the CPU."""
        return f"toy/server:{version}"

    def container(self, model: Model, run: Run) -> Container:
        """`toyd serve`."""
        argv = ["toyd", "serve", "--model", str(run.weights), "--name", run.served_name]
        argv += ["--ctx", str(model.context)] if model.context else []
        argv += flags(model.args)
        if not run.api_key_file:
            return Container(argv, volumes={"toy-cache": "/cache"})
        entrypoint, command = with_secrets({"TOY_KEY": run.api_key_file}, argv)
        return Container(command, entrypoint, volumes={"toy-cache": "/cache"})

    def needs(self, model: Model, facts: Facts) -> Needs:
        """A cache of its whole context."""
        if "offload" in explicit_args(model):
            raise NotEstimated("args.offload changes what is on the GPUs")
        return Needs(model.context or facts.context or 0, (2, 2), (0.25, 0.5))

    def prompt_logs(self, model: Model) -> list[str]:
        """--chatty."""
        return ["args.chatty"] if "chatty" in explicit_args(model) else []

    def check(self, model: Model) -> list[Problem]:
        """Refuses more than one GPU."""
        many = [Problem.of("one-gpu-only", path="gpus", engine="toy")] if len(model.gpus) > 1 else []
        return super().check(model) + many


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "toy", Toy())  # type: ignore[arg-type]
    monkeypatch.setenv("LAB_KEY", "sk-toy")


def host(**fields: Any) -> Host:
    words = {"engine": "toy", "version": "1.2", "gpus": [0], "port": 8000, "weights": "/w/a.gguf", **fields}
    return check_fleet({"gpu1": [{"models": {"alpha": words}, "hardware": {"A30": 2}}]})["gpu1"]


# --- from a command to the inventory ---------------------------------------------------------------------------------

COMMAND = """\
docker run -d --name alpha --gpus '"device=1"' -p 8000:9000 -v /data:/m -v /tmp/c:/cache \\
    -e TOY_KEY=secret -e TOY_HOME=/t old.example/toy/server:1.2 \\
    toyd serve --model /m/a.gguf -c 4096 --fast --share 0.5 --threads-old 4
"""


def test_imports_command_as_entry() -> None:
    imported = read(COMMAND)
    assert imported.data == {
        "models": {
            "alpha": {
                "engine": "toy", "version": "1.2", "weights": "/data/a.gguf", "gpus": [1], "vram": "50%",
                "context": 4096, "port": 8000, "bind": "any", "api_key": {"env": "ALPHA_KEY"},
                "args": {"fast": True, "threads": 4},
            }
        }
    }  # fmt: skip
    said = "\n".join(map(str, imported.findings))
    for what in (
        "old.example/toy/server:1.2 moved to toy/server:1.2.",
        "TOY_HOME is left out: gpurack keeps it.",
        f"/tmp/c on /cache is left out: {HUB_CACHE}.",
        "toy removed --threads-old; replaced by threads.",
    ):
        assert what in said
    assert "secret" not in json.dumps(imported.data) + said


def test_counts_every_gpu_as_one() -> None:
    command = "docker run -d --name alpha --gpus all -p 8000:9000 -v /d:/d toy/server:1.2 toyd serve --model /d/a.gguf"
    assert read(command).models["alpha"]["gpus"] == [0]


# --- from the inventory to a container -------------------------------------------------------------------------------


def test_converts_entry_to_service_and_definition() -> None:
    spec, state = host(context=2048, args={"fast": True}), host_state(gpus=2)
    made = desire("alpha", spec, state, (uuid(0),), {}, SALT)
    service = made.service
    assert service["image"] == "toy/server:1.2"
    assert service["command"] == [
        "toyd", "serve", "--model", "/weights/a.gguf", "--name", "alpha", "--ctx", "2048", "--fast",
    ]  # fmt: skip
    assert [port["target"] for port in service["ports"]] == [9000]
    words = made.definition
    assert (words["engine"], words["context"], words["args"]) == ("toy", 2048, {"fast": True})


def test_run_creates_container_and_runner_gets_hints() -> None:
    found = models_plan(host(), replace(host_state(gpus=2), weights={"/w/a.gguf": 1}))
    assert found.job
    ((entry,),) = found.job["batches"]
    assert (entry["name"], entry["action"], entry["image"]) == ("alpha", "create", "toy/server:1.2")
    assert entry["url"].endswith(":8000/v1/models")
    hint_for = load("error_hints").error_hint
    assert hint_for(1, "RuntimeError: the toy box is full", entry["hints"]) == " Empty the box."
    assert "does not fit on its GPUs" in hint_for(1, "CUDA out of memory", entry["hints"])


def test_refuses_or_warns_of_unsupported_fields() -> None:
    with pytest.raises(InventoryError) as error:
        host(gpus=[0, 1], args={"ctx": 4, "threads-old": 2}, weights="/w/folder")
    assert sorted(str(problem) for problem in error.value.problems) == [
        "gpu1 models.alpha.args.ctx: gpurack sets this itself. Use the field `context`.",
        "gpu1 models.alpha.args.threads-old: toy no longer has --threads-old. Use --threads.",
        "gpu1 models.alpha.gpus: toy uses one GPU. Give it one, and add a second entry for a second GPU.",
        "gpu1 models.alpha.weights: toy reads .gguf, not folder.",
    ]
    (logs,) = (one.what for one in warnings({"gpu1": host(args={"chatty": True})}) if "what clients ask" in one.what)
    assert logs.startswith("args.chatty: ")


# --- what else is said of it -----------------------------------------------------------------------------------------

SHAPE = {
    "general.architecture": "llama", "vocab": 32000, "llama.block_count": 32, "llama.context_length": 4096,
    "llama.embedding_length": 4096, "llama.attention.head_count": 32,
}  # fmt: skip


def test_estimates_memory() -> None:
    header = Header("1", "gguf", {"GGUF": 4 << 30}, SHAPE)
    need = estimate(host(context=4096).models["alpha"], header, 1)
    assert (need.weights, need.kv, need.least, need.overhead) == (4.0, 2.0, 0.25, 0.5)
    why_not = refusal(host(context=4096).models["alpha"], header, [GpuSlot(0, "GPU-0", memory=5.0)])
    assert why_not
    assert why_not.startswith("needs 6.2 GiB (weights 4.0, KV cache 2.0 for 4096 tokens")
    with pytest.raises(NotEstimated, match="changes what is on the GPUs"):
        estimate(host(args={"offload": 3}).models["alpha"], header, 1)


def test_docs_list_engine() -> None:
    page = f"before\n{reference.BEGIN}\n{reference.END}\nafter\n"
    line = "| [`toy`](#toy) | GGUF: chat | `toy/server:1.2` | one | exported | name, address | a toy | tried nowhere |"
    assert line in reference.renewed(page).splitlines()
    assert reference.renewed(reference.renewed(page)) == reference.renewed(page)


def test_endpoints_and_gateway_use_its_api() -> None:
    (offer,) = endpoints.public_endpoints({"gpu1": host(bind="any", api_key={"env": "LAB_KEY"})}, {})
    assert (offer.engine, offer.kind, offer.keyed) == ("toy", "chat", True)
    gateway = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": ["alpha"]}
    toy = {"engine": "toy", "version": "1.2", "port": 8000, "weights": "/w/a.gguf"}
    spec = check_fleet({"gpu1": [{"models": {"alpha": toy}, "services": {"door": gateway}}]})["gpu1"]
    (config, *_) = desire("door", spec, host_state(), ()).container.files.values()
    assert "model: hosted_vllm/alpha" in config


# --- the registry ----------------------------------------------------------------------------------------------------


def test_registers_every_file_with_an_engine() -> None:
    found = set()
    for module in pkgutil.iter_modules(engines.__path__):
        content = vars(importlib.import_module(f"{engines.__name__}.{module.name}")).values()
        found |= {one for one in content if isinstance(one, type) and issubclass(one, Engine) and one is not Engine}
    assert found | {Toy} == {type(engine) for engine in ENGINES.values()}


def test_engines_import_only_types_of_inventory() -> None:
    seen: set[str] = set()
    todo = {f"gpurack.engines.{path.stem}" for path in (SOURCES / "engines").glob("*.py")}
    while todo:
        module = todo.pop()
        seen.add(module)
        path = SOURCES.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if path.is_file():
            todo |= set(imports(ast.parse(path.read_text(encoding="utf-8")))) - seen
    rooms = {name.split(".")[1] for name in seen}
    assert rooms == {"cuda_faults", "engines", "once", "resources", "shell", "spec"}
    assert not {f"gpurack.spec.{name}" for name in ("fleet", "connections", "fits", "secrets", "warnings")} & seen


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of gpurack that a file imports at its top."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gpurack."):
            yield str(node.module)


def test_no_other_file_compares_engine_names() -> None:
    """known_defects.py is a table of data, whose combinations have an engine's version beside a driver's."""
    files = [
        path for path in SOURCES.rglob("*.py") if path.parent.name != "engines" and path.name != "known_defects.py"
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    quoted = [path for path, text in texts.items() if any(f'"{name}"' in text for name in ENGINES)]
    found = {path.name: set(decides_by(ast.parse(texts[path]))) & set(ENGINES) for path in quoted}
    assert {name: names for name, names in found.items() if names} == {}


def decides_by(tree: ast.AST) -> Iterator[str]:
    """Texts with which something is compared (except Engine.api), or that are keys of a literal map or of ENGINES."""
    for node in ast.walk(tree):
        places: list[ast.expr | None] = []
        if isinstance(node, ast.Compare) and getattr(node.left, "attr", "") != "api":
            places = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            places = list(node.keys)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "ENGINES":
            places = [node.slice]
        for place in places:
            for part in [place, *getattr(place, "elts", [])]:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
