"""`gpurack init`: asks, inspects the hosts, and writes a project of the user's own. It overwrites no file."""

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyinfra.api import State
from pyinfra.api.inventory import Inventory

from gpurack import screen
from gpurack.commands.connect import connected, snapshots_of
from gpurack.commands.diff import UNREACHABLE, counted
from gpurack.commands.import_ import refusals
from gpurack.commands.import_from_host import Unreachable, inspect_connected
from gpurack.commands.project import (
    INVENTORY,
    NAMES,
    PROGRAM,
    ProjectHost,
    container_cells,
    files,
    hardware_text,
    host_lines,
    host_notes,
    managed_lines,
)
from gpurack.commands.verbs import Mistake
from gpurack.facts.model import HostFacts
from gpurack.facts.owner import recorded
from gpurack.importing.inspect import NoInspect, only
from gpurack.importing.inspect import read as read_containers
from gpurack.importing.reader import read
from gpurack.inventory.find import inventories
from gpurack.inventory.fleet import check_fleet
from gpurack.operations.run_state import host_run
from gpurack.plan.models.imagined import as_hardware
from gpurack.plan.system.gpu_host import without_driver
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError, grouped

LEFT_TO_DO = 1
HOST = re.compile(r"(?:(?P<user>[A-Za-z_][\w.-]*)@)?(?P<name>[A-Za-z0-9][\w.-]*)", re.ASCII)
NO_TERMINAL = "no terminal to ask at. Write `gpurack init {folder} --lab NAME {hosts}`, with a --host for each server."
ADDRESS = "Your users connect to the names of the hosts, such as {name}; `address` of a host sets another one."
NOT_DESCRIBED = "`hardware` cannot describe them: {gpus}."


@dataclass(frozen=True)
class Inspected:
    """A host of the new project. output: that of `docker inspect`, "" without running containers.

    reached: did ssh connect? trouble: why it was not inspected.
    """

    host: ProjectHost
    output: str = ""
    reached: bool = True
    trouble: str = ""


def run(console: screen.Console, folder: Path, lab: str, given: Sequence[str], adopt: Sequence[str]) -> int:
    """Write the project and print it. Return the exit code. Raises Mistake; then nothing was written.

    lab: "" to ask. given: hosts to inspect, as HOST or USER@HOST. adopt: containers, as NAME or HOST/NAME.
    """
    terminal = bool(sys.stdin) and sys.stdin.isatty()  # None where it is closed
    if given and (folder / INVENTORY).is_file():
        return run_again(console, folder, given, adopt)
    refuse_existing(folder)
    if not lab and not terminal:
        words = [word for host in given or ["gpu1.lab"] for word in ("--host", host)]
        raise Mistake([NO_TERMINAL.format(folder=sh("{}", str(folder)), hosts=sh("{words}", words=words))])
    if not lab:
        default = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:63] or "lab"
        lab = ask(console, f"Name of the lab [{default}]: ") or default
    require_lab(lab)
    if not given and terminal:
        given = ask(console, "Servers to inspect, such as gpu1.lab root@gpu2.lab (Enter for none): ").split()
    found = inspected_hosts(console, given)
    if not adopt and terminal and any(each.host.running for each in found):
        adopt = ask(console, "Adopt which of these containers? Their names (Enter for none): ").split()
    require_known(adopt, found)
    hosts = [adopted(each, adopt) for each in found]
    write(folder, files(lab, hosts))
    show_to_do(console, hosts)
    here = folder.resolve() == Path.cwd()
    console.print(f"Wrote {', '.join(NAMES)} to {'this folder' if here else folder}.")
    if found:
        console.print(ADDRESS.format(name=found[0].host.name))
    if later := [each.host for each in found if each.trouble]:
        console.print(f"Later, for what was not inspected: {again(folder, later)}")
    console.print(f"Next: {'gpurack plan' if here else sh('cd {} && gpurack plan', str(folder))}")
    return exit_code(found, hosts)


def run_again(console: screen.Console, folder: Path, given: Sequence[str], adopt: Sequence[str]) -> int:
    """Print hosts for the inventory of a project that exists, and write nothing. Return the exit code. Raises Mistake.

    given, adopt: as of `run`.
    """
    found = inspected_hosts(console, given)
    require_known(adopt, found)
    hosts = [adopted(each, adopt) for each in found if not each.trouble]
    show_to_do(console, hosts)
    if hosts:
        console.print(f"{folder / INVENTORY} exists, and nothing was written. Its part `hosts` for what was inspected:")
        lines = ["hosts:", *(line for host in hosts for line in host_lines(host.name, host.data, host_notes(host)))]
        screen.echo(screen.printable("\n".join(lines)))
    return exit_code(found, hosts)


def exit_code(found: Sequence[Inspected], hosts: Sequence[ProjectHost]) -> int:
    """Say if a host was not inspected, and if anything is left to do."""
    if any(each.trouble for each in found):
        return UNREACHABLE
    return LEFT_TO_DO if any(host.to_do for host in hosts) else 0


def again(folder: Path, hosts: Sequence[ProjectHost]) -> str:
    """The command that inspects hosts once more."""
    names = [f"{user}@{host.name}" if (user := host.ssh.get("ssh_user")) else host.name for host in hosts]
    here = [] if folder.resolve() == Path.cwd() else [str(folder)]
    return sh("gpurack init {words}", words=[*here, *(word for name in names for word in ("--host", name))])


def inspected_hosts(console: screen.Console, given: Sequence[str]) -> list[Inspected]:
    """Inspect hosts, and print what each has. given: as of `run`."""
    found = inspect(parse_hosts(given))
    for each in found:
        show_host(console, each)
    return found


def ask(console: screen.Console, question: str) -> str:
    """The admin's answer, "" for none."""
    console.print(question, end="")
    return sys.stdin.readline().strip()


def refuse_existing(folder: Path) -> None:
    """Raise Mistake if the folder has a file of a project, or is a file itself."""
    if folder.exists() and not folder.is_dir():
        raise Mistake([f"{folder} is not a folder. Nothing was written."])
    existing = [str(folder / name) for name in NAMES if os.path.lexists(folder / name)]
    if not existing and (others := inventories(folder)):  # a second inventory would have to be named from then on
        raise Mistake([f"{folder / others[0]}: is an inventory already. Nothing was written. Name a new folder."])
    if existing:
        verb = "exists" if len(existing) == 1 else "exist"
        hint = "Name a new folder."
        if (folder / INVENTORY).is_file():
            one_more = again(folder, [ProjectHost("gpu1.lab")])
            hint = f"To add a host: `{one_more}` prints its part of {INVENTORY}."
        raise Mistake([f"{', '.join(existing)}: {verb} already. Nothing was written. {hint}"])


def require_lab(lab: str) -> None:
    """Raise Mistake if this is no name for a lab."""
    try:
        check_fleet({"": [{"lab": lab}]})
    except InventoryError as error:
        raise Mistake([f"--lab: {error.problems[0].what}"]) from None


def parse_hosts(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Host → pyinfra's fields to reach it. Raises Mistake.

    >>> parse_hosts(["gpu1.lab", "root@gpu2.lab"])
    {'gpu1.lab': {}, 'gpu2.lab': {'ssh_user': 'root'}}
    """
    found: dict[str, dict[str, str]] = {}
    for text in given:
        match = HOST.fullmatch(text)
        if not match:
            hint = "Write HOST or USER@HOST. Ports belong in ~/.ssh/config."
            if "," in text or " " in text.strip():
                hint = f"Repeat the option: `{' '.join(f'--host {each}' for each in re.split('[, ]+', text) if each)}`."
            elif url := re.fullmatch(rf"ssh://({HOST.pattern})/?", text):
                hint = f"Write {url[1]}."
            raise Mistake(
                [
                    f"--host: `{text}` is not a host. {hint}"
                    if text
                    else "--host: the name is empty. Write --host gpu1.lab."
                ]
            )
        if match["name"] in found:
            raise Mistake([f"--host: `{match['name']}` is given twice."])
        found[match["name"]] = {"ssh_user": match["user"]} if match["user"] else {}
    return found


def inspect(hosts: Mapping[str, Mapping[str, str]]) -> list[Inspected]:
    """What the hosts have. hosts: name → pyinfra's fields to reach it."""
    if not hosts:
        return []
    inventory = Inventory(([(name, dict(ssh)) for name, ssh in hosts.items()], {}))
    waiting = screen.console(stderr=True).status(screen.line(f"inspecting {counted(len(hosts), 'host')}"))  # terminals
    with waiting, connected(inventory) as state:
        seen = snapshots_of(state, dict.fromkeys(hosts, Host()))
        return [inspected(state, ProjectHost(name, ssh), seen[name]) for name, ssh in hosts.items()]


def inspected(state: State, host: ProjectHost, seen: HostFacts) -> Inspected:
    """What one host has: GPUs from its snapshot, and its containers by one more command if it has a Docker."""
    target = state.inventory.get_host(host.name)
    if seen.trouble:
        why = seen.trouble.what
        return Inspected(replace(host, unknown=why), reached=not host_run(target).connect_error, trouble=why)
    hardware = as_hardware(seen.gpus)
    if seen.gpus and not hardware:
        unknown = NOT_DESCRIBED.format(gpus=", ".join(gpu.name or gpu.uuid for gpu in seen.gpus))
    else:
        unknown = " ".join(problem.what for problem in without_driver(seen))
    host = replace(host, hardware=hardware, unknown=unknown, managed=managed(seen))
    if not seen.docker:
        return Inspected(host)
    try:
        output = inspect_connected(target)
        return Inspected(replace(host, running=read_containers(output)[0] if output.strip() else ()), output)
    except (Unreachable, NoInspect) as error:
        return Inspected(replace(host, unread=str(error)))


def managed(seen: HostFacts) -> dict[str, list[str]]:
    """Lab, "" for none → its models that gpurack runs on a host."""
    found: dict[str, list[str]] = {}
    for key in sorted(seen.ours):
        entry = recorded(key, seen)
        found.setdefault(entry.lab if entry else "", []).append(key[1])
    return found


def chosen(host: ProjectHost, adopt: Collection[str]) -> set[str]:
    """The names of a host's containers that `--adopt` names."""
    names = {str(run.name) for run in host.running}
    return {name for name in names if name in adopt or f"{host.name}/{name}" in adopt}


def require_known(adopt: Collection[str], found: Sequence[Inspected]) -> None:
    """Raise Mistake for a name of `--adopt` that no running container has."""
    running = [(each.host.name, str(run.name)) for each in found for run in each.host.running]
    known = {text for host, name in running for text in (name, f"{host}/{name}")}
    for name in adopt:
        if not found:
            raise Mistake([f"--adopt {name}: no host is given. Add the one that it runs on: `--host gpu1.lab`."])
        if name not in known:
            names = ", ".join(name for _, name in running) or "none"
            raise Mistake(
                [f"--adopt: no container `{name}` was found. Running, not managed: {names}. Nothing was written."]
            )


def adopted(each: Inspected, adopt: Collection[str]) -> ProjectHost:
    """The host with entries for the containers that `--adopt` names."""
    names = chosen(each.host, adopt)
    if not names:
        return each.host
    host = replace(each.host, adopted=read(only(each.output, names)))
    return replace(host, refused=grouped(refusals(host.data, host.name)))


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write new files: all, or after an error of the system none. Raises Mistake."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            for parent in reversed((folder / name).parents):
                if not parent.exists():
                    parent.mkdir()
                    written.append(parent)
            with (folder / name).open("x", encoding="utf-8") as stream:
                written.append(folder / name)
                stream.write(content)
        (folder / PROGRAM).chmod(0o755)
    except OSError as error:
        for path in reversed(written):
            path.rmdir() if path.is_dir() else path.unlink()
        raise Mistake([f"could not write {error.filename or folder}: {error.strerror}. Nothing was written."]) from None


def show_host(console: screen.Console, each: Inspected) -> None:
    """Print what a host has, or why it was not inspected."""
    host = each.host
    if each.trouble:
        word = "error" if each.reached else "UNREACHABLE"
        console.print(screen.line((word, "red"), f"  {host.name}  {each.trouble}"))
        return
    console.print(screen.line((host.name, "bold"), f"  {host.unknown or hardware_text(host.hardware)}"))
    for line in managed_lines(host):
        console.print(screen.line(f"  {line[:1].lower()}{line[1:]}"), soft_wrap=True)
    if host.unread:
        console.print(screen.line("  ", ("warning", "yellow"), f"  its containers are not known: {host.unread}"))
    if host.running:
        console.print("  containers that gpurack does not manage:")
        table = screen.table()
        for run in host.running:
            table.add_row("  ", *container_cells(run))
        console.print(table)


def show_to_do(console: screen.Console, hosts: Sequence[ProjectHost]) -> None:
    """Print what is left to do for containers to adopt."""
    for host in hosts:
        for line in host.to_do:
            console.print(screen.line(("to do", "yellow"), f"  {line}"))
