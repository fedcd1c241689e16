"""`gpurack plan` with remembered headers of weights: the map, the JSON, the exit codes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpurack import screen
from gpurack.commands import plan_view
from gpurack.commands.main import main
from gpurack.facts import remembered
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Header
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
    lines = [line.rstrip() for line in done.output.splitlines() if not line.startswith(("warning", " " * 9 + "gpu"))]
    assert lines == [
        "gpu1   4 × A30 24 GiB",
        "  GPU 0    █████████████░░░░░  17.4 / 24 GiB",
        "           qwen-7b           vllm 0.33.0      localhost:8000",
        "  GPU 1-2  ██████████████░░░░  18.3 / 24 GiB each",
        "           qwen-14b          vllm 0.33.0      localhost:8001",
        "  GPU 3    reserved",
        "gpu2   3 × A30 24 GiB",
        "  GPU 0    █████████░░░░░░░░░  12.0 / 24 GiB",
        "           one       6 GiB*  llama.cpp b7000  localhost:8000",
        "           two       6 GiB*  llama.cpp b7000  localhost:8001",
        "  GPU 1    ██████████████████  whole GPU",
        "           new               llama.cpp b7000  localhost:8002",
        "  GPU 2    ██████████████████  whole GPU",
        "           mla               llama.cpp b7000  localhost:8003",
        "           * counted by the plan, not enforced by the engine",
        "  not estimated: mla (deepseek2 compresses its KV cache (MLA))",
        "localhost is the host itself. From your desk: ssh -L 8000:localhost:8000 gpu1. For your users: `bind: lan`.",
        "not estimated: 3 models with weights not inspected yet. Run gpurack diff to inspect them.",
        plan_view.UNNAMED,
        lines[-1],
    ]
    warned = sum(line.startswith("warning") for line in done.output.splitlines())
    command = f"gpurack apply {tmp_path}/lab.yaml"
    assert lines[-1] == f"2 hosts, 6 models. Weights as seen 2026-11-18. {warned} warnings. Next: {command}"
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
    places = "gpu1: qwen-7b, qwen-14b · gpu2: one, two, new, mla"
    lines = done.output.splitlines()
    what = "warning  `weights` is a path on the host, so a rebuild cannot restore it. "
    start = lines.index(what + "Add a source: `hf`, `modelscope`, `url` or `copy`.")
    assert lines[start + 1] == f"         {places}"
    shown = [line for line in done.output.splitlines() if line.startswith("warning")]
    assert done.output.splitlines()[-1].startswith(f"2 hosts, 6 models. {len(shown)} warnings.")
    warned = json.loads(plan(tmp_path, "--json").output)["warnings"]
    assert [warning["code"] for warning in warned].count("weights-without-source") == 6


def test_groups_errors_of_several_models(tmp_path: Path) -> None:
    done = plan(tmp_path, text=LAB.replace(", port: 8002", "").replace(", port: 8003", ""))
    assert done.output.splitlines()[0] == "error  gpu2 mla.port, new.port: is missing. Write port: 8000."
    assert done.output.splitlines()[1].startswith("1 error. ")
    found = json.loads(plan(tmp_path, "--json", text=LAB.replace(", port: 8002", "")).output)["errors"]
    assert [(error["path"], error["code"]) for error in found] == [("models.new.port", "missing-field")]


def test_says_who_can_connect_and_what_is_off(tmp_path: Path) -> None:
    text = LAB.replace("port: 8000}", "port: 8000, bind: lan}", 1).replace(
        "port: 8001}", "port: 8001, bind: 10.0.0.7}", 1
    )
    text = text.replace("port: 8003}", "port: 8003, enabled: false}").replace(
        "gpus: [1], port: 8002", "gpus: [], port: 8002"
    )
    lines = [line.rstrip() for line in plan(tmp_path, text=text).output.splitlines()]
    assert "           qwen-7b           vllm 0.33.0      :8000" in lines
    assert "           qwen-14b          vllm 0.33.0      10.0.0.7:8001" in lines
    assert "  CPU      new               llama.cpp b7000  localhost:8002" in lines
    assert lines[-1].startswith("2 hosts, 5 models, 1 disabled. ")


def test_twelve_hosts_with_eight_models_fit_100_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {
        f"qwen2.5-7b-instruct-{number}": {
            "engine": "vllm", "version": "0.33.0", "weights": "/w/7B", "gpus": [number // 2], "vram": "11GiB",
            "port": 8000 + number, "bind": "lan",
        }
        for number in range(8)
    }  # fmt: skip
    hosts = {f"gpu{number}.lab": {"hardware": {"A30": 4}, "models": models} for number in range(12)}
    monkeypatch.setattr(screen, "LOG", 100)
    lines = plan(tmp_path, text=json.dumps({"hosts": hosts})).output.splitlines()
    assert len([line for line in lines if "GiB" in line]) == 12 * (1 + 4 + 8)
    assert max(map(len, lines[:-1])) <= 100, "the last line has the path of the inventory"
    assert len([line for line in lines if "gpu11.lab" in line]) <= 4, "a warning names hosts with the same models once"


def test_prints_no_date_without_remembered_weights(tmp_path: Path) -> None:
    done = plan(tmp_path)
    assert "Weights as seen" not in done.output
    assert done.exit_code == 0


def test_live_reports_each_unreachable_host(tmp_path: Path) -> None:
    entry = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}
    closed = {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_user": "ics", "models": {"alpha": entry}}
    (tmp_path / "lab.json.yaml").write_text(json.dumps({"hosts": {"none.invalid": {}, "closed": closed}}))
    result = CliRunner().invoke(main, ["plan", "--live", str(tmp_path / "lab.json.yaml")])
    assert result.exit_code == 4
    assert result.output.splitlines() == [
        "UNREACHABLE  none.invalid  could not connect: unknown host name `none.invalid`. Try `ssh none.invalid`.",
        "UNREACHABLE  closed        could not connect: nothing listens on port 1 of 127.0.0.1. Does sshd run there? "
        "Try `ssh -p 1 ics@127.0.0.1`.",
    ]


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
    assert done.stdout.startswith("gpu1   4 ? A30 24 GiB")


def test_models_of_a_gpu_begin_with_the_largest_share(tmp_path: Path) -> None:
    done = plan(tmp_path, text=LAB.replace("vram: 25%", "vram: 8GiB"))
    lines = [line.split()[0] for line in done.output.splitlines() if "GiB*" in line]
    assert lines == ["two", "one"]
