"""Carries out trials: a fault hits a deploy at a point; then plain runs, until the host is as without it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, Run
from tests.faults import manifest, states
from tests.faults.deploys import DEPLOYS, KEY, STATES, Deploy, names_of, ports
from tests.faults.manifest import Manifest, differences
from tests.faults.points import Point, Trial
from tests.faults.results import TRIES, Cell, saw, useless
from tests.faults.strike import DISK_FULL, FAULTS, SMALL
from tests.testbed import Host, Testbed, TestbedError
from tests.testbed.hosts import HOST_KEYS
from tests.testbed.shell import progress

ENDS = 300
"""Seconds in which a run ends, whatever befalls it."""
FINDS_DEAD_HOST = 60
"""Seconds in which a run ends whose host answers no more, on a busy machine."""
SECRET = "sk-faults-0123456789"
HOSTS = ("gpu6", "gpu7", "gpu8")
"""At work at once: runs often wait."""
OTHERS = ("others", "networks")
"""Parts of the manifest with ids of what is not gpurack's: as before the fault."""
Results = dict[Trial, Future[Cell]]


@dataclass(frozen=True)
class Bench:
    """A host on which deploys are disturbed."""

    lab: Lab
    name: str

    @property
    def host(self) -> Host:
        """The host, as it is now."""
        return self.lab.testbed.host(self.name)

    def inventory(self, state: str) -> Path:
        """An inventory for a state. The host is reached directly, not through a port of this machine, whose end would
        take packets that the host does not get."""
        folder, name = self.lab.folder, self.name
        known = folder / f"{name}.known_hosts"
        known.write_text(f"{self.host.address} {(HOST_KEYS / f'{name}.pub').read_text()}")
        text = (self.lab.testbed.ssh_config).read_text().split("\n\n")
        block = next(one for one in text if one.startswith(f"Host {name}\n"))
        block = re.sub(r"HostName .*", f"HostName {self.host.address}", block)
        block = re.sub(r"Port .*", "Port 22", block)
        block = re.sub(r"UserKnownHostsFile .*", f"UserKnownHostsFile {known}", block)
        config = folder / f"{name}.ssh_config"
        config.write_text(block)
        return self.lab.inventory({name: {"ssh_config_file": str(config), **STATES[state]}})

    def run(self, state: str) -> Run:
        """A plain run."""
        return self.lab.run(self.inventory(state), env={KEY["env"]: SECRET}, timeout=ENDS)

    def restore(self, state: str, *, small: bool = False) -> None:
        """Recreate the host in a saved state, and wait until its models answer. small: with a small disk."""
        testbed = self.lab.testbed
        testbed.restored(self.name, states.image(testbed.engine, state), {SMALL: b""} if small else {})
        for name in names_of(state):
            url = f"http://127.0.0.1:{STATES[state]['models'][name]['port']}/health"
            look = f"curl -sf -m 2 --retry 60 --retry-delay 1 --retry-all-errors {url}"
            self.host.root(f"/usr/bin/{look}", timeout=120)

    def cell(self, deploy: Deploy, point: Point, fault: str, expected: Manifest) -> Cell:
        """Carry a deploy out with a fault at a point, then plain runs. expected: the manifest of an undisturbed run."""
        begun = time.monotonic()
        self.restore(deploy.before, small=fault == DISK_FULL)
        others = {part: found for part, found in manifest.read(self.host).items() if part in OTHERS}
        progress(f"{self.name}: {deploy.name}, {fault} {point}")
        restored = time.monotonic()
        with watched(self.host, names_of(deploy.before) & names_of(deploy.after)) as watch:
            output = self.hit(deploy, point, fault)
            ended = time.monotonic()
            runs, wrong = self.recover(deploy, {**expected, **others})
        wrong = [*([] if FAULTS[fault].mute else useless(output)), *wrong]
        said = "" if FAULTS[fault].mute else saw(output)
        down = f"{watch.longest():.0f}" if watch.names else "-"
        times = f"{restored - begun:.0f} + {ended - restored:.0f} + {time.monotonic() - ended:.0f} s"
        progress(f"{self.name}: {runs} runs, down {down} s, {times}; {said} {wrong}")
        return Cell(deploy.name, str(point), fault, runs, down, said, "; ".join(wrong)[:1000])

    def hit(self, deploy: Deploy, point: Point, fault: str) -> str:
        """The run that is hit; its output."""
        one, host = FAULTS[fault], self.host
        with hook.planned(host, point.when, *point.words, skip=point.number - 1, program=point.program):
            process = self.start(deploy)
            hook.wait_until_held(host, process, ENDS)
            one.strike(host, process)
        try:
            output, _ = process.communicate(timeout=FINDS_DEAD_HOST if fault == "all packets dropped" else ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += "\nTraceback: the run did not end"
        finally:
            one.heal(host)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)

    def start(self, deploy: Deploy) -> subprocess.Popen[str]:
        """Start the run that will be hit."""
        return self.lab.start(self.inventory(deploy.after), env={KEY["env"]: SECRET})

    def recover(self, deploy: Deploy, expected: Manifest) -> tuple[int, list[str]]:
        """Plain runs until the host is as expected: their number, 0 if it never is, and what was wrong."""
        wrong: list[str] = []
        for number in range(1, TRIES + 1):
            run = self.run(deploy.after)
            found = differences(expected, manifest.read(self.host))
            bad = [f"run {number}: {line}" for line in [*useless(run.output), *found]]
            if run.exit_code:
                bad.insert(0, f"run {number} ended with {run.exit_code}: {saw(run.output)}")
            if not bad:
                return number, wrong
            wrong += bad
        return 0, wrong


@dataclass
class Watch:
    """Asks the models of a host who they are, again and again, from inside its network. names: of those that count."""

    host: Host
    names: set[str]
    looks: list[tuple[float, set[str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look until the end."""
        urls = f"http://127.0.0.1:{{{','.join(map(str, ports()))}}}/v1/models"
        pid = self.host.pid()
        while not self.ended.wait(0.3):
            argv = ["nsenter", "--target", str(pid), "--mount", "--net", "curl", "-s", "-m", "2", "-w", "\\n", urls]
            at = time.monotonic()
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode and not done.stdout:
                with contextlib.suppress(TestbedError):
                    pid = self.host.pid()
            self.looks.append((at, {name for name in self.names if f'"id":"{name}"' in done.stdout}))

    def longest(self) -> float:
        """The most seconds for which one of them did not answer."""
        return max((seconds_down(self.looks, name) for name in self.names), default=0.0)


def seconds_down(looks: Iterable[tuple[float, set[str]]], name: str) -> float:
    """Seconds without an answer, from the first look without one to the next with one.

    >>> seconds_down([(0, {"a"}), (1, set()), (2, set()), (4, {"a"}), (5, {"a"})], "a")
    3.0
    """
    total, begun = 0.0, None
    for at, answering in looks:
        if name not in answering:
            begun = at if begun is None else begun
        elif begun is not None:
            total, begun = total + at - begun, None
    return total


@contextlib.contextmanager
def watched(host: Host, names: set[str]) -> Iterator[Watch]:
    """Watch models during the block."""
    watch = Watch(host, names)
    thread = threading.Thread(target=watch.look, daemon=True)
    if names:
        thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        if names:
            thread.join(10)


def carry_out(
    trials: Iterable[Trial], benches: Iterable[Bench], done: Callable[[Cell], None] = lambda cell: None
) -> Results:
    """Begin to carry out trials, on the hosts side by side. Returns trial → the future of its cell.

    done: called with each cell when it is known, by one thread at a time."""
    results: Results = {trial: Future() for trial in trials}
    left, alone = deque(results), threading.Lock()
    benches = list(benches)

    def work(bench: Bench, known: Mapping[str, states.Undisturbed]) -> None:
        while True:
            try:
                trial = left.popleft()
            except IndexError:
                return
            deploy = DEPLOYS[trial.deploy]
            try:
                cell = bench.cell(deploy, trial.point, trial.fault, known[trial.deploy].manifest)
                with alone:
                    done(cell)
                results[trial].set_result(cell)
            except BaseException as error:
                results[trial].set_exception(error)

    def begin() -> None:
        try:
            known = states.make(benches)
        except BaseException as error:
            for future in results.values():
                future.set_exception(error)
            raise
        for bench in benches:
            threading.Thread(target=work, args=(bench, known), daemon=True).start()

    threading.Thread(target=begin, daemon=True).start()
    return results


def all_benches(folder: Path) -> list[Bench]:
    """The hosts of the suite, made anew: a trial that was interrupted left one without a network, or switched off.

    folder: each has one below it, for inventories."""
    testbed = Testbed.up([])
    for name in HOSTS:
        if name in testbed.hosts:
            testbed.remove(name)
    testbed = Testbed.up(HOSTS)
    for name in HOSTS:
        (folder / name).mkdir()
    return [Bench(Lab(replace(testbed), folder / name), name) for name in HOSTS]
