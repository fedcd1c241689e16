"""A host whose /var/lib/docker is full while a model is recreated. It has a host of its own, with Docker's data on a
small disk, and no owners' things."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Lab, model
from tests.acceptance.replacement.conftest import apply, ids, record, right, says, sentence
from tests.testbed import Host

NAME = "cpu9"
MODELS = {"delta": model("delta", [], 8000)}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """A host whose Docker has 700 MB."""
    host = lab.testbed.add(NAME, "cpu", prepared=True)
    host.root("docker ps -aq | xargs -r docker rm -f; systemctl stop docker.socket docker")
    host.root("mount -t tmpfs -o size=700m docker /var/lib/docker && systemctl start docker")
    run = apply(lab, MODELS, name=NAME)
    assert run.exit_code == 0, run.output
    return host


def test_full_disk_stops_no_model(lab: Lab, host: Host) -> None:
    """Nothing can be created: the old model serves, exit 1. With room again the next run makes the change."""
    before = ids(host)
    host.root("cat /dev/zero >/var/lib/docker/filler", check=False)
    wanted = {"delta": model("delta", [], 8000, context=512)}
    run = apply(lab, wanted, name=NAME)
    assert run.exit_code == 1, run.output
    assert "no space left on device" in sentence(run, "delta", NAME)
    assert "FAILED" in run.row(NAME, "delta"), run.output
    says(host, 8000, "delta")
    assert ids(host) == before
    host.root("rm /var/lib/docker/filler")
    run = apply(lab, wanted, name=NAME)
    assert run.exit_code == 0, run.output
    right(host, {"delta": (8000, "delta")})
    assert not record(host).get("failed", {}).get("", {}).get("delta")
    assert apply(lab, wanted, name=NAME).unchanged
