"""What root has on a host, who ran a user's programs, and if other users' models work; without gpurack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.acceptance.conftest import identities
from tests.testbed import Host

ROOTS = "/etc /usr /opt /root /boot /var/lib/dpkg /var/lib/systemd /var/spool /run/gpurack /run/systemd/system"
"""Folders in which nothing may change: names, kinds, modes, owners, times of change."""
OURS = "/etc/gpurack /usr/local/lib/gpurack /usr/local/libexec/gpurack /var/lib/gpurack"
"""Folders in which gpurack writes: contents, modes and owners are compared."""
EXPECTED = re.compile(
    r"/run/gpurack|/var/lib/gpurack(/(record\.json|logs|sha256|(weights/)?users/bob|jobs).*)?$"
    r"|/etc/(mtab|resolv\.conf|hostname|hosts|gpurack)$|/etc/gpurack/secrets$|/root/\.cache|/var/lib/systemd/(timers|random-seed|timesync)"
)
"""Files that any run may write, or the testbed itself."""
OWNED = "-r /etc/owned-by-* /etc/apt/sources.list.d/eve.list /etc/docker-data"
"""Files that eve writes if an attack succeeds."""
RAN = "/home/bob/ran"
"""The record of everyone who ran eve's programs."""


def manifest(host: Host) -> dict[str, str]:
    """Path → the facts of it, for everything that is root's."""
    ours = " ".join(f"-path {folder} -prune -o" for folder in OURS.split())
    seen = host.root(
        f"find {ROOTS} -xdev {ours} -printf '%p\\t%y %m %U:%G %s %C@ %l\\0' 2>/dev/null;"
        f"find {OURS} -printf '%p\\t%y %m %U:%G %l\\0' 2>/dev/null;"
        f"find {OURS} -type f -exec sha256sum -z {{}} + 2>/dev/null | sed -zE 's/^(\\S+)  (.*)/\\2#\\t\\1/'",
        check=False,
    ).stdout
    entries = (entry.partition("\t")[::2] for entry in seen.split("\0") if entry)
    return {path: facts for path, facts in entries if not EXPECTED.match(path.rstrip("#"))}


def changed(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """The differences between two manifests."""
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def others(host: Host) -> dict[str, object]:
    """The containers of the host's own Docker and of ada's: names, ids, times of start."""
    uid = host.root("id -u ada").stdout.strip()
    docker = f"runuser -u ada -- env HOME=/home/ada docker -H unix:///run/user/{uid}/docker.sock"
    form = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
    hers = host.root(f"{docker} ps -aq | xargs -r {docker} inspect --format '{form}'").stdout
    return {"host": identities(host), "ada": hers}


def ran(host: Host) -> list[str]:
    """A line for each run of one of eve's programs: uid, program, arguments; `lock PATH` for each lock it had."""
    return host.root(f"cat {RAN}", check=False).stdout.splitlines()


def answers(host: Host, keys: dict[int, str]) -> dict[int, str]:
    """Port → the answer of the model there. keys: port → its key, "" for none."""
    body = json.dumps({"messages": [{"role": "user", "content": "Who are you?"}]})
    found = {}
    for port, key in keys.items():
        said = host.root(
            f"curl -q -sS --max-time 20 -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
            f"-d '{body}' http://127.0.0.1:{port}/v1/chat/completions",
            check=False,
        ).stdout
        with_text = re.search(r'"content": ?"((?:[^"\\]|\\.)*)"', said)
        found[port] = with_text[1] if with_text else said
    return found


@contextmanager
def unharmed(host: Host) -> Iterator[None]:
    """Whatever eve does in the block: no file of root changes, root runs nothing of hers and gives none of its locks to
    her programs, and the models of the host and of ada keep running in their containers."""
    host.root(f"rm -f {RAN}; install -m 666 -o bob -g bob /dev/null {RAN}")
    files, models = manifest(host), others(host)
    try:
        yield
        touched = changed(files, manifest(host))
    finally:
        host.root(f"rm -f {OWNED}")  # the next attack must not profit if this one succeeded
    assert touched == {}
    assert not [line for line in ran(host) if line.startswith(("0 ", "lock "))]
    assert others(host) == models
