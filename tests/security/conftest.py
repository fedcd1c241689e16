"""The unit tests' fixtures, and hypothesis as there."""

from tests.unit.conftest import _nothing_is_remembered, fakes

__all__ = ["_nothing_is_remembered", "fakes"]
