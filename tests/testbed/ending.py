"""A pytest plugin for suites on the testbed: `python -m pytest -p tests.testbed.ending`.

The hosts of a suite end with it, unless KEEP is set: idle hosts take much of a small machine, since each has a dockerd,
and health checks of its containers. What failed is printed at once: a suite that is killed prints no summary.
"""

import os

import pytest

from tests.interrupts import pytest_configure
from tests.testbed.testbed import end_used

__all__ = ["pytest_configure"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print why a test failed."""
    if report.failed:
        print(f"\n{report.nodeid} ({report.when}):\n{report.longreprtext}", flush=True)


def pytest_sessionfinish() -> None:
    """Remove the hosts that only this process used."""
    if not os.environ.get("KEEP"):
        end_used()
