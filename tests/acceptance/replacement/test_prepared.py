"""Images are pulled while the old model serves: ahead of a change, or by the change, which no other one waits for."""

from __future__ import annotations

import re

import pytest

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, identities, model
from tests.acceptance.replacement.conftest import NEW, apply, pair, right, settle
from tests.acceptance.replacement.test_interrupted import end, held_at
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY

pytestmark = pytest.mark.usefixtures("untouched")
SERVING = {"alpha": (8000, "alpha"), "beta": (8001, "beta")}
NEXT = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-cuda-b7001"


def test_prepares_while_the_old_model_serves(lab: Lab, host: Host) -> None:
    settle(lab, host, pair())
    before = identities(host)
    host.root(f"docker rmi -f {NEXT}", check=False)
    wanted = {**pair(), "alpha": model("alpha", [0], 8000, version="b7001")}
    first = apply(lab, wanted, "-y", "--data", "prepare=yes")
    assert first.exit_code == 0, first.output
    assert re.search(r"recreate alpha: .*b7000 → b7001.* \(down for about \d+ s\)", first.output), first.output
    assert "alpha: prepared" in first.output
    host.root(f"docker image inspect {NEXT}")
    assert identities(host) == before
    second = apply(lab, wanted, "-y", "--data", "prepare=yes")
    assert second.unchanged, second.output
    last = apply(lab, wanted)
    assert last.exit_code == 0, last.output
    right(host, SERVING)


def test_another_run_changes_a_model_during_a_download(lab: Lab, host: Host) -> None:
    """The first one then changes nothing, because its plan is an old one, and says so. The next one pulls nothing."""
    settle(lab, host, pair())
    host.root(f"docker rmi -f {NEXT}", check=False)
    wanted = {**pair(), "alpha": model("alpha", [0], 8000, version="b7001")}
    others = {**pair(), "beta": model("beta", [1], 8001, **NEW)}
    with hook.planned(host, "before", "pull"):
        process = held_at(lab, host, wanted)
        other = apply(lab, others)
        assert other.exit_code == 0, other.output
        before = identities(host)
        hook.release(host)
        code, output = end(process)
    assert code == 1, output
    assert "another run changed beta after this one was planned. Run gpurack again" in output
    assert identities(host) == before
    with hook.recorded(host) as calls:
        last = apply(lab, {**wanted, "beta": others["beta"]})
    assert last.exit_code == 0, last.output
    assert not [call for call in calls if " pull " in call]
    right(host, SERVING)


def test_kill_of_a_run_that_downloads_changes_nothing(lab: Lab, host: Host) -> None:
    settle(lab, host, pair())
    host.root(f"docker rmi -f {NEXT}", check=False)
    before = identities(host)
    wanted = {**pair(), "alpha": model("alpha", [0], 8000, version="b7001")}
    with hook.planned(host, "before", "pull"):
        process = held_at(lab, host, wanted)
        hook.kill_runner(host)
        code, output = end(process)
    assert code != 0, output
    assert identities(host) == before
    last = apply(lab, wanted)
    assert last.exit_code == 0, last.output
    right(host, SERVING)
    assert host.root("ls /etc/gpurack").stdout.count("prepare") == 0
