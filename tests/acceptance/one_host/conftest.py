"""A host of this suite's own, so that it can run beside the others."""

from __future__ import annotations

import pytest

from tests.testbed import Host, Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed, with the one host of all modules."""
    return Testbed.up(["cpu5"], prepared=True)


@pytest.fixture
def cpu5(testbed: Testbed) -> Host:
    """The host without GPUs, as the previous test left it."""
    return testbed.host("cpu5")
