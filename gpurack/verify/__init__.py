"""Checks that hosts match the inventory: `pytest --pyargs gpurack.verify --inventory FILE`.

Expectations come from the spec and from the plan's definitions. Evidence comes from the host by other means than those
of a run (files/evidence.py), read only. See docs/verify.md.
"""
