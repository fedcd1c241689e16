"""Throwaway hosts, realistic enough to trust, and the services around them; see docs/testing.md."""

from tests.testbed.hosts import Host
from tests.testbed.shell import TestbedError
from tests.testbed.testbed import Testbed, Weights

__all__ = ["Host", "Testbed", "TestbedError", "Weights"]
