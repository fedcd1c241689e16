"""Proof that hosts are what the inventory says: testinfra checks that `pytest --pyargs gpurack.verify` runs on any lab.

Expectations come from the spec and the plan's definitions; evidence from the host by other means than the deploys'
(files/evidence.py), read only. docs/verify.md.
"""
