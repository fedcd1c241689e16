"""testinfra's host, reached by pyinfra's connection.

testinfra's own SSH backends support less than an inventory may set (passwords of keys and of sudo, known hosts files,
paramiko's arguments). Each host has one connection, opened when it is first used.
"""

from typing import Any

import testinfra.host
from pyinfra.api import Host, StringCommand
from pyinfra.api.exceptions import PyinfraError
from testinfra.backend.base import BaseBackend, CommandResult

from gpurack.facts.snapshot import NO_SUDO, SUDO_PASSWORD, has_password
from gpurack.facts.unreachable import login_user, why_unreachable
from gpurack.remote import run
from gpurack.shell import Sh, by_ssh, sh
from gpurack.verify.drift import Unreachable, Unread


def as_root(program: Sh) -> Sh:
    """Return a command that runs a program as root. It prints a mark if sudo is missing or requires a password."""
    return sh(
        'if [ "$(id -u)" = 0 ]; then exec {program}; elif ! command -v sudo >/dev/null; then echo {no_sudo}; '
        "elif sudo -n true 2>/dev/null; then exec sudo -n {program}; else echo {password}; fi",
        program=program,
        no_sudo=NO_SUDO,
        password=SUDO_PASSWORD,
    )


class Pyinfra(BaseBackend):  # type: ignore[misc]
    """testinfra's commands over pyinfra's connection, as the login user. `stdin`: text for standard input."""

    NAME = "pyinfra"

    def __init__(self, host: Host) -> None:
        super().__init__(host.name)
        self.pyinfra = host

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Return the result; its exit code is 0 or 1. Raises Unreachable if the host cannot be reached."""
        connect(self.pyinfra)
        line = self.quote(command, *args)
        ok, output = run(self.pyinfra, StringCommand(line), print_output=False, print_input=False, **kwargs)
        return self.result(int(not ok), line.encode(), output.stdout, output.stderr)


def testinfra_host(host: Host) -> testinfra.host.Host:
    """Return the host for testinfra's modules."""
    return testinfra.host.Host(Pyinfra(host))


def connect(host: Host) -> None:
    """Open the connection, if it is not open. Raises Unreachable."""
    try:
        if not host.connected:
            host.connect(show_errors=False, raise_exceptions=True)
    except PyinfraError as error:
        raise Unreachable(why_unreachable(host, error), "") from None


def run_as_root(host: Host, program: Sh, stdin: str, limit: int) -> str:
    """Return the output of a program that reads standard input. Raises Unread.

    limit: seconds that it may take.
    """
    there = testinfra_host(host)
    try:
        result = there.run(as_root(program), _stdin=stdin, _timeout=limit)
        if SUDO_PASSWORD in result.stdout and has_password(host):
            result = there.run(program, _stdin=stdin, _sudo=True, _timeout=limit)
    except TimeoutError:
        why = f"{program}: no answer within {limit} s"
        raise Unread(why, by_ssh(host.name, sh("dmesg | tail"))) from None
    user, _ = login_user(host)
    for mark, why in {NO_SUDO: "sudo is not installed", SUDO_PASSWORD: f"sudo requires a password for {user}"}.items():
        if mark in result.stdout:
            raise Unread(f"root or sudo is required, but {why}", f"log in as root, or allow sudo on {host.name}")
    if result.failed:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        fix = by_ssh(host.name, sh("{} --version", program.split()[0]))
        raise Unread(f"{program} failed: {last}", fix)
    return str(result.stdout)
