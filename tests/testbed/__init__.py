"""Throwaway hosts that are real enough to trust, and what they need around them; see docs/testing.md."""

from tests.testbed.hosts import Host
from tests.testbed.shell import TestbedError
from tests.testbed.testbed import Testbed, Weights

__all__ = ["Host", "Testbed", "TestbedError", "Weights"]
