"""The ground that the unit tests stand on, too."""

from tests.unit.conftest import _nothing_is_remembered, fakes  # noqa: F401
