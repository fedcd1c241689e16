"""The states of a host between which deploys lead, saved as images, and what an undisturbed run of each deploy does.

Each trial begins from a saved state, whatever the trial before left. What is saved is named by all that made it, so it
is made again after a change of gpurack.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance import hook, owners
from tests.faults import deploys, manifest, strike
from tests.faults.deploys import DEPLOYS, PROGRAMS, Deploy
from tests.faults.manifest import Manifest
from tests.testbed import cache, prepared
from tests.testbed.engine import Engine
from tests.testbed.paths import STATE
from tests.testbed.shell import progress
from tests.testbed.testbed import has, prepared_image

if TYPE_CHECKING:
    from tests.faults.bench import Bench

KIND = "gpu"
QUICK_STOP = "[Manager]\nDefaultTimeoutStopSec=5s\n"
"""The owners' containers ignore SIGTERM. A host would shut down half a minute later, each time it is saved."""
MAKING = (Deploy("installed", "", "installed"), Deploy("docker 26", "", "docker 26"))
"""Lead to states that no deploy of DEPLOYS leads to."""
MADE_BY = (manifest, deploys, hook, owners)
"""The modules whose change makes saved states stale, besides this one."""


@dataclass(frozen=True)
class Undisturbed:
    """A deploy without a fault: the calls of its run, in order, and what the host is then."""

    calls: list[str]
    manifest: Manifest


@functools.cache
def key(engine: Engine) -> str:
    """What the states are made of when this is first called, as a digest."""
    recipes = [cache.recipe(str(module.__file__)) for module in MADE_BY]
    return cache.digest(
        prepared_image(engine, KIND), recipes, cache.recipe(__file__), hook.PROGRAM, strike.UNIT, strike.ON_DISK
    )


def image(engine: Engine, state: str) -> str:
    """The image of a state, whether it exists or not."""
    return f"gpurack-testbed/faults-{(state or 'blank').replace(' ', '-')}:{key(engine)}"


def path(engine: Engine) -> Path:
    """Where the calls and manifests of the undisturbed runs are kept."""
    return STATE / f"faults-{key(engine)}.json"


def known(engine: Engine) -> dict[str, Undisturbed]:
    """Deploy → what it does undisturbed, as far as it was seen."""
    if not path(engine).exists():
        return {}
    return {name: Undisturbed(**found) for name, found in json.loads(path(engine).read_text(encoding="utf-8")).items()}


def keep(engine: Engine, found: Mapping[str, Undisturbed]) -> None:
    """Write what is known. It is complete or as before, also if this is killed."""
    new = path(engine).with_suffix(".new")
    new.write_text(json.dumps({name: asdict(one) for name, one in found.items()}), encoding="utf-8")
    new.replace(path(engine))


def make(benches: Sequence[Bench]) -> dict[str, Undisturbed]:
    """Save the states that are missing, on these hosts side by side; return what the deploys do undisturbed."""
    engine, alone = benches[0].lab.testbed.engine, threading.Lock()
    found = known(engine)
    if not has(engine, image(engine, "")):
        blank(benches[0])
    left = [deploy for deploy in MAKING if not has(engine, image(engine, deploy.after))]
    left += [deploy for deploy in DEPLOYS.values() if deploy.name not in found]
    saved: set[str] = set()

    def begin() -> tuple[Deploy | None, bool]:
        """A deploy, and whether its state is to be saved: several lead to one, at the same time, perhaps."""
        with alone:
            deploy = next((one for one in left if has(engine, image(engine, one.before))), None)
            if deploy is None:
                return None, False
            left.remove(deploy)
            saves = deploy.after not in saved and not has(engine, image(engine, deploy.after))
            saved.add(deploy.after)
            return deploy, saves

    def work(bench: Bench) -> None:
        while left:
            deploy, saves = begin()
            if deploy:
                try:
                    one = undisturbed(bench, deploy, saves)
                except BaseException:
                    left.clear()  # or the other hosts would wait for the state to which it leads
                    raise
                with alone:
                    found[deploy.name] = one
                    keep(engine, found)
            else:
                time.sleep(1)  # another host makes the state with which the next one begins

    with ThreadPoolExecutor(len(benches)) as pool:
        list(pool.map(work, benches))
    return {name: found[name] for name in DEPLOYS}


def blank(bench: Bench) -> None:
    """Save a host on which no deploy ran, with what its owners have there without Docker."""
    testbed = bench.lab.testbed
    testbed.recreate(bench.name)
    strike.small_disk(bench.host)
    bench.host.put('{"labels": ["rack=7"]}\n', "/etc/docker/daemon.json")
    bench.host.put(QUICK_STOP, "/usr/lib/systemd/system.conf.d/quick-stop.conf")
    bench.host.root("apt-mark hold sudo")
    hook.install(bench.host, PROGRAMS, remote=True)
    prepared.save(bench.host, image(testbed.engine, ""))


def undisturbed(bench: Bench, deploy: Deploy, saves: bool) -> Undisturbed:
    """Carry a deploy out, and save the state to which it leads (saves) where another deploy begins there."""
    engine = bench.lab.testbed.engine
    bench.restore(deploy.before)
    with hook.recorded(bench.host) as calls:
        run = bench.run(deploy.after)
    assert run.exit_code == 0, run.output
    found = Undisturbed(calls, manifest.read(bench.host))
    wanted = any(one.before == deploy.after for one in DEPLOYS.values())
    if wanted and saves:
        if deploys.names_of(deploy.after):
            owners.move_in(bench.host)
        prepared.save(bench.host, image(engine, deploy.after))
    progress(f"{bench.name}: {deploy.name} undisturbed")
    return found
