"""docs/run.svg, the README's picture: the output of a real run on the testbed (`make picture`, after `make demo`)."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.testbed.paths import CHECKOUT

PYINFRA = str(Path(sys.executable).parent / "pyinfra")
COLUMNS = 112
DEMO = CHECKOUT / "inventories" / "demo.py"
BEGIN = "--> Starting operation: GPU host | Models"


def run(inventory: Path) -> str:
    """Run the main job in its own terminal, and return its output."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PYINFRA_PROGRESS": "off"}
    argv = [PYINFRA, str(inventory), "deploys/gpu_host.py", "-y"]
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
    """Move beta to other GPUs, save the output of that run, and move it back."""
    changed = DEMO.with_name("picture.py")
    changed.write_text(DEMO.read_text().replace('"gpus": [1, 2]', '"gpus": [2, 3]'))
    try:
        output = run(changed)
    finally:
        changed.unlink()
        run(DEMO)
    lines = output.splitlines()
    plain = [Text.from_ansi(line).plain for line in lines]
    first = next(number for number, line in enumerate(plain) if line.startswith(BEGIN))
    shown = [line for line in lines[first:] if "Disconnecting" not in line]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print("$ pyinfra inventories/demo.py deploys/gpu_host.py -y", style="bold")
    console.print("…", style="dim")
    for line in shown:
        console.print(Text.from_ansi(line), soft_wrap=True)
    # rich's template loads its font from elsewhere; the reader's own monospace font will do
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    title = "one model moved to other GPUs"
    console.save_svg(str(CHECKOUT / "docs" / "run.svg"), title=title, code_format=template)


if __name__ == "__main__":
    main()
