"""Hosts of this suite's own, so that it can run beside the others."""

from __future__ import annotations

import pytest

from tests.testbed import Host, Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed; hosts are added when they are needed."""
    return Testbed.up([])


@pytest.fixture(scope="session")
def gpu3(testbed: Testbed) -> Host:
    """A fresh host with four GPUs, for verification."""
    testbed.remove("gpu3")
    return testbed.add("gpu3", "gpu")


@pytest.fixture(scope="session")
def cpu3(testbed: Testbed) -> Host:
    """A fresh host without GPUs, for verification."""
    testbed.remove("cpu3")
    return testbed.add("cpu3", "cpu")


@pytest.fixture(scope="session")
def gpu4(testbed: Testbed) -> Host:
    """A host with four GPUs, for status."""
    return testbed.add("gpu4", "gpu", prepared=True)


@pytest.fixture(scope="session")
def cpu4(testbed: Testbed) -> Host:
    """A host without GPUs, for status."""
    return testbed.add("cpu4", "cpu", prepared=True)
