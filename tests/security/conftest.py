"""The fixtures of the unit tests. Hypothesis always uses the thorough profile, because security depends on it."""

from hypothesis import settings

from tests.unit.conftest import _nothing_is_remembered, fakes  # noqa: F401

settings.load_profile("thorough")
