"""Rootless Docker of users: what is planned for a host and its users, and what their models mean for the rest."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Kernel, Probe, Unit, User
from gpurack.facts.record import Failed
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models import compose, weights
from gpurack.plan.models.desired import desire
from gpurack.plan.models.health import Health, health
from gpurack.plan.models.observed import Observed
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES
from gpurack.plan.questions import questions
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Plan, WriteFile
from gpurack.plan.system import gpu_access, hook_config, subordinate_ids
from gpurack.plan.system.daemon_json import RUNTIME, Apply
from gpurack.plan.system.nvidia_toolkit import no_cgroups, plan_toolkit
from gpurack.plan.system.rootless import (
    DROP_IN,
    HOOK_CONFIG,
    SYSCTL_FILE,
    TMPFILES,
    SetUp,
    not_ready,
    plan_rootless,
    unusable,
    wanted_files,
)
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError, Problem
from tests.given import SALT, container, docker_info, file, host_state, models_plan, package, running, said, spec, uuid
from tests.testbed.toolkit.build import lay_out

RANGES = ("ada:165536:65536", "bob:231072:65536")
PROGRAMS = ("uidmap", "slirp4netns", "dbus-user-session", "acl", "docker-ce-rootless-extras")
KERNEL = Kernel(subuids=RANGES, subgids=RANGES, folders=frozenset(paths.CDI_FOLDERS))
DAEMON_JSON = json.dumps({"log-driver": "local", "runtimes": {"nvidia": RUNTIME}})
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
BOTH: dict[str, Any] = {"docker": {"rootless": {"ada": {}, "bob": {}}}}


def user(uid: int, name: str, **said: Any) -> User:
    """A user with a complete rootless Docker."""
    whole = User(
        uid, uid, f"/home/{name}", linger=True, manager=True, unit=Unit("loaded", "active", "enabled"),
        folder=("711", 0), acl=f"user::rwx user:{uid}:r-x group::--- mask::r-x other::---",
        sees=frozenset(paths.CDI_FOLDERS), docker=docker_info(LiveRestoreEnabled=False),
    )  # fmt: skip
    return replace(whole, **said)


def host(spec: Host, cards: int = 2, **said: Any) -> HostFacts:
    """A host on which ada and bob need nothing. said: other fields of HostFacts."""
    with_cards = {"gpus": cards} if cards else {}
    drop_in = wanted_files(spec, host_state(**with_cards))[DROP_IN]
    facts = host_state(
        **with_cards,
        packages=dict.fromkeys(PROGRAMS, "1"),
        files={
            TMPFILES: "d /etc/cdi 0755 root root -\nd /run/cdi 0755 root root -\n",
            paths.DOCKERD_ROOTLESS: (Path(__file__).parents[2] / "files/dockerd-rootless").read_text(),
            **{f"/home/{name}/{DROP_IN}": drop_in for name in ("ada", "bob") if drop_in},
            **{f"/home/{name}/.config/docker/daemon.json": DAEMON_JSON for name in ("ada", "bob")},
        },
    )
    facts = replace(facts, kernel=KERNEL, users={"ada": user(1001, "ada"), "bob": user(1002, "bob")})
    return replace(facts, **said)


def plan(spec: Host, facts: HostFacts, unattended: bool = True, **options: Any) -> Plan:
    return plan_rootless(spec, facts, unattended, **options)


def with_ada(facts: HostFacts, **said: Any) -> HostFacts:
    return replace(facts, users={**facts.users, "ada": replace(facts.users["ada"], **said)})


def without(facts: HostFacts, path: str) -> HostFacts:
    return replace(facts, files={name: found for name, found in facts.files.items() if name != path})


def with_files(facts: HostFacts, **files: Any) -> HostFacts:
    return replace(facts, files={**facts.files, **{path: file(path, text) for path, text in files.items()}})


def reasons(found: Plan) -> list[str]:
    return [step.reason for step in found.steps]


# --- what is to do ---------------------------------------------------------------------------------------------------


def test_host_without_rootless_docker_has_no_steps() -> None:
    assert plan(spec(), host_state(gpus=2)).nothing


def test_complete_host_has_no_steps() -> None:
    wanted = spec(BOTH)
    assert plan(wanted, host(wanted)).nothing


def test_sets_up_bare_host_with_restart_last() -> None:
    wanted = spec({"docker": {"rootless": {"ada": {}}}})
    bare = replace(host_state(gpus=1), users={"ada": User(1001, 1001, "/home/ada")}, kernel=Kernel())
    found = plan(wanted, bare)
    assert reasons(found) == [
        "install uidmap, slirp4netns, dbus-user-session, acl",
        "create the folders of CDI specs at every boot",
        "create the folders of CDI specs now",
        "install the wrapper that shows CDI specs to rootless daemons",
        "subordinate ids of ada: 100000:65536",
        "let ada's units start at boot (linger)",
        "folder of ada's Compose project",
        "folder of ada's weights, closed to others",
        "rootless Docker for ada",
        'ada\'s Docker: log-driver: "local", runtimes.nvidia (restart)',
    ]
    *_, set_up, apply = found.steps
    assert isinstance(set_up, SetUp)
    assert isinstance(apply, Apply)
    assert (apply.action, apply.configure_runtime, apply.live_restore) == ("restart", True, False)
    assert apply.become.startswith("setpriv --reuid 1001 --regid 1001 --init-groups env -i HOME=/home/ada USER=ada ")


def test_installs_nothing_of_nvidia_without_gpus() -> None:
    wanted = spec({"docker": {"rootless": {"ada": {}}}})
    bare = replace(host_state(), users={"ada": User(1001, 1001, "/home/ada")}, kernel=KERNEL)
    assert not [reason for reason in reasons(plan(wanted, bare)) if "CDI" in reason or "nvidia" in reason]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"linger": False}, ["let ada's units start at boot (linger)"]),
        ({"folder": None}, ["folder of ada's Compose project"]),
        ({"folder": ("755", 0)}, ["folder of ada's Compose project"]),
        ({"acl": "user::rwx group::r-x other::r-x"}, ["folder of ada's weights, closed to others"]),
        ({"sees": frozenset({"/etc/cdi"})}, ["ada's Docker: dockerd does not see the CDI specs (restart)"]),
        (
            {"docker": docker_info("26.1.5", LiveRestoreEnabled=False)},
            ["ada's Docker: dockerd is still 26.1.5 (restart)"],
        ),
        (
            {"docker": docker_info(LiveRestoreEnabled=False, Runtimes={"runc": {}})},
            ["ada's Docker: dockerd does not know runtime nvidia yet (restart)"],
        ),
        (
            {"unit": Unit("loaded", "failed", "enabled")},
            ["rootless Docker for ada (is not complete)", "ada's Docker: restart (restart)"],
        ),
    ],
)
def test_repairs_only_the_affected_user(said: dict[str, Any], expected: list[str]) -> None:
    wanted = spec(BOTH)
    assert reasons(plan(wanted, with_ada(host(wanted), **said))) == expected


def test_repeats_setup_after_killed_run() -> None:
    """The marker of the setup is still there, so it may not have finished."""
    wanted = spec(BOTH)
    state = with_files(host(wanted), **{"/run/user/1001/gpurack-docker-restart": "restart\n"})
    assert reasons(plan(wanted, state)) == [
        "rootless Docker for ada (is not complete)",
        "ada's Docker: an earlier change still needs a restart (restart)",
    ]


@pytest.mark.parametrize("name", ["kernel/unprivileged_userns_clone", "user/max_user_namespaces"])
def test_allows_user_namespaces(name: str) -> None:
    wanted = spec(BOTH)
    state = replace(host(wanted), kernel=replace(KERNEL, sysctls={name: "0"}))
    write, load = plan(wanted, state).steps
    assert f"{name.replace('/', '.')} = " in write.content  # type: ignore[attr-defined]
    assert load.command == f"sysctl -q -p {SYSCTL_FILE}"  # type: ignore[attr-defined]
    assert plan(wanted, replace(host(wanted), kernel=replace(KERNEL, sysctls={name: "1"}))).nothing


@pytest.mark.parametrize(("restricted", "profile", "steps"), [("1", False, 1), ("1", True, 0), ("0", False, 0)])
def test_adds_apparmor_profile_where_needed(restricted: str, profile: bool, steps: int) -> None:
    wanted = spec(BOTH)
    sysctls = {"kernel/apparmor_restrict_unprivileged_userns": restricted}
    state = replace(host(wanted), kernel=replace(KERNEL, sysctls=sysctls, rootlesskit_profile=profile))
    assert len(plan(wanted, state).steps) == steps


def test_distribution_docker_needs_rootlesskit_but_kept_one_nothing() -> None:
    for source, missing in (("distro", "rootlesskit"), ("keep", None)):
        wanted = spec(BOTH, {"docker": {"source": source}})
        assert reasons(plan(wanted, host(wanted))) == ([f"install {missing}"] if missing else [])


@pytest.mark.parametrize("cards", [2, 0])
@pytest.mark.parametrize("word", ["ca", "proxy"])
def test_changed_proxy_or_ca_restarts_daemons_once(tmp_path: Path, cards: int, word: str) -> None:
    """dockerd reads its proxy and the trust store only at start. With and without GPUs; first set, then changed, then
    removed."""
    values = {"proxy": ["http://p:3128", "http://q:3128"], "ca": []}
    for letter in "ab":
        (tmp_path / f"{letter}.pem").write_text(CERTIFICATE.format(letter * 8))
        values["ca"].append(str(tmp_path / f"{letter}.pem"))
    before = spec(BOTH)
    for value in (*values[word], None):
        wanted = spec(BOTH, {word: value})
        assert reasons(plan(wanted, host(before, cards))) == [
            reason
            for name in ("ada", "bob")
            for reason in (f"rootless Docker for {name} ({DROP_IN})", f"{name}'s Docker: restart (restart)")
        ]
        assert plan(wanted, host(wanted, cards)).nothing
        before = wanted


# --- daemon.json -----------------------------------------------------------------------------------------------------


def test_mirrors_apply_to_users_and_their_own_keys_win() -> None:
    registries = {"insecure-registries": ["reg:5000"], "registry-mirrors": ["http://m"], "debug": True}
    own = {"registry-mirrors": ["http://mine"], "data-root": "/data/ada", "log-driver": None}
    wanted = spec({"docker": {"daemon": registries, "rootless": {"ada": {"daemon": own}, "bob": {}}}})
    found = [step for step in plan(wanted, host(wanted)).steps if isinstance(step, Apply)]
    assert [step.patch for step in found] == [
        {"insecure-registries": ["reg:5000"], **own},
        {"insecure-registries": ["reg:5000"], "registry-mirrors": ["http://m"]},
    ]
    assert "/data/ada for ada's Docker" in reasons(plan(wanted, host(wanted)))


def test_keeps_and_reports_invalid_daemon_json() -> None:
    wanted = spec(BOTH)
    found = plan(wanted, with_files(host(wanted), **{"/home/ada/.config/docker/daemon.json": "{,}"}))
    assert found.steps == ()
    assert found.errors[0].what.startswith("/home/ada/.config/docker/daemon.json is not JSON")


@pytest.mark.parametrize("why", ["daemon.json", "restart"])
def test_blocked_daemon_fails_only_models_of_its_user(why: str) -> None:
    """Blocked by an invalid daemon.json, or by a foreign container that -y may not stop."""
    models = {"alpha": {"port": 8000}, "beta": {"port": 8001, "user": "ada"}, "gamma": {"port": 8002, "user": "bob"}}
    wanted = spec(BOTH, {"models": models})
    state = replace(host(wanted), weights={"/w/a.gguf": 1})
    state = replace(state, users={name: replace(one, linger=False) for name, one in state.users.items()})
    if why == "restart":
        state = replace(with_ada(state, sees=frozenset()), containers=(container("jupyter", user="ada"),))
    else:
        state = with_files(state, **{"/home/ada/.config/docker/daemon.json": "{,}"})
    found = plan(wanted, state, models_follow=True)
    assert found.errors == ()
    assert [(step.user, step.reason) for step in found.steps] == [
        (name, f"let {name}'s units start at boot (linger)") for name in ("ada", "bob")
    ]
    assert found.down
    assert plan(wanted, state).errors == tuple(found.down.values())
    served = models_plan(wanted, state, down=found.down)
    assert said(served.errors) == {"beta": found.down["ada"].what}
    assert served.errors["beta"].path == "models.beta"
    assert [change.model for change in served.changes] == ["alpha", "gamma"]


@pytest.mark.parametrize(("whose", "refused"), [("ada", True), ("bob", False), ("", False)])
def test_only_containers_of_same_daemon_prevent_restart(whose: str, refused: bool) -> None:
    wanted = spec(BOTH)
    state = with_ada(host(wanted), sees=frozenset())
    found = plan(wanted, replace(state, containers=(container("jupyter", user=whose),)))
    assert bool(found.errors) is refused
    if refused:
        assert "containers that gpurack does not manage: jupyter" in found.errors[0].what


# --- who can have one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: replace(state, users={}),
            "the user ada does not exist on the host. gpurack creates no accounts",
        ),
        (lambda state: with_ada(state, uid=0), "ada is root. The Docker of root is the host's own"),
        (
            lambda state: replace(state, kernel=replace(KERNEL, subuids=("ada:1:10",))),
            "ada has fewer than 65536 subordinate ids in /etc/subuid",
        ),
        (
            lambda state: replace(state, kernel=replace(KERNEL, subgids=("ada:165536:65536", "eve:200000:65536"))),
            "the subordinate ids of ada in /etc/subgid overlap those of eve",
        ),
    ],
)
def test_unusable_user_is_an_error_and_others_continue(change: Any, sentence: str) -> None:
    wanted = spec({"docker": {"rootless": {"ada": {}}}}, {"models": {"beta": {"user": "ada", "port": 1234}}})
    state = change(host(wanted))
    (error,) = plan(wanted, state).errors
    assert error.what.startswith(sentence)
    assert unusable("ada", state) == not_ready("ada", state) == error
    before_models = plan(wanted, state, models_follow=True)
    assert before_models.nothing, "the models say it"
    assert before_models.down == {"ada": error}
    state = replace(state, weights={"/w/a.gguf": 1})
    found = models_plan(wanted, state, down={"ada": error, "bob": Problem.of("rootless-failed", what="is gone.")})
    assert said(found.errors) == {"beta": error.what, "docker.rootless.bob": "is gone."}


def test_distinguishes_silent_and_missing_daemon() -> None:
    state = host(spec(BOTH))
    assert not_ready("ada", state) is None
    assert said([not_ready("ada", with_ada(state, docker={}))])[0].startswith(
        "the rootless Docker of ada does not answer."
    )
    bare = with_ada(state, docker={}, unit=Unit())
    assert said([not_ready("ada", bare)])[0].startswith("ada has no rootless Docker yet. Run `gpurack apply`.")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), max_size=12), st.sets(st.integers(0, 10**6)))
def test_granted_ids_do_not_overlap(taken: list[tuple[int, int]], uids: set[int]) -> None:
    start = subordinate_ids.free_ids([f"u{index}:{begin}:{n}" for index, (begin, n) in enumerate(taken)], uids)
    mine = range(start, start + subordinate_ids.IDS)
    assert start >= subordinate_ids.FIRST_ID
    assert not [uid for uid in uids if uid in mine]
    assert not [begin for begin, n in taken if begin < mine.stop and mine.start < begin + n]


def test_two_users_get_different_ids(
    tmp_path: Path,
) -> None:
    wanted = spec(BOTH)
    state = replace(host(wanted), kernel=replace(KERNEL, subuids=(), subgids=("ada:100000:65536",)))
    ada, bob = plan(wanted, state).steps
    assert (ada.reason, bob.reason) == ("subordinate ids of ada: 165536:65536", "subordinate ids of bob: 231072:65536")
    (tmp_path / "subuid").write_text("lab:100000:65536")
    command = bob.command.replace("/etc/", f"{tmp_path}/")  # type: ignore[attr-defined]
    for _ in range(2):
        subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / "subuid").read_text() == "lab:100000:65536\nbob:231072:65536\n"
    assert (tmp_path / "subgid").read_text() == "bob:231072:65536\n"


# --- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "docker", "toolkit", "expected"),
    [
        ("auto", "28.5.2", "1.20.1-1", "cdi"),
        ("auto", "", "", "cdi"),
        ("auto", "24.0.9", "1.20.1-1", "runtime"),
        ("auto", "28.5.2", "1.14.6-1", "runtime"),
        ("runtime", "28.5.2", "1.20.1-1", "runtime"),
        ("gpus", "28.5.2", "1.20.1-1", "gpus"),
        ("cdi", "28.5.2", "1.20.1-1", "cdi"),
    ],
)
def test_chooses_access_to_gpus(word: str, docker: str, toolkit: str, expected: str) -> None:
    wanted = spec({"nvidia": {"access": word}, "models": {"alpha": {"gpus": [0], "port": 8000}}})
    facts = host_state(gpus=1, docker=docker)
    if toolkit:
        facts = replace(facts, packages={"nvidia-container-toolkit-base": package(toolkit)})
    assert gpu_access.access(wanted, facts) == expected
    data = desire("alpha", wanted, facts, (uuid(0),)).service
    assert data.get("runtime") == ("nvidia" if expected == "runtime" else None)
    if expected == "runtime":
        assert data["environment"]["NVIDIA_VISIBLE_DEVICES"] == uuid(0)
    else:
        driver, name = ("cdi", f"nvidia.com/gpu={uuid(0)}") if expected == "cdi" else ("nvidia", uuid(0))
        reserved = data["deploy"]["resources"]["reservations"]["devices"]
        assert reserved == [{"driver": driver, "device_ids": [name], "capabilities": ["gpu"]}]


def test_changed_access_recreates_with_reason() -> None:
    words = {"models": {"alpha": {"gpus": [0], "port": 8000}}}
    facts = replace(host_state(gpus=1), weights={"/w/a.gguf": 1})
    facts = replace(facts, containers=(running(spec(words), "alpha", facts, (uuid(0),)),))
    found = models_plan(spec(words, {"nvidia": {"access": "runtime"}}), facts)
    assert [str(change) for change in found.changes] == ["recreate alpha: nvidia.access cdi → runtime"]


def test_refuses_unsupported_cdi() -> None:
    wanted = spec({"nvidia": {"access": "cdi"}, "models": {"alpha": {"gpus": [0], "port": 8000}}})
    facts = replace(host_state(gpus=1, docker="24.0.9"), weights={"/w/a.gguf": 1})
    (error,) = models_plan(wanted, facts).errors.values()
    assert error.what.startswith("nvidia.access is cdi, but Docker 24.0.9 has no CDI")


@pytest.mark.parametrize(
    ("nvidia", "toolkit", "own"),
    [
        ({}, "1.20.1-1", False),
        ({"access": "runtime"}, "1.20.1-1", False),
        ({"access": "runtime"}, "1.17.9-1", True),
        ({"access": "gpus"}, "1.20.1-1", True),
        ({"access": "gpus", "no_cgroups": "system"}, "1.20.1-1", False),
    ],
)
def test_users_get_own_hook_configuration(nvidia: Any, toolkit: str, own: bool) -> None:
    system = "# ours\n[nvidia-container-cli]\n#no-cgroups = false\n"
    facts = host_state(gpus=1, packages={"nvidia-container-toolkit-base": toolkit}, files={paths.HOOK_CONFIG: system})
    wanted = spec({"nvidia": nvidia})
    files = wanted_files(wanted, facts)
    assert files[HOOK_CONFIG] == ("# ours\n[nvidia-container-cli]\nno-cgroups = true\n" if own else None)
    assert ("XDG_CONFIG_HOME=%h/.config" in str(files[DROP_IN])) is own
    for_all = nvidia.get("no_cgroups") == "system"
    assert [step.reason for step in no_cgroups(wanted, facts)] == (
        [f"no-cgroups in {paths.HOOK_CONFIG}, for the whole host"] if for_all else []
    )


@pytest.mark.parametrize(
    ("toolkit", "words", "refused"),
    [
        ("1.17.8-1", {"access": "runtime"}, True),
        ("1.20.1-1", {"access": "runtime"}, False),
        ("1.17.8-1", {}, False),
        ("1.14.6-1", {}, True),
    ],
)
def test_keeps_cgroups_while_hook_serves_docker_of_host(toolkit: str, words: dict[str, Any], refused: bool) -> None:
    """Versions missing in the inventory are known only on the host. Without GPUs in the host's own Docker it is
    allowed."""
    system = "[nvidia-container-cli]\n#no-cgroups = false\n"
    packages = dict.fromkeys(TOOLKIT_PACKAGES, toolkit)
    facts = host_state(gpus=1, packages=packages, files={paths.HOOK_CONFIG: system})
    for user, wrong in ((None, refused), ("ada", False)):
        model = {"gpus": [0], "port": 8000, "user": user}
        found = plan_toolkit(
            spec(BOTH, {"nvidia": {**words, "no_cgroups": "system"}, "models": {"alpha": model}}), facts
        )
        assert bool(found.errors) is wrong
        assert any(reason.startswith("no-cgroups in") for reason in reasons(found)) is not wrong
        assert all("would take the GPUs from alpha" in error.what for error in found.errors)


REST = "# a comment\ndisable-require = false\n\n"
CLI = "[nvidia-container-cli]  # mine\nload-kmods = true\n"
NEXT = '\n[nvidia-container-runtime]\nlog-level = "info"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{REST}{CLI}#no-cgroups = false\n{NEXT}", f"{REST}{CLI}no-cgroups = true\n{NEXT}"),
        (f"{REST}{CLI}no-cgroups = false # why\n{NEXT}", f"{REST}{CLI}no-cgroups = true # why\n{NEXT}"),
        (
            f"{REST}{CLI}{NEXT}",
            f"{REST}[nvidia-container-cli]  # mine\nno-cgroups = true\nload-kmods = true\n{NEXT}",
        ),
        (REST, f"{REST}[nvidia-container-cli]\nno-cgroups = true\n"),
        ("", "[nvidia-container-cli]\nno-cgroups = true\n"),
        (f"{NEXT}#no-cgroups = false\n", f"{NEXT}#no-cgroups = false\n[nvidia-container-cli]\nno-cgroups = true\n"),
    ],
)
def test_no_cgroups_changes_one_line_once(before: str, after: str) -> None:
    assert hook_config.without_cgroups(before) == after
    assert hook_config.without_cgroups(after) == after


def test_no_cgroups_edit_equals_that_of_nvidia_ctk() -> None:
    """As recorded from the real nvidia-ctk, before and after `--set nvidia-container-cli.no-cgroups`."""
    fixtures = Path(__file__).parents[1] / "testbed/toolkit/conformance/fixtures"
    before, after = ((fixtures / f"config.{name}.toml").read_text() for name in ("default", "nocgroups"))
    assert hook_config.without_cgroups(before) == after


@pytest.mark.parametrize("there", [True, False])
def test_changes_new_hook_configuration_in_same_run(tmp_path: Path, there: bool) -> None:
    """The step as it runs after the packages' postinst, by the stand-in of nvidia-ctk. A second snapshot then plans
    nothing."""
    wanted = spec({"nvidia": {"access": "gpus", "no_cgroups": "system"}})
    (step,) = no_cgroups(wanted, host_state(gpus=1), fresh=True)
    (program, *words) = step.command.replace(paths.HOOK_CONFIG, f"{tmp_path}/etc/c.toml").split()  # type: ignore[attr-defined]
    ctk = [str(lay_out(tmp_path / "toolkit", "1.20.1") / program), *words]
    if there:
        subprocess.run(ctk[:4] + ctk[-1:], check=True)
    subprocess.run(ctk, check=True)
    text = (tmp_path / "etc/c.toml").read_text()
    assert "no-cgroups = true" in text
    assert no_cgroups(wanted, host_state(gpus=1, files={paths.HOOK_CONFIG: text})) == []


def test_writes_missing_hook_configuration() -> None:
    (step,) = no_cgroups(spec({"nvidia": {"no_cgroups": "system"}}), host_state(gpus=1))
    assert isinstance(step, WriteFile)
    assert step.content == "[nvidia-container-cli]\nno-cgroups = true\n"


# --- models ----------------------------------------------------------------------------------------------------------


def in_docker_of(name: str | None, **over: Any) -> Host:
    return spec(BOTH, {"models": {"alpha": {"port": 8000, "user": name, **over}}})


def settled(spec: Host, where: str) -> HostFacts:
    state = replace(host(spec), weights={"/w/a.gguf": 1})
    return replace(state, containers=(running(spec, "alpha", state, user=where),))


def jobs(found: Any) -> dict[str, Any]:
    assert found.job
    return dict(found.job)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [(None, "ada", "user – → ada"), ("ada", "bob", "user ada → bob"), ("ada", None, "user ada → –")],
)
def test_moves_model_between_dockers(before: str | None, after: str | None, reason: str) -> None:
    state = settled(in_docker_of(before), before or "")
    found = models_plan(in_docker_of(after), state)
    assert [str(change) for change in found.changes] == [f"recreate alpha: {reason}"]
    (entry,) = jobs(found)["batches"][0]
    assert (entry["from"], entry["user"]) == (before or "", after or "")
    services = {user: list(project["services"]) for user, project in jobs(found)["projects"].items()}
    assert services == {"": [], before or "": [], after or "": ["alpha"]}


def test_model_whose_move_failed_is_asked_where_it_serves() -> None:
    """Else runs and status would say of the one that serves in the former Docker that it is not ready."""
    wanted, state = in_docker_of("ada"), settled(in_docker_of(None), "")
    assert {row[:2] for row in questions(wanted).probes} == {("ada", "alpha"), ("", "alpha"), ("bob", "alpha")}
    label = json.dumps(desire("alpha", wanted, state, ()).definition)
    failed = {("ada", "alpha"): Failed("2026-11-28T02:16:41Z", label, "", "{}", "exited", True, 154)}
    state = replace(state, failed=failed, probes={("", "alpha"): Probe(200, '{"data":[{"id":"alpha"}]}')})
    assert health(Observed("alpha", wanted, state)) == Health.READY
    assert "The previous one serves." in said(models_plan(wanted, state).errors)["alpha"]


def test_moves_gpus_and_ports_between_daemons_in_one_group() -> None:
    """One ledger for all daemons: ada's model makes room for bob's, and they form one group."""
    words = {"alpha": {"port": 8000, "gpus": [0], "user": "ada"}, "beta": {"port": 8001, "gpus": [1], "user": "bob"}}
    swapped = {**words, "alpha": {**words["alpha"], "gpus": [1]}, "beta": {**words["beta"], "gpus": [0]}}
    old, new = spec(BOTH, {"models": words}), spec(BOTH, {"models": swapped})
    state = replace(host(old), weights={"/w/a.gguf": 1})
    held = [running(old, "alpha", state, (uuid(0),), user="ada"), running(old, "beta", state, (uuid(1),), user="bob")]
    (group,) = jobs(models_plan(new, replace(state, containers=tuple(held))))["batches"]
    assert [(entry["name"], entry["from"], entry["user"]) for entry in group] == [
        ("alpha", "ada", "ada"),
        ("beta", "bob", "bob"),
    ]


def test_key_is_readable_by_its_user_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURACK_TEST_KEY", "x")
    wanted = in_docker_of("ada", api_key={"env": "GPURACK_TEST_KEY"})
    state = replace(host(wanted), weights={"/w/a.gguf": 1})
    path = "/var/lib/gpurack/users/ada/secrets/alpha/api_key"
    secrets = {"alpha": {"api_key": "sk-one"}}
    first = models_plan(wanted, state, secrets)
    assert path in jobs(first)["projects"]["ada"]["services"]["alpha"]["secrets"]["alpha_api_key"]
    made = desire("alpha", wanted, state, (), secrets["alpha"], SALT).labelled
    text = compose.document({"alpha": made}, "ada")
    box = running(wanted, "alpha", state, user="ada", secrets=secrets["alpha"])
    there = with_files(replace(state, containers=(box,)), **{paths.compose_file("ada"): text})
    for owner, job in ((1001, False), (0, True), (1002, True)):
        found = models_plan(wanted, replace(there, secrets={path: ("400", owner)}), secrets)
        assert bool(found.job) is job, owner


def test_fetched_weights_are_in_private_folder_of_user() -> None:
    url = {"url": "http://w/a.gguf", "sha256": "ab" * 32}
    for name, folder in ((None, ""), ("ada", "/users/ada")):
        wanted = in_docker_of(name, weights=url)
        path = weights.host_path(wanted, wanted.models["alpha"])
        assert path.startswith(f"/var/lib/gpurack/weights{folder}/abab")
    wanted = in_docker_of("ada")
    assert weights.host_path(wanted, wanted.models["alpha"]) == "/w/a.gguf"


def test_reports_weights_unreadable_for_user() -> None:
    wanted = in_docker_of("ada")
    state = with_ada(replace(host(wanted), weights={"/w/a.gguf": 1}), unreadable=frozenset({"/w/a.gguf"}))
    assert models_plan(wanted, state).errors["alpha"].what.startswith("weights /w/a.gguf are not readable by ada")


def test_name_clash_is_per_docker() -> None:
    wanted = in_docker_of("ada")
    state = replace(host(wanted), weights={"/w/a.gguf": 1})
    for whose, taken in (("", False), ("bob", False), ("ada", True)):
        found = models_plan(wanted, replace(state, containers=(container("alpha", user=whose),)))
        assert bool(found.errors) is taken, whose


# --- the inventory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "path", "what"),
    [
        ({"models": {"a1": {"user": "eve"}}}, "models.a1.user", "eve has no rootless Docker on this host"),
        ({"models": {"a1": {"user": "ada", "port": 80}}}, "models.a1.port", "80 is reserved for root"),
        ({"docker": {"rootless": {"root": {}}}}, "docker.rootless.root", "root uses the host's own Docker"),
        ({"docker": {"rootless": {"../x": {}}}}, "docker.rootless.../x", "is not a valid user name"),
        (
            {"docker": {"rootless": {"ada": {"daemon": {"features": []}}}}},
            "docker.rootless.ada.daemon",
            "`features` must be a map",
        ),
        (
            {"nvidia": {"access": "gpus", "no_cgroups": "system"}, "models": {"a1": {"gpus": [0]}}},
            "nvidia.no_cgroups",
            "would take the GPUs from a1",
        ),
        (
            {
                "nvidia": {"toolkit": "1.17.8", "access": "runtime", "no_cgroups": "system"},
                "models": {"a1": {"gpus": [0]}},
            },
            "nvidia.no_cgroups",
            "would take the GPUs from a1",
        ),
        (
            {
                "docker": {"version": "24.0.9"},
                "nvidia": {"toolkit": "1.17.8", "no_cgroups": "system"},
                "jobs": {"j1": {"gpus": [0], "engine": "llama.cpp", "version": "b7000", "command": ["quantize"]}},
            },
            "nvidia.no_cgroups",
            "would take the GPUs from j1",
        ),
    ],
)
def test_refuses_invalid_users(data: Mapping[str, Any], path: str, what: str) -> None:
    common = {"docker": {"rootless": {"ada": {}}}}
    defaults = {"defaults": {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}}
    with pytest.raises(InventoryError) as error:
        check_fleet({"gpu1": [common, defaults, data]})
    (problem,) = error.value.problems
    assert problem.path == path
    assert what in problem.what


def test_null_removes_key_of_users_daemon_json() -> None:
    wanted = spec({"docker": {"rootless": {"ada": {"daemon": {"log-driver": None}}}}})
    assert wanted.docker.rootless["ada"].daemon == {"log-driver": None}


# --- taken away ------------------------------------------------------------------------------------------------------


def test_remove_all_after_models_ends_users_daemons() -> None:
    """remove=models removes the folders of users' projects. Their Dockers still exist, maybe with other containers."""
    wanted = in_docker_of("ada")
    state = host(wanted)
    left = replace(state, users={name: replace(one, folder=None) for name, one in state.users.items()})
    assert plan_remove(left, "models").nothing
    assert reasons(plan_remove(left, "all"))[:2] == [
        "remove the set-up of ada's rootless Docker; its data stays",
        "remove the set-up of bob's rootless Docker; its data stays",
    ]
    foreign = replace(left, containers=(container("jupyter", user="bob"),))
    assert plan_remove(foreign, "all").errors[0].what.endswith("run in it: jupyter.")
    gone = replace(left, users={"ada": User(1001, 1001, "/home/ada")}, files={}, packages={})
    assert plan_remove(gone, "all").nothing


def test_remove_all_ends_users_daemons_and_keeps_data() -> None:
    wanted = in_docker_of("ada")
    state = settled(wanted, "ada")
    found = plan_remove(state, "models")
    assert reasons(found) == [
        "remove alpha of ada", "remove the project's network of ada", "remove compose.yaml, secrets and the runner",
    ]  # fmt: skip
    everything = plan_remove(state, "all")
    assert [reason for reason in reasons(everything) if "rootless" in reason] == [
        "remove the set-up of ada's rootless Docker; its data stays",
        "remove the set-up of bob's rootless Docker; its data stays",
        "remove docker-ce-rootless-extras",
        "remove what rootless Docker needed of the host",
    ]
    commands = " ".join(str(vars(step)) for step in everything.steps)
    assert "weights" not in commands
    assert ".local/share/docker" not in commands
    foreign = replace(state, containers=(*state.containers, container("jupyter", user="bob")))
    assert plan_remove(foreign, "all").errors[0].what.endswith("run in it: jupyter.")
