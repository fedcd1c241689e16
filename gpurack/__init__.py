"""gpurack: from bare GPU servers to models that answer, with one inventory and one command."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `gpurack.load` on first use, so that importing the package is fast."""
    if name == "load":
        from gpurack.inventory.load import load

        return load
    raise AttributeError(f"module 'gpurack' has no attribute {name!r}")
