"""What gpurack ships as gpurack.verify.test_hosts: `pytest tests/verify --inventory inventories/lab.py`."""

from gpurack.verify.test_hosts import *  # noqa: F403
