"""Run a program of files/ as root on one host, for commands that ask about one model."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from pyinfra.api import Host, State
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_host

from gpurack import screen
from gpurack.commands.connect import connect_error, connected
from gpurack.commands.lab import Lab
from gpurack.commands.progress import progress
from gpurack.facts.snapshot import has_password
from gpurack.facts.unreachable import login_user, sudo_needs_password
from gpurack.host_data import not_understood
from gpurack.pyinfra_patches import each_line
from gpurack.remote import Command, run
from gpurack.resources import program
from gpurack.shell import sh
from gpurack.spec import host as spec
from gpurack.spec.problems import nearest, suggestion

AM_I_ROOT = sh('if [ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null; then id -u; else echo sudo; fi')
"""Prints 0 for root, `sudo` if sudo needs no password."""
PYTHON = sh("python3 -")
QUICK = 60
"""Seconds for that question, which a hanging login shell or sudo never answers."""


class NotDone(Exception):
    """A host could not be asked, or refused; the text says why."""


def find_entry(fleet: Mapping[str, spec.Host], place: str) -> tuple[str, str]:
    """Return host and entry of HOST/MODEL. Raises LookupError with a sentence.

    >>> find_entry({}, "alpha")
    Traceback (most recent call last):
    LookupError: alpha: the host is missing. Write HOST/MODEL, for example gpu1.lab/alpha.
    """
    host, slash, name = place.rpartition("/")
    for separator in (":", "@", "/"):  # HOST:MODEL and MODEL@HOST, as other tools write it
        first, between, second = place.partition(separator)
        for one, entry in ((first, second), (second, first)):
            if between and one in fleet and entry in fleet[one].everything and place != f"{one}/{entry}":
                raise LookupError(f"{place}: write HOST/MODEL: {one}/{entry}.")
    if slash and not (host and name):  # the half that is missing is asked for
        place, slash = host or name, ""
    if not slash:
        if place in fleet:
            entries = ", ".join(f"{place}/{each}" for each in fleet[place].everything) or f"{place} has no models"
            raise LookupError(f"{place}: is a host, and the model is missing. Write HOST/MODEL: {entries}.")
        hosts = {each: host for host, wanted in [*fleet.items()][::-1] for each in wanted.everything}
        if hosts and place not in hosts:
            place = nearest(place, list(hosts)) or next(iter(hosts))
        example = f"{hosts.get(place, 'gpu1.lab')}/{place}"
        raise LookupError(f"{host or name}: the host is missing. Write HOST/MODEL, for example {example}.")
    if host not in fleet:
        raise LookupError(f'unknown host "{host}". {suggestion(host, list(fleet))}')
    known = list(fleet[host].everything)
    if name not in known:
        hint = suggestion(name, known) if known else "It has no models."
        raise LookupError(f'unknown model "{name}" on {host}. {hint}')
    return host, name


@contextmanager
def connected_to(lab: Lab, name: str, console: screen.Console) -> Iterator[tuple[State, Lab, Host]]:
    """Connect to one host, and show what it prints. Yields pyinfra's state, the lab with this host alone, and the host.

    name: of a host of the lab. Raises NotDone where it cannot be reached.
    """
    host = lab.inventory.get_host(name)
    entries = {each: spec.everything for each, spec in lab.fleet.items()}
    with progress(console, entries, False), connected(lab.inventory, (host,)) as state:
        if host not in state.active_hosts:
            raise NotDone(f"{name}: {connect_error(host)}")
        with ctx_host.use(host):
            yield state, replace(lab, limit=(host,)), host


def text_of(name: str, job: Mapping[str, Any]) -> str:
    """Return files/NAME.py as a program with its job."""
    return f"JOB = {json.dumps(job)!r}\n{program(name)}"


def run_program(
    host: Host, text: str, seen: Callable[[str], None] | None = None, limit: int | None = None
) -> CommandOutput:
    """Run a program as root. Return its output.

    seen: gets each line of standard output as it comes; it is then not kept. limit: seconds; None for output without
    end. Raises NotDone with its last error if it fails.
    """
    with ctx_host.use(host):
        try:
            arguments: dict[str, Any] = {"_stdin": text, "_timeout": limit, **privilege(host)}
            with each_line(seen, endless=limit is None) if seen else nullcontext():
                done, output = run(host, Command(PYTHON), **arguments)
        except TimeoutError:
            raise NotDone(f"no answer within {limit} s.") from None
        except NotDone:
            raise
        except Exception as error:
            raise NotDone(not_understood(error)) from None
    if not done:
        errors = [line for line in output.stderr_lines if line.strip()]
        raise NotDone(f"{errors[-1].rstrip('.') if errors else 'the host printed no reason'}.")
    return output


def privilege(host: Host) -> dict[str, Any]:
    """Return pyinfra's arguments by which a command becomes root, also by a password. Raises NotDone."""
    try:
        _, output = run(host, Command(AM_I_ROOT), _timeout=QUICK)
    except TimeoutError:
        raise NotDone(f"no answer within {QUICK} s.") from None
    answer = output.stdout.strip()
    if answer == "0":
        return {}
    if answer != "sudo" and not (sys.stdin.isatty() or has_password(host)):
        raise NotDone(sudo_needs_password(login_user(host)[0]))
    arguments, _ = pop_global_arguments(host.state, host, {"_sudo": True})
    words: dict[str, Any] = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    return {key: words[key] for key in words if key.startswith(("_sudo", "_use_sudo", "_preserve_sudo"))}
