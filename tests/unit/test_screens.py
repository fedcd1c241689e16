"""The screens of a lab of 12 hosts with 8 models each, at 100 columns."""

from __future__ import annotations

from io import StringIO

import pytest

from gpurack import screen
from gpurack.commands.diff import HostPlan, show_plans
from gpurack.plan.host import Preview
from gpurack.plan.steps import Finding, as_findings
from gpurack.spec.problems import Problem

COLUMNS = 100
HOSTS = [f"gpu{number}.compute.uni.example" for number in range(1, 13)]
MODELS = [f"qwen2.5-{number}b-instruct-awq" for number in range(1, 9)]


def shown(plans: dict[str, HostPlan]) -> list[str]:
    console = screen.Console(file=(out := StringIO()), width=COLUMNS, soft_wrap=True)
    show_plans(console, plans)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= COLUMNS
    return lines


def plan(*findings: Finding) -> HostPlan:
    return HostPlan(Preview(findings))


def change(model: str, action: str, why: str) -> Finding:
    return Finding("change", f"{action} {model}: {why}", entry=model)


def test_diff_of_one_change() -> None:
    recreated = plan(change("bge-m3", "recreate", "version 0.32.0 → 0.33.0"))
    assert shown({"gpu1.lab": recreated, "gpu2.lab": plan(), "stud1.lab": plan()}) == [
        "gpu1.lab   1 recreate · Docker keeps running",
        "  bge-m3   recreate: version 0.32.0 → 0.33.0",
        "2 hosts unchanged: gpu2.lab, stud1.lab",
    ]


def test_models_with_the_same_change_share_it_and_hosts_too() -> None:
    upgraded = plan(*(change(model, "recreate", "version 0.32.0 → 0.33.0") for model in MODELS))
    assert shown(dict.fromkeys(HOSTS, upgraded)) == [
        "gpu1.compute.uni.example, gpu2.compute.uni.example, gpu3.compute.uni.example,",
        "  gpu4.compute.uni.example, gpu5.compute.uni.example, gpu6.compute.uni.example,",
        "  gpu7.compute.uni.example, gpu8.compute.uni.example, gpu9.compute.uni.example,",
        "  gpu10.compute.uni.example, gpu11.compute.uni.example, gpu12.compute.uni.example",
        "  8 recreate each · Docker keeps running",
        "  recreate: version 0.32.0 → 0.33.0",
        "    qwen2.5-1b-instruct-awq, qwen2.5-2b-instruct-awq, qwen2.5-3b-instruct-awq,",
        "    qwen2.5-4b-instruct-awq, qwen2.5-5b-instruct-awq, qwen2.5-6b-instruct-awq,",
        "    qwen2.5-7b-instruct-awq, qwen2.5-8b-instruct-awq",
    ]


def test_models_that_differ_have_a_line_each() -> None:
    plans = {host: plan(*(change(model, "recreate", f"served_name – → {model}") for model in MODELS)) for host in HOSTS}
    assert len(shown(dict([*plans.items()][:1]))) == 1 + 8


def test_twelve_hosts_that_differ() -> None:
    plans = {host: plan(*(change(model, "recreate", f"args.alias – → {host}") for model in MODELS)) for host in HOSTS}
    assert len(shown(plans)) == 12 * 5


def test_long_reasons_continue_beneath_themselves() -> None:
    why = ", ".join(f"args.option-{number} 1 → 2" for number in range(8))
    assert shown({"gpu1": plan(change("alpha", "recreate", why), change("b", "start", "it exited"))}) == [
        "gpu1   1 recreate, 1 start · Docker keeps running",
        "  alpha   recreate: args.option-0 1 → 2, args.option-1 1 → 2, args.option-2 1 → 2, args.option-3 1 →",
        "          2, args.option-4 1 → 2, args.option-5 1 → 2, args.option-6 1 → 2, args.option-7 1 → 2",
        "  b       start: it exited",
    ]


def test_one_fault_of_several_hosts_is_one_message() -> None:
    fault = plan(*as_findings("error", [Problem.of("docker-silent", path="docker")]))
    lines = shown({"gpu1": fault, "gpu2": fault})
    assert lines[0] == "gpu1, gpu2"
    assert sum("error" in line for line in lines) == 1


def test_lines_of_a_table_end_with_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = screen.table("NAME", "RUNS ON")
    table.add_row("alpha", "gpu1.lab")
    table.add_row("beta", "")
    screen.console(width=60).print(table)
    assert capsys.readouterr().out == "NAME   RUNS ON\nalpha  gpu1.lab\nbeta\n"
