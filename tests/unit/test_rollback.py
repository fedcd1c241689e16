"""Rollback: an entry of the inventory, changed by the words of an earlier label, is the entry of that time again."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.commands.rollback import listed, other_words
from gpurack.facts.model import HostFacts
from gpurack.facts.record import DatabaseCopy, Entry, Ready, read
from gpurack.inventory.fleet import check_fleet
from gpurack.inventory.load import read_inventory
from gpurack.inventory.patched import with_words
from gpurack.plan.models.diff import differences
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.rollback import (
    UNKNOWN_PULL,
    Back,
    NotPossible,
    back_to,
    chosen,
    database_back,
    database_to_restore,
    edit,
    exact_image,
    is_present,
    mark,
)
from gpurack.plan.runner import unlabelled
from gpurack.spec.host import Host
from tests.given import host_state, models, models_plan, running
from tests.unit.test_models_plan import settled

REPO = "ghcr.io/ggml-org/llama.cpp"
ID, DIGEST = f"sha256:{'a' * 64}", f"{REPO}@sha256:{'b' * 64}"
FACTS = host_state(gpus=4)
COMMON = {"engine": "llama.cpp", "weights": "/w/a.gguf", "port": 8000}


def label_of(spec: Host, uuids: tuple[str, ...] = ()) -> dict[str, Any]:
    """The definition of alpha, as its label has it."""
    text = running(spec, "alpha", FACTS, uuids).labels[paths.MODEL_LABEL]
    found: dict[str, Any] = json.loads(text)
    return found


def ready_of(spec: Host, **over: str) -> Ready:
    label = label_of(spec)
    usual = {
        "at": "2026-11-28T02:00:00Z",
        "label": json.dumps(label),
        "image": label["image"],
        "digest": DIGEST,
        "id": ID,
    }
    return Ready(**{**usual, **over})


def inventory(folder: Path, entry: dict[str, Any], **data: Any) -> Path:
    path = folder / "lab.yaml"
    path.write_text(json.dumps({"hosts": {"gpu1": {"models": {"alpha": entry}, **data}}}))
    return path


def patched(folder: Path, today: dict[str, Any], ready: Ready, **data: Any) -> tuple[Host, Back]:
    """The host with its entry as it was."""
    path = inventory(folder, today, **data)
    loaded = read_inventory(path)
    spec = with_words(loaded, path, "gpu1", "models.alpha", {})["gpu1"]
    back = back_to(ready, Observed("alpha", spec, host_state()))
    return with_words(loaded, path, "gpu1", "models.alpha", back.words)["gpu1"], back


ENTRIES = st.fixed_dictionaries(
    {"version": st.sampled_from(["b7000", "b7001"])},
    optional={
        "gpus": st.sampled_from([[], [0], [1, 2], "all"]),
        "context": st.integers(1, 9),
        "bind": st.sampled_from(["loopback", "lan", "any"]),
        "served_name": st.sampled_from(["alpha", "other"]),
        "vram": st.just("6GiB"),
        "weights": st.sampled_from(["/w/a.gguf", "/w/b.gguf"]),
        "port": st.sampled_from([8000, 8001]),
        "args": st.dictionaries(st.sampled_from(["threads", "parallel"]), st.integers(1, 3)),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"])),
    },
).map(lambda entry: {**entry, "gpus": entry.get("gpus") or [0]} if "vram" in entry else entry)
"""Entries of llama.cpp as people write them."""


@given(ENTRIES, ENTRIES)
def test_changed_entry_is_the_one_of_that_time(tmp_path_factory: Any, today: Any, then: Any) -> None:
    folder = tmp_path_factory.mktemp("lab")
    before = models(alpha={**COMMON, **then})
    spec, back = patched(folder, {**COMMON, **today}, ready_of(before))
    assert differences(label_of(before), label_of(spec)) == []
    if today == then:
        assert back.words == {}


def test_default_of_host_does_not_come_through(tmp_path: Path) -> None:
    """`context` and an argument were added to the engine's defaults since."""
    before = models(alpha={**COMMON, "version": "b6999", "args": {"threads": 2}})
    engines = {"llama.cpp": {"version": "b7000", "context": 4096, "args": {"parallel": 4}}}
    spec, back = patched(tmp_path, COMMON, ready_of(before), engines=engines)
    assert differences(label_of(before), label_of(spec)) == []
    assert edit("models.alpha", back.words) == [
        "models.alpha.context: null", "models.alpha.args.parallel: null", "models.alpha.args.threads: 2",
        'models.alpha.version: "b6999"',
    ]  # fmt: skip


def test_image_that_no_version_means_is_named(tmp_path: Path) -> None:
    before = ready_of(models(alpha={**COMMON, "version": None, "image": "mine/llama:1"}))
    spec, back = patched(tmp_path, {**COMMON, "version": "b7000"}, before)
    assert back.words == {"image": "mine/llama:1", "version": None}
    assert spec.entries["alpha"].image == "mine/llama:1"


def test_keys_are_todays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked key never returns, nor does a model without a key."""
    monkeypatch.setenv("LAB_KEY", "sk-new-0123456789abcdef")
    before = models(alpha={**COMMON, "version": "b6999"})
    today = {**COMMON, "version": "b7000", "api_key": {"env": "LAB_KEY"}}
    spec, back = patched(tmp_path, today, ready_of(before))
    assert spec.entries["alpha"].api_key
    assert "api_key" not in back.words
    assert "service" not in back.words


def test_lock_does_not_pin_the_entry_then(tmp_path: Path) -> None:
    path = inventory(tmp_path, {**COMMON, "version": "b7000"})
    pinned = {"image": f"{REPO}:server-b7000@sha256:{'c' * 64}"}
    (tmp_path / "lab.lock.yaml").write_text(
        json.dumps({"hosts": {"gpu1": {"models": {"alpha": pinned, "beta": pinned}}}})
    )
    fleet = with_words(read_inventory(path), path, "gpu1", "models.alpha", {"version": "b6999"})
    assert fleet["gpu1"].entries["alpha"].version == "b6999"
    assert fleet["gpu1"].lock
    assert list(fleet["gpu1"].lock.models) == ["beta"]


@pytest.mark.parametrize("label", ["", "[]", "{", '{"engine": 7}', '{"engine": "llama.cpp"}'])
def test_refuses_label_that_is_not_readable(label: str) -> None:
    with pytest.raises(NotPossible, match="not readable"):
        back_to(Ready("", label, "v:1", "", ID), Observed("alpha", models(alpha={}), host_state()))


# --- config and pull --------------------------------------------------------------------------------------------------

PYTHON = {"engine": "llama-cpp-python", "version": "0.3.36", "port": 8000}
ONE_MODEL = {"interrupt_requests": False, "models": [{"model": "/w/a.gguf", "model_alias": "alpha"}]}
TWO_MODELS = {"models": [*ONE_MODEL["models"], {"model": "/w/b.gguf", "model_alias": "beta"}]}  # type: ignore[misc]
OLLAMA = {"engine": "ollama", "version": "0.33.0", "port": 8000}
QWEN, MISTRAL = {**OLLAMA, "pull": ["qwen2.5:3b"]}, {**OLLAMA, "pull": ["mistral:7b", "qwen2.5:3b"]}
CONFIGS = {
    "config": (TWO_MODELS, ONE_MODEL),
    "same": (ONE_MODEL, ONE_MODEL),
    "added": (None, ONE_MODEL),
    "removed": (ONE_MODEL, None),
}


def of_config(config: Any) -> dict[str, Any]:
    return {**PYTHON, **({"config": config} if config else {"weights": "/w/a.gguf"})}


def with_known(ready: Ready, entry: dict[str, Any]) -> Ready:
    """A definition as this gpurack keeps it: with the words that its label lacks."""
    return replace(ready, words=unlabelled(only(entry).entries["alpha"]))


def only(entry: dict[str, Any]) -> Host:
    """A host with this entry, without defaults."""
    return check_fleet({"gpu1": [{"models": {"alpha": entry}}]})["gpu1"]


@pytest.mark.parametrize("case", CONFIGS)
def test_config_comes_back(tmp_path: Path, case: str) -> None:
    then, today = map(of_config, CONFIGS[case])
    spec, back = patched(tmp_path, today, with_known(ready_of(only(then)), then))
    assert spec.entries["alpha"].config == then.get("config")
    assert differences(label_of(only(then)), label_of(spec)) == []
    if case == "same":
        assert back.words == {}


@pytest.mark.parametrize(("case", "why"), [("config", "an older gpurack did not keep"), ("same", "")])
def test_refuses_config_that_an_older_gpurack_did_not_keep(tmp_path: Path, case: str, why: str) -> None:
    then, today = map(of_config, CONFIGS[case])
    if not why:
        assert patched(tmp_path, today, ready_of(only(then)))[1].words == {}
        return
    with pytest.raises(NotPossible, match=why):
        patched(tmp_path, today, ready_of(only(then)))


@pytest.mark.parametrize(("then", "today", "words"), [
    (QWEN, MISTRAL, {"pull": ["qwen2.5:3b"]}), (MISTRAL, QWEN, {"pull": ["mistral:7b", "qwen2.5:3b"]}),
    (QWEN, QWEN, {}), (OLLAMA, QWEN, {"pull": None}),
])  # fmt: skip
def test_pulls_what_it_pulled_then(tmp_path: Path, then: Any, today: Any, words: Any) -> None:
    spec, back = patched(tmp_path, today, with_known(ready_of(only(then)), then))
    assert back.words == words
    assert (spec.entries["alpha"].pull, back.notes) == (then.get("pull", []), ())


def test_says_that_an_older_gpurack_did_not_keep_pull(tmp_path: Path) -> None:
    spec, back = patched(tmp_path, MISTRAL, ready_of(only(QWEN)))
    assert spec.entries["alpha"].pull == MISTRAL["pull"]
    assert back.notes == (UNKNOWN_PULL,)


def test_runner_is_told_what_the_label_lacks() -> None:
    facts = replace(FACTS, weights={"/w/a.gguf": 5})
    for entry, words in ((QWEN, {"pull": ["qwen2.5:3b"]}), (of_config(ONE_MODEL), {"config": ONE_MODEL})):
        job = models_plan(only(entry), facts).job
        assert job
        assert job["batches"][0][0]["words"] == words
    job = models_plan(models(alpha={}), facts).job
    assert job
    assert "words" not in job["batches"][0][0]


# --- database ---------------------------------------------------------------------------------------------------------

CHAT = {"engine": "open-webui", "version": "0.12.4", "port": 3000, "connects_to": ["beta"]}
COPY = DatabaseCopy("2026-11-27T02:00:00Z", "webui:0.12.3", ID, f"{'c' * 32}.db")
OTHER = replace(COPY, id="sha256:other", image="webui:0.12.2", at="2026-11-20T02:00:00Z")


def host_of_chat(**chat: Any) -> Host:
    return check_fleet(
        {"gpu1": [{"models": {"beta": {**COMMON, "version": "b7000"}}, "services": {"chat": {**CHAT, **chat}}}]}
    )["gpu1"]


def chat_facts(*copies: DatabaseCopy, image: str = "sha256:now") -> HostFacts:
    container = replace(running(host_of_chat(), "chat", FACTS), image=image)
    there = host_state(containers=[container])
    return replace(there, databases={("", "chat"): copies}, now=datetime(2026, 11, 28, 9, tzinfo=UTC))


def test_chooses_newest_copy_of_the_image() -> None:
    host, ready = host_of_chat(), replace(OLD, id=ID)
    facts = chat_facts(OTHER, COPY, replace(COPY, copy="older"))
    assert database_to_restore(ready, Observed("chat", host, facts)) is COPY
    assert database_back(ready, Observed("chat", host, facts), True) == (
        COPY.copy,
        ("its database goes back to the copy of 2026-11-27 02:00 UTC (1 d ago). The present one is kept",),
    )
    assert database_back(ready, Observed("chat", host, facts), False) == (
        "",
        ("its database stays as it is. --with-data brings back the copy of 2026-11-27 02:00 UTC (1 d ago)",),
    )


def test_says_why_no_database_is_brought_back() -> None:
    host, ready = host_of_chat(), replace(OLD, id=ID, image="webui:0.12.3")
    with pytest.raises(NotPossible, match=r"Copies: webui:0.12.2 of 2026-11-20 02:00 UTC\."):
        database_to_restore(ready, Observed("chat", host, chat_facts(OTHER)))
    with pytest.raises(NotPossible, match=r"Copies: none\."):
        database_to_restore(ready, Observed("chat", host, chat_facts()))
    with pytest.raises(NotPossible, match="its image stays the same"):
        database_to_restore(ready, Observed("chat", host, chat_facts(COPY, image=ID)))
    with pytest.raises(NotPossible, match="copies no database of it"):
        database_to_restore(ready, Observed("beta", host, chat_facts(COPY)))
    assert database_back(ready, Observed("chat", host, chat_facts(OTHER)), False) == ("", ())


@pytest.mark.parametrize(("words", "found"), [
    ({}, {"volume": "gpurack_open-webui-chat", "file": "webui.db"}),
    ({"env": {"DATABASE_URL": "postgresql://db"}}, None),
    ({"compose": {"volumes": ["/data:/app/backend/data"]}}, None),
])  # fmt: skip
def test_runner_is_told_where_the_database_is(words: Any, found: Any) -> None:
    wanted = host_of_chat(**words)
    job = models_plan(wanted, FACTS, only="chat", rollback="x", database="c.db").job
    assert job
    (data,) = (data for batch in job["batches"] for data in batch)
    assert data.get("database") == (found and {**found, "restore": "c.db"})


# --- which one --------------------------------------------------------------------------------------------------------

NOW, OLD, OLDER = (ready_of(models(alpha={**COMMON, "version": version})) for version in ("b7000", "b6999", "b6998"))
PRESENT = replace(running(models(alpha={}), "alpha", FACTS), labels={paths.MODEL_LABEL: NOW.label}, image=ID)


def test_chooses_newest_that_the_model_does_not_have() -> None:
    assert chosen([NOW, OLD, OLDER], PRESENT, None) is OLD
    assert chosen([OLD, OLDER], PRESENT, None) is OLD  # what it has now was never ready
    assert chosen([NOW, OLD], None, None) is NOW  # its container is gone
    assert chosen([NOW, OLD, OLDER], PRESENT, 3) is OLDER
    assert chosen([NOW, OLD], replace(PRESENT, image="sha256:other"), None) is NOW  # the tag moved


@pytest.mark.parametrize(("history", "number", "why"), [
    ([], None, "no earlier definition is known"), ([NOW], None, "the one that it has now"),
    ([NOW], 2, "only 1 definition is known"), ([NOW, OLD], 3, "only 2 definitions are known"),
])  # fmt: skip
def test_says_why_none_can_be_chosen(history: list[Ready], number: int | None, why: str) -> None:
    with pytest.raises(NotPossible, match=why):
        chosen(history, PRESENT, number)


def test_image_is_exact() -> None:
    back = Back(OLD, {"version": "b6999", "image": None})
    assert exact_image(back, "", replace(FACTS, images={OLD.image: ID})) is back
    for images, why in (({}, "is not on the host"), ({OLD.image: "sha256:other"}, "means another image now")):
        found = exact_image(back, "", replace(FACTS, images=images))
        assert found.words == {"version": None, "image": DIGEST}
        assert found.notes == (f"its image is missing: {OLD.image} {why}. It pulls {DIGEST}.",)
    with pytest.raises(NotPossible, match="built or loaded there"):
        exact_image(replace(back, ready=replace(OLD, digest="")), "", FACTS)


# --- in a plan --------------------------------------------------------------------------------------------------------


def test_only_one_model_is_planned() -> None:
    before = models(alpha={"version": "b7000"}, beta={}, gamma={})
    wanted = models(alpha={"version": "b6999"}, beta={"version": "b7001"})
    found = models_plan(wanted, settled(before), only="alpha", rollback="0123456789ab")
    assert [change.model for change in found.changes] == ["alpha"]
    assert found.job
    assert sorted(found.job["projects"][""]["services"]) == ["alpha", "beta", "gamma"]
    assert [data["rollback"] for batch in found.job["batches"] for data in batch] == ["0123456789ab"]
    everything = models_plan(wanted, settled(before))
    assert not any("rollback" in data for batch in (everything.job or {})["batches"] for data in batch)


def changes(spec: Host, facts: HostFacts) -> list[str]:
    return [str(change) for change in models_plan(spec, facts).changes]


def test_run_says_that_it_undoes_a_rollback() -> None:
    old, today = models(alpha={"version": "b6999"}), models(alpha={"version": "b7000"})
    known = Entry(None, "model", applied="2026-11-28T02:00:00Z", rollback=mark(today.entries["alpha"]))
    facts = replace(settled(old), record={"": {"alpha": known}})
    (line,) = changes(today, facts)
    assert line.startswith("recreate alpha: undoes the rollback of ")
    assert line.endswith("version b6999 → b7000")
    (line,) = (str(change) for change in models_plan(today, facts, verb="rollback").changes)
    assert line.startswith("recreate alpha: image "), "another rollback undoes none"
    # once the inventory is edited, in whatever way, it is a change like others
    edited = models(alpha={"version": "b7001"})
    assert "rollback" not in str(changes(edited, facts))
    assert changes(old, facts) == ["keep alpha"]


def test_mark_changes_with_the_entry_alone() -> None:
    one = models(alpha={"version": "b7000"}).entries["alpha"]
    assert mark(one) == mark(models(alpha={"version": "b7000"}, beta={}).entries["alpha"])
    assert mark(one) != mark(models(alpha={"version": "b7001"}).entries["alpha"])


def test_record_keeps_the_mark() -> None:
    entry = {"id": "a" * 64, "kind": "model", "rollback": "0123456789ab"}
    found = read(json.dumps({"format": 2, "containers": {"": {"alpha": entry}}}))
    assert found
    assert found.containers
    assert found.containers[""]["alpha"].rollback == "0123456789ab"


# --- screens ----------------------------------------------------------------------------------------------------------


def test_lists_definitions_with_their_difference() -> None:
    assert list(listed([NOW, OLD], PRESENT, FACTS)) == [
        f"1  ready since 2026-11-28 02:00:00 UTC  {REPO}:server-b7000  (now)",
        f"2  ready 2026-11-28 02:00:00 UTC  {REPO}:server-b6999",
        f"     unlike 1: image {REPO}:server-b7000 → {REPO}:server-b6999",
        "     unlike 1: version b7000 → b6999",
    ]
    assert is_present(NOW, PRESENT)


def test_says_what_is_not_as_it_was() -> None:
    then = json.loads(OLD.label)
    now = json.dumps({**then, "api_key": "5a:1", "args": {"threads": 2}})
    job = {"batches": [[{"name": "alpha", "label": now}, {"name": "beta", "label": "{}"}]]}
    assert list(other_words(job, OLD, "alpha")) == [
        "differs from then: args.threads – → 2",
        "differs from then: api_key added",
    ]
