"""Placements that `gpurack import --fit` proposes."""

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner

from gpurack.commands.main import main
from gpurack.importing.fit import estimate, placed
from gpurack.importing.reader import Imported, read
from gpurack.inventory.checks.connections import connected
from gpurack.inventory.fleet import check_fleet
from gpurack.plan import offline
from gpurack.plan.models.ledger import assign


def vllm(name: str, port: int, weights: str, options: str = "", gpus: str = "all") -> str:
    """A `docker run` of vLLM."""
    options = f"--model {weights} {options}"
    return f"docker run -d --gpus {gpus} -p 127.0.0.1:{port}:8000 --name {name} vllm/vllm-openai:v0.33.0 {options}\n"


def fitted(text: str, hardware: dict[str, int]) -> Imported:
    return placed(read(text), hardware)


def gpus(imported: Imported) -> dict[str, Any]:
    return {name: fields["gpus"] for name, fields in imported.models.items()}


def test_models_get_gpus_of_their_own_while_there_are_enough() -> None:
    text = vllm("aa", 1, "org/a-7b") + vllm("bb", 2, "org/b-14b", "-tp 2") + vllm("cc", 3, "org/c")
    imported = fitted(text, {"A30": 4})
    assert gpus(imported) == {"aa": [0], "bb": [1, 2], "cc": [3]}
    assert not any("vram" in fields for fields in imported.models.values())
    assert imported.data["hardware"] == {"A30": 4}
    assert "GPU 1 (A30): bb; GPU 2 (A30): bb; GPU 3 (A30): cc." in str(imported.findings[0])
    assert not any("Check which to use" in finding.what for finding in imported.findings)


def test_models_share_gpus_if_there_are_too_few() -> None:
    text = vllm("aa", 1, "org/a-3b") + vllm("bb", 2, "org/b-4b-awq") + vllm("cc", 3, "org/unknown")
    imported = fitted(text, {"A30": 2})
    assert gpus(imported) == {"aa": [0], "bb": [0], "cc": [1]}
    assert {name: fields.get("vram") for name, fields in imported.models.items()} == {
        "aa": "9GiB", "bb": "5GiB", "cc": None
    }  # fmt: skip


def test_a_model_that_is_too_big_is_named() -> None:
    told = [finding.what for finding in fitted(vllm("aa", 1, "org/a-32b"), {"A30": 1}).findings]
    assert "aa probably needs 73.5 GiB, more than it got. Give it more GPUs." in told


def test_a_written_share_is_kept() -> None:
    text = vllm("aa", 1, "org/a", "--gpu-memory-utilization 0.5") + vllm(
        "bb", 2, "org/b", "--gpu-memory-utilization 0.4"
    )
    imported = fitted(text, {"A30": 1})
    assert gpus(imported) == {"aa": [0], "bb": [0]}
    assert [fields["vram"] for fields in imported.models.values()] == ["50%", "40%"]


def test_models_without_room_stay_and_are_named() -> None:
    imported = fitted(vllm("aa", 1, "org/a-70b") + vllm("bb", 2, "org/b"), {"RTX 4090": 1})
    assert gpus(imported) == {"aa": [0], "bb": [0]}
    assert [fields.get("enabled", True) for fields in imported.models.values()].count(False) == 1
    assert any(
        "no room was found for bb." in finding.what or "for aa." in finding.what for finding in imported.findings
    )


@pytest.mark.parametrize(
    "text",
    [
        "".join(vllm(f"m{n}", n + 1, f"org/m-{size}b") for n, size in enumerate((7, 3, 1, 14, 0.5, 32, 8))),
        "".join(vllm(f"m{n}", n + 1, f"org/m-{n + 1}b", "-tp 2" * (n % 2)) for n in range(6)),
        vllm("aa", 1, "org/a-7b", "-tp 4") + vllm("bb", 2, "org/b-7b") + vllm("cc", 3, "org/c-1b"),
    ],
)
def test_plan_accepts_what_found_room(text: str) -> None:
    imported = fitted(text, {"A30": 4})
    left = " ".join(finding.what for finding in imported.findings if "no room" in finding.what)
    models = {name: fields for name, fields in imported.models.items() if name not in re.findall(r"\w+", left)}
    spec = connected(check_fleet({"gpu1": [{**imported.data, "models": models}]}))["gpu1"]
    assert (len(models) > 1, assign(spec, offline.imagined(spec)).faults) == (True, ())


def test_estimate_needs_a_size_in_the_name() -> None:
    sizes = {name: estimate({"weights": {"hf": name}}) for name in ("o/m-7b", "o/m-7b-AWQ", "o/m-FP8-7B", "o/m-335m")}
    assert sizes == {"o/m-7b": 17.6, "o/m-7b-AWQ": 6.7, "o/m-FP8-7B": 10.6, "o/m-335m": 2.7}
    assert estimate({"weights": "/data/bge-m3", "gpus": [0]}) is None
    assert estimate({"pull": ["qwen3:8b", "qwen3:0.6b"]}) == 19.9


def run(*arguments: str, given: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["import", *arguments], input=given)
    return result.exit_code, result.output


TWICE = "".join(
    vllm(name, number, f"org/{name}-7b", "-tp 2") for number, name in enumerate(("aa", "bb", "cc"), start=1)
)
TWICE += (
    vllm("dd", 9, "org/d-7b", "-tp 3") + vllm("ee", 10, "o/e", gpus="device=3") + vllm("ff", 11, "o/f", gpus="device=3")
)


def test_command_proposes_a_placement_instead_of_listing_pairs() -> None:
    _, output = run(given=TWICE)
    assert output.count("--fit A30=4, with the GPUs of your host, proposes a placement.") == 1
    assert "line 2 (bb), line 3 (cc), line 4 (dd), line 6 (ff): is disabled: it has a GPU of aa, ee. Choose" in output
    assert output.count('"enabled": False') == 4
    assert "line 2: bb (vllm, GPUs 0, 1, port 2, disabled)" in output
    _, fitted = run("--fit", "A30=8", "--fit", "L40S=3", "--json", given=TWICE)
    assert [fields["gpus"] for fields in json.loads(fitted)["data"]["models"].values()] == [
        [0, 1], [2, 3], [4, 5], [6, 7, 8], [9], [10]
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["A30", "A30=x", "A3=4", "A30=0"])
def test_refuses_gpus_that_are_not_known(option: str) -> None:
    code, output = run("--fit", option, given=TWICE)
    assert (code, "invalid value for --fit" in output) == (2, True)
