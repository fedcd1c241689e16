"""One JSON file is one behaviour: a spec and a host in, the commands and the noop text out.

Runs `_inner`, as pyinfra's own tests do, with a fake host whose snapshot is already remembered. Fields: operation,
args, inventory (the host's data), before and running (models that run), older, host (words of tests.given.host_state),
executing, unattended; then commands, noop and said. A command is its text, or one of the forms of `matches`.
"""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Inventory
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host

from gpurack import deploys
from gpurack.facts.model import HostFacts
from gpurack.inventory.fleet import check_fleet, read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.inventory.origin import claim
from gpurack.inventory.secrets import read_values
from gpurack.operations import host_setup, remove, run_state
from gpurack.operations import models as models_operation
from gpurack.operations.carry_out import SIGNS
from gpurack.operations.commands import (
    PYTHON,
    WHOLE,
    Refusal,
    Streamed,
    carry_out,
    script,
    slow,
    telling,
    within_hours,
    within_limit,
    write_file,
    write_files,
)
from gpurack.operations.run_state import HostRun
from gpurack.plan import host as plan_host
from gpurack.plan.models.ownership import commits
from gpurack.plan.models.plan import runner_files
from gpurack.plan.packages.base import Packages, Pin
from gpurack.plan.packages.holds import noting
from gpurack.plan.packages.platforms import platform_of
from gpurack.plan.steps import DockerRestart, SetAside, Shell
from gpurack.plan.system.docker import without_start_limit
from gpurack.resources import program, read_text
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped
from gpurack.spec.secret import Secret
from tests.given import host_state, models, running
from tests.unit.test_models_plan import settled
from tests.unit.test_upgrade_rule import older

CASES = sorted(Path(__file__).parent.glob("*.json"))
OPERATIONS = {
    "docker": host_setup.docker,
    "nvidia_toolkit": host_setup.nvidia_toolkit,
    "daemon_json": host_setup.daemon_json,
    "models": models_operation.models,
    "remove": remove.remove,
}
FIELDS = {
    "why",
    "operation",
    "args",
    "inventory",
    "before",
    "host",
    "running",
    "older",
    "executing",
    "unattended",
    "commands",
    "noop",
    "said",
}


@dataclass
class FakeHost:
    """pyinfra's host as operations see it. Its snapshot was taken already in this stage, so none needs a command."""

    found: HostFacts
    executing: bool = False
    unattended: bool = False
    name: str = "gpu1"
    noops: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.executing_op_hash = None
        stage = StateStage.Execute if self.executing else StateStage.Prepare
        self.connector_data: dict[str, Any] = {"gpurack": HostRun(snapshot=self.found, taken_in=stage)}
        self.state = SimpleNamespace(
            current_stage=stage,
            inventory=Inventory(([], {})),
            is_executing=self.executing,
            get_meta_for_host=lambda host: SimpleNamespace(ops_change=0),
            should_check_for_changes=lambda: not self.unattended,
        )

    def dry_run(self, spec: Host) -> list[str]:
        """The output of a whole run before anything happens."""
        with ctx_host.use(self):
            for stage, (operation, arguments) in deploys.operations(plan_host.STAGES).items():
                if stage.applies(spec):
                    list(operation._inner(spec=spec, **arguments))
        return self.said

    def noop(self, text: str) -> None:
        self.noops.append(text)

    def log_styled(self, text: str, **style: Any) -> None:
        self.said.append(text)


def matches(command: Any, form: Any, facts: HostFacts) -> bool:
    """Does a command match the case? A text is a shell command; the other forms:

    {"slow": command} · {"install": {package: version or null}, "hold": [packages], "restarts": a running Docker}
    {"aside": path}
    {"write": path, "content": text or "content_of": file of this checkout, "mode"}
    {"locked": command, "users": whose locks it holds, "slow": true for a long one}
    {"refuse": [messages]} · {"runner": action without input} · {"docker_restart": "record" or "finish"}
    {"job": part of the runner's payload} · {"prepare": of a preparation} · {"daemon_json": part of its payload}"""
    stdin = command.connector_arguments.get("_stdin")
    if isinstance(form, str):
        return str(command) == str(next(carry_out(Shell("", sh(form)))))
    if "locked" in form:
        told = json.loads(eval(stdin.partition("\n")[0].removeprefix("JOB = "), {}))
        text = sh(form["locked"])
        limited = telling(within_hours(text)) if form.get("slow") else within_limit(text)
        expected = (["sh", "-c", limited], form.get("users", [""]))
        return (told["argv"], told["users"]) == expected and str(command) == str(Streamed(script(PYTHON)))
    if "docker_restart" in form:
        wanted = next(carry_out(DockerRestart("", form["docker_restart"])))
        return isinstance(wanted, Streamed) and stdin == wanted.connector_arguments["_stdin"]
    if "slow" in form:
        return str(command) == str(slow(within_hours(sh(form["slow"]))))
    if "install" in form:
        pins = {name: Pin(version) if version else None for name, version in form["install"].items()}
        hold = form.get("hold", [])
        step = noting(family(facts).install("", pins, facts, hold), hold, facts)
        step = without_start_limit(step, facts) if form.get("restarts") else step
        return isinstance(step, Shell) and str(command) == str(slow(within_hours(step.command)))
    if "hold" in form:
        step = noting(family(facts).hold(form["hold"], facts), form["hold"], facts)
        return str(command) == str(next(carry_out(step)))
    if "write" in form:
        content = form["content"] if "content" in form else read_text(form["content_of"])
        wanted = write_file(form["write"], content, form.get("mode", "644"))
        return (str(command), stdin) == (str(wanted), f"{content}{WHOLE}\n")
    if "runner_but" in form:  # all files of the models' runner except these, which exist
        texts = [file for file in runner_files() if file.path.rpartition("/")[2] not in form["runner_but"]]
        content = "".join(text.content for text in texts)
        return (str(command), stdin) == (str(write_files(texts)), f"{content}{WHOLE}\n")
    if "aside" in form:
        return str(command) == str(next(carry_out(SetAside("", form["aside"]))))
    if "refuse" in form:
        return isinstance(command, Refusal) and grouped(command.failures) == form["refuse"]
    if "runner" in form:
        return (str(command), stdin) == (f"python3 /usr/local/lib/gpurack/models.py {form['runner']}", None)
    if "job" in form:
        return str(command) == "python3 /usr/local/lib/gpurack/models.py apply" and contains(
            json.loads(stdin), form["job"]
        )
    if "prepare" in form:
        return str(command) == "python3 /usr/local/lib/gpurack/models.py prepare" and contains(
            json.loads(stdin), form["prepare"]
        )
    lock = json.loads(eval(stdin.partition("\n")[0].removeprefix("JOB = "), {}))
    line, _, text = lock["stdin"].partition("\n")
    job = json.loads(eval(line.removeprefix("JOB = "), {}))
    held = (lock["users"], lock["argv"]) == ([""], ["sh", "-c", "python3 -"])
    return held and text == program("daemon_json") and contains(job, form["daemon_json"])


def family(facts: HostFacts) -> Packages:
    """The package manager of a case's host."""
    platform = platform_of(facts.os)
    assert platform
    return platform.packages


def contains(found: Any, part: Any) -> bool:
    """Does `found` have everything in `part`? Lists are compared item by item and must have the same length."""
    if isinstance(part, dict) and isinstance(found, dict):
        return all(key in found and contains(found[key], value) for key, value in part.items())
    if isinstance(part, list) and isinstance(found, list):
        return len(part) == len(found) and all(contains(one, other) for one, other in zip(found, part, strict=True))
    return bool(found == part)


def given_host(case: dict[str, Any], before: Host) -> HostFacts:
    """The host of a case. `running` names models that run as in the inventory `before`, with the indices of their GPUs.
    `older`: all of `before` runs, these models as created by a gpurack without security options; `host` has what
    differs then."""
    words = dict(case.get("host", {}))
    if "older" in case:
        found = host_state(**words)
        return replace(older(before, of=tuple(case["older"])), **{word: getattr(found, word) for word in words})
    bare = host_state(**words)
    cards = {gpu.index: gpu.uuid for gpu in bare.gpus}
    ours = [
        running(before, name, bare, tuple(cards[index] for index in indices))
        for name, indices in case.get("running", {}).items()
    ]
    return host_state(**{**words, "containers": [*words.get("containers", ()), *ours]})


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_operation_runs_expected_commands(path: Path) -> None:
    case = json.loads(path.read_text())
    assert set(case) <= FIELDS
    wanted = check_fleet({"gpu1": [case.get("inventory", {})]})["gpu1"]
    before = check_fleet({"gpu1": [case["before"]]})["gpu1"] if "before" in case else wanted
    host = FakeHost(given_host(case, before), case.get("executing", False), case.get("unattended", False))
    with ctx_host.use(host):
        commands = list(OPERATIONS[case["operation"]]._inner(spec=wanted, **case.get("args", {})))
    shown = "\n".join(f"{command!s}\n{str(command.connector_arguments.get('_stdin'))[:1500]}" for command in commands)
    assert len(commands) == len(case.get("commands", [])), f"{shown}\n{host.said}"
    for command, form in zip(commands, case.get("commands", []), strict=True):
        assert matches(command, form, host.found), f"{form}\nis not\n{shown}"
    assert host.noops == ([case["noop"]] if "noop" in case else [])
    assert host.said == case.get("said", [])


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan_live_equals_dry_run(path: Path) -> None:
    case = json.loads(path.read_text())
    wanted = check_fleet({"gpu1": [case.get("inventory", {})]})["gpu1"]
    before = check_fleet({"gpu1": [case["before"]]})["gpu1"] if "before" in case else wanted
    assert_live_is_dry(wanted, given_host(case, before))


@pytest.mark.parametrize("name", ["models-none", "models-first"])
@pytest.mark.parametrize("executing", [True, False])
def test_what_docker_changed_is_in_the_history_also_where_no_model_changes(name: str, executing: bool) -> None:
    docker, models = (
        json.loads((Path(__file__).parent / f"{case}.json").read_text()) for case in ("daemon-json-reload", name)
    )
    wanted, before = (check_fleet({"gpu1": [case.get("inventory", {})]})["gpu1"] for case in (models, docker))
    host = FakeHost(given_host(models, wanted), executing)
    changed = FakeHost(given_host(docker, before), executing)
    with ctx_host.use(changed):
        assert list(host_setup.daemon_json._inner(spec=before))
    changes = changed.connector_data["gpurack"].host_changes
    assert bool(changes) == executing
    host.connector_data["gpurack"].host_changes = list(changes)
    with ctx_host.use(host):
        commands = list(models_operation.models._inner(spec=wanted))
    calls = [each for each in commands if re.search(r"models\.py (apply|note)", str(each))]
    told = [json.loads(str(each.connector_arguments["_stdin"])) for each in calls]
    assert [each["host"] for each in told if each.get("host")] == ([changes] if executing else [])
    assert host.connector_data["gpurack"].host_changes == []
    assert any(" note || :" in str(each) for each in commands) == (executing and name == "models-none")


def test_preparation_waits_for_no_other_run() -> None:
    case = json.loads((Path(__file__).parent / "models-prepared.json").read_text())
    wanted, before = (check_fleet({"gpu1": [case[word]]})["gpu1"] for word in ("inventory", "before"))
    host = FakeHost(replace(given_host(case, before), busy="models since 14:02, pid 7"), executing=True)
    with ctx_host.use(host):
        [command] = models_operation.models._inner(spec=wanted, prepare="yes")
    assert matches(command, case["commands"][0], host.found)


@pytest.mark.parametrize("value", ["yes", "true"])
def test_preparation_runs_no_job(value: str) -> None:
    """It brings a job's image; a typing mistake brings nothing."""
    job = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "command": ["-m", "{weights}"]}
    wanted = check_fleet({"gpu1": [{"jobs": {"ask": job}}]})["gpu1"]
    host = FakeHost(host_state(weights={"/w/a.gguf": 1}), executing=True)
    with ctx_host.use(host):
        *files, last = models_operation.jobs._inner(spec=wanted, prepare=value)
    if value == "true":
        assert (files, str(last)) == ([], "false")
        return
    assert matches(last, {"prepare": {"batches": [[{"name": "ask", "fetch": []}]]}}, host.found)
    assert any("/etc/gpurack/jobs/.gpurack-new/ask.yaml" in str(one) for one in files)


@pytest.mark.parametrize("value", ["yes", "true"])
def test_preparation_sets_nothing_up(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Neither packages nor daemon.json, and also not after a typing mistake."""
    seen: list[list[str]] = []
    monkeypatch.setattr(deploys, "operations", lambda stages: seen.append([one.name for one in stages]) or {})
    monkeypatch.setattr(deploys, "privilege", lambda spec: {})
    with ctx_host.use(FakeHost(host_state(), data={"prepare": value})):
        for stages in (plan_host.STAGES, plan_host.SET_UP, plan_host.SERVING):
            deploys.carry_out(stages, Host())
    assert seen == [["Models", "Jobs"], [], ["Models", "Jobs"]]


def test_refused_removal_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation refuses by the plan for which the stages before it were left out, also after `gpurack apply -y`."""
    planned, seen = list[str](), list[list[str]]()
    plan_models = plan_host.plan_models
    monkeypatch.setattr(plan_host, "plan_models", lambda *args: planned.append("once") or plan_models(*args))
    monkeypatch.setattr(deploys, "operations", lambda stages: seen.append([one.name for one in stages]) or {})
    monkeypatch.setattr(deploys, "privilege", lambda spec: {})
    facts = replace(host_state(), containers=settled(models(alpha={})).containers)
    shown = plan_host.preview(Host(), facts, plan_host.Run(unattended=True))
    for refused in (None, shown.refused):
        host = FakeHost(facts, unattended=True)
        host.connector_data["gpurack"].refused = refused
        planned.clear()
        with ctx_host.use(host):
            deploys.carry_out(plan_host.STAGES, Host())
            [command] = models_operation.models._inner(spec=Host())
        assert isinstance(command, Refusal)
        assert planned == ([] if refused else ["once"])
        assert host.said == [f"{SIGNS[each.kind]} {each.text}" for each in shown.findings]
    assert seen == [["Models"], ["Models"]]


UNSUPPORTED = {"os": "suse 15"}
NOTHING_THERE = {"docker": "", "gpus": 2}
STATES = [NOTHING_THERE, UNSUPPORTED, {"gpus": 2}, {"gpus": 2, "busy": "pid 7", "late": {"mounts": "hangs"}}]


@pytest.mark.parametrize("words", STATES, ids=json.dumps)
@pytest.mark.parametrize("inventory", ["lab"])
def test_plan_live_equals_dry_run_for_our_inventories(
    inventory: str, words: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Secret, "_raw", lambda secret: f"sk-{secret.source()}".replace(" ", "-"))
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: replace(host.found, busy=""))
    for wanted in read_fleet(read_inventory(Path(f"inventories/{inventory}.py"))).values():
        assert_live_is_dry(wanted, host_state(**words))


def assert_live_is_dry(spec: Host, facts: HostFacts) -> None:
    rights = claim(spec.lab, None, commits(facts))
    run = plan_host.Run(values=read_values(spec), salt="5a" * 16, claim=rights)
    found = [f"{SIGNS[each.kind]} {each.text}" for each in plan_host.preview(spec, facts, run).findings]
    assert FakeHost(facts).dry_run(spec) == found


def test_wrong_case_fails() -> None:
    """The test itself: no command is taken for another."""
    assert not matches(slow(sh("true")), {"slow": "false"}, HostFacts())
    assert not matches(write_file("/a", "b", "644"), {"write": "/a", "content": "c"}, HostFacts())
    assert not matches(Refusal([Problem.of("step-failed", what="a")]), {"refuse": ["b"]}, HostFacts())
    assert not contains({"a": [1, 2]}, {"a": [1]})
    assert contains({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]})


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_old_name_of_an_argument_does_the_same(name: str) -> None:
    wanted = check_fleet({"gpu1": [{}]})["gpu1"]

    def commands(**arguments: Any) -> tuple[list[str], list[str]]:
        host = FakeHost(host_state(**NOTHING_THERE))
        with ctx_host.use(host):
            return [str(command) for command in OPERATIONS[name]._inner(**arguments)], host.said

    (new, lines), (old, warned) = commands(spec=wanted), commands(wanted=wanted)
    assert new == old
    assert warned == ["deprecated: the argument `wanted` is called `spec` now. Rename it.", *lines]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_mistake_of_gpuracks_own_fails_its_host_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra ends the run for all hosts when an operation raises."""

    def confused(*args: object, **more: object) -> None:
        raise KeyError("gpus")

    for module in (plan_host, models_operation, remove):
        for planner in vars(module).copy():
            if planner.startswith("plan_"):
                monkeypatch.setattr(module, planner, confused)
    host = FakeHost(host_state())
    with ctx_host.use(host):
        [command] = OPERATIONS[name]._inner(spec=check_fleet({"gpu1": [{}]})["gpu1"])
    assert isinstance(command, Refusal)
    [sentence] = map(str, command.failures)
    assert sentence.startswith("internal error (KeyError: 'gpus', test_operations.py:")
