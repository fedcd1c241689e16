"""`gpurack plan` with remembered headers of weights: the map, the JSON, the exit codes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpurack.commands.main import main
from gpurack.facts import remembered
from gpurack.facts.model import Header, HostFacts
from gpurack.plan.models.memory import GIB
from tests import forked
from tests.weights import qwen, read

LAB = """\
all:
  engines: {vllm: {version: 0.33.0, context: 32768}, llama.cpp: {version: b7000}}
hosts:
  gpu1:
    hardware: {A30: 4}
    reserved_gpus: [3]
    models:
      qwen-7b: {engine: vllm, weights: /w/7B, gpus: [0], port: 8000}
      qwen-14b: {engine: vllm, weights: /w/14B, gpus: [1, 2], port: 8001}
  gpu2:
    hardware: {A30: 3}
    models:
      one: {engine: llama.cpp, weights: /w/one.gguf, gpus: [0], vram: 6GiB, port: 8000}
      two: {engine: llama.cpp, weights: /w/two.gguf, gpus: [0], vram: 25%, port: 8001}
      new: {engine: llama.cpp, weights: /w/new.gguf, gpus: [1], port: 8002}
      mla: {engine: llama.cpp, weights: /w/mla.gguf, gpus: [2], port: 8003}
"""


def plan(tmp_path: Path, *options: str, text: str = LAB) -> Result:
    (tmp_path / "lab.yaml").write_text(text)
    return CliRunner().invoke(main, ["plan", str(tmp_path / "lab.yaml"), *options])


def seen(host: str, headers: dict[str, Header], day: str) -> None:
    remembered.remember(host, {}, HostFacts(headers={path: replace(h, seen=day) for path, h in headers.items()}))


@pytest.fixture
def _seen(tmp_path: Path) -> None:
    seen("gpu1", {f"/w/{size}": read(qwen(tmp_path, size)) for size in ("7B", "14B")}, "2026-11-19")
    mla = {"general.architecture": "deepseek2", "deepseek2.attention.kv_lora_rank": 512}
    seen("gpu2", {"/w/mla.gguf": Header("1", "gguf", {"GGUF": GIB}, mla)}, "2026-11-18")


@pytest.mark.usefixtures("_seen")
def test_prints_map(tmp_path: Path) -> None:
    done = plan(tmp_path)
    lines = [line.rstrip() for line in done.output.splitlines() if not line.startswith(("warning", "  http"))]
    assert lines == [
        "2 hosts, 6 models · offline · weights as seen 2026-11-18",
        "gpu1   4 × A30, 24.0 GiB",
        "  GPU 0    █████████████░░░░  17.4 of 22.1 GiB  qwen-7b",
        "  GPU 1-2  ██████████████░░░  18.3 of 22.1 GiB each  qwen-14b",
        "  GPU 3    reserved",
        "gpu2   3 × A30, 24.0 GiB",
        "  GPU 0    █████████░░░░░░░░  12.0 of 22.8 GiB  one 6 (promised), two 6 (promised)",
        "  GPU 1    █████████████████  whole GPU  new",
        "  GPU 2    █████████████████  whole GPU  mla",
        "  not estimated: mla (deepseek2 compresses its KV cache (MLA))",
        "not estimated: 3 models with weights not inspected yet. Run gpurack plan --live to inspect them.",
        lines[-1],
    ]
    assert lines[-1].startswith("0 errors, ")
    assert done.exit_code == 0


@pytest.mark.usefixtures("_seen")
def test_prints_json(tmp_path: Path) -> None:
    data = json.loads(plan(tmp_path, "--json").output)
    assert data["weights_seen"] == "2026-11-18"
    models = data["hosts"]["gpu1"]["models"]
    assert models["qwen-14b"]["estimate"] == {
        "weights": 13.756, "kv": 3.0, "overhead": 1.5, "total": 18.256, "tokens": 32768
    }  # fmt: skip
    assert "MLA" in data["hosts"]["gpu2"]["models"]["mla"]["estimate"]["not_estimated"]


@pytest.mark.usefixtures("_seen")
def test_model_that_cannot_fit_is_error(tmp_path: Path) -> None:
    done = plan(tmp_path, text=LAB.replace("gpus: [1, 2]", "gpus: [1]"))
    assert done.output.splitlines() == [
        "error  gpu1 models.qwen-14b: needs 34.5 GiB (weights 27.5, KV cache 6.0 for 32768 tokens, overhead 1.0 or "
        "more), but GPU 1 (A30) has 22.1 for it. Give it 2 GPUs or choose smaller weights. "
        "Weights as seen 2026-11-19.",
        "1 error. Fix it before applying.",
    ]
    assert done.exit_code == 2


@pytest.mark.usefixtures("_seen")
def test_tight_model_is_warning_and_strict_makes_it_an_error(tmp_path: Path) -> None:
    text = LAB.replace("weights: /w/7B,", "weights: /w/7B, context: 122000,")
    done = plan(tmp_path, text=text)
    assert "warning  gpu1 models.qwen-7b: is tight: it usually takes 22.2 GiB of a GPU and has 22.1." in done.output
    assert (done.exit_code, plan(tmp_path, "--strict", text=text).exit_code) == (0, 1)


def test_groups_warnings_of_several_models(tmp_path: Path) -> None:
    done = plan(tmp_path)
    places = "gpu1 qwen-7b, qwen-14b · gpu2 one, two, new, mla"
    unsourced = [line for line in done.output.splitlines() if "Add a source" in line]
    assert unsourced == [
        f"warning  `weights` is a path on the host, so a rebuild cannot restore it: {places}. Add a source: `hf`, "
        "`modelscope`, `url` or `copy`."
    ]
    shown = [line for line in done.output.splitlines() if line.startswith("warning")]
    assert done.output.splitlines()[-1].startswith(f"0 errors, {len(shown)} warnings.")
    warned = json.loads(plan(tmp_path, "--json").output)["warnings"]
    assert [warning["code"] for warning in warned].count("weights-without-source") == 6


def test_groups_errors_of_several_models(tmp_path: Path) -> None:
    done = plan(tmp_path, text=LAB.replace(", port: 8002", "").replace(", port: 8003", ""))
    assert done.output.splitlines()[0] == "error  is missing: gpu2 mla.port, new.port"
    assert done.output.splitlines()[1].startswith("1 error. ")
    found = json.loads(plan(tmp_path, "--json", text=LAB.replace(", port: 8002", "")).output)["errors"]
    assert [(error["path"], error["code"]) for error in found] == [("models.new.port", "missing-field")]


def test_prints_no_date_without_remembered_weights(tmp_path: Path) -> None:
    done = plan(tmp_path)
    assert done.output.splitlines()[0] == "2 hosts, 6 models · offline"
    assert done.exit_code == 0


def test_live_reports_each_unreachable_host(tmp_path: Path) -> None:
    inventory = tmp_path / "lab.py"
    closed = '("closed", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "models": {}})'
    inventory.write_text(f'lab = ([("none.invalid", {{"models": {{}}}}), {closed}], {{}})\n')
    result = CliRunner().invoke(main, ["plan", "--live", str(inventory)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "none.invalid   \n  error  could not connect: Could not resolve hostname" in result.output
    assert result.output.splitlines()[-1] == (
        "  error  could not connect: Unable to connect to port 1 on 127.0.0.1. Try `ssh closed`."
    )


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("plan", ["--live", "--compose", "gpu1"]),
        ("plan", ["--json", "--compose", "gpu1"]),
        ("endpoints", ["--json", "--markdown"]),
    ],
)
def test_refuses_two_output_formats(tmp_path: Path, command: str, options: list[str]) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    done = CliRunner().invoke(main, [command, str(tmp_path / "lab.yaml"), *options])
    assert done.exit_code == 2
    assert "cannot be combined. Use one." in done.output


def test_json_has_gpus_as_in_inventory_and_rounded_numbers(tmp_path: Path) -> None:
    hosts = json.loads(plan(tmp_path, "--json").output)["hosts"]
    assert hosts["gpu1"]["models"]["qwen-14b"]["gpus"] == [1, 2]
    assert hosts["gpu2"]["gpus"][0]["usable_gib"] == 22.8


def test_output_without_utf_8_has_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)

    def program() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="ascii")  # type: ignore[union-attr]
        main()

    done = forked.run(program, ["gpurack", "plan", str(tmp_path / "lab.yaml")])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 hosts, 6 models ? offline")
