"""The settings of the unit tests."""

from tests.unit.conftest import pytest_runtest_setup  # noqa: F401
