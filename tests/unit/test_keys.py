"""Keys of compose.yaml: one for each generation of a container."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.facts.record import keys
from gpurack.plan.models import compose
from gpurack.plan.models.keys import current_key, following
from gpurack.plan.models.observed import Observed
from tests.given import container, host_state, models

NAMES = st.sampled_from(["a", "a.2", "a.3", "a.4", "a.10", "a.previous", "b"])


@given(NAMES, st.frozensets(NAMES))
def test_next_key_is_free_and_after_the_current_one(name: str, taken: frozenset[str]) -> None:
    found = following(name, name, taken)
    assert found not in taken
    assert found == name or found.rpartition(".")[0] == name
    assert following(name, found, taken | {found}) not in {*taken, found}


def written(**services: dict[str, Any]) -> dict[str, Any]:
    keys_of = {data["container_name"]: key for key, data in services.items()}
    by_name = {data["container_name"]: data for data in services.values()}
    return {paths.compose_file(""): compose.document(by_name, "", keys_of)}


def ours(name: str, key: str, **said: Any) -> Any:
    return container(name, label={}, labels={"com.docker.compose.service": key}, **said)


@pytest.mark.parametrize(
    ("host", "current", "after"),
    [
        ({}, "alpha", "alpha"),
        ({"containers": [container("alpha", label={})]}, "alpha", "alpha.2"),
        ({"files": written(alpha={"container_name": "alpha"})}, "alpha", "alpha.2"),
        ({"files": written(**{"alpha.2": {"container_name": "alpha"}})}, "alpha.2", "alpha.4"),
        ({"containers": [container("copy", labels={
            "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha"})]}, "alpha", "alpha.2"),
        ({"containers": [container("else", labels={
            "com.docker.compose.project": "lab", "com.docker.compose.service": "alpha"})]}, "alpha", "alpha"),
    ],
)  # fmt: skip
def test_key_of_container_and_next_one(host: dict[str, Any], current: str, after: str) -> None:
    """`alpha.3` is another entry."""
    spec, facts = models(**{"alpha": {}, "alpha.3": {}}), host_state(**host)
    assert (current_key("alpha", "", facts), Observed("alpha", spec, facts).next_key) == (current, after)


def test_service_is_read_as_it_was_defined() -> None:
    """Its secrets come from files of its generation, and its definition names none."""
    service = {"container_name": "alpha", "image": "i:1", "secrets": [{"source": "alpha_api_key", "target": "api_key"}]}
    text = compose.document({"alpha": service}, "", {"alpha": "alpha.2"})
    assert 'alpha.2_api_key:\n    file: "/etc/gpurack/secrets/alpha.2/api_key"' in text
    facts = host_state(files={paths.compose_file(""): text})
    assert compose.old_services(facts) == {"alpha": service}
    assert facts.keys("") == {"alpha": "alpha.2"}


def test_first_generation_is_written_as_before() -> None:
    service = {"container_name": "alpha", "secrets": [{"source": "alpha_api_key", "target": "api_key"}]}
    assert compose.document({"alpha": service}, "", {"alpha": "alpha"}) == compose.document({"alpha": service})


def test_service_without_a_name_is_called_as_its_key() -> None:
    assert keys({"a": {}, "b": None, "c.2": {"container_name": "c"}, "c": {"container_name": 5}}) == {
        "a": "a", "b": "b", "c": "c",
    }  # fmt: skip
