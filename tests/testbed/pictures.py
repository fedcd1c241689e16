"""`make pictures`, after `make demo`: docs/run.svg, a real run for the README, and screenshots of the status page.

No test compares the screenshots: inspect them.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Literal

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.testbed.browser import browser
from tests.testbed.paths import CHECKOUT, STATE

GPURACK = str(Path(sys.executable).parent / "gpurack")
COLUMNS = 112
DEMO = CHECKOUT / "inventories" / "demo.py"
SCREENSHOTS = STATE / "pictures"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = {"desktop": 1440, "phone": 375}


def run(inventory: Path) -> str:
    """Apply an inventory in a terminal of its own, and return its output."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    argv = [GPURACK, "apply", str(inventory), "-y"]
    process = subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        written += block
    process.wait()
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def main() -> None:
    """Make both kinds of pictures, from the hosts of `make demo`."""
    draw_run()
    page = SCREENSHOTS / "status.html"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    # its exit code says whether all is up, not whether there is a page
    subprocess.run([GPURACK, "status", str(DEMO), "--html", str(page)], cwd=CHECKOUT, check=False)
    for picture in photograph(page):
        print(picture)


def draw_run() -> None:
    """Move beta to other GPUs, save the output of that run as docs/run.svg, and move it back."""
    changed = DEMO.with_name("picture.py")
    changed.write_text(DEMO.read_text().replace('"gpus": [1, 2]', '"gpus": [2, 3]'))
    try:
        output = run(changed)
    finally:
        changed.unlink()
        run(DEMO)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print("$ gpurack apply inventories/demo.py -y", style="bold")
    for line in output.splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    # rich's template loads its font from elsewhere; the reader's own monospace font will do
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    title = "one model moved to other GPUs"
    console.save_svg(str(CHECKOUT / "docs" / "run.svg"), title=title, code_format=template)


def photograph(page: Path) -> list[Path]:
    """The page in Chromium, light and dark, on a desktop and a phone: files beside it."""
    made = []
    with browser() as chromium:
        for scheme, (device, width) in product(SCHEMES, WIDTHS.items()):
            tab = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
            tab.goto(page.as_uri())
            made.append(page.with_name(f"status-{scheme}-{device}.png"))
            tab.screenshot(path=made[-1], full_page=True)
            tab.close()
    return made


if __name__ == "__main__":
    main()
