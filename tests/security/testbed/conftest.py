"""The testbed and the lab of the acceptance tests, with this suite's own hosts."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Lab
from tests.testbed import Testbed

pytest.register_assert_rewrite("tests.security.testbed.admin", "tests.security.testbed.evidence")


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed; hosts are added when they are needed."""
    return Testbed.up([])


@pytest.fixture(scope="module")
def lab(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Runs pyinfra on inventories of the tests."""
    return Lab(testbed, tmp_path_factory.mktemp("lab"))
