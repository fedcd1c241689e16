"""Names from hosts and inventories as words of root's shell commands: each stays one word, and nothing in it is
executed.
"""

from __future__ import annotations

import copy
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpurack import paths
from gpurack.commands import image_save
from gpurack.facts.docker import container as parse_container
from gpurack.facts.parts import User
from gpurack.facts.snapshot import script
from gpurack.operations.commands import carry_out, slow, write_file
from gpurack.plan.models import compose
from gpurack.plan.packages import apt, rpm
from gpurack.plan.packages.base import Pin
from gpurack.plan.packages.platforms import PLATFORMS
from gpurack.plan.questions import questions
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import SetAside, Shell, Step, WriteFile
from gpurack.plan.system import daemon_json, rootless, subordinate_ids
from gpurack.plan.system.network import certificates
from gpurack.plan.system.nvidia_driver import driver_holds
from gpurack.plan.system.nvidia_toolkit import cdi
from gpurack.resources import read_text
from gpurack.shell import Sh, all_of, by_ssh, of_file, sh, word
from gpurack.spec.host import Host
from tests.given import container, host_state, id_of, spec

HOSTILE = [
    "x;echo >CANARY|echo >CANARY&\necho >CANARY\n",
    "$(echo >CANARY)`echo >CANARY`",
    "it's;echo >CANARY;'",
    '";echo >CANARY;"',
    "-rf --privileged * ~ {a,b} \\",
    "",
]
"""Outside of quotes, inside double quotes (also the next), after single quotes, after double quotes, as options and
patterns, and as no word at all.
"""
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
TRIXIE = PLATFORMS["debian", "13"]
SLOWLY = settings(deadline=None, max_examples=10)  # each example starts a shell


@pytest.fixture(params=HOSTILE, ids=repr)
def hostile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


REAL = (
    "cat",
    "cut",
    "date",
    "grep",
    "head",
    "mktemp",
    "sed",
    "sh",
    "sleep",
    "sort",
    "tail",
    "tee",
    "timeout",
    "tr",
    "uniq",
    "xargs",
)
NOTED = (
    "apt-cache", "apt-get", "apt-mark", "awk", "chmod", "cp", "dnf", "docker", "dpkg", "dpkg-query", "flock", "install",
    "loginctl", "mkdir", "mv", "nvidia-ctk", "python3", "rm", "rmdir", "rpm", "setfacl", "setpriv", "sync", "systemctl",
    "update-ca-certificates",
)  # fmt: skip


class Machine:
    """A folder in which commands run. Programs in REAL are the real ones; those in NOTED only record their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder, folder / "bin", folder / "log"
        self.bin.mkdir()
        stub = folder / "stub"
        stub.write_text(f"#!/bin/sh\nprintf '%s\\0' \"${{0##*/}}\" \"$@\" '\1' >>{self.log}\n")
        stub.chmod(0o755)
        for name in NOTED:
            (self.bin / name).symlink_to(stub)
        for name in REAL:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for place in ("/var/lib/gpurack", "/run/gpurack", "/etc"):
            (folder / f"root{place}").mkdir(parents=True)

    def run(self, *commands: str) -> list[list[str]]:
        """The programs that the commands called. No text in the commands was executed."""
        self.log.write_text("")
        for command in commands:
            for place in ("/var/lib/gpurack", "/run/gpurack", "/etc/subuid", "/etc/subgid"):
                command = command.replace(place, f"{self.folder}/root{place}")
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                env={"PATH": str(self.bin), "TMPDIR": str(self.folder)},
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert not (self.folder / "CANARY").exists(), command
            assert "not found" not in done.stderr, done.stderr
        return [call.split("\0")[:-1] for call in self.log.read_text().split("\1\0")[:-1]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


def test_machine_detects_executed_commands(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="CANARY"):
        machine.run("docker rm --force alpha x;echo >CANARY")
    (machine.folder / "CANARY").unlink()


def shells(steps: Sequence[Step]) -> list[Shell]:
    return [step for step in steps if isinstance(step, Shell)]


# --- the helper ------------------------------------------------------------------------------------------------------


def printed(command: str) -> list[str]:
    """The output of `printf '%s\\0'` in a command."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@SLOWLY
@example(HOSTILE)
@given(st.lists(TEXT, min_size=1, max_size=30))
def test_any_text_is_one_word(texts: list[str]) -> None:
    one, *more = texts
    assert printed(sh("printf '%s\\0' {}/{name} {}", one, more, name=one)) == [f"{one}/{one}", *more]
    inner = sh("printf '%s\\0' {}", texts)
    assert printed(sh("sh -c {} && printf '%s\\0' \"$(printf %s {})\"", word(inner), "x")) == [*texts, "x"]
    assert printed(all_of([inner, inner])) == texts * 2


@SLOWLY
@given(TEXT)
def test_ssh_line_is_quoted_for_two_shells(text: str) -> None:
    """`ssh HOST WORDS` joins its words with spaces and passes them to the host's shell."""
    line = by_ssh("gpu1", sh("printf '%s\\0' {} && printf '%s\\0' x", text))
    program, host, *words = shlex.split(line)
    assert (program, host) == ("ssh", "gpu1")
    assert printed(" ".join(words)) == [text, "x"]


@SLOWLY
@given(st.dictionaries(st.sampled_from(["ONE", "TWO"]), TEXT, min_size=2))
def test_variables_before_script_keep_their_text(values: dict[str, str]) -> None:
    text = of_file("files/manifest.sh", **values)
    head = text.removesuffix(read_text("files/manifest.sh"))
    assert printed(f'{head}printf \'%s\\0\' "$ONE" "$TWO"') == [values["ONE"], values["TWO"]]


@pytest.mark.parametrize("text", ["a\0b", "\udc80", "\ud800;id"])
def test_refuses_text_that_no_program_can_receive(text: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        sh("rm {}", text)
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        sh("rm {}", ["a", text])


def test_refuses_text_inside_quotes_of_template() -> None:
    with pytest.raises(ValueError, match="inside double quotes"):
        sh('echo "{}"', "x")
    with pytest.raises(ValueError, match="inside double quotes"):
        sh('echo "{}"', ["x"])
    with pytest.raises(ValueError, match="inside double quotes"):
        sh('echo "{}"', word("$(id)"))
    with pytest.raises(ValueError, match="inside single quotes"):
        sh("echo '{}'", "x")
    assert sh('echo "$(cat {})" "{}"', "a b", 5) == 'echo "$(cat \'a b\')" "5"'


def test_only_shell_makes_shell_text() -> None:
    with pytest.raises(TypeError):
        Sh("rm x")
    made = sh("rm {}", "x")
    for text in (f"{made}", made + "", made.replace("x", "y"), " ".join([made]), made[:], made.strip()):
        assert not isinstance(text, Sh)
    assert sh("{}", str(made)) == "'rm x'"
    assert sh("{}", copy.deepcopy(made)) == "rm x"


def test_refuses_values_without_placeholder() -> None:
    for values, named in ((("a", "b"), {}), ((), {}), (("a",), {"name": "b"})):
        with pytest.raises(TypeError):
            sh("rm {}", *values, **named)


# --- containers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", "eve"])
def test_container_is_one_word_of_docker_rm(user: str, hostile: str, machine: Machine) -> None:
    """Real hosts never get this far: other names and ids are dropped when they are parsed."""
    eve = User(1002, 1002, "/home/eve")
    for name, ident in ((hostile, id_of(hostile)), ("alpha", hostile), (hostile, hostile)):
        ours = container(name, id=ident, label={}, user=user, labels={"gpurack.job": "1"})
        facts = host_state(users={"eve": eve} if user else {}, containers=[ours])
        first, *_ = shells(plan_remove(facts, "models").steps)
        (call,) = machine.run(first.command)
        assert call[-5:] == ["docker", "rm", "--force", "--", ident]


def test_drops_invalid_names_and_ids(hostile: str) -> None:
    usual = {"id": "a" * 64, "name": "/alpha", "image": f"sha256:{'b' * 64}", "restarts": 0}
    usual |= {"state": {"Status": "running", "ExitCode": 0}, "labels": {}, "ports": {}}
    assert parse_container(usual).name == "alpha"
    for key in ("id", "name"):
        with pytest.raises(ValueError):  # noqa: PT011 - only that it is none
            parse_container({**usual, key: hostile})


def test_home_is_one_word_in_removal(hostile: str, machine: Machine) -> None:
    home = f"/home/{hostile}"
    eve = User(1002, 1002, home, unit=replace(User(0, 0, "").unit, loaded="loaded"))
    plan = plan_remove(host_state(users={"eve": eve}), "all")
    (step,) = [step for step in shells(plan.steps) if "set-up" in step.reason]
    machine.run(step.command)
    words = shlex.split(step.command)
    assert f"HOME={home}" in words
    assert words[-2] == "-c"
    assert rootless.DROP_IN in shlex.split(words[-1]), "below the home, in which that user's own shell is"


def test_home_named_like_our_files_is_not_removed() -> None:
    files = {"/home/gpurack-eve/.config/docker/daemon.json": "{}", "/etc/apt/keyrings/gpurack-docker-ce.asc": "x"}
    steps = shells(plan_remove(host_state(files=files), "all").steps)
    (step,) = [step for step in steps if "repository files" in step.reason]
    assert step.command == "rm -f /etc/apt/keyrings/gpurack-docker-ce.asc"


# --- files -----------------------------------------------------------------------------------------------------------


def test_certificate_file_is_one_word(hostile: str, machine: Machine) -> None:
    path = f"/usr/local/share/ca-certificates/gpurack-{hostile}.crt"
    facts = host_state(files={path: "x"}, packages={"ca-certificates": "1"})
    (step,) = certificates(Host(), facts, TRIXIE)
    assert isinstance(step, Shell)
    assert machine.run(step.command)[:2] == [["rm", "-f", path], ["update-ca-certificates"]]


def test_repository_file_is_one_word(hostile: str, machine: Machine) -> None:
    path = f"/etc/apt/sources.list.d/{hostile}.list"
    (command,) = carry_out(SetAside("x", path))
    name = f"etc_apt_sources.list.d_{hostile}.list"
    calls = machine.run(command.get_raw_value())  # type: ignore[union-attr]
    (new,) = [words[3] for words in calls if words[:3] == ["cp", "--preserve=timestamps", path]]
    assert new.endswith(f"/{name}.new")
    assert ["mv", "-f", new, new.removesuffix(".new")] in calls
    assert ["rm", "-f", path] in calls
    (machine.folder / ".gpurack-new").mkdir(exist_ok=True)  # here, `mkdir` only notes that it was called
    calls = machine.run(write_file(f"{machine.folder}/a{hostile}", "", "64;echo >CANARY").get_raw_value())
    assert ["chmod", "64;echo >CANARY", f"{machine.folder}/.gpurack-new/a{hostile}"] in calls


def test_our_other_files_are_words(hostile: str, machine: Machine) -> None:
    path = f"/etc/apt/keyrings/gpurack-{hostile}"
    (step,) = [
        step for step in shells(plan_remove(host_state(files={path: "x"}), "all").steps) if "keys" in step.reason
    ]
    assert machine.run(step.command) == [["rm", "-f", path]]


def test_pasted_commands_are_quoted(hostile: str) -> None:
    path = f"/home/{hostile}/.config/docker/daemon.json"
    facts = host_state(files={path: "no JSON"})
    _, error = daemon_json.read(facts, path)
    assert error
    assert shlex.split(error.what.rpartition("move it away: ")[2]) == ["mv", path, f"{path}.old"]
    assert shlex.split(compose.docker_command(hostile or "x")) == ["sudo", "-iu", hostile or "x", "docker"]


# --- users -----------------------------------------------------------------------------------------------------------


def test_user_is_one_word_of_roots_commands(hostile: str, machine: Machine) -> None:
    user = User(1002, 1002, f"/home/{hostile}")
    place = f"/srv/of {hostile}"
    wanted = spec({"docker": {"rootless": {"eve": {"daemon": {"data-root": place}}}}})
    facts = replace(host_state(), users={"eve": user})
    steps = [*rootless.at_boot("eve", user), *rootless.folders(rootless.Account("eve", wanted, facts))]
    assert len(steps) == 4
    made = [command.get_raw_value() for step in steps for command in carry_out(step)]  # type: ignore[union-attr]
    calls = machine.run(*made)
    become = [call for call in calls if call[0] == "setpriv"]
    assert become
    assert all(f"HOME=/home/{hostile}" in call for call in become)
    # files/folders.py makes it as the user (test_root_writes.py)
    assert calls[-1] == ["python3", "-", "data", place, "eve"]


def test_user_name_is_one_word(hostile: str, machine: Machine) -> None:
    user = User(1002, 1002, "/home/eve")
    steps = subordinate_ids.subordinate_ids(hostile, user, host_state(), [])
    steps += rootless.at_boot(hostile, user)
    given_to = machine.folder / "root/etc/subuid"
    given_to.write_text("")
    assert ["loginctl", "enable-linger", hostile] in machine.run(*(step.command for step in shells(steps)))
    assert given_to.read_text() == f"{hostile}:100000:65536\n"


# --- packages --------------------------------------------------------------------------------------------------------


def pinned(hostile: str) -> Mapping[str, Pin | None]:
    return {"docker-ce": Pin(hostile, exact=True), "curl": None}


def test_version_is_part_of_one_word_of_apt(hostile: str, machine: Machine) -> None:
    step = apt.install("x", pinned(hostile), host_state(), hold=["docker-ce"])
    assert isinstance(step, Shell)
    calls = machine.run(step.command)
    (install,) = [call for call in calls if "install" in call]
    assert install[-2:] == [f"docker-ce={hostile}", "curl"]  # this apt has none of those that it recommends


def test_version_is_part_of_one_word_of_dnf(hostile: str, machine: Machine) -> None:
    facts = host_state(os="rocky 9")
    step = rpm.install("x", pinned(hostile), facts, hold=["docker-ce"])
    assert isinstance(step, Shell)
    calls = machine.run(step.command)
    (install,) = [call for call in calls if "install" in call]
    assert [word for word in install if word.startswith("docker-ce")] == [f"docker-ce-{hostile}"]


def test_ignores_packages_with_invalid_names(hostile: str, machine: Machine) -> None:
    """dpkg and rpm have no such names. As an option of apt it could run a program (-o DPkg::Pre-Invoke::=…)."""
    version = "580.159.04-1"
    names = {f"-oDPkg::Pre-Invoke::=nvidia{hostile}": version, f"nvidia {hostile}": version, "nvidia-smi": version}
    facts = host_state(gpus=1, packages=names)
    wanted = spec({"nvidia": {"driver": "580"}})
    note, hold = driver_holds(wanted, facts, apt)
    assert isinstance(note, WriteFile)
    assert isinstance(hold, Shell)
    assert note.content == "nvidia-smi\n"
    assert machine.run(hold.command) == [["apt-mark", "hold", "nvidia-smi"]]
    facts = host_state(
        os="rocky 9", packages={f"--nodeps{hostile}": "1 half", f"{hostile}*": "1 half", "curl": "1 half"}
    )
    (finish,) = rpm.finish_interrupted(facts)
    assert isinstance(finish, Shell)
    calls = machine.run(finish.command)
    assert next(call[-1] for call in calls if call[0] == "dnf") == "curl"
    assert not rpm.finish_interrupted(replace(facts, packages={"--nodeps": facts.packages["curl"]}))


@pytest.mark.parametrize("family", [apt, rpm])
def test_package_names_are_words(family: Any, hostile: str, machine: Machine) -> None:
    facts = host_state(os="rocky 9" if family is rpm else "debian 13", packages={rpm.VERSIONLOCK["dnf4"]: "1"})
    steps = (family.hold([hostile], facts), family.unhold([hostile], facts), family.remove([hostile], facts))
    calls = machine.run(*(step.command for step in steps), family.available([hostile], facts))
    assert len([call for call in calls if hostile in call]) >= 4


# --- the rest --------------------------------------------------------------------------------------------------------


def test_gpu_name_is_one_word(hostile: str, machine: Machine) -> None:
    facts = host_state(gpus=1)
    facts = replace(facts, gpus=(replace(facts.gpus[0], uuid=hostile),))
    (step,) = cdi(facts, fresh=True)
    assert isinstance(step, Shell)
    assert ["nvidia-ctk", "cdi", "list"] in machine.run(step.command)


def test_snapshot_questions_are_text(hostile: str) -> None:
    path = f"/w/{hostile.replace(chr(10), ' ')}/a.gguf"
    wanted = spec({"models": {"alpha": {"port": 8000, "weights": path}}})
    text = script(questions(wanted))
    head = text.removesuffix(read_text("files/snapshot.sh"))
    assert printed(f"{head}printf '%s\\0' \"$WEIGHTS\"") == [path]


def test_long_command_runs_unchanged(hostile: str, machine: Machine) -> None:
    assert ["docker", "rm", hostile] in machine.run(slow(sh("docker rm {}", hostile)).get_raw_value())


class Channel:
    """paramiko's client for a host that gives its own answer."""

    def __init__(self, answer: str) -> None:
        self.answer, self.asked = answer, list[str]()

    def exec_command(self, command: str) -> tuple[None, Any, Any]:
        self.asked.append(command)
        said = [SimpleNamespace(read=lambda most, text=text: text) for text in (self.answer.encode(), b"")]
        return None, said[0], said[1]


@pytest.mark.parametrize("image", ["x;id", "$(id)", "-o/etc/passwd", "sha256:0"])
def test_image_named_by_host_is_not_in_any_command(image: str, tmp_path: Path) -> None:
    client = Channel(f"{image} 12")
    with pytest.raises(image_save.NotSaved):
        image_save._save(client, SimpleNamespace(name="gpu1"), "alpha", tmp_path / "a.tar", print)  # type: ignore[arg-type]
    assert len(client.asked) == 1
    assert image not in client.asked[0]


def test_own_paths_need_no_quotes() -> None:
    """So commands read as an admin would type them."""
    ours = [value for name, value in vars(paths).items() if name.isupper() and str(value).startswith("/")]
    assert all(sh("{}", path) == path for path in ours)
