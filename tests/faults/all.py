"""`python -m tests.faults.all`: every point × every fault that results.tsv does not have yet, the sample first.

It takes hours. Ctrl-C ends it, and the next start continues.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import points, results
from tests.faults.bench import HOSTS, Bench, benches, carry_out
from tests.faults.strike import FAULTS


def measure(at: Mapping[str, Bench]) -> None:
    """Write counts.json, from an undisturbed run of each deploy."""

    def on(host: str) -> dict[str, dict[str, int]]:
        bench = at[host]
        for name, deploy in points.DEPLOYS.items():
            if HOSTS[name] == host:
                bench.undisturbed(deploy)
        return {name: points.counts(calls) for name, calls in bench.calls.items()}

    hosts = sorted(set(HOSTS.values()))
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = {name: counted for some in pool.map(on, hosts) for name, counted in some.items()}
    found = {name: found[name] for name in points.DEPLOYS}
    points.COUNTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def missing() -> list[points.Trial]:
    """What results.tsv does not have, in the order in which it is tried."""
    known = {cell.key for cell in results.load()}
    found, faults = points.load(), tuple(FAULTS)
    rest = points.every(found, faults)
    random.Random(points.SEED).shuffle(rest)  # a part of them is a fair part
    trials = dict.fromkeys([*points.sample(found, faults, points.SEED), *rest])
    return [trial for trial in trials if (trial.deploy, str(trial.point), trial.fault) not in known]


def main() -> int:
    """Carry out what is missing; 1 if anything was not as it must be."""
    writing = threading.Lock()

    def done(cell: results.Cell) -> None:
        with writing:
            results.add(cell)

    with tempfile.TemporaryDirectory(prefix="gpurack-faults-") as folder:
        at = benches(Path(folder))
        measure(at)
        for trial, future in carry_out(missing(), at, done).items():
            if error := future.exception():
                print(f"{trial}: {error}", file=sys.stderr)
    return int(any(cell.wrong or cell.runs != 1 for cell in results.load()))


if __name__ == "__main__":
    sys.exit(main())
