"""Run files/snapshot.sh on a host and parse its output. operations/run_state.py keeps the result."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from itertools import takewhile

from pyinfra.api import FactBase, Host
from typing_extensions import override

from gpurack import paths
from gpurack.facts import remembered
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import USER_FILES, Header
from gpurack.facts.questions import Questions, Row
from gpurack.facts.sections import MARK
from gpurack.facts.unreachable import login_user, sudo_needs_password
from gpurack.remote import Command, TooMuchOutput, telling
from gpurack.resources import read_text, shipped_digests
from gpurack.shell import Sh, by_ssh, of_file, sh

NO_SUDO, SUDO_PASSWORD, RAISED = "@@ no-sudo", "@@ sudo-password", "@@ raised"

# Without a password first: a missing right is then an error instead of an invisible prompt. Only where that fails,
# sudo is asked a second time, whether it was the reason.
AS_ROOT = sh(
    'if [ "$(id -u)" = 0 ]; then exec sh -s; elif ! command -v sudo >/dev/null; then echo {}; '
    "else echo {}; sudo -n sh -s; code=$?; [ $code = 0 ] || sudo -n true 2>/dev/null || { echo {}; exit 0; }; "
    "exit $code; fi",
    NO_SUDO,
    RAISED,
    SUDO_PASSWORD,
)

LIMIT = 30
"""Seconds for each part of the snapshot. After a timeout, only the facts of that part are unknown."""

ANSWER = 300
"""Seconds for the whole snapshot, whose parts have ended long before: then the login shell or sudo hangs."""

NEEDS_ROOT = HostFacts.not_inspected(
    "gpurack needs root on the host: you log in as another user, and sudo is not installed. Set `ssh_user` to "
    "root, or install sudo."
)
NEEDS_PASSWORD = HostFacts.not_inspected("sudo requires a password.")
"""The answer of a host whose sudo asks for a password. `_ask` says for which user."""
FAILED = (
    "Could not inspect the host. Possible causes: it is no longer reachable by ssh, or its /tmp is full (df -h /tmp)."
)
NO_ANSWER = (
    "Could not inspect the host: no answer within {} s, although ssh works. Possible causes: its login shell or sudo "
    "hangs. Try `{}`."
)
INTERNAL = "internal error in reading the snapshot ({!r}). This is a bug in gpurack, please report it."
NOT_TAKEN = (
    "Could not inspect the host. Possible causes: sudo rejects this password or user, or the host is no longer "
    "reachable by ssh."
)


class Snapshot(FactBase[HostFacts]):
    """The snapshot as a fact of pyinfra. Its script comes by standard input (`_stdin=script(…)`)."""

    @override
    def command(self) -> Command:
        return Command(AS_ROOT)

    @staticmethod
    @override
    def default() -> HostFacts:
        return HostFacts.not_inspected(FAILED)

    @override
    def process(self, output: list[str]) -> HostFacts:
        # Only lines before the script's first line count: later ones may come from users.
        before = list(takewhile(lambda line: not line.startswith(MARK), output))
        if NO_SUDO in before:
            return NEEDS_ROOT
        if SUDO_PASSWORD in before:
            return NEEDS_PASSWORD
        # Any exception here would abort all hosts (pyinfra 3.10.0).
        try:
            return parse(output, raised=RAISED in before)
        except Exception as error:
            return HostFacts.not_inspected(INTERNAL.format(error))


def take_snapshot(host: Host, questions: Questions) -> HostFacts:
    """Take a snapshot of a host by one remote command."""
    known = remembered.recall(host.name, questions.lab)
    stdin = Script(script(questions, known))
    try:
        state = _ask(host, stdin)
    except TooMuchOutput as error:
        return HostFacts.not_inspected(str(error))
    if state.trouble:
        return state
    state = replace(state, headers=remembered.merged_headers(state, known, date.today().isoformat()))
    remembered.remember(host.name, known, state, questions.lab)
    return state


def _ask(host: Host, stdin: "Script") -> HostFacts:
    """Run the script as root. Raises TooMuchOutput."""
    facts = _answer(host, stdin, sudo=False)
    if facts is NEEDS_PASSWORD and not (sys.stdin.isatty() or has_password(host)):
        return HostFacts.not_inspected(sudo_needs_password(login_user(host)[0]))
    if facts is NEEDS_PASSWORD:
        # pyinfra prompts for the password or takes it from the inventory. This costs three more remote commands.
        facts = _answer(host, stdin, sudo=True)
        # sudo's own message goes to the terminal only, so the error names possible causes.
        facts = replace(HostFacts.not_inspected(NOT_TAKEN) if facts == Snapshot.default() else facts, raised=True)
    return facts


def _answer(host: Host, stdin: "Script", sudo: bool) -> HostFacts:
    begun = time.monotonic()
    try:
        with telling(host):
            facts: HostFacts = host.get_fact(Snapshot, _sudo=sudo, _ignore_errors=True, _stdin=stdin, _timeout=ANSWER)
    except EOFError:  # of a connection that ends now; pyinfra (3.10.0) expects only paramiko's other exceptions
        return Snapshot.default()
    if facts == Snapshot.default() and time.monotonic() - begun >= ANSWER:
        return HostFacts.not_inspected(NO_ANSWER.format(ANSWER, by_ssh(host.name, sh("sudo -n true"))))
    return facts


def has_password(host: Host) -> bool:
    """Is a sudo password known, from `_sudo_password` in the inventory or from pyinfra's prompt?"""
    return bool(
        host.data.get("_sudo_password")
        or host.state.config.SUDO_PASSWORD
        or host.connector_data.get("prompted_sudo_password")
    )


class Script(Iterable[str]):
    """Standard input of a command. pyinfra prints it with -v as a file name, not as 600 lines."""

    def __init__(self, text: str) -> None:
        self.text = text

    @override
    def __str__(self) -> str:
        return "files/snapshot.sh"

    @override
    def __iter__(self) -> Iterator[str]:
        return iter([self.text])

    def readlines(self) -> list[str]:
        """Return the text the way pyinfra asks for it."""
        return list(self)


def script(questions: Questions, known: Mapping[str, Header] | None = None) -> Sh:
    """Return files/snapshot.sh with its variables set.

    known: headers of weights that need not be read again.
    """
    asked = {
        "OF_DOCKER": [read_text("files/snapshot_docker.sh")],
        "LIMIT": [str(LIMIT)],
        "RUN": [paths.RUN],
        "KNOWN": [f"{digest} {path}" for path, digest in shipped_digests().items()],
        "USERS": questions.users,
        "USERS_WEIGHTS": [questions.users_weights],
        "HOME_FILES": USER_FILES,
        "USER_MARKER": [paths.USER_RESTART_MARKER],
        "IMAGES": _rows(questions.images),
        "WEIGHTS": questions.weights,
        "NEEDED": _rows(questions.needed),
        "READERS": _rows(questions.readers),
        "SEEN": [f"{header.stamp}|{path}" for path, header in (known or {}).items()],
        "READER": [remembered.reader()],
        "PROBES": _rows(questions.probes),
        "COUNTERS": _rows(questions.counters),
        "LOGS": _rows(questions.logs),
        "VOLUMES": _rows(questions.volumes),
        "HAS_ACCOUNT": [read_text("files/first_account.py")] if questions.volumes else [],
        "SOCKET": [read_text("files/docker_socket.py")],
        "NAMES": questions.names,
        "PINNED": _rows(questions.pinned),
        "COMPOSE": ["yes"] if questions.compose else [],
        "UPSTREAMS": _rows(questions.upstreams),
    }
    return of_file("files/snapshot.sh", **{name: _lines(items) for name, items in asked.items()})


def _rows(rows: Iterable[Row]) -> list[str]:
    return ["|".join(map(str, row)) for row in rows]


def _lines(items: Iterable[str]) -> str:
    return "\n".join(sorted(set(items)))
