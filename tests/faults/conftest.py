"""The testbed and the lab of this suite."""

from __future__ import annotations

from tests.acceptance.suite import lab, testbed

__all__ = ["lab", "testbed"]
