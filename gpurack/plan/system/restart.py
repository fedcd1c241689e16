"""May Docker restart? Only containers that are not ours decide; ours start again by themselves. Pure."""

from gpurack.facts.model import HostFacts
from gpurack.plan.steps import down_for
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def foreign_running(facts: HostFacts, user: str = "") -> list[str]:
    """Return the running containers that gpurack did not create. user: "" for the host's own Docker."""
    return sorted(
        container.name
        for container in facts.containers
        if container.running and not facts.is_ours(container) and container.user == user
    )


def what_stops(facts: HostFacts, live_restore: bool | None = None, user: str = "") -> str:
    """Return `, which stops grafana (not gpurack's), alpha (down for about 40 s)` for the reason of a restart.

    "" if it stops none. The admin must know this before confirming. live_restore: as in `may_stop_foreign`.
    """
    if bool(facts.docker.get("LiveRestoreEnabled")) if live_restore is None else live_restore:
        return ""
    ours = sorted(name for (whose, name), container in facts.ours.items() if whose == user and container.running)
    foreign = foreign_running(facts, user)
    names = [f"{name} (not gpurack's)" if ours else name for name in foreign]
    for name in ours:
        seconds = facts.last_start(name, user)
        names.append(name + down_for([] if seconds is None else [seconds]))
    return f", which stops {', '.join(names)}" if names else ""


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
    names = ", ".join(foreign)
    hint = "Run without -y and confirm, or with --restart (pyinfra: --data restart=always), or stop them yourself."
    if policy == "never":
        hint = 'The inventory says docker.restart: never; stop them yourself or write "ask".'
    return Problem.of("restart-stops-others", why=why, names=names, hint=hint)
