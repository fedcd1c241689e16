"""Hosts of each module's own, so that they can run beside one another and beside the other suites."""

from __future__ import annotations

import pytest

from tests.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed; modules add their hosts."""
    return Testbed.up([])
