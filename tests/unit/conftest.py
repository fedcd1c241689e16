"""Hypothesis for all unit tests: two slow cores are no reason to fail, and a failure is found again by its seed."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gpurack", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpurack")
