"""inventories/lab.py contains the whole lab of the seeds, and newcomers can plan it at once."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpurack.commands.main import main
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.spec.model import Model
from gpurack.spec.weights import HfWeights
from tests.unit.importing.cases import Case, cases

LAB = Path(__file__).resolve().parents[3] / "inventories" / "lab.py"
NAMES = {
    "vllm-facebook-opt-125m": "opt-125m", "bge-rerank-large": "reranker-tei", "ollama-vincent": "ollama",
    "ggml-model-q4_0": "saiga-7b", "llcpp-saiga_mistral_7b-q4": "saiga-py",
    "llcpp-wcfg-saiga_mistral_7b-q4": "saiga-py",
    "qwen2.5-7b-instruct-new": "qwen2.5-7b-instruct", "qwen2.5-14b-instruct-new": "qwen2.5-14b-instruct",
    "llama-gpt-ui": "llama-gpt", "llama-gpt-api-13b": "saiga-py",
}  # fmt: skip
"""Name of a command → its name in the lab, where they differ."""


@pytest.fixture(scope="module")
def lab() -> dict[str, Model]:
    fleet = read_fleet(read_inventory(LAB))
    assert {name: host.hardware for name, host in fleet.items()} == {
        "gpu1.lab": {"A30": 4},
        "gpu2.lab": {"A30": 4},
        "stud1.lab": {"RTX 4090": 2},
    }
    return {key: model for host in fleet.values() for key, model in host.entries.items()}


def test_plan_needs_no_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if re.search("KEY|TOKEN", name)]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(main, ["plan", str(LAB)])
    assert result.exit_code == 0, result.output
    assert " Next: gpurack apply " in result.output


@pytest.mark.parametrize("case", [case for case in cases() if "means" in case.told], ids=lambda case: case.name)
def test_contains_every_service_of_seeds(case: Case, lab: dict[str, Model]) -> None:
    for key, fields in {**case.imported.models, **case.imported.services}.items():
        model = lab[NAMES.get(key, key)]
        assert model.engine == fields["engine"]
        if model.engine == "vllm":
            assert len(model.gpus) == len(fields["gpus"]) or model.gpus == "all"
            weights = fields["weights"]
            assert isinstance(model.weights, HfWeights) == isinstance(weights, dict)
            assert (model.weights.hf if isinstance(model.weights, HfWeights) else model.weights) == (
                weights["hf"] if isinstance(weights, dict) else weights
            )
