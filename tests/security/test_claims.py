"""What a user's Docker says of GPUs and ports: root believes what root wrote for that user, and nothing else."""

import json
from typing import Any

import pytest

from gpurack import paths
from gpurack.state.model import Container
from gpurack.state.parse import vouched
from gpurack.state.record import services
from tests.given import container, file

WORDS = json.dumps({"engine": "llama.cpp", "uuids": ["GPU-1"], "cost": "$5"})
CLAIMS = json.dumps({"engine": "llama.cpp", "uuids": ["GPU-0"]})
PROJECT = {
    "services": {
        "bravo": {
            "ports": [{"target": 8080, "published": "8001", "host_ip": "127.0.0.1"}],
            "labels": {"gpurack.model": WORDS.replace("$", "$$")},
        }
    }
}


def seen(project: Any = PROJECT, **said: Any) -> Container:
    """Eve's container after root has looked at what root's compose.yaml for her says."""
    one = container("bravo", user="eve", **{"label": WORDS, "ports": [("127.0.0.1", 8001)], **said})
    return vouched(one, services(file(paths.compose_file("eve"), json.dumps(project))))


def test_what_root_wrote_is_believed() -> None:
    assert seen().labels["gpurack.model"] == WORDS
    assert seen().ports == (("127.0.0.1", 8001),)


def test_a_claimed_gpu_is_not_believed() -> None:
    """A definition that names the GPU of the host's alpha: alpha would be stopped and started with it, or refused."""
    assert seen(label=CLAIMS).labels["gpurack.model"] == ""


def test_a_claimed_port_is_not_believed() -> None:
    assert seen(ports=[("127.0.0.1", 8000), ("127.0.0.1", 8001), ("0.0.0.0", 8001)]).ports == (("127.0.0.1", 8001),)


@pytest.mark.parametrize(
    "project",
    [
        {}, {"services": {}}, {"services": {"bravo": 7}}, {"services": {"bravo": {"labels": [], "ports": {}}}},
        {"services": {"bravo": {"labels": {"gpurack.model": 7}, "ports": [7]}}}, {"services": []},
    ],
)  # fmt: skip
def test_without_roots_word_nothing_is_believed(project: Any) -> None:
    one = seen(project, label=CLAIMS)
    assert (one.labels["gpurack.model"], one.ports) == ("", ())


def test_other_containers_of_hers_are_hers() -> None:
    one = vouched(container("web", user="eve", ports=[("0.0.0.0", 80)]), {})
    assert one.ports == (("0.0.0.0", 80),)
