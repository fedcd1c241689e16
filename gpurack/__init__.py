"""gpurack: from bare GPU servers to models that answer, with one inventory and one command."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`gpurack.load`, imported when it is asked for: the package itself costs nothing."""
    if name == "load":
        from gpurack.spec.load import load

        return load
    raise AttributeError(f"module 'gpurack' has no attribute {name!r}")
