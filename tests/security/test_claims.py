"""What a user's Docker claims about GPUs and ports: only what root wrote for that user counts."""

import json
from hashlib import sha256
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.docker import with_trusted_label
from gpurack.facts.parts import Container
from gpurack.facts.record import Entry, HostRecord, Record, services
from gpurack.plan.models.holdings import Holdings, held_by
from tests.given import container, file, host_state

WORDS = json.dumps({"engine": "llama.cpp", "uuids": ["GPU-1"], "cost": "$5"})
CLAIMS = json.dumps({"engine": "llama.cpp", "uuids": ["GPU-0"]})
PROJECT = {
    "services": {
        "bravo": {
            "labels": {"gpurack.model": WORDS.replace("$", "$$")},
        }
    }
}


def seen(project: Any = PROJECT, record: Record | None = None, **said: Any) -> Container:
    """Eve's container, after root has read its own compose.yaml for her."""
    one = container("bravo", user="eve", **{"label": WORDS, **said})
    return with_trusted_label(one, HostRecord(record), services(file(paths.compose_file("eve"), json.dumps(project))))


def test_trusts_what_root_wrote() -> None:
    assert seen().labels["gpurack.model"] == WORDS


def test_ignores_claimed_gpu() -> None:
    """The definition names the GPU of the host's alpha, which would be stopped and started with it, or refused."""
    assert seen(label=CLAIMS).labels["gpurack.model"] == ""


def test_record_counts_before_compose_yaml() -> None:
    """An interrupted run has written new lines, and the old container serves."""
    record = {"eve": {"bravo": Entry(None, "model", sha256(CLAIMS.encode()).hexdigest())}}
    assert seen(record=record, label=CLAIMS).labels["gpurack.model"] == CLAIMS
    assert seen(record=record).labels["gpurack.model"] == ""


def test_ignores_claimed_port() -> None:
    """The host's model there would be stopped and started together with eve's, and stay stopped if hers fails."""
    hers = container(
        "bravo", user="eve", label={"port": 8001, "bind": "loopback"}, ports=[("127.0.0.1", 8000), ("127.0.0.1", 8001)]
    )
    facts = host_state(containers=[hers])
    assert held_by(facts.ours["eve", "bravo"], facts) == Holdings(listeners=frozenset({("127.0.0.1", 8001)}))


@pytest.mark.parametrize(
    "project",
    [
        {}, {"services": {}}, {"services": {"bravo": 7}}, {"services": {"bravo": {"labels": []}}},
        {"services": {"bravo": {"labels": {"gpurack.model": 7}}}}, {"services": []},
    ],
)  # fmt: skip
def test_ignores_claims_without_word_of_root(project: Any) -> None:
    one = seen(project, label=CLAIMS)
    assert one.labels["gpurack.model"] == ""


def test_other_containers_of_user_stay_the_users() -> None:
    web = container("web", user="eve", ports=[("0.0.0.0", 80)])
    assert with_trusted_label(web, HostRecord(None), {}) == web
