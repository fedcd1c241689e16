"""What `gpurack lock` and `gpurack manifest` do and print."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pyinfra import api as pyinfra
from pyinfra.context import ctx_host

from gpurack import screen
from gpurack.host_data import not_understood
from gpurack.locking.ask import ask
from gpurack.locking.gather import everything, thorough
from gpurack.locking.manifest import manifest
from gpurack.locking.observe import missing, observed
from gpurack.locking.upgrade import News, names_of_packages, questions, upgraded, wrong_words
from gpurack.looks import connected, unreached, visit
from gpurack.spec.fleet import read_fleet
from gpurack.spec.host import Host
from gpurack.spec.load import read_inventory
from gpurack.spec.lock import HostLock, Lock, facts, place, text
from gpurack.spec.problems import NotAsked, Problem
from gpurack.spec.read_lock import read_lock
from gpurack.state.model import HostState

GONE = "is in the lock, but no longer in the inventory; gpurack lock {inventory} takes it out."


def write(console: screen.Console, inventory: Path) -> int:
    """Writes down what is really there, and says what it changes in the file. Exit code 1: a host could not be looked
    at, or a model is not there; what the lock said of it before stays."""
    old = read_lock(inventory) or Lock()
    fleet, states = look(inventory)
    code = 0
    hosts: dict[str, HostLock] = {}
    for name, state in states.items():
        before = old.hosts.get(name, HostLock())
        if state.trouble:
            code = said(console, name, state.trouble)
            hosts |= {name: before} if name in old.hosts else {}  # an empty entry would look like a host that was seen
            continue
        try:
            now = observed(fleet[name], state)
        except Exception as error:
            code = said(console, name, not_understood(error))
            hosts |= {name: before} if name in old.hosts else {}
            continue
        gone = missing(fleet[name], now)
        for model in gone:
            code = said(console, name, f"{model} has no container; the lock keeps what it says of it.")
        kept = {model: before.models[model] for model in gone if model in before.models}
        hosts[name] = now.model_copy(update={"models": {**now.models, **kept}})
    show(console, {name: (old.hosts.get(name, HostLock()), host) for name, host in hosts.items()})
    save(console, inventory, Lock(hosts=hosts))
    return code


def check(console: screen.Console, inventory: Path) -> int:
    """Says what drifted from the lock, host by host. Exit code 1: something did, a host could not be looked at, or
    lock and inventory do not have the same hosts."""
    lock = read_lock(inventory)
    if lock is None:
        raise NotAsked([Problem.of("no-lock", "", str(place(inventory)), inventory=inventory)])
    fleet, states = look(inventory)
    code, pairs = 0, {}
    for name, state in states.items():
        if state.trouble:
            code = said(console, name, state.trouble)
        elif name not in lock.hosts:
            code = said(console, name, "is not in the lock.")
        else:
            try:
                pairs[name] = (lock.hosts[name], observed(fleet[name], state))
            except Exception as error:
                code = said(console, name, not_understood(error))
    for name in lock.hosts:
        if name not in fleet:
            code = said(console, name, GONE.format(inventory=inventory))
    drifted = show(console, pairs)
    if drifted:
        console.print(f"{drifted} drifted from {place(inventory)}.")
    elif not pairs:
        console.print("Nothing could be compared.")
    else:
        console.print(f"{'The others are as' if code else 'As'} {place(inventory)} says.")
    return 1 if drifted else code


def upgrade(console: screen.Console, inventory: Path, what: Sequence[str]) -> int:
    """Moves pins to what there is now, as far as the inventory allows; the next run installs it. what: as `PARTS`, or
    names of models; nothing: all. Exit code 1: not everything could be asked."""
    old = read_lock(inventory) or Lock()
    loaded = read_inventory(inventory)
    fleet = read_fleet(loaded)
    if wrong := wrong_words(what, fleet):
        raise NotAsked(wrong)
    news: dict[str, News] = {}

    def asked(host: pyinfra.Host, wanted: Host) -> HostState:
        seen = thorough(host, wanted)
        if not seen.trouble:
            names = names_of_packages(what, wanted, seen, old.hosts.get(host.name, HostLock()))
            news[host.name] = ask(host, wanted, seen, names, questions(what, wanted, seen))
        return seen

    code, pairs = 0, {}
    for name, state in visit(loaded, fleet, asked).items():
        before = old.hosts.get(name, HostLock())
        for sentence in (state.trouble,) if state.trouble else news[name].errors:
            code = said(console, name, sentence)
        found = news.get(name)
        if not found and name not in old.hosts:
            continue
        try:
            now = observed(fleet[name], state) if found else before
            after = upgraded(what, fleet[name], state, before, now, found) if found else before
            HostLock.model_validate(after.model_dump())
        except Exception as error:
            code, after = said(console, name, not_understood(error)), before
        pairs[name] = (before, after)
    moved = show(console, pairs)
    save(console, inventory, Lock(hosts={name: new for name, (_, new) in pairs.items()}))
    if moved:
        console.print("The next run installs it.")
    return code


def show_manifest(inventory: Path, name: str) -> str:
    """The manifest of one host. Raises InventoryError, and OSError with a sentence when there is no look at it."""
    loaded = read_inventory(inventory)
    fleet = read_fleet(loaded, secrets=False)
    host = loaded.get_host(name, default=None)
    if host is None:
        raise NotAsked([Problem.unknown("unknown-host", name, list(fleet))])
    with connected(loaded, [host]) as state:
        if host not in state.active_hosts:
            raise OSError(unreached(host))
        with ctx_host.use(host):
            try:
                seen = thorough(host, fleet[name])
                if seen.trouble:
                    raise OSError(seen.trouble)
                return manifest(fleet[name], seen, everything(host, seen))
            except OSError:
                raise
            except Exception as error:
                raise OSError(not_understood(error)) from None


def look(inventory: Path) -> tuple[Mapping[str, Host], Mapping[str, HostState]]:
    """(the fleet, host → a thorough look at it)"""
    loaded = read_inventory(inventory)
    fleet = read_fleet(loaded, secrets=False)
    return fleet, visit(loaded, fleet, thorough)


def show(console: screen.Console, pairs: Mapping[str, tuple[HostLock, HostLock]]) -> int:
    """Host by host what differs between two locks, old → new. Returns how many lines there were."""
    count = 0
    for name, (old, new) in pairs.items():
        before, after = facts(old), facts(new)
        for fact in sorted({*before, *after}):
            if before.get(fact) != after.get(fact):
                count += 1
                line = f"{fact}  {before.get(fact, '–')} → {after.get(fact, '–')}"
                console.print(screen.line((name, "bold"), f"  {line}"))
    return count


def said(console: screen.Console, host: str, sentence: str) -> int:
    """An error of one host; the exit code."""
    console.print(screen.line((host, "bold"), "  ", ("error", "red"), f"  {sentence}"))
    return 1


def save(console: screen.Console, inventory: Path, lock: Lock) -> None:
    """The file, and what to do with it."""
    path = place(inventory)
    if not lock.hosts and not path.exists():
        console.print("No host could be looked at; nothing is written.")
        return
    content = text(lock, inventory)
    if path.exists() and path.read_text(encoding="utf-8") == content:
        console.print(f"{path} says so already.")
        return
    path.write_text(content, encoding="utf-8")
    console.print(f"{path} written; commit it.")
