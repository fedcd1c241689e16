"""`gpurack init`: the project that it writes works at once, and no file is overwritten.

The connection and what hosts answer are stand-ins; gpurack's own distribution also, because some tests run without one.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.ssh import SSHConnector

from gpurack import screen
from gpurack.commands import init, project, requirements_file
from gpurack.commands.import_from_host import Unreachable
from gpurack.commands.main import main
from gpurack.commands.project import NAMES, ProjectHost, files, inventory_text
from gpurack.commands.requirements_file import requirements
from gpurack.commands.version import running_commit
from gpurack.facts.gpus import Driver, PciGpu
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Entry
from gpurack.importing import inspect as importing
from gpurack.importing.container import ContainerRun
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.operations import run_state
from tests import given as of_host
from tests.given import docker_info, gpu
from tests.unit.importing.test_inspect import container, printed


class Installed(Distribution):
    """gpurack as pip installed it. origin: the content of direct_url.json."""

    def __init__(self, origin: dict[str, Any] | None = None) -> None:
        self.texts = {"METADATA": "Name: gpurack\nVersion: 0.1.0\nRequires-Dist: click>=8.1\n"}
        self.texts["METADATA"] += "Requires-Dist: pytest>=9; extra == 'verify'\n".replace("'", '"')
        if origin:
            self.texts["direct_url.json"] = json.dumps(origin)

    def read_text(self, filename: str) -> str | None:
        return self.texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


@dataclass
class World:
    """The hosts that answer. facts: host → its snapshot. docker: host → what `docker inspect` prints there."""

    facts: dict[str, HostFacts] = field(default_factory=dict)
    docker: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def init(self, *arguments: str) -> Result:
        done = CliRunner().invoke(main, ["init", *arguments], prog_name="gpurack")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QWEN_OLD_KEY", raising=False)
    made = World()

    def connect(connector: Any) -> None:
        if connector.host.name not in made.facts:
            raise ConnectError("Could not connect (no route)")

    def inspected(host: Any) -> str:
        made.asked.append(host.name)
        if host.name not in made.docker:
            raise Unreachable("docker failed: permission denied.")
        return made.docker[host.name]

    found = project.distribution
    monkeypatch.setattr(SSHConnector, "connect", connect)
    monkeypatch.setattr(SSHConnector, "disconnect", lambda connector: None)
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: made.facts[host.name])
    monkeypatch.setattr(init, "inspect_connected", inspected)
    monkeypatch.setattr(project, "distribution", lambda name: Installed() if name == "gpurack" else found(name))
    return made


A30S = HostFacts(gpus=(gpu(0), gpu(1)), docker=docker_info())
"""A host with two A30."""


def inventory(folder: Path) -> dict[str, Any]:
    """The written inventory."""
    data = yaml.safe_load((folder / "lab.yaml").read_text())
    assert isinstance(data, dict)
    return data


def planned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """`cd DIR && gpurack plan`."""
    monkeypatch.chdir(folder)
    return CliRunner().invoke(main, ["plan", "--strict"], prog_name="gpurack")


def test_project_without_hosts_works_at_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = world.init("my lab", "--lab", "nlp-group")
    assert (done.exit_code, done.output) == (
        0,
        f"Wrote {', '.join(NAMES)} to my lab.\nNext: cd 'my lab' && gpurack plan\n",
    )
    folder = tmp_path / "my lab"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(NAMES)
    assert (folder / "lab.yaml").read_text().startswith("# yaml-language-server: $schema=gpurack.schema.json\n")
    assert (folder / "gpurack.schema.json").read_text() == CliRunner().invoke(main, ["schema"]).output
    assert inventory(folder)["all"] == {"lab": "nlp-group"}
    plan = planned(folder, monkeypatch)
    assert plan.exit_code == 0, plan.output
    assert "gpurack apply lab.yaml" in plan.output


def test_example_works_when_it_is_switched_on(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.init("a", "--lab", "ai")
    path = tmp_path / "a/lab.yaml"
    path.write_text(path.read_text().replace("        enabled: false\n", ""))
    monkeypatch.setenv("LAB_KEY", "k")
    plan = CliRunner().invoke(main, ["plan", str(path)])
    assert plan.exit_code == 0, plan.output


def test_folder_is_this_one_by_default(world: World, tmp_path: Path) -> None:
    done = world.init("--lab", "ai")
    assert done.output.endswith("Next: gpurack plan\n")
    assert (tmp_path / "lab.yaml").is_file()


def test_writes_hardware_and_lists_containers(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.facts["gpu1.lab"] = A30S
    world.docker["gpu1.lab"] = printed(container())
    done = world.init("a", "--lab", "ai", "--host", "gpu1.lab")
    assert done.exit_code == 0, done.output
    assert [line.rstrip() for line in done.output.splitlines()[:3]] == [
        "gpu1.lab  2 × A30",
        "  containers that gpurack does not manage:",
        "    qwen-old  vllm/vllm-openai:v0.33.0  GPU 0, 1  :8000",
    ]
    host = inventory(tmp_path / "a")["hosts"]["gpu1.lab"]
    assert host["hardware"] == {"A30": 2}
    assert list(host["models"]) == ["example"]
    text = (tmp_path / "a/lab.yaml").read_text()
    assert "# Containers that gpurack does not manage. `gpurack import --host gpu1.lab lab.yaml` prints " in text
    assert "    #   qwen-old  vllm/vllm-openai:v0.33.0  GPU 0, 1  :8000\n" in text
    assert planned(tmp_path / "a", monkeypatch).exit_code == 0


@pytest.mark.parametrize("name", ["qwen-old", "gpu1.lab/qwen-old"])
def test_adopts_named_containers_only(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world.facts["gpu1.lab"] = A30S
    world.docker["gpu1.lab"] = printed(container(), container("other", PortBindings={}))
    done = world.init("a", "--lab", "ai", "--host", "gpu1.lab", "--adopt", name)
    host = inventory(tmp_path / "a")["hosts"]["gpu1.lab"]
    assert list(host["models"]) == ["qwen-old"]
    assert host["models"]["qwen-old"]["replaces"] == "qwen-old"
    assert "    #   other  vllm/vllm-openai:v0.33.0" in (tmp_path / "a/lab.yaml").read_text()
    # its key is in the environment of the container only, so the admin has to create one
    assert done.exit_code == 1
    assert "to do  container qwen-old: its API key was in plain text and is left out." in done.output
    assert "to do  gpu1.lab models.qwen-old.api_key: environment variable QWEN_OLD_KEY is not set;" in done.output
    assert "QWEN_OLD_KEY: any-QWEN_OLD_KEY\n" in (tmp_path / "a/.gitlab-ci.yml").read_text()
    assert "`export QWEN_OLD_KEY=…`" in (tmp_path / "a/README.md").read_text()
    assert "sk-live-1" not in "".join(path.read_text() for path in (tmp_path / "a").rglob("*") if path.is_file())
    monkeypatch.setenv("QWEN_OLD_KEY", "k")
    plan = CliRunner().invoke(main, ["plan", str(tmp_path / "a/lab.yaml")])
    assert plan.exit_code == 0, plan.output


def test_name_on_two_hosts_can_be_told_apart(world: World, tmp_path: Path) -> None:
    for host in ("gpu1", "gpu2"):
        world.facts[host], world.docker[host] = A30S, printed(container())
    hosts = ("--host", "gpu1", "--host", "gpu2")
    world.init("a", "--lab", "ai", *hosts, "--adopt", "gpu2/qwen-old")
    assert [name for name, host in inventory(tmp_path / "a")["hosts"].items() if "models" in host] == ["gpu2"]
    world.init("b", "--lab", "ai", *hosts, "--adopt", "qwen-old")
    assert [name for name, host in inventory(tmp_path / "b")["hosts"].items() if "models" in host] == ["gpu1", "gpu2"]


def test_what_cannot_be_adopted_is_said(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = container("db", DeviceRequests=None, Runtime="runc")
    database["Config"] |= {"Image": "postgres:17", "Cmd": None}
    world.facts["gpu1"], world.docker["gpu1"] = A30S, printed(database)
    done = world.init("a", "--lab", "ai", "--host", "gpu1", "--adopt", "db")
    assert done.exit_code == 1
    assert "to do  container db: postgres:17 is not a known engine and uses no GPU.\n" in done.output
    assert planned(tmp_path / "a", monkeypatch).exit_code == 0


def test_unknown_container_is_refused(world: World, tmp_path: Path) -> None:
    world.facts["gpu1"], world.docker["gpu1"] = A30S, printed(container())
    done = world.init("a", "--lab", "ai", "--host", "gpu1", "--adopt", "gwen")
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == (
        "error  --adopt: no container `gwen` was found. Running, not managed: qwen-old. Nothing was written."
    )
    assert not list(tmp_path.iterdir())


def test_unreachable_host_is_shown_and_written_without_hardware(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.facts["gpu1"], world.docker["gpu1"] = A30S, ""
    done = world.init("a", "--lab", "ai", "--host", "gpu1", "--host", "ada@gpu2")
    assert done.exit_code == 4
    why = "could not connect: Could not connect (no route). Try `ssh ada@gpu2`."
    assert done.output.splitlines()[:2] == ["gpu1  2 × A30", f"UNREACHABLE  gpu2  {why}"]
    assert "Later, for what was not inspected: gpurack init a --host ada@gpu2\n" in done.output
    assert inventory(tmp_path / "a")["hosts"]["gpu2"] == {"ssh_user": "ada"}
    text = (tmp_path / "a/lab.yaml").read_text()
    assert f"    # Its GPUs are not known: {why}\n    # hardware: {{A30: 4}}" in text
    assert planned(tmp_path / "a", monkeypatch).exit_code == 0


def test_host_of_a_project_that_exists_is_printed(world: World, tmp_path: Path) -> None:
    world.init("a", "--lab", "ai", "--host", "ada@gpu2")
    before = (tmp_path / "a/lab.yaml").read_text()
    world.facts["gpu2"], world.docker["gpu2"] = A30S, printed(container())
    done = world.init("a", "--host", "ada@gpu2")
    assert done.exit_code == 0, done.output
    shown = yaml.safe_load(done.output.partition("\nhosts:\n")[2])
    assert shown == {"gpu2": {"ssh_user": "ada", "hardware": {"A30": 2}}}
    assert "#   qwen-old  vllm/vllm-openai:v0.33.0" in done.output
    assert (tmp_path / "a/lab.yaml").read_text() == before


def test_host_of_a_project_that_exists_and_stays_unreachable(world: World) -> None:
    world.init("a", "--lab", "ai")
    done = world.init("a", "--host", "gpu2")
    assert done.exit_code == 4
    assert [line[:17] for line in done.output.splitlines()] == ["UNREACHABLE  gpu2"]


def test_models_that_gpurack_runs_are_listed_with_their_lab(world: World, tmp_path: Path) -> None:
    labs = {"bge": "nlp", "qwen": "nlp", "old": ""}
    ours = tuple(of_host.container(name, label={}) for name in labs)
    record = {each.name: Entry(each.id, "model", lab=labs[each.name]) for each in ours}
    world.facts["gpu1"], world.docker["gpu1"] = replace(A30S, containers=ours, record={"": record}), ""
    done = world.init("a", "--lab", "ai", "--host", "gpu1")
    lines = [
        "models that gpurack runs there, of lab nlp: bge, qwen.",
        "models that gpurack runs there, not owned by any lab: old. Your first apply removes those that the inventory "
        "lacks.",
    ]
    assert [line.strip() for line in done.output.splitlines()[1:3]] == lines
    text = (tmp_path / "a/lab.yaml").read_text()
    assert all(f"    # {line[0].upper()}{line[1:]}\n" in text for line in lines)


def test_host_that_refuses_inspection_is_an_error(world: World, tmp_path: Path) -> None:
    world.facts["gpu1"] = HostFacts.not_inspected("sudo requires a password.")
    done = world.init("a", "--lab", "ai", "--host", "gpu1")
    assert done.exit_code == 4
    assert done.output.startswith("error  gpu1  sudo requires a password.\n")
    assert "    # Its GPUs are not known: sudo requires a password.\n" in (tmp_path / "a/lab.yaml").read_text()


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (HostFacts(), "no GPUs"),
        (HostFacts(gpus=(gpu(0), replace(gpu(1), name="NVIDIA L4", memory_total=23034), gpu(2))),
         "`hardware` cannot describe them: NVIDIA A30, NVIDIA L4, NVIDIA A30."),
        (HostFacts(driver=Driver(bus={"0000:01:00.0": PciGpu("0x20b7")})), "0000:01:00.0"),
    ],
    ids=["none", "alternating", "without a driver"],
)  # fmt: skip
def test_host_without_describable_gpus(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: HostFacts, line: str
) -> None:
    world.facts["gpu1"] = facts
    done = world.init("a", "--lab", "ai", "--host", "gpu1")
    assert done.exit_code == 0, done.output
    assert line in done.output.splitlines()[0]
    assert "hardware" not in inventory(tmp_path / "a")["hosts"]["gpu1"]
    assert world.asked == []  # it has no Docker
    assert planned(tmp_path / "a", monkeypatch).exit_code == 0


def test_containers_that_cannot_be_read_are_a_comment(world: World, tmp_path: Path) -> None:
    world.facts["gpu1"] = A30S
    done = world.init("a", "--lab", "ai", "--host", "gpu1")
    assert done.exit_code == 0
    why = "docker failed: permission denied."
    assert f"  warning  its containers are not known: {why}\n" in done.output
    assert f"    # Its containers are not known: {why}\n" in (tmp_path / "a/lab.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_never_overwrites(world: World, tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / name).parent.mkdir(parents=True)
    (tmp_path / "a" / name).symlink_to("nowhere")
    done = world.init("a", "--lab", "ai", "--host", "gpu1")
    assert (done.exit_code, done.output) == (
        2,
        f"error  a/{name}: exists already. Nothing was written. Name a new folder.\n",
    )
    assert [path for path in (tmp_path / "a").rglob("*") if not path.is_dir()] == [tmp_path / "a" / name]


def test_names_all_files_that_exist(world: World, tmp_path: Path) -> None:
    assert world.init("--lab", "ai").exit_code == 0
    again = world.init("--lab", "ai")
    assert again.output.startswith(f"error  {', '.join(NAMES)}: exist already.")
    (tmp_path / "file").write_text("")
    assert world.init("file", "--lab", "ai").output == "error  file is not a folder. Nothing was written.\n"


def test_after_an_error_of_the_system_nothing_is_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, mode: int) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "chmod", full)
    done = world.init("a", "--lab", "ai")
    assert done.exit_code == 2
    assert done.output == "error  could not write a/notify: No space left on device. Nothing was written.\n"
    assert not list((tmp_path / "a").iterdir())


def test_without_terminal_flags_are_required(world: World, tmp_path: Path) -> None:
    done = world.init("a")
    assert (done.exit_code, done.output) == (
        2,
        "error  no terminal to ask at. Write `gpurack init a --lab NAME --host gpu1.lab`, "
        "with a --host for each server.\n",
    )
    assert (
        "`gpurack init a --lab NAME --host root@gpu7 --host gpu8`"
        in world.init("a", "--host", "root@gpu7", "--host", "gpu8").output
    )
    assert not list(tmp_path.iterdir())


def test_host_without_gpus_has_no_models(world: World, tmp_path: Path) -> None:
    world.facts |= {"gpu1": A30S, "cpu1": HostFacts(docker=docker_info())}
    done = world.init("a", "--lab", "ai", "--host", "gpu1", "--host", "cpu1")
    assert done.exit_code == 0
    assert "names of the hosts, such as gpu1; `address` of a host sets another one." in done.output
    assert inventory(tmp_path / "a")["hosts"]["cpu1"] == {"models": {}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lab", "a b"], '--lab: "a b" is not a valid name for a lab.'),
        (["--lab", "ai", "--host", "gpu1:22"], "--host: `gpu1:22` is not a host. Write HOST or USER@HOST."),
        (["--lab", "ai", "--host", "@local"], "--host: `@local` is not a host."),
        (["--lab", "ai", "--host", "gpu1", "--host", "root@gpu1"], "--host: `gpu1` is given twice."),
    ],
)
def test_wrong_flags_are_one_sentence(world: World, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = world.init("a", *arguments)
    assert done.exit_code == 2
    assert done.output.startswith(f"error  {sentence}")
    assert not list(tmp_path.iterdir())


class Terminal(io.StringIO):
    """An admin at a terminal who gives these answers."""

    def isatty(self) -> bool:
        return True


def asked(monkeypatch: pytest.MonkeyPatch, folder: str, *answers: str) -> int:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{answer}\n" for answer in answers)))
    return init.run(screen.console(soft_wrap=True), Path(folder), "", (), ())


def test_asks_on_a_terminal(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.facts["gpu1"], world.docker["gpu1"] = A30S, printed(container())
    monkeypatch.setenv("QWEN_OLD_KEY", "k")
    asked(monkeypatch, "KI Labor!", "", "gpu1", "qwen-old")
    printed_text = capsys.readouterr().out
    assert "Name of the lab [KI-Labor]: " in printed_text
    assert "Servers to inspect, such as gpu1.lab root@gpu2.lab (Enter for none): " in printed_text
    assert "Adopt which of these containers? Their names (Enter for none): " in printed_text
    written = inventory(tmp_path / "KI Labor!")
    assert written["all"] == {"lab": "KI-Labor"}
    assert list(written["hosts"]["gpu1"]["models"]) == ["qwen-old"]


def test_asks_only_what_matters(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, "a", "nlp", "") == 0
    assert "Adopt" not in capsys.readouterr().out
    assert inventory(tmp_path / "a")["all"] == {"lab": "nlp"}


def test_ctrl_c_writes_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(hosts: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(init, "inspect", interrupted)
    done = world.init("a", "--lab", "ai")
    assert (done.exit_code, done.output) == (130, "Interrupted. Nothing was written.\n")
    assert not list(tmp_path.iterdir())


# --- the files


@pytest.fixture
def ci(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The jobs of the written .gitlab-ci.yml, each with what it extends. The working directory is the project."""
    world.init("a", "--lab", "ai")
    monkeypatch.chdir(tmp_path / "a")
    jobs = yaml.safe_load(Path(".gitlab-ci.yml").read_text())

    def whole(job: dict[str, Any]) -> dict[str, Any]:
        return {**(whole(jobs[job["extends"]]) if "extends" in job else {}), **job}

    return {name: whole(job) for name, job in jobs.items() if "script" in job}


def commands(job: dict[str, Any]) -> list[list[str]]:
    """The gpurack commands of a job, as words without redirections."""
    lines = [*job["script"], *job.get("after_script", ())]
    return [shlex.split(line.partition(" > ")[0])[1:] for line in lines if line.startswith("gpurack ")]


def test_ci_runs_commands_that_exist(ci: dict[str, Any]) -> None:
    found = [(name, words) for name, job in ci.items() for words in commands(job)]
    assert [name for name, _ in found] == ["plan", "diff", "apply", "nightly diff", "nightly lock"]
    for _, (verb, *arguments) in found:
        command = main.commands[verb]
        context = command.make_context(f"gpurack {verb}", list(arguments), parent=click.Context(main))
        inventory = context.params.get("inventory") or context.params["words"][0]
        assert inventory == Path("lab.yaml")
        assert not context.args


def test_ci_plans_merge_requests_and_connects_on_protected_branches_only(ci: dict[str, Any]) -> None:
    conditions = {name: [rule["if"] for rule in job["rules"]] for name, job in ci.items()}
    assert conditions.pop("plan") == ['$CI_PIPELINE_SOURCE == "merge_request_event"']
    protected = '$CI_COMMIT_REF_PROTECTED == "true" && $CI_PIPELINE_SOURCE == '
    assert {name: [one.removeprefix(protected) for one in some] for name, some in conditions.items()} == {
        "diff": ['"push"'], "apply": ['"push"'], "nightly diff": ['"schedule"'], "nightly lock": ['"schedule"'],
    }  # fmt: skip
    assert ci["apply"]["rules"][0]["when"] == "manual"
    assert ci["nightly lock"]["rules"][0]["exists"] == ["lab.lock.yaml"]
    assert "id_ed25519" not in " ".join(ci["plan"].get("before_script", ()))


@pytest.fixture
def github(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The jobs of the written workflow for GitHub. The working directory is the project."""
    world.init("a", "--lab", "ai")
    monkeypatch.chdir(tmp_path / "a")
    workflow = yaml.safe_load(Path(".github/workflows/gpurack.yml").read_text())
    assert set(workflow[True]) == {"pull_request", "push", "schedule", "workflow_dispatch"}  # YAML reads `on` as true
    jobs: dict[str, Any] = workflow["jobs"]
    return jobs


def test_workflow_connects_on_protected_branches_only(github: dict[str, Any]) -> None:
    assert github["plan"]["if"] == "github.event_name == 'pull_request'"
    assert "secrets." not in str(github["plan"])
    assert github["plan"]["env"] == {"LAB_KEY": "any-LAB_KEY"}
    live = github["live"]
    assert live["if"] == "github.event_name != 'pull_request' && github.ref_protected"
    assert (live["environment"], live["env"]["LAB_KEY"]) == ("lab", "${{ secrets.LAB_KEY }}")
    events = {step["name"]: step["if"].rpartition("== ")[0] for step in live["steps"] if "if" in step}
    assert list(events) == ["diff", "apply", "nightly diff", "nightly lock"]


def test_workflow_runs_commands_that_exist(github: dict[str, Any]) -> None:
    found = [
        shlex.split(step["run"].partition(" > ")[0])[1:]
        for job in github.values()
        for step in job["steps"]
        if step.get("run", "").startswith("gpurack ")
    ]
    assert [verb for verb, *_ in found] == ["plan", "diff", "apply", "diff", "lock"]
    for verb, *arguments in found:
        context = main.commands[verb].make_context(f"gpurack {verb}", list(arguments), parent=click.Context(main))
        assert not context.args


def test_workflow_hands_what_it_found_to_the_hook(github: dict[str, Any]) -> None:
    Path("gpurack").write_text("#!/bin/sh\necho '{}'\nexit $CODE\n")
    Path("gpurack").chmod(0o755)
    for step in github["live"]["steps"]:
        if step.get("name", "").startswith("nightly"):
            for code in ("0", "3"):
                env = {"CODE": code, "PATH": ".:/usr/bin:/bin"}
                done = subprocess.run(["sh", "-ec", step["run"]], env=env, capture_output=True, text=True)
                assert (done.stdout, done.returncode) == (("", 0) if code == "0" else ("{}\n", 1))


def test_ci_plan_passes_with_the_placeholders_of_keys(ci: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("lab.yaml")
    path.write_text(path.read_text().replace("        enabled: false\n", ""))
    assert CliRunner().invoke(main, ["plan"]).exit_code == 2
    for name, value in ci["plan"]["variables"].items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(main, ["plan"]).exit_code == 0


@pytest.mark.parametrize("status", ["success", "failed"])
def test_ci_hands_what_it_found_to_the_hook(ci: dict[str, Any], status: str) -> None:
    Path("report.json").write_text('{"schema": 1}')
    for name in ("nightly diff", "nightly lock"):
        assert ci[name]["script"][-1].endswith(" --json > report.json")
        [after] = ci[name]["after_script"]
        done = subprocess.run(
            ["sh", "-c", after], env={"CI_JOB_STATUS": status, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert (done.stdout, done.returncode) == ("" if status == "success" else '{"schema": 1}', 0)


def test_requirements_pin_gpurack_and_its_dependencies() -> None:
    lines = requirements(Installed()).splitlines()
    assert lines[1] == "gpurack[verify]==0.1.0"
    assert re.fullmatch(r"click==[\d.]+", lines[2])
    assert re.fullmatch(r"pytest==[\d.]+", lines[3])  # of the extra
    assert len(lines) == 4


def test_requirements_leave_out_what_is_not_installed() -> None:
    gpurack = Installed()
    gpurack.texts["METADATA"] += 'Requires-Dist: no-such-part>=9; extra == "verify"\n'
    assert "no-such-part" not in requirements(gpurack)


def test_requirements_name_the_commit_of_a_gpurack_from_git() -> None:
    url, commit = "https://git.uni.example/gpurack", "0" * 40
    found = requirements(Installed({"url": url, "vcs_info": {"vcs": "git", "commit_id": commit}}))
    assert found.splitlines()[1] == f"gpurack[verify] @ git+{url}@{commit}"


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=ada", "-c", "user.email=ada@lab.example"]
    done = subprocess.run(["git", "-C", str(folder), *names, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone_of_gpurack(folder: Path) -> tuple[Path, str]:
    """A clone with one commit that its remote has."""
    git(folder, "init", "-q", "--bare", "up stream")
    git(folder, "clone", "-q", "up stream", "gpurack")
    (folder / "gpurack/pyproject.toml").write_text("")
    git(folder / "gpurack", "add", ".")
    git(folder / "gpurack", "commit", "-q", "-m", "x")
    git(folder / "gpurack", "push", "-q", "origin", "HEAD")
    return folder / "gpurack", git(folder / "gpurack", "rev-parse", "HEAD")


def own_lines(folder: Path) -> list[str]:
    """The lines about gpurack of a project that is written by a gpurack from this folder."""
    return requirements(Installed({"url": folder.as_uri(), "dir_info": {"editable": True}})).splitlines()[1:-2]


def test_requirements_name_the_commit_of_a_clone_that_its_remote_has(tmp_path: Path) -> None:
    """With a host: pip before 24.1 refuses `git+file:///…`."""
    clone, commit = clone_of_gpurack(tmp_path)
    assert own_lines(clone) == [
        requirements_file.FROM_A_CLONE,
        f"gpurack[verify] @ git+file://localhost{tmp_path.as_posix()}/up%20stream@{commit}",
    ]


def test_requirements_name_the_folder_of_a_commit_that_no_remote_has(tmp_path: Path) -> None:
    clone, _ = clone_of_gpurack(tmp_path)
    git(clone, "commit", "-q", "--allow-empty", "-m", "y")
    assert own_lines(clone) == [requirements_file.FROM_HERE, f"gpurack[verify] @ {clone.as_uri()}"]


def test_requirements_never_name_the_commit_of_another_clone(tmp_path: Path) -> None:
    clone, _ = clone_of_gpurack(tmp_path)
    (clone / "vendor").mkdir()
    assert own_lines(clone / "vendor")[-1] == f"gpurack[verify] @ {(clone / 'vendor').as_uri()}"


@pytest.mark.parametrize(
    ("url", "comments"),
    [("file:///srv/gpurack-0.1.0-py3-none-any.whl", 1), ("https://lab.example/gpurack-0.1.0-py3-none-any.whl", 0)],
)
def test_requirements_name_the_wheel(url: str, comments: int) -> None:
    lines = requirements(Installed({"url": url, "archive_info": {}})).splitlines()[1:-2]
    assert lines == [*[requirements_file.FROM_HERE] * comments, f"gpurack[verify] @ {url}"]


def test_readme_of_a_project_updates_to_another_commit_of_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip keeps what has the same version, so the line of gpurack is installed anew."""
    found, url = project.distribution, "ssh://git@lab.example/gpurack"
    mine = Installed({"url": url, "vcs_info": {"vcs": "git", "commit_id": "0" * 40}})
    monkeypatch.setattr(project, "distribution", lambda name: mine if name == "gpurack" else found(name))
    written = files("ai", [])
    readme = written["README.md"]
    assert f"git ls-remote {url} HEAD" in readme
    install = """pip install --force-reinstall --no-deps "$(grep '^gpurack' requirements.txt)"\n"""
    assert install in readme
    assert install in (Path(__file__).parents[2] / "README.md").read_text()
    assert [line for line in written["requirements.txt"].splitlines() if line.startswith("gpurack")] == [
        f"gpurack[verify] @ git+{url}@{'0' * 40}"
    ]


def test_version_names_the_commit_that_pip_installed(tmp_path: Path) -> None:
    origin = {"url": "https://git.uni.example/gpurack", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}
    assert running_commit(json.dumps(origin), tmp_path) == ("a" * 40, False)


def test_version_names_the_commit_of_a_clone_and_of_no_other(tmp_path: Path) -> None:
    clone, commit = clone_of_gpurack(tmp_path)
    direct_url = json.dumps({"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert running_commit(direct_url, clone) == (commit, False)
    (clone / "vendor").mkdir()
    assert running_commit("", clone / "vendor") == ("", False)


def test_only_names_of_variables_reach_the_ci_file(world: World) -> None:
    hostile = ProjectHost("gpu1")
    hostile.adopted.models["a"] = {"api_key": {"env": "A: b\nscript: [id]"}, "env": {"B": "c"}}
    yaml.safe_load(files("ai", [hostile])[".github/workflows/gpurack.yml"])
    found = yaml.safe_load(files("ai", [hostile])[".gitlab-ci.yml"])
    assert "variables" not in found["plan"]


NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", fullmatch=True)


@given(NAME, st.text(), st.text(), st.text(), st.text())
def test_what_a_host_says_stays_a_comment(name: str, user: str, unknown: str, unread: str, image: str) -> None:
    run = ContainerRun("container", name=image, image=image, gpus=(image,))
    host = ProjectHost(name, {"ssh_user": user}, unknown=unknown or "-", running=[run], unread=unread)
    text = inventory_text("ai", {name: host.data}, {name: project.host_notes(host)})
    shown = yaml.safe_load(text)
    assert shown == {"all": {"lab": "ai"}, "hosts": {name: {"ssh_user": user}}}


def test_written_inventory_is_read_by_pyinfra_names(world: World, tmp_path: Path) -> None:
    """A host without fields of its own, and names that YAML would read as something else."""
    names = ["on", "1e3", "gpu1", "null"]
    world.init("a", "--lab", "2026", *(word for name in names for word in ("--host", name)))
    fleet = read_fleet(read_inventory(tmp_path / "a/lab.yaml"), secrets=False)
    assert list(fleet) == names
    assert {host.lab for host in fleet.values()} == {"2026"}


def test_only_keeps_the_images_of_other_containers() -> None:
    runs, _ = importing.read(importing.only(printed(container("a"), container("b")), ["b"]))
    assert [(run.name, "PATH" in run.environment) for run in runs] == [("b", False)]
