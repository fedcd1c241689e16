"""Rootless Docker for the users that the inventory names, beside the host's own Docker. Pure.

Sources: docs.docker.com "Rootless mode", the toolkit's contract section 6, and tests with 26.1 and 28.5. Everything in
a user's home or daemon is done as that user.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import USER_DROP_IN, USER_HOOK_CONFIG, User
from gpurack.plan.models import weights
from gpurack.plan.packages.base import installed
from gpurack.plan.packages.platforms import Platform, platform_of
from gpurack.plan.steps import Folder, Plan, Shell, Step, WriteFile, written
from gpurack.plan.system import daemon_json
from gpurack.plan.system.gpu_access import access, by_hook
from gpurack.plan.system.hook_config import without_cgroups
from gpurack.plan.system.network import HEAD, digest, environment
from gpurack.plan.system.restart import may_stop_foreign, what_stops
from gpurack.plan.system.subordinate_ids import subordinate_ids, wrong_range
from gpurack.resources import SHIPPED, read_text
from gpurack.shell import Sh, sh
from gpurack.spec.host import Host
from gpurack.spec.merge import merge, patch
from gpurack.spec.problems import Problem

INHERITED = ("insecure-registries", "registry-mirrors")
"""Keys of the host's daemon.json that also apply to users' daemons: where images come from."""
START_AGAIN = sh(
    'ExecStartPost=-/bin/sh -c "{docker} ps -aq --filter label=gpurack.model --filter exited=128 | '
    'xargs -r {docker} start"',
    docker=sh("docker -H unix://%t/docker.sock"),
)
"""dockerd 26.1 starts containers before it has read the CDI specs. Those with GPUs exit with code 128."""
DROP_IN, HOOK_CONFIG = USER_DROP_IN, USER_HOOK_CONFIG
BUS = 60
"""Seconds that a request to a user's systemd may take. The user may stop the program that makes it."""
TMPFILES = "/etc/tmpfiles.d/gpurack.conf"
SYSCTLS = {"kernel/unprivileged_userns_clone": "1", "user/max_user_namespaces": "28633"}
SYSCTL_FILE = "/etc/sysctl.d/60-gpurack.conf"
PROFILE = "/etc/apparmor.d/gpurack-rootlesskit"


@dataclass(frozen=True)
class SetUp(Step):
    """Run Docker's set-up tool as a user.

    become: the words in front of a command that run it as this user. files: path below the home → text, written before;
    None removes a file.
    """

    become: Sh
    files: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Account:
    """A user of the inventory (spec) with an account on the host."""

    name: str
    spec: Host
    facts: HostFacts

    @property
    def user(self) -> User:
        """What the host says of the user."""
        return self.facts.users[self.name]


def plan_rootless(spec: Host, facts: HostFacts, unattended: bool, models_follow: bool = False) -> Plan:
    """Plan what gives each user of the inventory a working rootless Docker.

    models_follow: the models come next in this run. They report users without one themselves, so that the others are
    served.
    """
    platform = platform_of(facts.os)
    if platform is None or not spec.users:
        return Plan()
    steps = host_steps(spec, facts, platform)
    down: dict[str, Problem] = {}
    ranges: list[str] = []
    for name in spec.users:
        if error := unusable(name, facts):
            down[name] = error
            continue
        one = Account(name, spec, facts)
        mine = subordinate_ids(name, one.user, facts, ranges)
        mine += [*at_boot(name, one.user), *folders(one)]
        set_up = unit(one)
        apply, error = daemon(one, unattended, owed=bool(set_up))
        if error:
            down[name] = replace(error, path=f"docker.rootless.{name}")
        else:
            mine += [*set_up, *apply]
        steps += [replace(step, user=name) for step in mine]
    return Plan(tuple(steps), down=down) if models_follow else Plan(tuple(steps), tuple(down.values()))


def unusable(name: str, facts: HostFacts) -> Problem | None:
    """Return why a user can have no rootless Docker until an admin fixes it; None if there is no such reason."""
    user, path = facts.users.get(name), f"docker.rootless.{name}"
    if late := facts.late.get(f"user {name}") or facts.late.get("accounts"):
        return Problem.of("user-not-inspected", path=path, user=name, why=late)
    if user is None:
        return Problem.of("user-missing", path=path, user=name, command=sh("useradd --create-home {}", name))
    if user.uid == 0:
        return Problem.of("user-is-root", path=path, user=name)
    for file, lines in (("/etc/subuid", facts.kernel.subuids), ("/etc/subgid", facts.kernel.subgids)):
        if error := wrong_range(name, user, file, lines):
            return error
    return None


def not_ready(name: str, facts: HostFacts) -> Problem | None:
    """Return why nothing can run in a user's rootless Docker now; None if it answers."""
    if error := unusable(name, facts):
        return error
    user, path = facts.users[name], f"docker.rootless.{name}"
    if user.docker:
        return None
    if user.unit.loaded == "loaded":
        check = sh("systemctl --user -M {}@ status docker; journalctl _UID={} -n 30", name, user.uid)
        return Problem.of("rootless-silent", path=path, user=name, check=check)
    return Problem.of("rootless-missing", path=path, user=name)


# --- the host --------------------------------------------------------------------------------------------------------


def host_steps(spec: Host, facts: HostFacts, platform: Platform) -> list[Step]:
    """Return the steps that all users need: programs, user namespaces, and visible CDI specs."""
    steps: list[Step] = []
    programs = (*platform.rootless, *(platform.distro_rootless if spec.docker.source == "distro" else ()))
    missing = [name for name in programs if name not in installed(programs, facts)]
    if missing and spec.docker.source != "keep":
        steps.append(platform.packages.install(f"install {', '.join(missing)}", dict.fromkeys(missing), facts))
    low = [name for name in SYSCTLS if facts.kernel.sysctls.get(name) == "0"]
    if low:
        text = "".join(f"{name.replace('/', '.')} = {value}\n" for name, value in SYSCTLS.items() if name in low)
        steps.append(WriteFile(f"allow user namespaces ({', '.join(low)})", SYSCTL_FILE, text))
        steps.append(Shell("apply these settings", sh("sysctl -q -p {}", SYSCTL_FILE)))
    if facts.kernel.sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == "1":
        steps += [] if facts.kernel.rootlesskit_profile else [profile()]
    if facts.has_nvidia:
        steps += cdi_folders(facts)
        wrapper = read_text(SHIPPED[paths.DOCKERD_ROOTLESS])
        steps += written(
            "install the wrapper that shows CDI specs to rootless daemons",
            paths.DOCKERD_ROOTLESS,
            wrapper,
            facts,
            "755",
        )
    return steps


def profile() -> Step:
    """Return the step that adds an AppArmor profile for rootlesskit.

    From 24.04 on, Ubuntu allows user namespaces only to programs with a profile. The profile is loaded first and then
    renamed. If a run is killed in between, the file is missing and created again. AppArmor reads no file in that folder
    whose name begins with a dot.
    """
    folder, _, name = PROFILE.rpartition("/")
    command = sh(
        "printf %s {text} >{new} && chmod 644 {new} && apparmor_parser -r {new} && sync {new} && "
        "mv -f {new} {path} && sync {folder}",
        text=read_text("files/gpurack-rootlesskit"),
        new=f"{folder}/.{name}",
        path=PROFILE,
        folder=folder,
    )
    return Shell("allow rootlesskit to make user namespaces (AppArmor)", command)


def cdi_folders(facts: HostFacts) -> list[Step]:
    """Return the steps that create both folders of CDI specs early at every boot.

    A daemon that starts before they exist never sees them.
    """
    text = "".join(f"d {folder} 0755 root root -\n" for folder in paths.CDI_FOLDERS)
    steps = written("create the folders of CDI specs at every boot", TMPFILES, text, facts)
    if steps or not facts.kernel.folders >= set(paths.CDI_FOLDERS):
        steps.append(Shell("create the folders of CDI specs now", sh("systemd-tmpfiles --create {}", TMPFILES)))
    return steps


# --- a user ----------------------------------------------------------------------------------------------------------


def as_user(name: str, user: User) -> Sh:
    """Return the words in front of a command that run it as this user."""
    return sh("{}", paths.words_of_user(name, user.uid, user.gid, user.home))


def at_boot(name: str, user: User) -> list[Step]:
    """Return the step that starts the user's units now and at every boot, without a login."""
    if user.linger and user.manager:
        return []
    # dbus-user-session may have been installed while the user's systemd was running
    sentence = f"error the systemd of {name} does not answer. Check: systemctl status user@{user.uid}"
    command = sh(
        "loginctl enable-linger {name} && systemctl start user@{uid}.service && "
        "{ [ -S {runtime}/bus ] || { {bus} daemon-reload; {bus} start dbus.socket; } >/dev/null 2>&1; }; "
        "[ -S {runtime}/bus ] || { echo {sentence}; exit 1; }",
        name=name,
        uid=user.uid,
        runtime=user.runtime,
        bus=sh("timeout -k 5 {} {} systemctl --user", BUS, as_user(name, user)),
        sentence=sentence,
    )
    return [Shell(f"let {name}'s units start at boot (linger)", command)]


def folders(one: Account) -> list[Step]:
    """Return the steps that create a user's folders.

    The project, which root writes and the user's daemon reads; the weights, which only the user can read; and Docker's
    data.
    """
    name, user, spec = one.name, one.user, one.spec
    steps: list[Step] = []
    if user.folder != ("711", 0):
        command = sh("install -d -m 711 {} {}", paths.USERS, paths.project(name))
        steps.append(Shell(f"folder of {name}'s Compose project", command))
    if user.acl != f"user::rwx user:{user.uid}:r-x group::--- mask::r-x other::---":
        place = f"{weights.of_users(spec)}/{name}"
        steps.append(Folder(f"folder of {name}'s weights, closed to others", "weights", place, name))
    root = spec.docker.rootless[name].daemon.get("data-root")
    if isinstance(root, str) and user.docker.get("DockerRootDir") != root:
        steps.append(Folder(f"{root} for {name}'s Docker", "data", root, name))
    return steps


def unit(one: Account) -> list[Step]:
    """Return the step that sets up the user's docker.service with Docker's tool and our additions.

    Also after a failed attempt.
    """
    name, user, facts = one.name, one.user, one.facts
    there = {file: facts.files.get(f"{user.home}/{file}") for file in (DROP_IN, HOOK_CONFIG)}
    files = {
        file: text
        for file, text in wanted_files(one.spec, facts).items()
        if ((found := there[file]) and found.text) != text
    }
    ready = (user.unit.loaded, user.unit.active, user.unit.enabled) == ("loaded", "active", "enabled")
    broken = marker(user) in facts.files
    if ready and not files and not broken:
        return []
    why = "is not complete" if broken or not ready else ", ".join(sorted(files))
    reason = f"rootless Docker for {name}" + (f" ({why})" if user.unit.loaded == "loaded" else "")
    return [SetUp(reason, as_user(name, user), files)]


def wanted_files(spec: Host, facts: HostFacts) -> dict[str, str | None]:
    """Return path in a home → text of our files; None for a file that must not exist.

    For CDI and a proxy: lines of the unit. If the hook gives the GPUs: a configuration of the hook for the user,
    because a change of the system's would take the GPUs from the host's own Docker.
    """
    lines = environment(spec.proxy)
    # dockerd reads the trust store only at its start. A new certificate changes this text, which causes a restart.
    lines += [f"# trusts the certificate {digest(text)}" for text in spec.certificates()]
    config = None
    if facts.has_nvidia:
        lines += [f"Environment=DOCKERD={paths.DOCKERD_ROOTLESS}", START_AGAIN]
    if facts.has_nvidia and by_hook(spec, facts) and spec.nvidia.no_cgroups != "system":
        lines.append("Environment=XDG_CONFIG_HOME=%h/.config")
        system = facts.files.get(paths.HOOK_CONFIG)
        config = without_cgroups(system.text if system else "")
    text = "\n".join([f"{HEAD}\n[Service]", *lines]) + "\n"
    return {DROP_IN: text if lines else None, HOOK_CONFIG: config}


def marker(user: User) -> str:
    """Return the file that says that the user's daemon must restart."""
    return f"{user.runtime}/{paths.USER_RESTART_MARKER}"


def daemon(one: Account, unattended: bool, owed: bool) -> tuple[list[Step], Problem | None]:
    """Return the steps for the user's daemon.json and a restart, or the error.

    owed: does a step before this one need the restart?
    """
    name, user, spec, facts = one.name, one.user, one.spec, one.facts
    current, error = daemon_json.read(facts, user.daemon_json)
    if error:
        return [], error
    changes = wanted_keys(one, current)
    target = patch(current, changes)
    changed = sorted(key for key in {*current, *target} if current.get(key) != target.get(key))
    reasons = [daemon_json.describe(key, current.get(key), target.get(key)) for key in changed]
    expected: dict[str, Any] = {"LiveRestoreEnabled": bool(target.get("live-restore"))}
    if target.get("runtimes"):
        expected["Runtimes"] = sorted(target["runtimes"])
    if (target.get("features") or {}).get("cdi"):
        expected["CDISpecDirs"] = True
    why = stale(user, facts, expected, access(spec, facts) == "cdi")
    if not (changed or why or owed):
        return [], None
    reason = f"{name}'s Docker: {', '.join([*reasons, *why]) or 'restart'}"
    if refusal := may_stop_foreign(spec, facts, unattended, reason, live_restore=False, user=name):
        return [], refusal
    step = daemon_json.Apply(
        reason=f"{reason} (restart{what_stops(facts, False, name)})",
        patch=changes if changed else None,
        configure_runtime=daemon_json.runtime_is_ours(current, target) and facts.has_nvidia,
        action="restart",
        live_restore=False,
        expect=expected,
        probe_gpu=False,
        become=as_user(name, user),
    )
    return [step], None


def wanted_keys(one: Account, current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys to set or (None) remove for a user, as daemon_json.wanted does.

    No live-restore, because containers end with the daemon's namespaces. Images come from where the host's come from.
    """
    spec, facts = one.spec, one.facts
    own = spec.docker.rootless[one.name].daemon
    ours: dict[str, Any] = daemon_json.default_logging({*current, *own})
    if facts.has_nvidia:
        ours |= daemon_json.gpu_keys(spec, facts, current)
    ours |= {key: value for key, value in spec.docker.daemon.items() if key in INHERITED}
    merged: dict[str, Any] = merge(ours, own)
    return merged


def stale(user: User, facts: HostFacts, expected: Mapping[str, Any], cdi: bool) -> list[str]:
    """Return what the running daemon has not read yet, for messages."""
    why = ["an earlier change still needs a restart"] if marker(user) in facts.files else []
    if not user.docker:
        return why
    why += [f"dockerd does not know {what} yet" for what in daemon_json.unmet(expected, user.docker)]
    new, old = facts.docker.get("ServerVersion"), user.docker.get("ServerVersion")
    if new and new != old:
        why.append(f"dockerd is still {old}")
    if cdi and facts.has_nvidia and not user.sees >= set(paths.CDI_FOLDERS):
        why.append("dockerd does not see the CDI specs")
    return why
