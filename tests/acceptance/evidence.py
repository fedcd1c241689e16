"""Evidence over time and of whole hosts, gathered as root on the host. It bypasses sshd, whose log is counted."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.testbed import Host

SEPARATOR = "\x1e"
# bash waits in `read`, which costs no process, and ends when its standard input is closed.
_LOOP = "while read -r -t {every} _; [ $? -gt 128 ]; do {look}; printf '\\036'; done"

KEYS_IN_ARGUMENTS = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -aF sk- | grep -av grep"
"""Prints the processes whose arguments contain what looks like a key; the tests' keys begin with sk-."""
DAEMON_JSON = "if [ -e /etc/docker/daemon.json ]; then echo there; cat /etc/docker/daemon.json; fi"
RUNNING_WITH_CARDS = (
    'ids=$(docker ps -q); [ -z "$ids" ] || docker inspect --format '
    '\'{{if .State.Running}}{{if not (index .Config.Labels "gpurack.cuda")}}{{.Name}} '
    "{{json .HostConfig.DeviceRequests}}{{end}}{{end}}' $ids 2>/dev/null"
)
"""Without the probes of CUDA, which take nothing of a GPU that a model has."""


@dataclass
class Samples:
    """Everything that a command printed, each time it ran; complete when the `with` block has ended."""

    looks: list[str] = field(default_factory=list)


@contextmanager
def sampled(host: Host, look: str, every: float = 0.05) -> Iterator[Samples]:
    """Run a command on the host (shell, as root) again and again during the block."""
    samples = Samples()
    argv = ["nsenter", "--target", str(host.pid()), "--mount", "--uts", "--ipc", "--net", "--pid"]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [*argv, "bash", "-c", _LOOP.format(every=every, look=look)], stdin=subprocess.PIPE, stdout=out
        )
        try:
            yield samples
        finally:
            process.communicate(timeout=30)
            out.seek(0)
            samples.looks = out.read().decode().split(SEPARATOR)[:-1]


def invalid_daemon_json(samples: Samples) -> list[str]:
    """The samples of DAEMON_JSON in which the file existed but was not a JSON object."""
    bad = []
    for look in samples.looks:
        there, _, text = look.partition("\n")
        if there:
            try:
                assert isinstance(json.loads(text), dict)
            except (ValueError, AssertionError):
                bad.append(text)
    return bad


def cards_held_twice(samples: Samples) -> list[str]:
    """The samples of RUNNING_WITH_CARDS in which two running containers had one GPU."""
    bad = []
    for look in samples.looks:
        held = [
            device
            for line in look.splitlines()
            if line.strip()
            for request in json.loads(line.split(" ", 1)[1]) or []
            for device in request["DeviceIDs"] or []
        ]
        if len(held) != len(set(held)):
            bad.append(look)
    return bad


def lifetimes(host: Host, since: float) -> list[tuple[str, str, int]]:
    """(container name, "start" or "die", nanoseconds) since a time, in order, by dockerd's own events.

    Without the probes of CUDA."""
    lines = host.root(
        f"docker events --since {since:.3f} --until $(date +%s.%N) --filter type=container "
        "--filter event=start --filter event=die --format '{{json .}}'"
    ).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    told = [(event["Actor"]["Attributes"], event["Action"], event["timeNano"]) for event in events]
    return [(said["name"], action, at) for said, action, at in told if "gpurack.cuda" not in said]


def files_touched(host: Host, since: float) -> list[str]:
    """Files and folders that were written since a time, on disk and in /run/gpurack.

    Without those that any login and any request writes: logs, records of terminals, sudo's mark in the home of its
    first user, Docker's logs."""
    left_out = (
        "/run", "/dev/*", "/tmp*", "/var/log/*", "/var/lib/lastlog/*", "/var/lib/wtmpdb/*",
        "/home/lab", "/home/lab/.sudo_as_admin_successful",
        "/var/lib/docker/containers/*-json.log", "/var/lib/docker/containers/*/local-logs/*",
    )  # fmt: skip
    out = host.root(
        f"find / /run/gpurack /var/lib/docker -xdev -newermt @{since:.3f} "
        + " ".join(f"-not -path '{pattern}'" for pattern in left_out)
        + " 2>/dev/null | sort -u",
        check=False,
    ).stdout
    return out.splitlines()


def dockerd_pid(host: Host) -> str:
    """The process id of the Docker daemon."""
    return host.root("pidof dockerd").stdout.strip()


def dpkg_audit(host: Host) -> str:
    """The packages that dpkg lists as half installed; "" for none."""
    done = host.root("dpkg --audit")
    return done.stdout + done.stderr


def told(host: Host) -> dict[str, str]:
    """Everything that users other than root can see of a host: command → its output. Every command prints something."""
    looks = (
        "docker inspect $(docker ps -aq)",
        "for id in $(docker ps -aq); do docker logs $id 2>&1; done",
        "cat /etc/gpurack/compose.yaml",
        "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'",
        "journalctl --no-pager -o cat",
    )
    found = {look: host.root(look, check=False).stdout for look in looks}
    assert all(found.values()), [look for look, said in found.items() if not said]
    return found
