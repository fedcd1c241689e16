"""Carries out trials: a fault hits a deploy at a point; then plain runs, until the host is as without it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.acceptance import hook, owners
from tests.acceptance.conftest import Lab, Run
from tests.faults import manifest
from tests.faults.manifest import Manifest, differences
from tests.faults.points import DEPLOYS, KEY, PROGRAMS, STATES, Deploy, Point, Trial, in_chain, names_of, ports
from tests.faults.results import TRIES, Cell, saw, useless
from tests.faults.strike import DISK_FULL, FAULTS, small_disk
from tests.testbed import Host, Testbed, TestbedError
from tests.testbed.hosts import HOST_KEYS
from tests.testbed.shell import progress

ENDS = 300
"""Seconds in which a run ends, whatever befalls it."""
FINDS_DEAD_HOST = 60
"""Seconds in which a run ends whose host answers no more, on a busy machine."""
SECRET = "sk-faults-0123456789"
HOSTS = {
    "fresh": "gpu9",
    **dict.fromkeys(("change", "swap", "removal"), "gpu6"),
    **dict.fromkeys(("upgrade", "downgrade"), "gpu8"),
}
"""Deploy → the host on which it is disturbed."""
SMALL = "gpu7"
"""The host with a small disk, for all deploys."""
SIDE_BY_SIDE = 3
"""Hosts at work at once: runs often wait."""
OTHERS = ("others", "networks")
"""Parts of the manifest with ids of what is not gpurack's: as before the fault."""
Results = dict[Trial, Future[Cell]]


@dataclass
class Bench:
    """A host on which deploys are disturbed.

    state: the one that it is in, "" for a fresh host, None where unknown. owned: are its owners' things there? known,
    calls: deploy → manifest after an undisturbed run, and the calls of that run."""

    lab: Lab
    name: str
    state: str | None = None
    owned: bool = False
    known: dict[str, Manifest] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)

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

    def settle(self, state: str) -> None:
        """Bring the host into a state, from its base image where it is in none of which a run leads there."""
        if not state or not self.state or source_of(self.state) != source_of(state):
            self.begin()
        if state != self.state and state:
            run = self.run(state)
            assert run.exit_code == 0, run.output
        if state and not self.owned:
            owners.move_in(self.host)
            self.owned = True
        self.state = state

    def begin(self) -> None:
        """Make the host from its base image, with what its owners have there without Docker."""
        self.state, self.owned = None, False
        if self.name in self.lab.testbed.hosts:
            self.lab.testbed.recreate(self.name)
        else:
            self.lab.testbed.add(self.name, "gpu")
        if self.name == SMALL:
            small_disk(self.host)
        self.host.put('{"labels": ["rack=7"]}\n', "/etc/docker/daemon.json")
        self.host.root("apt-mark hold sudo")
        hook.install(self.host, PROGRAMS, remote=True)

    def undisturbed(self, deploy: Deploy) -> None:
        """Carry a deploy out without a fault, and remember its calls and what the host is then."""
        self.settle(deploy.before)
        with hook.recorded(self.host) as calls:
            run = self.run(deploy.after)
        assert run.exit_code == 0, run.output
        self.state = deploy.after
        self.calls[deploy.name], self.known[deploy.name] = calls, manifest.read(self.host)

    def cell(self, deploy: Deploy, point: Point, fault: str) -> Cell:
        """Carry a deploy out with a fault at a point, then plain runs."""
        if deploy.name not in self.known:
            self.undisturbed(deploy)
        self.settle(deploy.before)
        others = {part: found for part, found in manifest.read(self.host).items() if part in OTHERS}
        progress(f"{self.name}: {deploy.name}, {fault} {point}")
        begun = time.monotonic()
        with watched(self.host, names_of(deploy.before) & names_of(deploy.after)) as watch:
            output = self.hit(deploy, point, fault)
            runs, wrong = self.recover(deploy, {**self.known[deploy.name], **others})
        self.state = deploy.after if runs else None
        wrong = [*([] if FAULTS[fault].mute else useless(output)), *wrong]
        said = "" if FAULTS[fault].mute else saw(output)
        down = f"{watch.longest():.0f}" if watch.names else "-"
        progress(f"{self.name}: {runs} runs, down {down} s, {time.monotonic() - begun:.0f} s in all; {said} {wrong}")
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


def source_of(state: str) -> str:
    """Which packages of Docker a state has."""
    return str(STATES[state].get("docker", {}).get("source", ""))


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


def host_for(trial: Trial) -> str:
    """The host for a trial: deploys that lead to each other share one, and a small disk survives no power cut."""
    return SMALL if trial.fault == DISK_FULL else HOSTS[trial.deploy]


def carry_out(
    trials: Iterable[Trial], at: Mapping[str, Bench], done: Callable[[Cell], None] = lambda cell: None
) -> Results:
    """Begin to carry out trials, on the hosts side by side. Returns trial → the future of its cell.

    at: benches by host. done: called with each cell when it is known."""
    results: Results = {}
    by_host: dict[str, list[Trial]] = {}
    for trial in trials:
        results[trial] = Future()
        by_host.setdefault(host_for(trial), []).append(trial)
    turns = threading.Semaphore(SIDE_BY_SIDE)

    def work(bench: Bench) -> None:
        for trial in in_chain(by_host[bench.name]):
            with turns:
                try:
                    cell = bench.cell(DEPLOYS[trial.deploy], trial.point, trial.fault)
                    done(cell)
                    results[trial].set_result(cell)
                except BaseException as error:
                    bench.state = None
                    results[trial].set_exception(error)

    for name in by_host:
        threading.Thread(target=work, args=(at[name],), daemon=True).start()
    return results


def benches(folder: Path) -> dict[str, Bench]:
    """A bench for each host; a host is made when it is needed. folder: each has one below it, for inventories."""
    testbed, names = Testbed.up([]), {*HOSTS.values(), SMALL}
    for name in names:
        (folder / name).mkdir()
    return {name: Bench(Lab(replace(testbed), folder / name), name) for name in names}
