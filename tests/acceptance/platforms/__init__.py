"""Tests on every kind of host (`make test-platforms`)."""
