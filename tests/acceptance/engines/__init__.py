"""Tests of the serving engines on the testbed (`make test-engines`)."""
