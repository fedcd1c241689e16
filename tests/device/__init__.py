"""Checks on a machine with a real NVIDIA GPU, which the other tests simulate (check.py, bring.py; docs/testing.md)."""
