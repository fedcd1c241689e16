"""gpurack: from bare GPU servers to models that answer, with one inventory and one command."""

import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]

# pyinfra (3.10.0) forbids Python to keep compiled modules, so a clone of gpurack would be compiled at every run.
# -B and PYTHONDONTWRITEBYTECODE, which the flags have, are the user's own words.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def __getattr__(name: str) -> Any:
    """Import `gpurack.load` on first use, so that importing the package is fast."""
    if name == "load":
        from gpurack.inventory.load import load

        return load
    raise AttributeError(f"module 'gpurack' has no attribute {name!r}")
