"""The settings of the unit tests, and the flag that rewrites the screens."""

from tests.unit.conftest import pytest_runtest_setup  # noqa: F401
