"""eve has bob's account on a host whose own Docker, ada's and bob's each serve a model. Whatever she does, the host,
other users' models and the admin's screen stay correct.

Each attack is a test of its own with the cheapest command. Then all compatible attacks are active at once, and every
command of the admin is tried. `unharmed` (evidence.py) holds in all of them.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.parts import USER_FILES
from gpurack.paths import RECORD
from tests.acceptance.conftest import Lab, containers, model
from tests.security.testbed.admin import Admin, Shown
from tests.security.testbed.eve import HOME, LISTENERS, NASTY, WEIGHTS, Eve, hostile_gguf
from tests.security.testbed.evidence import answers, changed, manifest, ran, unharmed
from tests.testbed import Host, Testbed, gguf_models, services
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

NAME = "rootless2"
KEYS = {"ALPHA": "sk-alpha-1234", "BETA": "sk-beta-1234", "GAMMA": "sk-gamma-1234"}
OTHERS = {8000: KEYS["ALPHA"], 8001: KEYS["BETA"], 8003: ""}
"""Port of each model that is not bob's → its key."""
SHARED = "/srv/shared"
COPIES = ("alpha-copy", "no-json")
HASTY = 10
"""Seconds for each part of a snapshot in place of gpurack's 30 (test_late.py proves these), where something hangs."""


def wanted(delta: dict[str, Any] | None = None, gamma: dict[str, Any] | None = None, **bob: Any) -> dict[str, Any]:
    """alpha and delta in the host's Docker, beta in ada's, gamma in bob's, from weights in bob's home. The arguments
    change fields of the two entries, and keys of bob's daemon.json."""
    models = {
        "alpha": model("alpha", [0], 8000, api_key={"env": "ALPHA"}),
        "beta": model("beta", [1], 8001, api_key={"env": "BETA"}, user="ada"),
        "gamma": {"weights": WEIGHTS, "gpus": [2], "port": 8002, "api_key": {"env": "GAMMA"}, "user": "bob"},
        "delta": {"weights": f"{SHARED}/delta.gguf", "gpus": [], "port": 8003},
    }
    models["gamma"] |= gamma or {}
    models["delta"] |= delta or {}
    return {NAME: {"docker": {"rootless": {"ada": {}, "bob": {"daemon": bob}}}, "models": models}}


@dataclass
class World:
    """The host, its attacker, its admin, and the inventory."""

    host: Host
    eve: Eve
    admin: Admin
    inventory: Path

    def with_inventory(self, name: str, data: dict[str, Any]) -> Path:
        """The same world with another inventory."""
        path = self.admin.lab.inventory(data)
        return path.rename(path.with_name(f"{name}.py"))

    def others_serve(self) -> None:
        """Each model that is not bob's answers correctly."""
        said = [SENTENCES[name] for name in ("alpha", "beta", "delta")]
        assert list(answers(self.host, OTHERS).values()) == said


@pytest.fixture(scope="module")
def world(testbed: Testbed, lab: Lab) -> Iterator[World]:
    """A host that is deployed once before any attack, with packages and users' Dockers from an earlier main job."""
    testbed.remove(NAME)
    host = testbed.add(NAME, "rootless", prepared=True)
    for path, name, owner in ((WEIGHTS, "gamma", "bob:bob"), (f"{SHARED}/delta.gguf", "delta", "root:root")):
        host.put(gguf_models.served(services.WEIGHTS, name).path.read_bytes(), path, owner=owner)
    host.root(f"chown bob:bob {Path(WEIGHTS).parent}")
    admin = Admin(lab, KEYS)
    inventory = lab.inventory(wanted())
    inventory = inventory.rename(inventory.with_name("calm.py"))
    run = lab.run(inventory, env=KEYS)
    assert run.exit_code == 0, run.output
    yield World(host, Eve(host), admin, inventory)
    testbed.remove(NAME)


# --- one attack, one test ---------------------------------------------------------------------------------------------


def test_tripwire_fires_when_root_runs_a_users_program(world: World) -> None:
    """Also when it inherits a lock. All tests here rely on it as proof that this did not happen."""
    program = f"{HOME}/bin/curl"
    with world.eve.programs_of_hers():
        with pytest.raises(AssertionError, match=program), unharmed(world.host):
            world.host.root(f"flock /run/gpurack/lock {program} -V")
        assert ran(world.host) == [f"0 {program} -V", "lock /run/gpurack/lock"]
        with unharmed(world.host):
            world.eve.does(f"{program} -V")
        assert ran(world.host) == [f"{world.eve.uid} {program} -V"]


def test_users_containers_are_no_options_and_do_not_hide_the_hosts(world: World) -> None:
    """`gpurack.probe=-K/home/bob/c` on a container called `alpha`, a ~/.curlrc, a label of `delta` that is not JSON, a
    Compose project of bob's with the name of gpurack's: the host's own models are shown."""
    ready = dict.fromkeys(("alpha", "beta", "gamma", "delta"), "ready")
    with world.eve.containers_like_the_hosts(), unharmed(world.host):
        world.eve.put(f"{HOME}/.curlrc", f'output = "{HOME}/curlrc-was-read"\n')
        assert world.admin.models(world.inventory) == ready
        world.eve.does("rm .curlrc; [ ! -e curlrc-was-read ]")


def test_process_name_opens_no_section_and_no_line(world: World) -> None:
    """Processes whose names contain newlines or escapes listen at the models' ports: the admin reads whose they are."""
    data = wanted()
    for name, port in zip(("alpha", "gamma", "delta"), LISTENERS, strict=True):
        data[NAME]["models"][name]["port"] = port
    with world.eve.listeners(*LISTENERS), unharmed(world.host):
        plan = world.admin.gpurack("plan", world.with_inventory("taken", data), "--live")
    plan.is_harmless()
    assert [port for port in LISTENERS if f"port {port}" not in plan.text] == []
    assert "bob" in plan.text, "whose processes they are"


def test_file_and_mount_names_open_no_section(world: World) -> None:
    with world.eve.names_with_newlines(), unharmed(world.host):
        assert set(world.admin.models(world.inventory).values()) == {"ready"}


def test_fifo_as_weights_blocks_nobody(world: World) -> None:
    with world.eve.in_place_of(WEIGHTS), unharmed(world.host):
        world.eve.does(f"mkfifo {WEIGHTS}")
        assert world.admin.models(world.inventory)["alpha"] == "ready"
        world.admin.run(world.inventory).is_harmless()
        world.admin.verify(world.inventory, "-m", "deep").is_harmless()


def test_root_does_not_follow_link_as_weights(world: World) -> None:
    """Neither the content of /etc/shadow nor its digest reaches a place that bob can read."""
    digest = world.host.root("sha256sum /etc/shadow").stdout.split()[0]
    to_lock = world.with_inventory("linked", wanted())  # its lock is not that of the others
    with world.eve.in_place_of(WEIGHTS), unharmed(world.host):
        world.eve.does(f"ln -s /etc/shadow {WEIGHTS}")
        shown = [world.admin.verify(world.inventory, "-m", "deep"), world.admin.gpurack("lock", to_lock)]
        kept = world.host.root(f"grep -rl {digest} /var/lib/gpurack", check=False).stdout
    assert [each.what for each in shown if digest in each.text or "root:" in each.text] == []
    assert kept == ""
    assert digest not in to_lock.with_suffix(".lock.yaml").read_text()


def test_special_files_in_a_home_block_nobody(world: World) -> None:
    """Each file of a home that the snapshot reads is of another kind, so that none hides the others."""
    commands = ("mkfifo {path}", "ln -s /etc/shadow {path}", "mkdir {path}")
    with ExitStack() as stack:
        for file, command in zip(USER_FILES, commands, strict=True):
            world.eve.does(command.format(path=stack.enter_context(world.eve.in_place_of(f"{HOME}/{file}"))))
        stack.enter_context(unharmed(world.host))
        plan = world.admin.gpurack("plan", world.inventory, "--live")
    plan.is_harmless()
    assert "root:" not in plan.text


def test_no_user_holds_or_sees_the_lock(world: World) -> None:
    for options in ("-n", "-s -n"):
        tried = world.eve.does(f"flock {options} /run/gpurack/lock true", check=False)
        assert tried.returncode != 0, f"flock {options}"
    assert world.host.root("stat -c '%a %U' /run/gpurack").stdout.split() == ["700", "root"]
    assert world.eve.does("echo eve >/run/gpurack/busy", check=False).returncode != 0


def test_parallel_snapshots_are_no_other_run(world: World) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [task.result() for task in [pool.submit(world.admin.run, world.inventory) for _ in range(2)]]
    for run in runs:
        assert run.exit_code == 0, run.text
        assert "another gpurack run" not in run.text


@pytest.fixture(scope="module")
def copies(world: World) -> dict[str, str]:
    """Name → id of containers that a member of the group docker made in the host's own Docker: two inherited alpha's
    labels by `docker commit` and `docker run`, and one has a label that is not JSON."""
    run = "docker run -d --entrypoint sleep --name"
    world.host.root(f"docker commit alpha copy:1 && {run} alpha-copy copy:1 1000000")
    world.host.root(f"{run} no-json --label gpurack.model='{{no' copy:1 1000000")
    return {name: data["Id"] for name, data in containers(world.host).items() if name in COPIES}


def test_reports_copies_of_our_containers_and_leaves_them(world: World, copies: dict[str, str]) -> None:
    with unharmed(world.host):
        run = world.admin.run(world.inventory)
    assert run.exit_code == 0, run.text
    assert [name for name in COPIES if name not in run.text] == [], run.text


def test_boot_unit_starts_our_containers_beside_copies(world: World, copies: dict[str, str]) -> None:
    world.host.root("docker stop alpha; docker stop -t 1 alpha-copy", check=False)
    booted = world.host.root("systemctl restart gpurack", check=False)
    running = {name for name, data in containers(world.host).items() if data["State"]["Running"]}
    world.host.root("docker start alpha", check=False)
    assert booted.returncode == 0
    assert running == {"alpha", "delta", "no-json"}, "it starts what is ours, and nothing else"


def test_model_output_reaches_screen_harmlessly(world: World) -> None:
    """A model of bob's that fails to start logs what its weights say; so does any server in its place."""
    changed_port = world.with_inventory("moved", wanted(gamma={"port": 8012}))
    with world.eve.in_place_of(WEIGHTS), unharmed(world.host):
        world.eve.put(WEIGHTS, hostile_gguf(NASTY))
        run = world.admin.run(changed_port)
        run.is_harmless()
        assert run.exit_code == 1, run.text
        assert "gamma" in run.text
        assert "models answered" in run.text, "no table at the end"
    again = world.admin.run(world.inventory)
    assert again.exit_code == 0, again.text


def test_other_server_in_place_of_users_model_is_harmless(world: World) -> None:
    """Its answers are text that a terminal would obey."""
    body = f'{{"object": "list", "data": [{{"id": "{NASTY}"}}], "status": "ok"}}'.encode()
    argv = ["python3", f"{HOME}/.eve/listener.py", "8002", b"llama-server".hex(), body.hex()]
    world.eve.does("docker stop -t 2 gamma")
    with unharmed(world.host), world.eve.running("impostor", *argv):
        found = world.admin.status(world.inventory)
        found.is_harmless()
        assert world.admin.models(world.inventory) == {
            "alpha": "ready", "beta": "ready", "gamma": "DOWN", "delta": "ready",
        }  # fmt: skip
        world.admin.gpurack("plan", world.inventory, "--live").is_harmless()
    world.eve.does("docker start gamma")


def test_host_with_other_key_than_pinned_gets_no_command(world: World) -> None:
    """With the key pinned as in docs/security.md, another server answers; or no key of this host is pinned."""
    known = world.inventory.with_name("known_hosts")
    pinned = wanted()
    pinned[NAME] |= {"ssh_known_hosts_file": str(known), "ssh_strict_host_key_checking": "yes"}
    inventory = world.with_inventory("pinned", pinned)
    host = world.host
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", known.with_name("other")], check=True)
    others_key = known.with_name("other.pub").read_text().split()[:2]
    own_key = host.root("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2]
    found = []
    for key in ([], others_key, own_key):
        known.write_text(f"[127.0.0.1]:{host.port} {' '.join(key)}\n" if key else "")
        begun = time.time()
        shown = world.admin.status(inventory)
        found.append(("UNREACHABLE" not in shown.text, host.ssh_commands(begun)))
    assert found == [(False, 0), (False, 0), (True, 1)]


# --- all of it at once, and every command -----------------------------------------------------------------------------


@dataclass
class AllAtOnce:
    """The output of every command of the admin while all attacks were active."""

    shown: list[Shown]
    files: dict[str, tuple[str | None, str | None]]
    """Files of root's that changed → before, after."""
    ran: list[str]

    def of(self, what: str) -> Shown:
        """The output of one command."""
        return next(each for each in self.shown if each.what == what)


@pytest.fixture(scope="module")
def at_once(world: World) -> AllAtOnce:
    """Plugins, containers, processes and names at once: every command, one after the other."""
    with ExitStack() as stack:
        stack.enter_context(world.eve.listeners(*LISTENERS))
        for attack in ("containers_like_the_hosts", "names_with_newlines", "programs_of_hers"):
            stack.enter_context(getattr(world.eve, attack)())
        world.host.root("rm -f /home/bob/ran; install -m 666 -o bob -g bob /dev/null /home/bob/ran")
        before = manifest(world.host)
        shown = [
            world.admin.status(world.inventory),
            world.admin.gpurack("plan", world.inventory, "--live"),
            world.admin.run(world.inventory),
            world.admin.verify(world.inventory),
            world.admin.gpurack("lock", world.inventory, "--check"),
            world.admin.gpurack("manifest", world.inventory),
        ]
        return AllAtOnce(shown, changed(before, manifest(world.host)), ran(world.host))


def test_at_once_root_files_stay_unchanged(at_once: AllAtOnce) -> None:
    assert at_once.files == {}


def test_at_once_root_runs_no_program_of_user(at_once: AllAtOnce) -> None:
    assert not [line for line in at_once.ran if line.startswith("0 ")]


def test_users_cli_plugin_does_not_speak_for_root(at_once: AllAtOnce) -> None:
    """Her docker-compose prints a list of packages with a repository of hers, like root's own snapshot."""
    assert [each.what for each in at_once.shown if "eve.list" in each.text] == [], "taken for root's own observation"
    assert "nothing changed" in at_once.of("run").text


def test_at_once_users_programs_get_no_lock(at_once: AllAtOnce) -> None:
    assert not [line for line in at_once.ran if line.startswith("lock ")]


def test_at_once_other_models_answer(world: World, at_once: AllAtOnce) -> None:
    world.others_serve()


def test_at_once_every_screen_is_harmless(at_once: AllAtOnce) -> None:
    assert {each.what: each.harmful() for each in at_once.shown if each.harmful()} == {}
    assert not [each.what for each in at_once.shown if "Traceback (most recent call last)" in each.text]


def test_at_once_a_run_changes_nothing(at_once: AllAtOnce) -> None:
    run = at_once.of("run")
    assert (run.exit_code, "nothing changed" in run.text) == (0, True), run.text
    assert "homework" in run.text, "the copy of its label in another project is not reported"


def test_at_once_checks_find_other_models_correct(at_once: AllAtOnce) -> None:
    found = at_once.of("verify")
    failed = [line for line in found.text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    about = [line for line in failed if f"[{NAME}-gamma]" not in line]
    assert about == [], found.text


# --- a Docker that lies -----------------------------------------------------------------------------------------------


def test_lying_docker_deceives_and_harms_nobody(world: World) -> None:
    """Names, ids, labels and ports that are commands, sections or escapes: in status, a run, the checks and remove."""
    with world.eve.docker_replaced("lying", world.eve.lies()) as journal, world.eve.programs_of_hers():
        with unharmed(world.host):
            seen = world.admin.models(world.inventory)
            assert {name: seen[name] for name in ("alpha", "beta", "delta")} == dict.fromkeys(
                ("alpha", "beta", "delta"), "ready"
            )
            shown = [world.admin.status(world.inventory), world.admin.run(world.inventory)]
            shown += [world.admin.verify(world.inventory)]
            for each in shown:
                each.is_harmless()
        world.others_serve()
        asked = world.eve.who_asked(journal)
        assert asked, "bob's Docker was never asked"
        assert not [what for uid, what in asked if uid == 0], "root spoke to bob's Docker as root"


# --- what hangs -------------------------------------------------------------------------------------------------------


@dataclass
class Hanging:
    """The output while bob's Docker was silent and delta's weights were on a dead file server."""

    status: Shown
    run: Shown
    left: list[list[str]]
    """The processes that hung, after the status and after the run."""


@pytest.fixture(scope="module")
def hanging(world: World) -> Hanging:
    """Both at once, so that neither may hide the other."""
    hasty = replace(world.admin, snapshot_limit=HASTY)
    later = world.with_inventory("later", wanted(gamma={"port": 8012}))
    left = []

    def hung() -> None:
        found = world.host.root("ps -eo pid,stat,args --no-headers | awk '$2 ~ /^D/'", check=False)
        left.append(found.stdout.splitlines())

    with world.eve.docker_replaced("silent"), world.eve.frozen(SHARED), unharmed(world.host):
        status = hasty.status(world.inventory)
        hung()
        run = hasty.run(later)
        hung()
    return Hanging(status, run, left)


def test_names_what_hangs_and_shows_rest_of_host(hanging: Hanging) -> None:
    """Within the limits (admin.LIMITS)."""
    hanging.status.is_harmless()
    assert "UNREACHABLE" not in hanging.status.text
    assert f"user bob timed out after {HASTY} s" in hanging.status.text, hanging.status.text
    assert f"gamma :8002: timed out after {HASTY} s" in hanging.status.text, hanging.status.text
    assert "3 of 4 models ready, 1 down" in hanging.status.text, hanging.status.text


def test_names_unkillable_process_again_in_next_snapshot(hanging: Hanging) -> None:
    assert re.search(rf"weights \S+ timed out after {HASTY} s, pid \d+ \(\w+\) is left behind", hanging.status.text)
    assert re.search(r"still hangs since \S+ \(pid \d+\)", hanging.run.text), hanging.run.text


def test_hanging_processes_do_not_pile_up(hanging: Hanging) -> None:
    """A process that no signal ends is abandoned, and not started again while it hangs."""
    first, second = hanging.left
    assert first, "nothing hung"
    assert len(second) <= len(first), second


def test_run_ends_while_a_docker_is_silent(hanging: Hanging) -> None:
    hanging.run.is_harmless()
    assert hanging.run.exit_code == 1
    assert any("bob" in line or "gamma" in line for line in hanging.run.errors), hanging.run.text


def test_host_lock_is_free_while_waiting_for_users_docker(world: World) -> None:
    """bob's Docker falls silent during a run that moves gamma to another port."""
    world.admin.run(world.inventory)  # repair what the previous attack left
    later = world.with_inventory("later", wanted(gamma={"port": 8012}))
    with world.eve.docker_replaced("drowsy") as journal, ThreadPoolExecutor(1) as pool:
        run = pool.submit(world.admin.run, later)
        changing = f"grep -qE 'POST|DELETE' {journal}"
        await_(
            lambda: run.done() or world.host.root(changing, check=False).returncode == 0, seconds=60, what="A change"
        )
        waited_for = not run.done()
        free = world.host.root("flock -w 5 /run/gpurack/lock true", check=False).returncode == 0
        world.host.root("systemctl stop eve-docker")  # waiting processes get an error
        ended = run.result()
    assert waited_for, ended.text
    assert free, "somebody holds it"
    ended.is_harmless()
    assert ended.exit_code == 1, ended.text
    world.others_serve()


def test_boot_unit_does_not_wait_for_silent_docker(world: World) -> None:
    """The host's own models start, and its lock is free."""
    with world.eve.docker_replaced("silent"):
        world.host.root("docker stop -t 2 alpha; systemctl restart --no-block gpurack")
        alpha = "docker inspect --format '{{.State.Running}}' alpha"
        await_(lambda: "true" in world.host.root(alpha).stdout, seconds=30, what="The start of alpha")
        free = world.host.root("flock -w 5 /run/gpurack/lock true", check=False).returncode == 0
        world.host.root("systemctl kill gpurack; systemctl stop gpurack", check=False)
    world.host.root("systemctl restart gpurack")
    assert free, "somebody holds it"


def test_interrupted_change_in_two_dockers_keeps_nothing_of_the_host(world: World) -> None:
    """delta, in the host's Docker, gets the port of gamma, in bob's, which never answers from the first change on; then
    the run is killed. The host's models serve or start at once, and its lock is free; the next test ends the change."""
    both = world.with_inventory("both", wanted(delta={"port": 8002}, gamma={"port": 8012}))
    hasty = replace(world.admin, snapshot_limit=HASTY)
    free = lambda: world.host.root("flock -w 5 /run/gpurack/lock true", check=False).returncode == 0  # noqa: E731
    with world.eve.docker_replaced("fading") as journal, ThreadPoolExecutor(1) as pool:
        run = pool.submit(hasty.run, both)
        changing = f"grep -qE 'POST|DELETE' {journal} && grep -q '\"phase\"' {RECORD}"
        await_(
            lambda: run.done() or world.host.root(changing, check=False).returncode == 0, seconds=60, what="A change"
        )
        waited_for, free_in_run = not run.done(), free()
        world.host.root("pkill -KILL -f '/models[.]py apply'; docker stop -t 2 alpha", check=False)
        world.host.root("systemctl restart --no-block gpurack")
        alpha = "docker inspect --format '{{.State.Running}}' alpha"
        await_(lambda: "true" in world.host.root(alpha).stdout, seconds=30, what="The start of alpha")
        free_at_boot, interrupted = free(), world.host.root(f"grep -c '\"phase\"' {RECORD}", check=False).stdout
        world.host.root("systemctl kill gpurack; systemctl stop gpurack", check=False)
        await_(lambda: answers(world.host, OTHERS)[8000] == SENTENCES["alpha"], seconds=20, what="alpha's answer")
        world.others_serve()
        ended = run.result()
    assert waited_for, ended.text
    assert (free_in_run, free_at_boot, interrupted.strip()) == (True, True, "1"), ended.text
    ended.is_harmless()
    assert ended.exit_code == 1, ended.text


def test_next_run_succeeds_after_all_that_hung(world: World, hanging: Hanging) -> None:
    run = world.admin.run(world.inventory)
    assert run.exit_code == 0, run.text
    world.others_serve()


# --- at the end -------------------------------------------------------------------------------------------------------


def test_root_creates_no_folder_through_users_link(world: World) -> None:
    """The data-root of bob's Docker is behind a link of bob's to /etc."""
    elsewhere = world.with_inventory("elsewhere", wanted(**{"data-root": f"{HOME}/space/docker-data"}))
    with world.eve.in_place_of(f"{HOME}/space") as path, unharmed(world.host):
        world.eve.does(f"ln -s /etc {path}")
        run = world.admin.run(elsewhere)
    run.is_harmless()
    assert run.exit_code == 1, run.text


def test_remove_beside_lying_docker_removes_only_ours(world: World, copies: dict[str, str]) -> None:
    """Copies of our containers stay, no name becomes a command, and other files of root are unchanged."""
    before = manifest(world.host)
    with world.eve.docker_replaced("lying", world.eve.lies()), world.eve.programs_of_hers():
        world.host.root("rm -f /home/bob/ran; install -m 666 -o bob -g bob /dev/null /home/bob/ran")
        gone = world.admin.run(world.inventory, deploy="remove")
        gone.is_harmless()
        assert not [line for line in ran(world.host) if line.startswith("0 ")]
    ours = ("/etc/gpurack", "/usr/local/lib/gpurack", "/var/lib/gpurack", "/etc/systemd/system")
    ours += ("/etc/tmpfiles.d/gpurack-logs.conf",)
    touched = [path for path in changed(before, manifest(world.host)) if not path.startswith(ours)]
    # those of our files; overlayfs changes the times of parents
    folders = ("/etc", "/etc/tmpfiles.d", "/usr/local", "/usr/local/lib")
    assert [path for path in touched if path not in folders] == []
    assert {name: data["Id"] for name, data in containers(world.host).items()} == copies
