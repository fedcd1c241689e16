"""The testbed and the lab of suites whose modules add the hosts that they need."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Lab
from tests.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed; hosts are added when they are needed."""
    return Testbed.up([])


@pytest.fixture(scope="module")
def lab(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Writes inventories, runs pyinfra on them, and keeps what gpurack remembers of weights."""
    return Lab(testbed, tmp_path_factory.mktemp("lab"))
