"""Hosts as testinfra sees them, reached in the very way that pyinfra reaches them.

testinfra's own SSH backends know less than an inventory may say (passwords of keys and of sudo, known hosts files,
paramiko's arguments), so this one is pyinfra's connection. Each host has one, opened when it is first used.
"""

from typing import Any

import testinfra.host
from pyinfra.api import Host, StringCommand
from pyinfra.api.exceptions import PyinfraError
from testinfra.backend.base import BaseBackend, CommandResult

from gpurack.facts.snapshot import NO_SUDO, SUDO_PASSWORD, has_password
from gpurack.remote import run
from gpurack.shell import Sh, by_ssh, sh
from gpurack.verify.drift import Unread


def as_root(program: Sh) -> Sh:
    """sudo is asked without a password first, so that a missing right is a sentence."""
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
        """The result; its exit code is 0 or 1. Raises Unread when the host cannot be reached."""
        connect(self.pyinfra)
        line = self.quote(command, *args)
        ok, output = run(self.pyinfra, StringCommand(line), print_output=False, print_input=False, **kwargs)
        return self.result(int(not ok), line.encode(), output.stdout, output.stderr)


def testinfra_host(host: Host) -> testinfra.host.Host:
    """The host, for testinfra's modules."""
    return testinfra.host.Host(Pyinfra(host))


def connect(host: Host) -> None:
    """Opens the connection, once. Raises Unread."""
    try:
        if not host.connected:
            host.connect(show_errors=False, raise_exceptions=True)
    except PyinfraError as error:
        raise Unread(
            f"expected a host that answers, found {error}", f"see why {sh('ssh {}', host.name)} does not get in"
        ) from None


def run_as_root(host: Host, program: Sh, stdin: str, limit: int) -> str:
    """What a program prints that reads standard input, run as root for at most `limit` seconds. Raises Unread."""
    there = testinfra_host(host)
    try:
        result = there.run(as_root(program), _stdin=stdin, _timeout=limit)
        if SUDO_PASSWORD in result.stdout and has_password(host):
            result = there.run(program, _stdin=stdin, _sudo=True, _timeout=limit)
    except TimeoutError:
        why = f"{program}: expected an answer, found none in {limit} s"
        raise Unread(why, by_ssh(host.name, sh("dmesg | tail"))) from None
    for mark, why in {NO_SUDO: "sudo is not installed", SUDO_PASSWORD: "sudo requires a password"}.items():
        if mark in result.stdout:
            raise Unread(f"expected root, or sudo, found that {why}", f"log in as root, or allow sudo on {host.name}")
    if result.failed:
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        fix = by_ssh(host.name, sh("{} --version", program.split()[0]))
        raise Unread(f"{program}: expected an answer, found: {last}", fix)
    return str(result.stdout)
