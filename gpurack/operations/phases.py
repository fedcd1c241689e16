"""How long each phase of a run took on a host: what gpurack timed itself, and what its runner said. Pure."""

import re
from collections.abc import Iterable, Mapping

from gpurack.operations.output import Says, parse
from gpurack.screen import duration

INSTALL = "install"
"""Everything before the models: packages, Docker, the toolkit, daemon.json."""
BRINGING = ("pull", "fetch", "load")
PHASES = (INSTALL, *BRINGING, "first answer")
"""In the order of a run. files/phases.py says all but the first."""
WORTH_SHOWING = 2.0
"""Seconds of pulls, fetches and loading together below which only `install` is shown: a short run stays short."""
SHORTEST = 0.5
"""Seconds of all phases together below which a host's are not shown."""
SHOWN = 10
"""Hosts whose phases are shown, the slowest."""
_PHASE = re.compile(r"([a-z ]{1,20}) (\d{1,7}\.\d) s")


def said(lines: Iterable[str]) -> dict[str, float] | None:
    """Return the seconds of each phase that the runner's output says; None if it says none.

    >>> said(["alpha: ready after 8 s", "took: pull 12.3 s, load 8.0 s, first answer 0.4 s"])
    {'pull': 12.3, 'load': 8.0, 'first answer': 0.4}
    """
    found = [line.text for line in map(parse, lines) if line.says is Says.PHASES]
    if not found:
        return None
    times = dict.fromkeys(PHASES, 0.0)
    for text in found:
        for name, seconds in _PHASE.findall(text):
            if (phase := name.strip()) in times:
                times[phase] += float(seconds)
    return {name: seconds for name, seconds in times.items() if seconds}


def in_words(times: Mapping[str, float]) -> str:
    """Return the phases of a host for the end of a run.

    >>> in_words({"load": 8.0, "install": 71.2, "first answer": 0.04})
    'install 1 min 11 s, load 8.0 s'
    """
    return ", ".join(f"{name} {duration(times[name])}" for name in PHASES if times.get(name, 0) >= SHORTEST / 10)


def worth_showing(times: Mapping[str, float]) -> Mapping[str, float]:
    """Return the phases of a host that its last line on the screen shows.

    >>> worth_showing({"install": 1.0, "load": 1.2, "first answer": 0.9})
    {'install': 1.0}
    """
    if sum(times.get(name, 0) for name in BRINGING) >= WORTH_SHOWING:
        return times
    return {name: seconds for name, seconds in times.items() if name == INSTALL}


def slowest(runs: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return host → its phases in words, without hosts that took no time.

    runs: host → phase → seconds. Of more than SHOWN hosts the slowest are returned, the slowest first.
    """
    shown = {host: worth_showing(times) for host, times in runs.items()}
    total = {host: sum(times.values()) for host, times in shown.items() if sum(times.values()) >= SHORTEST}
    chosen = list(total) if len(total) <= SHOWN else sorted(total, key=lambda host: -total[host])[:SHOWN]
    return {host: in_words(shown[host]) for host in chosen}
