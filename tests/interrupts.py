"""Interrupts for programs that tests start."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A hook of pytest. A shell that runs tests in its background ignores Ctrl-C, and programs would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
