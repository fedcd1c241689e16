"""The fixtures and settings of the unit tests."""

from tests.unit.conftest import fakes, pytest_collection_finish, pytest_runtest_setup  # noqa: F401
