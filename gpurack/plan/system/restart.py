"""May Docker restart? Only containers that are not ours decide; ours start again by themselves. Pure."""

from gpurack.facts.model import Container, HostFacts
from gpurack.facts.parse import parse_time
from gpurack.plan.models.health import age
from gpurack.plan.steps import down_for
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def foreign_running(facts: HostFacts, user: str = "") -> list[Container]:
    """Return the running containers that gpurack did not create, by name. user: "" for the host's own Docker."""
    there = [one for one in facts.containers if one.running and not facts.is_ours(one) and one.user == user]
    return sorted(there, key=lambda one: one.name)


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
