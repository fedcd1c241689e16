"""Verification, lock and rebuild on the testbed (`make test-rebuild`)."""
