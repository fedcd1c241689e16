"""A real browser for web UIs: Debian's Chromium without a window, controlled by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.testbed import workshop
from tests.testbed.shell import TestbedError

PROGRAM = "chromium"


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, closed at the end. Installs it if it is missing and may be installed. Raises TestbedError."""
    if not shutil.which(PROGRAM):
        if not workshop.is_here():
            raise TestbedError(f"{PROGRAM} is missing; install it.")
        workshop.install({PROGRAM, "fonts-dejavu-core"})
    with sync_playwright() as playwright:
        # Root can run it only without its sandbox; the pages are our own.
        chromium = playwright.chromium.launch(executable_path=shutil.which(PROGRAM), args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()
