"""Changes in the inventory, and by hand on the host: only what they concern is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, identities, model
from tests.acceptance.evidence import RUNNING_WITH_CARDS, cards_held_twice, dockerd_pid, lifetimes, sampled
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.inventory import REGISTRY

Models = dict[str, dict[str, Any]]
IMAGES = f"{REGISTRY}/ghcr/ggml-org/llama.cpp"


def four() -> Models:
    """The models before each test: one on GPU 0, one on GPUs 1 and 2, two on the CPU."""
    return {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", [1, 2], 8001),
        "gamma": model("gamma", [], 8002, args={"threads": 1}),
        "delta": model("delta", [], 8003),
    }


@pytest.fixture
def before(lab: Lab, gpu1: Host) -> dict[str, tuple[str, str]]:
    """The four models serve; name → (id, StartedAt) of their containers."""
    apply(lab, four())
    return identities(gpu1)


def apply(lab: Lab, models: Models) -> Run:
    """Run the main job with these models on gpu1."""
    run = lab.run(lab.inventory({"gpu1": {"models": models}}))
    assert run.exit_code == 0, run.output
    return run


def only(touched: str, before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> bool:
    """Was no container touched but these (names separated by spaces)?"""
    names = touched.split()
    rest = {name: identity for name, identity in before.items() if name not in names}
    return {name: identity for name, identity in after.items() if name not in names} == rest


def test_model_moves_to_other_gpu(lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]]) -> None:
    """From GPU 0 to 3, in a new container. No other container is touched, and Docker is not restarted."""
    dockerd = dockerd_pid(gpu1)
    models = four()
    models["alpha"]["gpus"] = [3]

    run = apply(lab, models)

    assert any("recreate alpha: gpus [0] → [3]" in line for line in run.lines("gpu1")), run.output
    after = identities(gpu1)
    assert only("alpha", before, after)
    assert after["alpha"][0] != before["alpha"][0]
    assert cards(gpu1, "alpha") == [gpu1.gpus.uuids[3]]
    assert chat(gpu1, 8000) == SENTENCES["alpha"]
    assert dockerd_pid(gpu1) == dockerd


def test_changed_argument_recreates_one_model(lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]]) -> None:
    models = four()
    models["gamma"]["args"] = {"threads": 2}

    run = apply(lab, models)

    assert any("recreate gamma: args.threads 1 → 2" in line for line in run.lines("gpu1")), run.output
    assert only("gamma", before, identities(gpu1))
    argv = gpu1.root("tr '\\0' ' ' < /proc/$(docker inspect --format '{{.State.Pid}}' gamma)/cmdline").stdout
    assert "--threads 2" in argv
    assert chat(gpu1, 8002) == SENTENCES["gamma"]


def test_removes_one_model_and_disables_another(lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]]) -> None:
    """Both containers are removed, the weights stay. The disabled model runs again when it is enabled."""
    models = four()
    del models["delta"]
    models["beta"]["enabled"] = False
    weights = gpu1.root("ls /var/lib/gpurack/weights").stdout

    run = apply(lab, models)

    assert any("remove delta: no longer in the inventory" in line for line in run.lines("gpu1")), run.output
    assert any("remove beta: disabled" in line for line in run.lines("gpu1")), run.output
    after = identities(gpu1)
    assert only("beta delta", before, after)
    assert set(after) == {"alpha", "gamma"}
    assert gpu1.root("ls /var/lib/gpurack/weights").stdout == weights
    row = next(line for line in run.output.splitlines() if line.startswith("gpu1  beta"))
    assert row.rstrip().endswith("disabled")
    assert lab.run(lab.inventory({"gpu1": {"models": models}})).unchanged

    models["beta"]["enabled"] = True
    apply(lab, models)
    assert only("beta", after, identities(gpu1))
    assert chat(gpu1, 8001) == SENTENCES["beta"]


def test_two_models_swap_gpus(lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]]) -> None:
    """In one run, and both are never on one GPU: by samples of the running containers, and by Docker's own events."""
    models = four()
    models["alpha"]["gpus"], models["beta"]["gpus"] = [1, 2], [0]

    with sampled(gpu1, RUNNING_WITH_CARDS) as samples:
        run = apply(lab, models)

    assert len(samples.looks) > 10
    assert any("alpha" in look for look in samples.looks)
    assert cards_held_twice(samples) == []
    ends = {name.removesuffix(".previous"): at for name, action, at in lifetimes(gpu1, run.begun) if action == "die"}
    starts = {name: at for name, action, at in lifetimes(gpu1, run.begun) if action == "start"}
    assert set(ends) == set(starts) == {"alpha", "beta"}
    assert min(starts.values()) > max(ends.values()), "a new container started before both old ones had ended"
    uuids = gpu1.gpus.uuids
    assert (cards(gpu1, "alpha"), cards(gpu1, "beta")) == (uuids[1:3], uuids[:1])
    assert (chat(gpu1, 8000), chat(gpu1, 8001)) == (SENTENCES["alpha"], SENTENCES["beta"])
    assert only("alpha beta", before, identities(gpu1))


def test_two_models_swap_ports(lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]]) -> None:
    """In one run. Each then answers at the other's old address, on its own GPU, with never two on one GPU."""
    models = four()
    models["alpha"]["port"], models["beta"]["port"] = 8001, 8000

    with sampled(gpu1, RUNNING_WITH_CARDS) as samples:
        apply(lab, models)

    assert cards_held_twice(samples) == []
    assert (chat(gpu1, 8001), chat(gpu1, 8000)) == (SENTENCES["alpha"], SENTENCES["beta"])
    uuids = gpu1.gpus.uuids
    assert (cards(gpu1, "alpha"), cards(gpu1, "beta")) == (uuids[:1], uuids[1:3])
    assert only("alpha beta", before, identities(gpu1))


@pytest.mark.parametrize("by_hand", ["docker stop -t 5", "docker rm -f", "docker kill"])
def test_restores_container_stopped_by_hand(
    lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]], by_hand: str
) -> None:
    """Only that container is started or recreated. It serves as before, and the run gives the reason."""
    gpu1.root(f"{by_hand} beta")
    assert "beta" not in gpu1.root("docker ps --format '{{.Names}}'").stdout.split()

    run = apply(lab, four())

    verb = "create beta: its container is missing" if by_hand == "docker rm -f" else "start beta: it exited with code"
    assert any(verb in line for line in run.lines("gpu1")), run.output
    after = identities(gpu1)
    assert only("beta", before, after)
    assert (after["beta"][0] == before["beta"][0]) is (by_hand != "docker rm -f")
    assert cards(gpu1, "beta") == gpu1.gpus.uuids[1:3]
    assert chat(gpu1, 8001) == SENTENCES["beta"]
    assert lab.run(lab.inventory({"gpu1": {"models": four()}})).unchanged


@pytest.fixture
def other_image(gpu1: Host) -> Iterator[Callable[[], str]]:
    """Points the models' tag at another image by hand; returns its id. Restored afterwards."""
    old = containers(gpu1)["gamma"]["Image"]

    def retag() -> str:
        gpu1.root(f"docker pull -q {IMAGES}:server-b7001 && docker tag {IMAGES}:server-b7001 {IMAGES}:server-b7000")
        return gpu1.root(f"docker image inspect --format '{{{{.Id}}}}' {IMAGES}:server-b7001").stdout.strip()

    yield retag
    gpu1.root(f"docker tag {old} {IMAGES}:server-b7000")


def test_tag_pulled_again_recreates(
    lab: Lab, gpu1: Host, before: dict[str, tuple[str, str]], other_image: Callable[[], str]
) -> None:
    """A tag is pulled once and not followed. If it now names another image, the reason is "image moved"."""
    new = other_image()
    assert new != containers(gpu1)["gamma"]["Image"]

    run = apply(lab, four())

    said = [line for line in run.lines("gpu1") if "image moved" in line]
    assert [line for line in said if "recreate gamma" in line], run.output
    assert only("gamma delta", before, identities(gpu1)), "a model of another image was touched"
    assert containers(gpu1)["gamma"]["Image"] == new
    assert chat(gpu1, 8002) == SENTENCES["gamma"]
