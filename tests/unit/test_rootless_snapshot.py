"""Users and their rootless Dockers in the snapshot: files/snapshot.sh with fakes, and its parser."""

import base64
import json
from pathlib import Path

import pytest

from gpurack.facts.parse import parse
from gpurack.facts.parts import Kernel, Unit, User
from gpurack.facts.snapshot import Snapshot, script
from gpurack.facts.system import kernel
from gpurack.plan.questions import questions
from tests.given import framed, spec
from tests.sampling import sample
from tests.unit.host_programs import Fakes
from tests.unit.test_snapshot_script import SHELLS, look

INFO = {"ServerVersion": "28.5.2", "SecurityOptions": ["name=rootless"]}


def said(*lines: str) -> str:
    """The output of a user's own programs, as it arrives."""
    return base64.b64encode("\n".join([*lines, "@@ end"]).encode()).decode()


def test_parses_user() -> None:
    image = f"sha256:{'ab' * 32}"
    lines = [
        "@@ weights", "1 regular file|/w/a b.gguf", "- missing|/w/b.gguf",
        "@@ user ada",
        "account 1001 1002 /home/ada", "linger yes", "folder 711 0", "weights user::rwx user:1001:r-x ",
        "@@ said ada",
        said(
            "@@ own", "unit LoadState=loaded ActiveState=active UnitFileState=enabled ", "sees /etc/cdi",
            "sees /run/cdi", "unreadable /w/a b.gguf", "unreadable /w/b.gguf",
            "@@ docker", json.dumps(INFO), "@@ images", f"{image}|a:1", "-|b:1",
        ),
        "@@ user ghost", "@@ user bob", "account 1003 1003 /home/bob", "folder ", "weights ", "@@ said bob",
        said("@@ own", "unit "), "@@ end",
    ]  # fmt: skip
    ada = User(
        1001, 1002, "/home/ada", True, True, Unit("loaded", "active", "enabled"), ("711", 0),
        "user::rwx user:1001:r-x", frozenset({"/etc/cdi", "/run/cdi"}), frozenset({"/w/a b.gguf"}), INFO,
        {"a:1": image},
    )  # fmt: skip
    assert parse(framed(lines)).users == {"ada": ada, "bob": User(1003, 1003, "/home/bob")}


def test_parses_requirements_of_rootless_docker() -> None:
    lines = [
        "sysctl user/max_user_namespaces 0", "apparmor yes", "subuid ada:100000:65536", "subgid ada:100000:65536",
        "uid 70000", "folder /etc/cdi",
    ]  # fmt: skip
    assert kernel(lines) == Kernel(
        {"user/max_user_namespaces": "0"}, True, ("ada:100000:65536",), ("ada:100000:65536",), frozenset({70000}),
        frozenset({"/etc/cdi"}),
    )  # fmt: skip


@pytest.mark.parametrize("shell", sample(SHELLS, "queries_user_as_that_user"), ids=lambda shell: shell[0])
def test_queries_user_as_that_user(shell: list[str], fakes: Fakes, tmp_path: Path) -> None:
    """Docker, systemd and files in the home are behind setpriv. A user who does not exist is missing."""
    home = tmp_path / "home" / "ada"
    (home / ".config" / "docker").mkdir(parents=True)
    (home / ".config" / "docker" / "daemon.json").write_text('{"debug": true}')
    fakes.add("getent", f'case "$*" in "passwd ada") echo "ada:x:4711:4712::{home}:/bin/sh";; *) exit 2;; esac')
    fakes.add(
        "timeout",
        'case "$*" in *setpriv*) while [ "$1" != env ]; do shift; done; shift 2; exec env "$@";; esac; shift; "$@"',
    )
    fakes.add("docker", 'echo "for ${DOCKER_HOST:-root}" >>"$STATE/asked"')
    seen = Snapshot().process(look(shell, script(questions(spec({"docker": {"rootless": {"ada": {}, "ghost": {}}}})))))
    assert seen.trouble is None
    assert seen.users == {"ada": User(4711, 4712, str(home))}
    assert seen.files[f"{home}/.config/docker/daemon.json"].text == '{"debug": true}'
    prefix = "timeout -s KILL 30 setpriv --reuid 4711 --regid 4712 --init-groups env -i "
    asked = [call for call in fakes.calls if call.startswith("timeout") and "head" not in call]
    assert asked
    assert all(call.startswith(f"{prefix}HOME={home} USER=ada PATH=") for call in asked)
    assert all("DOCKER_HOST=unix:///run/user/4711/docker.sock" in call for call in asked)


def test_queries_no_user_without_rootless_docker(fakes: Fakes) -> None:
    fakes.add("getent", "exit 2")
    seen = Snapshot().process(look(["sh"], script(questions(spec()))))
    assert (seen.trouble, seen.users, seen.kernel) == (None, {}, Kernel())
    assert not [call for call in fakes.calls if call.startswith("getent")]
