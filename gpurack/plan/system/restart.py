"""May Docker restart? Only the containers that are not ours decide; ours come back by themselves. Pure."""

from gpurack.facts.model import HostFacts
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


def foreign_running(facts: HostFacts, user: str = "") -> list[str]:
    """Names of running containers that gpurack did not make, in a user's Docker or the host's own ("")."""
    return sorted(
        container.name
        for container in facts.containers
        if container.running and not facts.is_ours(container) and container.user == user
    )


def stops_foreign(facts: HostFacts, live_restore: bool | None = None, user: str = "") -> str:
    """`, which stops grafana, postgres`: for the reason of a restart; "" when it stops nobody. Who presses Enter at the
    prompt is to know it. live_restore: as in `may_stop_foreign`."""
    keeps_running = bool(facts.docker.get("LiveRestoreEnabled")) if live_restore is None else live_restore
    foreign = [] if keeps_running else foreign_running(facts, user)
    return f", which stops {', '.join(foreign)}" if foreign else ""


def may_stop_foreign(
    spec: Host, facts: HostFacts, unattended: bool, why: str, live_restore: bool | None = None, user: str = ""
) -> Problem | None:
    """The refusal when Docker would have to restart and containers of others would stop; None when it may.

    why: what wants the restart. live_restore: will it be on during the restart (default: is it on now)?
    unattended: `docker.restart: ask` can ask nobody, so it refuses; without -y pyinfra's prompt is the question. user:
    whose Docker, "" for the host's own.
    """
    keeps_running = bool(facts.docker.get("LiveRestoreEnabled")) if live_restore is None else live_restore
    foreign = foreign_running(facts, user)
    policy = spec.docker.restart
    if not foreign or keeps_running or policy == "always" or (policy == "ask" and not unattended):
        return None
    names = ", ".join(foreign)
    hint = 'Run without -y and confirm, stop them yourself, or write docker: {"restart": "always"}.'
    if policy == "never":
        hint = 'The inventory says docker.restart: never; stop them yourself or write "ask".'
    return Problem.of("restart-stops-others", why=why, names=names, hint=hint)
