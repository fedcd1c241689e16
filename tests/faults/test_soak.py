"""A random inventory and many random changes of it, each by one run and verified, with reboots between."""

from __future__ import annotations

import os

import pytest

from tests.acceptance import owners
from tests.acceptance.conftest import Lab, cards
from tests.acceptance.replacement.conftest import right
from tests.faults import manifest
from tests.faults.soak import Step, serving, steps
from tests.testbed import Host

NAME = "gpu9"
SEED = int(os.environ.get("SEED", "15"))
NUMBER = int(os.environ.get("SOAK", "200"))
OTHERS = ("others", "networks", "volumes", "holds")


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """A host as the main job leaves it, with its owners' things."""
    host = lab.testbed.prepared(NAME)
    owners.move_in(host)
    return host


@pytest.mark.parametrize("step", list(steps(SEED, NUMBER)), ids=lambda step: step.what)
def test_change_is_right(lab: Lab, host: Host, step: Step) -> None:
    """Exactly the enabled models serve, on their GPUs; a second run changes nothing; what is others' stays."""
    before = manifest.read(host)
    inventory = lab.inventory({NAME: {"models": step.models}})
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    if step.reboot:
        host.reboot()
    right(host, serving(step.models))
    for name in serving(step.models):
        if given := step.models[name]["gpus"]:
            assert cards(host, name) == [host.gpus.uuids[gpu] for gpu in given]
    again = lab.run(inventory)
    assert again.unchanged, again.output
    after = manifest.read(host)
    assert [line for part in OTHERS for line in manifest.differences(before[part], after[part], part)] == []
