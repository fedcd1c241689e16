"""What gpurack ships as gpurack.verify.test_models: `pytest tests/verify --inventory inventories/lab.py`."""

from gpurack.verify.test_models import *  # noqa: F403
