"""The testbed and the lab, as the acceptance tests have them; the hosts are this suite's own."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Lab
from tests.testbed import Testbed

pytest.register_assert_rewrite("tests.security.testbed.admin", "tests.security.testbed.evidence")


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed; hosts come as they are asked for."""
    return Testbed.up([])


@pytest.fixture(scope="module")
def lab(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The means to run pyinfra on inventories of the test's own."""
    return Lab(testbed, tmp_path_factory.mktemp("lab"))
