"""May Docker restart? Only containers that are not ours decide; ours start again by themselves. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gpurack.facts.lines import parse_time
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container, Listener
from gpurack.plan.models.health import age
from gpurack.plan.steps import Shell, down_for
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

DOCKER = "docker.service"
PROXY = re.compile(r"docker-proxy \(pid (\d+), user root\)")
SETTLING = 20
"""Seconds in which Docker says of a container that starts that it runs: NVIDIA's hook may take some."""
PATIENCE = 30
"""Seconds for an answer of Docker."""


def foreign_running(facts: HostFacts, user: str = "") -> list[Container]:
    """Return the running containers that gpurack did not create, by name. user: "" for the host's own Docker."""
    there = [one for one in facts.containers if one.running and not facts.is_ours(one) and one.user == user]
    return sorted(there, key=lambda one: one.name)


def stuck_ports(facts: HostFacts) -> list[Listener]:
    """Return where the host's Docker listens for containers that do not run: only its restart ends that.

    With live-restore, a dockerd that was killed while a container started does it (seen with 26.1.5, although `docker
    ps` lists the container as created; `docker rm` does not end it). A restart then stops nothing. Where Docker chose a
    port of a running container, the port may be that one. While another run works, it may be starting a container.
    """
    there = [one for one in facts.containers if not one.user and one.status in ("running", "restarting", "paused")]
    if facts.busy or facts.changing or not facts.docker.get("LiveRestoreEnabled"):
        return []
    if any(one.chosen_ports for one in there):
        return []
    used = {port for one in there for _, port in one.ports}
    proxies = [one for one in facts.listeners if one.unit == DOCKER and PROXY.fullmatch(one.owner)]
    return [one for one in proxies if one.port not in used]


def if_still_stuck(note: Shell, stuck: Sequence[Listener]) -> Shell:
    """Return the step `note` as one that acts only if Docker listens there for longer than a start takes.

    stuck: of `stuck_ports`. The snapshot sees a container that just starts as stuck, as docker-proxy is started first.
    """
    seen = [(found[1], one.port) for one in stuck if (found := PROXY.fullmatch(one.owner))]
    command = sh(
        # is there a PID PORT whose docker-proxy lives, although no running container publishes the port?
        "still() { while [ $# -gt 0 ]; do "
        '[ "$(cat /proc/$1/comm 2>/dev/null)" = docker-proxy ] && '
        '[ -z "$(timeout -k 5 {patience} docker ps -q --filter publish=$2 2>&1 || echo unknown)" ] && return 0; '
        "shift 2; done; return 1; }; tries=0; "
        "while still {seen}; do [ $tries -lt {settling} ] || { {note}; exit; }; tries=$((tries + 1)); sleep 1; done",
        patience=PATIENCE,
        seen=[word for pair in seen for word in pair],
        settling=SETTLING,
        note=note.command,
    )
    return replace(note, command=command)


def stranger(container: Container, facts: HostFacts) -> str:
    """`train-7 (not gpurack's, up 3 d)`"""
    started = parse_time(container.started)
    known = started is not None and started.tzinfo is not None and facts.now is not None
    up = f", up {age(started, facts.now)}" if known and facts.now else ""
    return f"{container.name} (not gpurack's{up})"


def what_stops(facts: HostFacts, live_restore: bool | None = None, user: str = "") -> str:
    """Return `, which stops 2 containers: train-7 (not gpurack's, up 3 d), alpha (down for about 40 s)`.

    It ends the reason of a restart; "" if it stops none. The admin must know this before confirming. live_restore: as
    in `may_stop_foreign`.
    """
    if bool(facts.docker.get("LiveRestoreEnabled")) if live_restore is None else live_restore:
        return ""
    ours = sorted(name for (whose, name), container in facts.ours.items() if whose == user and container.running)
    names = [stranger(one, facts) for one in foreign_running(facts, user)]
    for name in ours:
        seconds = facts.last_start(name, user)
        names.append(name + down_for([] if seconds is None else [seconds]))
    count = f"{len(names)} containers: " if len(names) > 1 else ""
    return f", which stops {count}{', '.join(names)}" if names else ""


def reboot_stops(facts: HostFacts) -> str:
    """Return `The reboot also stops train-7 (not gpurack's, up 3 d).`; "" if only containers of gpurack run.

    gpurack's own start again after a boot; what others started may be the work of days.
    """
    users = sorted({one.user for one in facts.containers})
    names = [stranger(one, facts) for user in users for one in foreign_running(facts, user)]
    return f"The reboot also stops {', '.join(names)}." if names else ""


def may_stop_foreign(
    spec: Host, facts: HostFacts, unattended: bool, why: str, live_restore: bool | None = None, user: str = ""
) -> Problem | None:
    """Return the error if a restart of Docker would stop containers of others; None if it may restart.

    why: what needs the restart. live_restore: will it be on during the restart (default: is it on now)? unattended:
    then `docker.restart: ask` refuses, because the run asks no question. Without -y, pyinfra's prompt is the question.
    user: of a rootless Docker, "" for the host's own.
    """
    keeps_running = bool(facts.docker.get("LiveRestoreEnabled")) if live_restore is None else live_restore
    foreign = foreign_running(facts, user)
    policy = spec.docker.restart
    if not foreign or keeps_running or policy == "always" or (policy == "ask" and not unattended):
        return None
    names = ", ".join(one.name for one in foreign)
    hint = "Run without -y and confirm, or with --restart (pyinfra: --data restart=always), or stop them yourself."
    if policy == "never":
        hint = 'The inventory says docker.restart: never; stop them yourself or write "ask".'
    return Problem.of("restart-stops-others", why=why, names=names, hint=hint)
