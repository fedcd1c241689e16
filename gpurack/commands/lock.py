"""The commands `gpurack lock` and `gpurack manifest`."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pyinfra import api as pyinfra
from pyinfra.context import ctx_host

from gpurack import screen
from gpurack.commands.connect import connect_error, connected, on_all_hosts
from gpurack.commands.lock_ask import find_newest
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.inventory.fleet import read_fleet, require_models
from gpurack.inventory.load import apply_command, read_inventory
from gpurack.inventory.lock_file import read_lock
from gpurack.locking.gather import manifest_lines, snapshot_with_hashes
from gpurack.locking.manifest import manifest
from gpurack.locking.observe import keep, loose, missing, observed, unread
from gpurack.locking.upgrade import News, names_of_packages, newest_request, upgraded, wrong_words
from gpurack.replace_file import replace_file
from gpurack.shell import word
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, Lock, facts, place, text
from gpurack.spec.problems import NotAsked, Problem, grouped


def write(console: screen.Console, inventory: Path) -> int:
    """Write the lock from what is on the hosts, and print what changes in it. Returns the exit code.

    1: a host could not be inspected, or a model has no container. Its old entry is kept.
    """
    old = read_lock(inventory) or Lock()
    fleet, states = fleet_and_snapshots(inventory)
    code = 0
    hosts: dict[str, HostLock] = {}
    for name, state in states.items():
        before = old.hosts.get(name, HostLock())
        if state.trouble:
            code = print_error(console, name, state.trouble.what)
            hosts |= {name: before} if name in old.hosts else {}  # an empty entry would mean a host without packages
            continue
        try:
            now = observed(fleet[name], state)
        except Exception as error:
            code = print_error(console, name, not_understood(error))
            hosts |= {name: before} if name in old.hosts else {}
            continue
        hidden = unread(fleet[name], state)
        absent = [model for model in missing(fleet[name], now) if model not in hidden]
        for sentence in unread_sentences(hidden):
            code = print_error(console, name, sentence)
        for model in absent:
            code = print_error(console, name, f"{model} has no container. Its entry in the lock is kept.")
        hosts[name] = keep(now, before, [*absent, *hidden])
    hosts |= resting(console, fleet, old)
    print_changes(console, {name: (old.hosts.get(name, HostLock()), host) for name, host in hosts.items()})
    save(console, inventory, Lock(hosts=hosts))
    if names := [name for name, lock in hosts.items() if name in states and loose(lock, states[name])]:
        command = apply_command(inventory)
        console.print(f"The locked packages are not on hold yet: {', '.join(names)}. Hold them: {command}")
    return code


def check(console: screen.Console, inventory: Path, as_json: bool = False) -> int:
    """Print what drifted from the lock. Returns the exit code.

    1: something drifted, a host could not be inspected, or lock and inventory have different hosts.
    as_json: also print it as JSON.
    """
    lock = read_lock(inventory)
    if lock is None:
        raise NotAsked([Problem.of("no-lock", "", str(place(inventory)), inventory=word(str(inventory)))])
    fleet, states = fleet_and_snapshots(inventory)
    pairs: dict[str, tuple[HostLock, HostLock]] = {}
    errors: list[Problem] = []
    for name, state in states.items():
        if state.trouble:
            errors.append(state.trouble.at(name))
        elif name not in lock.hosts:
            errors.append(Problem.of("host-not-in-lock", name))
        else:
            try:
                hidden = unread(fleet[name], state)
                pairs[name] = (lock.hosts[name], keep(observed(fleet[name], state), lock.hosts[name], hidden))
            except Exception as error:
                errors.append(Problem.of("host-answer-unreadable", name, what=not_understood(error)))
            else:
                sentences = unread_sentences(hidden)
                errors += [Problem.of("lock-not-compared", name, what=sentence) for sentence in sentences]
    left = [name for name in lock.hosts if name not in fleet]
    errors += [Problem.of("locked-host-unknown", name, inventory=word(str(inventory))) for name in left]
    for problem in errors:
        print_error(console, problem.host, problem.what)
    code = 1 if errors else 0
    if as_json:
        screen.echo(screen.as_json(as_data(pairs, errors)))
    left_alone = resting(console, fleet, lock)
    drifted = print_changes(console, pairs)
    if drifted:
        console.print(f"{drifted} drifted from {place(inventory)}.")
    elif not pairs:
        console.print("No other host was compared." if left_alone and not code else "Nothing could be compared.")
    else:
        console.print(f"{'All other hosts match' if code else 'All hosts match'} {place(inventory)}.")
    return 1 if drifted else code


def upgrade(console: screen.Console, inventory: Path, what: Sequence[str]) -> int:
    """Move pins to the newest versions that the inventory allows; the next run installs them. Returns the exit code.

    what: words of `PARTS` or names of models; empty for all. 1: something could not be looked up.
    """
    old = read_lock(inventory) or Lock()
    loaded = read_inventory(inventory)
    fleet = require_models(read_fleet(loaded), inventory)
    if wrong := wrong_words(what, fleet):
        raise NotAsked(wrong)
    news: dict[str, News] = {}

    def inspect(host: pyinfra.Host, spec: Host) -> HostFacts:
        seen = snapshot_with_hashes(host, spec)
        if not seen.trouble:
            names = names_of_packages(what, spec, seen, old.hosts.get(host.name, HostLock()))
            news[host.name] = find_newest(host, spec, seen, names, newest_request(what, spec, seen))
        return seen

    code, pairs = 0, {}
    for name, state in on_all_hosts(loaded, fleet, inspect).items():
        before = old.hosts.get(name, HostLock())
        hidden = {} if state.trouble else unread(fleet[name], state)
        for sentence in (state.trouble.what,) if state.trouble else (*unread_sentences(hidden), *news[name].errors):
            code = print_error(console, name, sentence)
        found = news.get(name)
        if not found and name not in old.hosts:
            continue
        try:
            now = observed(fleet[name], state) if found else before
            after = keep(upgraded(what, fleet[name], state, before, now, found), before, hidden) if found else before
            HostLock.model_validate(after.model_dump())
        except Exception as error:
            code, after = print_error(console, name, not_understood(error)), before
        pairs[name] = (before, after)
    pairs |= {name: (before, before) for name, before in resting(console, fleet, old).items()}
    moved = print_changes(console, pairs)
    save(console, inventory, Lock(hosts={name: new for name, (_, new) in pairs.items()}))
    if moved:
        console.print(f"The next run installs these versions: {apply_command(inventory)}")
    return code


def show_manifest(inventory: Path, name: str) -> str:
    """The manifest of one host. Raises InventoryError, and OSError with a sentence if it cannot be inspected."""
    loaded = read_inventory(inventory)
    fleet = read_fleet(loaded, secrets=False)
    host = loaded.get_host(name, default=None)
    if host is None:
        raise NotAsked([Problem.unknown("unknown-host", name, list(fleet))])
    with connected(loaded, [host]) as state:
        if host not in state.active_hosts:
            raise OSError(connect_error(host))
        with ctx_host.use(host):
            try:
                seen = snapshot_with_hashes(host, fleet[name])
                if seen.trouble or (hidden := unread(fleet[name], seen)):
                    raise OSError(seen.trouble.what if seen.trouble else " ".join(grouped(chain(*hidden.values()))))
                return manifest(fleet[name], seen, manifest_lines(host, seen))
            except OSError:
                raise
            except Exception as error:
                raise OSError(not_understood(error)) from None


def fleet_and_snapshots(inventory: Path) -> tuple[Mapping[str, Host], Mapping[str, HostFacts]]:
    """(the fleet, host → its snapshot with the sha256 of all weights)"""
    loaded = read_inventory(inventory)
    fleet = require_models(read_fleet(loaded, secrets=False), inventory)
    return fleet, on_all_hosts(loaded, fleet, snapshot_with_hashes)


def resting(console: screen.Console, fleet: Mapping[str, Host], lock: Lock) -> dict[str, HostLock]:
    """Print which hosts are in maintenance, and why. Return what the lock has of them, which stays."""
    found = {name: spec.maintenance for name, spec in fleet.items() if spec.maintenance}
    for name, why in found.items():
        console.print(screen.line((name, "bold"), f"  maintenance: {why}. Not compared; the lock keeps what it has."))
    return {name: lock.hosts[name] for name in found if name in lock.hosts}


def unread_sentences(hidden: Mapping[str, Sequence[Problem]]) -> list[str]:
    """The errors about models whose Docker or weights did not answer."""
    return [f"{sentence} The lock keeps what it has." for sentence in grouped(chain(*hidden.values()))]


def changes(old: HostLock, new: HostLock) -> list[tuple[str, str | None, str | None]]:
    """What differs between two locks of a host: (fact, old, new), None where a lock does not have it."""
    before, after = facts(old), facts(new)
    every = ((fact, before.get(fact), after.get(fact)) for fact in sorted({*before, *after}))
    return [(fact, was, now) for fact, was, now in every if was != now]


def print_changes(console: screen.Console, pairs: Mapping[str, tuple[HostLock, HostLock]]) -> int:
    """Print what differs between two locks of each host, old → new. Returns the number of lines."""
    found = [(name, *change) for name, (old, new) in pairs.items() for change in changes(old, new)]
    for name, fact, was, now in found:
        line = f"{fact}  {'–' if was is None else was} → {'–' if now is None else now}"
        console.print(screen.line((name, "bold"), f"  {line}"))
    return len(found)


def as_data(pairs: Mapping[str, tuple[HostLock, HostLock]], errors: Sequence[Problem]) -> dict[str, Any]:
    """What drifted as JSON data. pairs: host → (lock, what is there)."""
    return {
        "schema": screen.SCHEMA,
        "hosts": {
            name: {"drift": [{"fact": fact, "locked": was, "found": now} for fact, was, now in changes(*pair)]}
            for name, pair in pairs.items()
        },
        "errors": [problem.as_data() for problem in errors],
    }


def print_error(console: screen.Console, host: str, sentence: str) -> int:
    """Print an error of one host. Returns the exit code 1."""
    console.print(screen.line((host, "bold"), "  ", ("error", "red"), f"  {sentence}"))
    return 1


def save(console: screen.Console, inventory: Path, lock: Lock) -> None:
    """Write the lock file if it changed, and print what happened."""
    path = place(inventory)
    if not lock.hosts and not path.exists():
        console.print("No host could be inspected. Nothing was written.")
        return
    content = text(lock, inventory)
    if path.exists() and path.read_text(encoding="utf-8") == content:
        console.print(f"{path} is up to date.")
        return
    replace_file(path, content)
    console.print(f"Wrote {path}. Commit it.")
