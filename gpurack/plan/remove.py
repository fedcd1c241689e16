"""Remove what gpurack installed: models and project always, Docker and toolkit on request, data never. Pure."""

import json
from collections.abc import Mapping, Sequence

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.owner import owner
from gpurack.facts.parts import Container, User
from gpurack.plan.models.ownership import of_others
from gpurack.plan.packages.platforms import CE_PACKAGES, CE_ROOTLESS, TOOLKIT_PACKAGES, platform_of
from gpurack.plan.runner import draining
from gpurack.plan.steps import Plan, Shell, Step
from gpurack.plan.system.network import certificates, docker_proxy
from gpurack.plan.system.nvidia_driver import driver_holds
from gpurack.plan.system.restart import foreign_running
from gpurack.plan.system.rootless import DROP_IN, SYSCTL_FILE, TMPFILES, as_user
from gpurack.shell import Sh, sh, word
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

ASKABLE = ("models", "all")
PATIENCE, PATIENCE_OF_HOST = 120, 600
"""Seconds that a command may take in a user's Docker, and in the host's own."""


def plan_remove(facts: HostFacts, what: str, lab: str | None = None) -> Plan:
    """Plan the removal. what: "models", or "all" for Docker, the toolkit and users' rootless Dockers too.

    Weights, images, volumes, daemon.json, linger and subordinate ids stay. lab: the inventory's. While another lab has
    models on the host, nothing is removed, because they need the same project and Docker.
    """
    if what not in ASKABLE:
        known = " or ".join(f"--data remove={word}" for word in ASKABLE)
        return Plan(errors=(Problem.of("unsupported-data", word="remove", value=what, known=known),))
    if others := of_others(Host(lab=lab), facts):
        theirs = ", ".join(f"{name} of {owner(entry)}" for (_, name), entry in others.items())
        return Plan(errors=(Problem.of("others-on-host", names=theirs),))
    users = sorted(facts.users)
    if what == "all" and (foreign := [one.name for user in ("", *users) for one in foreign_running(facts, user)]):
        return Plan(errors=(Problem.of("remove-would-stop-others", names=", ".join(foreign)),))
    steps: list[Step] = []
    for user in ("", *users):
        limited = with_time_limit(user, facts.users[user]) if user else sh("timeout -k 5 {}", PATIENCE_OF_HOST)
        docker = sh("{} docker", limited)
        mine = {container.id: name for (whose, name), container in sorted(facts.proven.items()) if whose == user}
        # Both containers of a model whose replacement was interrupted.
        beside = [each for each in facts.containers if each.user == user and each.id in facts.generations]
        mine |= {each.id: facts.generations[each.id] for each in beside if each.id not in mine}
        if mine:
            ids, names = list(mine), list(dict.fromkeys(mine.values()))
            whose = f" of {user}" if user else ""
            command = sh("{} rm --force -- {} >/dev/null", docker, ids)
            running = [each for each in facts.containers if each.id in mine and each.running]
            if running and paths.RUNNER in facts.files:
                command = sh("{}; {}", ending(user, running, mine), command)
            # A change in the host's Docker and a user's holds the lock of the user's alone.
            locks = (user,) if user else ("", *users)
            slow = f"The Docker{whose} did not remove them within {PATIENCE if user else PATIENCE_OF_HOST} s."
            late = f"error {', '.join(names)}: {slow}"
            command = sh("{ {}; code=$?; [ $code != 124 ] || echo {}; (exit $code); }", command, late)
            steps.append(Shell(f"remove {', '.join(names)}{whose}", command, slow=True, user=user, locks=locks))
            network = sh("{} network rm gpurack_default >/dev/null 2>&1 || true", docker)
            steps.append(Shell(f"remove the project's network{whose}", network, user=user, locks=locks))
    if paths.BOOT_UNIT in facts.files:
        command = sh("systemctl disable -q gpurack.service; rm -f {}; systemctl daemon-reload", paths.BOOT_UNIT)
        steps.append(Shell("remove gpurack.service", command))
    if what == "all":
        # Not decided by paths.USERS, because an earlier remove=models has removed it.
        steps += [uninstall(name, facts.users[name]) for name in users if is_set_up(facts.users[name], facts)]
    ours = (paths.CONFIG, paths.LIB, paths.USERS)
    folders = any(user.folder for user in facts.users.values())
    if folders or any(path.startswith(ours) for path in (*facts.files, *facts.secrets)):
        command = sh("rm -rf {}", ours)
        steps.append(Shell("remove compose.yaml, secrets and the runner", command, locks=("", *users)))
    if paths.LOG_AGE in facts.files:
        command = sh("rm -rf {} && rm -f {}", paths.LOGS, paths.LOG_AGE)
        steps.append(
            Shell("remove kept logs, which nothing would remove after their time", command, locks=("", *users))
        )
    # A daemon that does not answer now is asked next time. A user without an account has no daemon.
    asked = [user for user in facts.record or () if not user or user in facts.users]
    if paths.RECORD in facts.files and all(facts.docker_of(user) for user in asked):
        command = sh("rm -f {}", paths.RECORD)
        steps.append(Shell("remove the record of gpurack's containers", command, locks=("", *users)))
    if what == "all":
        steps += packages(facts)
    return Plan(tuple(steps))


def ending(user: str, containers: Sequence[Container], names: Mapping[str, str]) -> Sh:
    """Return the command that stops a Docker's containers, after their running requests where the engine counts them.

    It needs the host's runner; that of an older gpurack does nothing. What it leaves running, the caller kills. names:
    id → name.
    """
    told = [{"id": each.id, "name": names[each.id], **draining(each)} for each in containers]
    return sh(
        "printf %s {} | timeout -k 5 {} python3 {} end || :",
        json.dumps({"user": user, "containers": told}),
        PATIENCE if user else PATIENCE_OF_HOST,
        paths.RUNNER,
    )


def with_time_limit(name: str, user: User) -> Sh:
    """Return the words in front of a command that run it as this user, with a time limit.

    A user's Docker may never answer.
    """
    return sh("timeout -k 5 {} {}", PATIENCE, as_user(name, user))


def is_set_up(user: User, facts: HostFacts) -> bool:
    """Does the user have a docker.service, or what a failed removal left of it?"""
    return user.unit.loaded == "loaded" or f"{user.home}/{DROP_IN}" in facts.files


def uninstall(name: str, user: User) -> Step:
    """Return the step that removes a user's docker.service with the tool that created it, and our drop-in.

    It runs as that user, because root would follow a link in the home, or wait for its file server. Debian's tool fails
    after it has done so, because it expects the docker command in its own folder for the client's context.
    """
    script = sh(
        'cd "$HOME" && { dockerd-rootless-setuptool.sh uninstall --force --skip-iptables; '
        "[ ! -e .config/systemd/user/docker.service ]; } && rm -f {} && { docker context rm --force rootless || :; }",
        DROP_IN,
    )
    command = sh("{} sh -c {}", with_time_limit(name, user), word(script))
    return Shell(f"remove the set-up of {name}'s rootless Docker; its data stays", command, slow=True, user=name)


def packages(facts: HostFacts) -> list[Step]:
    """Return the steps that remove the packages and our files."""
    steps: list[Step] = []
    platform = platform_of(facts.os)
    if platform:
        nothing = Host()
        steps += platform.packages.proxy(None, facts) + docker_proxy(nothing, facts)
        steps += certificates(nothing, facts, platform)
        steps += driver_holds(nothing, facts, platform.packages)
        known = dict.fromkeys((*TOOLKIT_PACKAGES, *CE_PACKAGES, CE_ROOTLESS, *platform.distro_packages))
        there = [name for name in known if name in facts.packages]
        steps += [platform.packages.remove(there, facts)] if there else []
        if paths.HELD in facts.files:
            steps.append(Shell("forget which packages gpurack held", sh("rm -f {}", paths.HELD)))
    # The path of a home may contain "/gpurack-" as well.
    named = (path for path in facts.files if "/gpurack-" in path and path.startswith(("/etc/", "/usr/")))
    files = sorted(path for path in named if path != paths.LOG_AGE)
    if files:
        steps.append(Shell("remove gpurack's repository files and keys", sh("rm -f {}", files)))
    rootless = [path for path in (paths.DOCKERD_ROOTLESS, TMPFILES, SYSCTL_FILE) if path in facts.files]
    if rootless:
        steps.append(Shell("remove what rootless Docker needed of the host", sh("rm -f {}", rootless)))
    return steps
