"""The full example of the vocabulary (vocabulary.md): accepted in Python and in YAML, with the same meaning. Only the
placeholders for digests are filled in.
"""

import re
from pathlib import Path

import pytest

from gpurack.inventory.fleet import Fleet, read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.plan.offline import compose_text

EXAMPLE = (Path(__file__).parent / "vocabulary.md").read_text().replace("<64 hex digits>", "ab" * 32)
IN_PYTHON, IN_YAML = re.findall(r"```(?:python|yaml)\n(.*?)```", EXAMPLE, re.DOTALL)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("LAB_KEY", "sk-lab")
    monkeypatch.setenv("GATEWAY_KEY", "sk-gateway")
    monkeypatch.setenv("CHAT_ADMIN", "correct horse")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/gpurack").mkdir(parents=True)
    (tmp_path / ".config/gpurack/hf_token").write_text("hf_lab")
    common, lab = IN_PYTHON.split("# inventories/lab.py\n")
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text(common)
    (tmp_path / "lab.py").write_text(lab)
    return read_fleet(read_inventory(tmp_path / "lab.py"))


@pytest.fixture
def yaml(tmp_path: Path, python: Fleet) -> Fleet:
    (tmp_path / "lab.yaml").write_text(IN_YAML)
    return read_fleet(read_inventory(tmp_path / "lab.yaml"))


def test_python_and_yaml_give_same_fleet(python: Fleet, yaml: Fleet) -> None:
    assert python == yaml


def test_keeps_every_field(python: Fleet) -> None:
    assert {name: (len(host.models), len(host.services)) for name, host in python.items()} == {
        "gpu1.lab": (6, 2),
        "gpu2.lab": (1, 0),
        "stud1.lab": (4, 1),
    }
    gpu1, stud1 = python["gpu1.lab"], python["stud1.lab"]
    assert (gpu1.models["bge-m3"].context, gpu1.models["qwen2.5-7b-instruct"].context) == (8192, 32768)
    assert [model.api_key.source() for model in gpu1.models.values() if model.api_key] == [
        "environment variable LAB_KEY"
    ] * 6
    assert gpu1.services["chat"].api_key is None  # users log in there; the key in `defaults` is for models
    assert (stud1.models["ollama"].api_key, stud1.models["ollama"].user) == (None, "students")
    assert stud1.services["llama-gpt"].version == "latest"
    assert stud1.docker.rootless["students"].daemon == {"data-root": "/data/students/docker"}


@pytest.mark.parametrize("host", ["gpu1.lab", "gpu2.lab", "stud1.lab"])
def test_prints_its_compose_project(yaml: Fleet, host: str) -> None:
    text = compose_text(yaml[host])
    assert all(
        f'container_name: "{name}"' in text.replace('"container_name"', "container_name") for name in yaml[host].models
    )
    assert "sk-lab" not in text
