"""A pytest plugin: the hosts of a suite end with it, unless KEEP is set. `python -m pytest -p tests.testbed.ending`.

Idle hosts take much of a small machine: each has a dockerd, and health checks of its containers.
"""

import os

from tests.testbed.testbed import end_used


def pytest_sessionfinish() -> None:
    """Remove the hosts that only this process used."""
    if not os.environ.get("KEEP"):
        end_used()
