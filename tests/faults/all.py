"""`python -m tests.faults.all`: every point × every fault that results.tsv does not have yet.

It takes hours. Ctrl-C ends it, and the next start continues.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.faults import points, results, states
from tests.faults.bench import all_benches, carry_out
from tests.faults.strike import FAULTS


def main() -> int:
    """Carry out what is missing; 1 if anything was not as it must be."""
    with tempfile.TemporaryDirectory(prefix="gpurack-faults-") as folder:
        benches = all_benches(Path(folder))
        recorded = {name: one.calls for name, one in states.make(benches).items()}
        points.POINTS.write_text(json.dumps(points.grouped(recorded), indent=1) + "\n", encoding="utf-8")
        known = {cell.key for cell in results.load()}
        for trial, future in carry_out(
            points.missing(points.load(), tuple(FAULTS), known), benches, results.add
        ).items():
            if error := future.exception():
                print(f"{trial}: {error}", file=sys.stderr)
    return int(any(cell.wrong or cell.runs != 1 for cell in results.load()))


if __name__ == "__main__":
    sys.exit(main())
