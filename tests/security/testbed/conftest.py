"""The testbed and the lab of this suite, with hosts of its own."""

from __future__ import annotations

import pytest

from tests.acceptance.suite import lab, testbed

__all__ = ["lab", "testbed"]
pytest.register_assert_rewrite("tests.security.testbed.admin", "tests.security.testbed.evidence")
