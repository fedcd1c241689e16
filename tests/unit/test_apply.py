"""`gpurack apply` and `gpurack diff` without hosts: screens, exit codes, and which commands would reach a host.

The connection, the snapshots and the commands of hosts are stand-ins; pyinfra, the deploy and the operations are real.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click import Context
from click.testing import CliRunner, Result
from pyinfra.api import output
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from gpurack import deploys
from gpurack.commands import apply as apply_module
from gpurack.commands.apply_screen import HostState, Outcome, result_code
from gpurack.commands.diff import HostPlan, exit_code
from gpurack.commands.main import main
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Replacing
from gpurack.operations import commands, run_state
from gpurack.operations.run_state import changed, host_run
from gpurack.plan import host as plan_host
from gpurack.plan.host import Preview
from gpurack.plan.models.plan import plan_models
from gpurack.plan.steps import Finding
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from tests.given import spec
from tests.unit.test_upgrade_rule import older, settled

LAB = """\
all: {defaults: {engine: llama.cpp, version: b7000, weights: /w/a.gguf}}
hosts:
  gpu1: {models: {alpha: {port: 8000, gpus: [0]}, beta: {port: 8001, gpus: [1]}}}
  gpu2: {models: {alpha: {port: 8000, gpus: [0]}, beta: {port: 8001, gpus: [1]}}}
"""
TWO = spec({"models": {"alpha": {"port": 8000, "gpus": [0]}, "beta": {"port": 8001, "gpus": [1]}}})


@dataclass
class World:
    """Two hosts. facts: host → snapshots, one after the other; the last one stays. answers: what commands print."""

    folder: Path
    facts: dict[str, list[HostFacts]] = field(default_factory=dict)
    answers: dict[str, tuple[bool, list[str]]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)

    def run(self, *arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(main, [*arguments, str(self.folder / "lab.yaml")], input=answer)


@functools.cache
def unchanged() -> HostFacts:
    return settled(TWO)


def stopped() -> HostFacts:
    """beta exited."""
    facts = unchanged()
    containers = tuple(replace(each, status="exited") if each.name == "beta" else each for each in facts.containers)
    return replace(facts, containers=containers)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "lab.yaml").write_text(LAB)
    made = World(tmp_path, {"gpu1": [unchanged()], "gpu2": [unchanged()]})

    def connect(connector: Any) -> None:
        if connector.host.name in made.unreachable:
            raise ConnectError("Could not connect (no route)")

    def take(host: Any, questions: Any) -> HostFacts:
        made.snapshots.append(host.name)
        facts = made.facts[host.name]
        return facts.pop(0) if len(facts) > 1 else facts[0]

    def run(host: Any, command: Any, **how: Any) -> tuple[bool, CommandOutput]:
        made.ran.append(host.name)
        ok, lines = made.answers.get(host.name, (True, []))
        if how.get("print_output"):
            for text in lines:
                output.echo(f"{host.print_prefix}{text}")
        return ok, CommandOutput([OutputLine("stdout", text) for text in lines])

    for module in (plan_host, deploys):
        monkeypatch.setattr(module, "STAGES", plan_host.SERVING)  # as if Docker and the toolkit were installed
    monkeypatch.setattr(SSHConnector, "connect", connect)
    monkeypatch.setattr(SSHConnector, "disconnect", lambda connector: None)
    monkeypatch.setattr(run_state, "take_snapshot", take)
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(apply_module, "require_terminal", lambda *given: None)
    monkeypatch.setattr("gpurack.screen.duration", lambda seconds: "0.9 s")
    return made


def lines(result: Result) -> list[str]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [line.rstrip() for line in result.output.splitlines()]


def test_unchanged_run_prints_one_line(world: World) -> None:
    done = world.run("apply", "-y")
    assert lines(done) == ["2 hosts unchanged. 4 of 4 models ready. 0.9 s"]
    assert (done.exit_code, world.ran) == (0, [])
    assert sorted(world.snapshots) == ["gpu1", "gpu2"], "one command for each host"


def test_unchanged_run_asks_nothing(world: World) -> None:
    assert lines(world.run("apply")) == ["2 hosts unchanged. 4 of 4 models ready. 0.9 s"]


def test_unchanged_hosts_are_planned_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    changing(world)
    planned = []

    def counting(host: Host, facts: HostFacts, *others: Any) -> Any:
        planned.append(facts.containers[1].status)
        return plan_models(host, facts, *others)

    monkeypatch.setattr(plan_host, "plan_models", counting)
    assert world.run("apply", "-y").exit_code == 0
    assert planned == ["exited", "running", "exited"]
    (world.folder / "lab.yaml").write_text(LAB.replace("all: {", "all: {prune: ollama, "))
    planned.clear()
    assert world.run("apply", "-y", "--limit", "gpu2").exit_code == 0
    assert planned == ["running", "running"], "what it prunes is known only to the operation"


def changing(world: World) -> None:
    world.facts["gpu1"] = [stopped(), stopped(), unchanged()]
    world.answers["gpu1"] = (True, ["beta: loading 4 s", "beta: ready"])


@pytest.mark.parametrize("answer", ["y\n", "Y\n", "yes\n"])
def test_shows_plan_and_asks_and_carries_it_out(world: World, answer: str) -> None:
    changing(world)
    done = world.run("apply", answer=answer)
    assert lines(done) == [
        "gpu1   1 start · Docker keeps running",
        "  beta   start: it exited with code 0",
        "1 host unchanged: gpu2",
        "Apply? [y/N] gpu1  beta  loading 4 s",
        "gpu1  beta  ready",
        "2 hosts: 1 changed, 1 unchanged. 4 of 4 models ready. 0.9 s",
    ]
    assert (done.exit_code, set(world.ran)) == (0, {"gpu1"})


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yep\n"])
def test_any_other_answer_changes_nothing(world: World, answer: str) -> None:
    changing(world)
    done = world.run("apply", answer=answer)
    assert lines(done)[-1].endswith("Nothing was changed.")
    assert (done.exit_code, world.ran) == (0, [])


def test_yes_shows_the_plan_and_does_not_ask(world: World) -> None:
    changing(world)
    world.facts["gpu1"] = [stopped(), unchanged()]
    shown = lines(world.run("apply", "-y"))
    assert shown[:3] == [
        "gpu1   1 start · Docker keeps running",
        "  beta   start: it exited with code 0",
        "1 host unchanged: gpu2",
    ]
    assert "Apply?" not in "\n".join(shown)
    assert shown[-1] == "2 hosts: 1 changed, 1 unchanged. 4 of 4 models ready. 0.9 s"


def test_failure_is_printed_once_with_its_hint(world: World) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (False, ["error beta: exited while loading", "    | CUDA out of memory"])
    done = world.run("apply", "-y")
    assert lines(done)[3:] == [
        "gpu1  beta  failed, the reason follows at the end",
        "FAILED  gpu1 beta: exited while loading",
        "        | CUDA out of memory",
        "2 hosts: 1 failed, 1 unchanged. 3 of 4 models ready. 0.9 s",
    ]
    assert done.exit_code == 1


@pytest.mark.parametrize(("said", "why"), [("error beta: no load", "beta: no load"), ("error no room", "no room")])
def test_verbose_prints_a_failure_once(said: str, why: str, world: World) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (False, [said, "    | CUDA out of memory"])
    shown = lines(world.run("apply", "-y", "-v"))
    assert "Starting operation: GPU host | Models" in "\n".join(shown), "pyinfra's own lines"
    assert sum(why.removeprefix("beta: ") in line for line in shown) == 1
    assert sum("CUDA out of memory" in line for line in shown) == 1
    assert f"FAILED  gpu1 {why}" in shown or f"FAILED  gpu1: {why}" in shown
    assert sum("failed, the reason follows at the end" in line for line in shown) == 1


def test_error_of_the_plan_is_printed_once(world: World) -> None:
    world.facts["gpu1"] = [HostFacts.not_inspected("gpurack needs root on the host.")]
    done = world.run("apply", "-y")
    assert lines(done) == [
        "gpu1",
        "  error  gpurack needs root on the host.",
        "1 host unchanged: gpu2",
        "2 hosts: 1 failed, 1 unchanged. 2 of 4 models ready. 0.9 s",
    ]
    assert done.exit_code == 1


def test_end_says_which_models_with_an_error_of_the_plan_serve(world: World) -> None:
    """Their errors are above, and most do not say it."""
    lab = LAB.replace("beta: {port: 8001, gpus: [1]}}}", "beta: {port: 8001, gpus: [1], weights: /w/none.gguf}}}", 1)
    (world.folder / "lab.yaml").write_text(lab)
    done = world.run("apply", "-y")
    assert "gpu1  not changed, so the previous one serves: beta" in lines(done)
    assert re.sub(r"[\d.]+ s$", "1 s", lines(done)[-1]) == "2 hosts: 1 failed, 1 unchanged. 4 of 4 models ready. 1 s"
    assert done.exit_code == 1


def test_unreachable_host_does_not_stop_the_others(world: World) -> None:
    changing(world)
    world.facts["gpu1"] = [stopped(), unchanged()]
    world.unreachable = {"gpu2"}
    done = world.run("apply", "-y")
    assert lines(done)[0] == "UNREACHABLE  gpu2  could not connect: Could not connect (no route). Try `ssh gpu2`."
    assert lines(done)[-1] == "2 hosts: 1 unreachable, 1 changed. 2 of 4 models ready. 0.9 s"
    assert (done.exit_code, set(world.ran)) == (4, {"gpu1"})


def test_limit_leaves_other_hosts_alone(world: World) -> None:
    done = world.run("apply", "-y", "--limit", "gpu2")
    assert lines(done) == ["1 host unchanged. 2 of 2 models ready. 0.9 s"]
    assert world.snapshots == ["gpu2"]


def test_limit_that_matches_nothing_is_an_error(world: World) -> None:
    done = world.run("apply", "-y", "--limit", "gpu9")
    assert "--limit gpu9 matches no host. Hosts: gpu1, gpu2." in done.output
    assert (done.exit_code, world.snapshots) == (2, [])


def test_json_is_all_of_stdout(world: World) -> None:
    world.facts["gpu1"] = [stopped(), unchanged()]
    done = world.run("apply", "-y", "--json")
    data = json.loads(done.stdout)
    assert {name: host["state"] for name, host in data["hosts"].items()} == {"gpu1": "changed", "gpu2": "unchanged"}
    assert data["hosts"]["gpu1"]["changes"] == ["start beta: it exited with code 0"]
    assert data["hosts"]["gpu1"]["models"] == {"alpha": "ready", "beta": "ready, started"}


def test_json_has_failures(world: World) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (False, ["error beta: exited while loading"])
    [error] = json.loads(world.run("apply", "-y", "--json").stdout)["errors"]
    assert (error["host"], error["path"], error["what"]) == ("gpu1", "models.beta", "exited while loading")


@pytest.mark.parametrize("command", [("diff",), ("plan", "--live"), ("apply", "--dry")])
def test_three_names_of_diff_print_the_same(world: World, command: tuple[str, ...]) -> None:
    changing(world)
    done = world.run(*command)
    assert lines(done) == [
        "gpu1   1 start · Docker keeps running",
        "  beta   start: it exited with code 0",
        "1 host unchanged: gpu2",
        f"1 of 2 hosts would change. Apply: gpurack apply {world.folder}/lab.yaml",
    ]
    assert (done.exit_code, world.ran) == (0, [])
    world.facts["gpu1"] = [stopped()]
    assert world.run(*command, "--fail-on-change").exit_code == 3


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ([], {}),
        (["--restart"], {"restart": "always"}),
        (
            ["--restart", "--renew", "--retry", "gpu1/alpha"],
            {"restart": "always", "renew": "yes", "retry": "gpu1/alpha"},
        ),
    ],
)
def test_options_are_what_pyinfras_data_would_set(options: list[str], data: dict[str, str], world: World) -> None:
    command = main.get_command(Context(main), "apply")
    assert command
    context = command.make_context("apply", [*options, str(world.folder / "lab.yaml")])
    assert apply_module.data_of(context.params) == data


def test_renew_recreates_models_of_an_older_gpurack(world: World) -> None:
    world.facts["gpu1"] = [older(TWO, of=("alpha", "beta"))]
    assert "recreate" not in "\n".join(each for each in lines(world.run("diff")) if "warning" not in each)
    shown = "\n".join(lines(world.run("apply", "--dry", "--renew")))
    assert "2 recreate" in shown
    world.run("apply", "-y", "--renew")
    assert world.ran


def test_interrupted_run_says_what_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And which hosts it had begun to change, whose models are not known."""
    changing(world)

    def interrupted(state: Any, *given: Any, **more: Any) -> None:
        run_state.outdate(state.inventory.get_host("gpu1"))
        raise KeyboardInterrupt

    monkeypatch.setattr(apply_module, "run_operations", interrupted)
    done = world.run("apply", "-y")
    assert lines(done)[-3:] == [
        "Interrupted. Closing the connections.",
        "What gpu1 began is finished or undone there. What its models do now is not known here: gpurack status "
        f"{world.folder}/lab.yaml",
        "2 hosts: 1 interrupted, 1 unchanged. 2 of 2 models ready on the hosts that were not interrupted. 0.9 s",
    ]
    assert done.exit_code == 130


def test_run_that_only_waited_for_another_one_changed_nothing(world: World) -> None:
    """And its time is none of the installation."""
    left = Replacing("try", "2026-11-28T02:00:00Z", (), "b1", ("alpha",))
    busy = replace(stopped(), busy="pid 7", replacing=(left,))
    world.facts["gpu1"] = [busy, unchanged()]
    done = world.run("apply", "-y")
    assert world.ran == ["gpu1"], "it waits"
    assert lines(done)[-1] == "2 hosts unchanged. 4 of 4 models ready. 0.9 s"
    assert not any("took" in line for line in lines(done))


def test_interrupted_prompt_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    changing(world)

    def interrupted(*given: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(apply_module, "confirmed", interrupted)
    done = world.run("apply")
    assert lines(done)[-1] == "Interrupted. Nothing was changed."
    assert (done.exit_code, world.ran) == (130, [])


def test_needs_a_terminal_or_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    done = CliRunner().invoke(main, ["apply", str(tmp_path / "lab.yaml")])
    assert "Confirmation needs a terminal. Nothing was changed. Run with -y" in done.output
    assert done.exit_code == 2


def test_verbose_prints_lines_of_pyinfra(world: World) -> None:
    changing(world)
    assert "Starting operation: GPU host | Models" in world.run("apply", "-y", "-v").output


CHANGE = HostPlan(Preview((Finding("change", "create alpha"),)))
ERROR = HostPlan(Preview((Finding("error", "oh", (Problem.of("docker-missing"),)),)))
AWAY = HostPlan(unreachable="no route")
TESTED = HostPlan(Preview((Finding("change", "check alpha: it was started since its last test", looks_only=True),)))
WAITS = HostPlan(Preview((Finding("change", "waits", (Problem.of("another-run", who="pid 7"),)),)))


@pytest.mark.parametrize(
    ("plans", "fail_on_change", "code"),
    [
        ([HostPlan()], True, 0),
        ([CHANGE], False, 0),
        ([CHANGE], True, 3),
        ([WAITS], True, 0),
        ([TESTED], True, 0),
        ([AWAY], False, 4),
        ([AWAY, CHANGE], True, 4),
        ([AWAY, ERROR], True, 1),
        ([ERROR], False, 1),
    ],
)
def test_exit_code_of_diff(plans: list[HostPlan], fail_on_change: bool, code: int) -> None:
    assert exit_code({str(number): plan for number, plan in enumerate(plans)}, fail_on_change) == code


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["unchanged"], 0),
        (["changed", "unchanged"], 0),
        (["unreachable", "changed"], 4),
        (["unreachable"], 4),
        (["failed", "unreachable"], 1),
    ],
)
def test_exit_code_of_apply(states: list[Any], code: int) -> None:
    assert result_code({str(number): Outcome(HostState(state)) for number, state in enumerate(states)}) == code


def failing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (False, ["error beta: exited while loading"])


def test_failed_change_names_the_command_that_prints_its_log(world: World) -> None:
    """The file on the host can be read by root only."""
    world.facts["gpu1"] = [stopped()]
    where = "Its log: /var/lib/gpurack/logs/_/beta.failed.log"
    world.answers["gpu1"] = (False, [f"error beta: exited while loading. {where}"])
    shown = "\n".join(lines(world.run("apply", "-y")))
    assert f"Its log: gpurack logs {world.folder}/lab.yaml gpu1/beta --failed" in shown
    assert "/var/lib/gpurack" not in shown


def refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.facts["gpu1"] = [HostFacts.not_inspected("gpurack needs root on the host.")]


def wrong(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "lab.yaml").write_text(LAB.replace("port", "prot"))


def without_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_module, "require_terminal", REQUIRE_TERMINAL)


def away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.unreachable = {"gpu2"}


def interrupted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> bool:
        raise KeyboardInterrupt

    changing(world)
    monkeypatch.setattr(apply_module, "confirmed", stop)


REQUIRE_TERMINAL = apply_module.require_terminal
EXIT_CODES: list[tuple[int, str, Any]] = [
    (0, "-y", lambda world, monkeypatch: None),
    (0, "-y", lambda world, monkeypatch: changing(world)),
    (1, "-y", failing),
    (1, "-y", refused),
    (2, "-y", wrong),
    (2, "", without_terminal),
    (2, "--allow-remove 0", lambda world, monkeypatch: None),
    (3, "--dry --fail-on-change", lambda world, monkeypatch: changing(world)),
    (0, "--dry --fail-on-change", lambda world, monkeypatch: None),
    (4, "-y", away),
    (130, "", interrupted),
]


@pytest.mark.parametrize(("code", "options", "happens"), EXIT_CODES)
def test_exit_codes(world: World, monkeypatch: pytest.MonkeyPatch, code: int, options: str, happens: Any) -> None:
    happens(world, monkeypatch)
    assert world.run("apply", *options.split()).exit_code == code


@pytest.mark.parametrize(("happens", "codes"), [(without_terminal, ["confirmation-missing"]), (wrong, None)])
def test_errors_before_a_run_are_json(
    world: World, monkeypatch: pytest.MonkeyPatch, happens: Any, codes: list[str] | None
) -> None:
    happens(world, monkeypatch)
    done = world.run("apply", "--json")
    found = [error["code"] for error in json.loads(done.stdout)["errors"]]
    assert (done.exit_code, found) == (2, codes or found)
    assert found


def test_a_declined_run_is_json(world: World) -> None:
    changing(world)
    done = world.run("apply", "--json", answer="n\n")
    assert json.loads(done.stdout)["hosts"]["gpu1"]["changes"]


def test_exit_codes_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/apply.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2].partition("\n## ")[0]
    documented = set(map(int, re.findall(r"^\| (\d+) ", table, re.MULTILINE)))
    assert documented == {code for code, _, _ in EXIT_CODES}


# --- refused removals -------------------------------------------------------------------------------------------------


@pytest.fixture
def emptied(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The inventory changes daemon.json of both hosts, and gpu1 has no models any more."""
    for module in (plan_host, deploys):
        monkeypatch.setattr(module, "STAGES", (plan_host.DAEMON_JSON, *plan_host.SERVING))
    gpu1 = "gpu1: {models: {alpha: {port: 8000, gpus: [0]}, beta: {port: 8001, gpus: [1]}}}"
    assert gpu1 in LAB
    text = LAB.replace(gpu1, "gpu1: {models: {}}").replace("all: {", "all: {docker: {daemon: {debug: true}}, ")
    (world.folder / "lab.yaml").write_text(text)
    return world


def test_refused_removal_leaves_the_whole_host_as_it_is(emptied: World) -> None:
    done = emptied.run("apply", "-y")
    assert done.exit_code == 1
    assert "--allow-remove 2" in done.output
    assert set(emptied.ran) == {"gpu2"}, "the other host is changed"


def test_confirmed_removal_changes_the_host(emptied: World) -> None:
    emptied.run("apply", "-y", "--allow-remove", "2")
    assert set(emptied.ran) == {"gpu1", "gpu2"}
    emptied.ran.clear()
    emptied.run("apply", answer="2\ny\n")
    assert set(emptied.ran) == {"gpu1", "gpu2"}


def test_wrong_number_of_removals_changes_nothing(emptied: World) -> None:
    done = emptied.run("apply", answer="1\n")
    assert (done.output.count("Nothing was changed"), emptied.ran) == (1, [])


@pytest.mark.parametrize(("did", "asked", "found"), [(1, 0, True), (1, 1, False), (2, 1, True), (0, 0, False)])
def test_host_whose_models_were_only_tested_is_unchanged(did: int, asked: int, found: bool) -> None:
    """asked: the operations among those that changed (did) that only sent a request to models."""
    host: Any = SimpleNamespace(connector_data={}, executing_op_hash=None)
    host_run(host).asked = asked
    meta = SimpleNamespace(is_complete=lambda: True, did_change=lambda: True)
    operations = {number: SimpleNamespace(operation_meta=meta) for number in range(did)}
    state: Any = SimpleNamespace(ops=SimpleNamespace(get=lambda host, other: operations))
    assert changed(state, host) is found
