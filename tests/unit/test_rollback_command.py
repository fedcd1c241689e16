"""`gpurack rollback` and deploys/rollback.py without hosts: screens, exit codes, and what the runner is told."""

# ruff: noqa: F811 (a fixture of another module)

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpurack import paths
from gpurack.commands import apply as apply_module
from gpurack.commands.main import main
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Probe
from gpurack.facts.record import DatabaseCopy, Ready, Stopped
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.operations import commands
from gpurack.operations import models as models_operations
from tests.given import host_state, running, spec
from tests.unit.test_apply import REQUIRE_TERMINAL, World, lines, unchanged, world  # noqa: F401 (a fixture)
from tests.unit.test_models_plan import settled

ID = "sha256:0123456789abcdef"  # of tests.given.container
THEN = spec({"models": {"alpha": {"port": 8000, "gpus": [0], "version": "b6999"}, "beta": {"port": 8001, "gpus": [1]}}})
IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda-b6999"


def label(facts: HostFacts) -> str:
    return next(one for one in facts.containers if one.name == "alpha").labels[paths.MODEL_LABEL]


@functools.cache
def before() -> HostFacts:
    return settled(THEN)


def known(**over: Any) -> HostFacts:
    """gpu1, where alpha was ready with b6999 before, and runs with b7000."""
    now = Ready("2026-11-28T02:00:00Z", label(unchanged()), "v:7000", "", ID)
    then = Ready("2026-11-27T02:00:00Z", label(before()), IMAGE, f"repo@sha256:{'b' * 64}", ID)
    return replace(unchanged(), ready={("", "alpha"): (now, then)}, images={IMAGE: ID}, **over)


@pytest.fixture
def told(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The payloads of the runner."""
    payloads: list[Any] = []
    run = commands.run

    def seen(host: Any, command: Any, **how: Any) -> Any:
        if "models.py apply" in str(command):
            payloads.append(json.loads(how["_stdin"]))
        return run(host, command, **how)

    monkeypatch.setattr(commands, "run", seen)
    world.facts["gpu1"] = [known()]
    return payloads


def rollback(world: World, *options: str, place: str = "gpu1/alpha", answer: str = "") -> Result:
    return CliRunner().invoke(main, ["rollback", str(world.folder / "lab.yaml"), place, *options], input=answer)


def test_lists_definitions(world: World, told: list[Any]) -> None:
    done = rollback(world, "--list")
    assert lines(done)[0] == "1  ready since 2026-11-28 02:00:00 UTC  v:7000  (now)"
    assert lines(done)[1] == f"2  ready 2026-11-27 02:00:00 UTC  {IMAGE}"
    facts = known()
    (now, then) = facts.ready["", "alpha"]
    then = replace(then, until="2026-11-28T02:00:00Z")
    world.facts["gpu1"] = [replace(facts, ready={("", "alpha"): (now, then)})]
    until = lines(rollback(world, "--list"))[1]
    assert until == f"2  served from 2026-11-27 02:00:00 UTC until 2026-11-28 02:00:00 UTC  {IMAGE}"
    assert (done.exit_code, told) == (0, [])


def test_brings_back_one_model_and_says_how_to_edit(world: World, told: list[Any]) -> None:
    done = rollback(world, "-y")
    shown = lines(done)
    assert shown[0] == "gpu1/alpha: back to the definition of 2026-11-27 02:00 UTC, with today's keys"
    assert next(line for line in shown if "recreate" in line).startswith("gpu1   1 recreate")
    assert shown[-2].startswith("Edit ")
    assert shown[-2].endswith("lab.yaml, or the next run undoes the rollback:")
    assert shown[-1] == '  gpu1 models.alpha.version: "b6999"'
    ((batch,),) = (payload["batches"] for payload in told)
    assert [(data["name"], data["image"]) for data in batch] == [("alpha", IMAGE)]
    assert len(batch[0]["rollback"]) == 12
    assert done.exit_code == 0


def test_record_says_from_which_inventory(world: World, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a later run could not say whose clone lacks the commit."""
    real, paths_of = models_operations.claim, []

    def claim(lab: str, path: Path | None, *others: Any) -> Any:
        paths_of.append(path)
        return real(lab, path, *others)

    monkeypatch.setattr(models_operations, "claim", claim)
    rollback(world, "-y")
    assert told
    assert set(paths_of) == {world.folder / "lab.yaml"}


def test_rollback_to_what_the_inventory_says_has_no_mark(world: World, told: list[Any]) -> None:
    """No run would undo it, so a later change of something else is not said to undo a rollback."""
    (world.folder / "lab.yaml").write_text((world.folder / "lab.yaml").read_text().replace("b7000", "b6999"))
    shown = lines(rollback(world, "-y"))
    assert shown[-1] == "The inventory has this definition already."
    assert "rollback" not in told[0]["batches"][0][0]


def test_without_a_terminal_shows_the_rollback_and_names_y(
    world: World, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpurack diff would not show it."""
    monkeypatch.setattr(apply_module, "require_terminal", REQUIRE_TERMINAL)
    done = rollback(world)
    assert lines(done)[0].startswith("gpu1/alpha: back to the definition of 2026-11-27")
    assert "Confirmation needs a terminal. Nothing was changed. Run with -y to bring it back." in lines(done)[-1]
    assert (done.exit_code, told) == (2, [])
    missing = rollback(world, "--to", "7")
    assert "number 7 is unknown" in lines(missing)[-1]


def test_says_which_pin_of_the_lock_is_moved(world: World, told: list[Any]) -> None:
    """Else the printed edit ends in an error of the lock."""
    pinned = {"image": f"{IMAGE.replace('b6999', 'b7000')}@sha256:{'b' * 64}"}
    text = json.dumps({"hosts": {"gpu1": {"models": {"alpha": pinned}}}})
    (world.folder / "lab.lock.yaml").write_text(text)
    shown = lines(rollback(world, "-y"))
    assert shown[-2] == '  gpu1 models.alpha.version: "b6999"'
    assert shown[-1] == (
        f"Then move its pin in {world.folder}/lab.lock.yaml: gpurack lock {world.folder}/lab.yaml alpha --upgrade"
    )


@pytest.mark.parametrize("answer", ["", "n\n"])
def test_asks(world: World, told: list[Any], answer: str) -> None:
    done = rollback(world, answer=answer)
    assert "Nothing was changed." in lines(done)[-1]
    assert (done.exit_code, told) == (0, [])


def test_pulls_by_digest_if_the_image_is_gone(world: World, told: list[Any]) -> None:
    world.facts["gpu1"] = [replace(known(), images={})]
    shown = lines(rollback(world, "-y"))
    assert shown[1].startswith(f"  its image is missing: {IMAGE} is not on the host. It pulls repo@sha256:bbb")
    assert told[0]["batches"][0][0]["image"] == f"repo@sha256:{'b' * 64}"
    assert f'  gpu1 models.alpha.image: "repo@sha256:{"b" * 64}"' in shown


# --- with a database --------------------------------------------------------------------------------------------------

CHAT = """\
hosts:
  gpu1:
    models: {beta: {engine: llama.cpp, version: b7000, weights: /w/a.gguf, port: 8001}}
    services: {chat: {engine: open-webui, version: 0.12.4, port: 3000, connects_to: [beta]}}
"""
WEBUI = "ghcr.io/open-webui/open-webui:v0.12."


@pytest.fixture
def chat(world: World, told: list[Any]) -> World:
    """gpu1 with a page that had 0.12.3 before, and a copy of its database of then."""
    (world.folder / "lab.yaml").write_text(CHAT)
    wanted = read_fleet(read_inventory(world.folder / "lab.yaml"))["gpu1"]
    now = running(wanted, "chat", host_state())
    facts = settled(spec({"models": {"beta": {"port": 8001}}}))
    facts = replace(facts, containers=(*facts.containers, now), probes={**facts.probes, ("", "chat"): Probe(200, "{}")})
    then = json.loads(now.labels[paths.MODEL_LABEL])
    then |= {"version": "0.12.3", "image": f"{WEBUI}3"}
    history = (Ready("2026-11-27T02:00:00Z", json.dumps(then), f"{WEBUI}3", "", "sha256:3"),)
    copies = (DatabaseCopy("2026-11-28T02:00:00Z", f"{WEBUI}3", "sha256:3", f"{'c' * 32}.db"),)
    facts = replace(facts, ready={("", "chat"): history}, databases={("", "chat"): copies})
    world.facts["gpu1"] = [replace(facts, images={**facts.images, f"{WEBUI}3": "sha256:3"})]
    return world


def test_brings_back_database_with_data(chat: World, told: list[Any]) -> None:
    shown = lines(rollback(chat, "-y", "--with-data", place="gpu1/chat"))
    assert shown[1] == "  its database goes back to the copy of 2026-11-28 02:00 UTC. The present one is kept"
    ((batch,),) = (payload["batches"] for payload in told)
    assert batch[0]["database"] == {
        "volume": "gpurack_open-webui-chat", "file": "webui.db", "restore": f"{'c' * 32}.db",
    }  # fmt: skip


def test_leaves_database_without_with_data(chat: World, told: list[Any]) -> None:
    shown = lines(rollback(chat, "-y", place="gpu1/chat"))
    assert shown[1] == "  its database stays as it is. --with-data brings back the copy of 2026-11-28 02:00 UTC"
    assert "restore" not in told[0]["batches"][0][0]["database"]


def test_lists_databases(chat: World) -> None:
    shown = lines(rollback(chat, "--list", place="gpu1/chat"))
    assert shown[1] == "     database of 2026-11-28 02:00 UTC"


def test_refuses_with_data_without_copy(chat: World, told: list[Any]) -> None:
    chat.facts["gpu1"] = [replace(chat.facts["gpu1"][0], databases={})]
    done = rollback(chat, "-y", "--with-data", place="gpu1/chat")
    assert lines(done)[-1] == f"error  gpu1/chat: no copy of its database with {WEBUI}3 is kept. Copies: none."
    assert (done.exit_code, told) == (1, [])


@pytest.mark.parametrize(("place", "options", "code", "why"), [
    ("gpu1/alpha", ["--to", "3"], 1,
     "error  gpu1/alpha: number 3 is unknown: only 2 definitions are known. See --list."),
    ("gpu1/beta", [], 1, "error  gpu1/beta: no earlier definition is known: none was ready since gpurack keeps them."),
    ("gpu1/gamma", [], 2, 'error  unknown model "gamma" on gpu1. Known: alpha, beta.'),
])  # fmt: skip
def test_says_why_not(
    world: World,
    told: list[Any],
    place: str,
    options: list[str],
    code: int,
    why: str,
) -> None:
    done = rollback(world, "-y", *options, place=place)
    assert (lines(done)[-1], done.exit_code, told) == (why, code, [])


def test_held_model_is_not_brought_back(world: World, told: list[Any]) -> None:
    hold = Stopped("2026-11-28T02:00:00Z", "ada", True, "GPU 0 is broken")
    world.facts["gpu1"] = [replace(known(), stopped={("", "alpha"): hold})]
    done = rollback(world, "-y")
    assert lines(done)[-1] == (
        "error  gpu1/alpha: held since 2026-11-28 02:00 UTC: GPU 0 is broken (ada). End the hold first: gpurack start."
    )
    assert (done.exit_code, told) == (1, [])


def test_unreachable_host(world: World, told: list[Any]) -> None:
    world.unreachable.add("gpu1")
    done = rollback(world, "-y")
    assert (done.exit_code, told) == (1, [])
    assert lines(done)[-1].startswith("error  gpu1: ")


def test_deploy_file_calls_the_deploy() -> None:
    text = (Path(__file__).parents[2] / "deploys/rollback.py").read_text()
    assert text == "from gpurack.deploys import rollback\n\nrollback()\n"
