"""Folders of the testbed: those of this checkout, and the cache that checkouts share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the repository."""

STATE = CHECKOUT / ".testbed"
"""What `up` made for this checkout; ignored by git."""

PACKAGE = Path(__file__).resolve().parent


def cache_home() -> Path:
    """Return the folder for what takes long to make and is the same for every checkout (debs, base images)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gpurack-testbed"


def runtime_home() -> Path:
    """Return the folder for sockets of this checkout.

    A Unix socket's path may have 107 bytes; a checkout can lie deeper than that, /run cannot.
    """
    return Path("/run") / f"gpurack-testbed-{hashlib.sha256(bytes(STATE)).hexdigest()[:8]}"
