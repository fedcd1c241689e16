"""The fixtures and settings of the unit tests."""

from tests.unit.conftest import _nothing_is_remembered, fakes, pytest_collection_finish  # noqa: F401
