"""Many ways in which a changed model can fail, all in one run, and what the next nights make of it.

Each old model answers again within its own load time plus five seconds, in its old container.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, identities, model
from tests.acceptance.evidence import Samples, lifetimes, sampled
from tests.acceptance.replacement.conftest import (
    COMPOSE,
    CRASHES,
    GRACE,
    LOAD,
    NAME,
    NEW,
    Models,
    answering,
    apply,
    ids,
    outages,
    record,
    right,
    sentence,
    serves_again,
    settle,
    within,
)
from tests.testbed import Host
from tests.testbed.services import WEIGHTS

pytestmark = pytest.mark.usefixtures("untouched")

MODELS: Models = {
    "crashes": model("alpha", [0], 8000),
    "refused": model("beta", [1], 8001),
    "not-made": model("gamma", [], 8002),
    "silent": model("delta", [], 8003),
    "first-request": model("alpha", [], 8004),
    "dies-later": model("beta", [], 8005),
    "truncated": model("gamma", [], 8006),
    "flag": model("alpha", [3], 8008),
    "no-device": model("beta", [], 8009),
    "steady": model("delta", [2], 8007),
}
SENTENCES_OF = ("alpha", "beta", "gamma", "delta", "alpha", "beta", "gamma", "alpha", "beta", "delta")
SAYS = dict(zip(MODELS, SENTENCES_OF, strict=True))
SERVING = {name: (entry["port"], SAYS[name]) for name, entry in MODELS.items()}
LIVES = '/app/llama-server "$@" & sleep 4; kill -9 $!; wait $!; echo "it did not live long"; exit 1'
ENDS_AT_REQUEST = (
    'mknod /tmp/log p; /app/llama-server "$@" >/tmp/log 2>&1 & while read -r line; do echo "$line"; '
    "case $line in *LRU*) kill -9 $! ;; esac; done </tmp/log; exit 1"
)
"""llama.cpp logs the choice of a slot (LRU) at the begin of the first request."""
SILENT = 40
"""Seconds for which the one that never gets ready is waited for: far more than another old model needs to serve again,
so that one which waits for it is seen."""
FAULTS: dict[str, dict[str, Any]] = {
    "crashes": CRASHES,
    "refused": {"compose": {"user": "no-such-user"}},
    "not-made": {"compose": {"runtime": "no-such-runtime"}},
    "silent": {
        "ready_timeout": f"{SILENT}s",
        "compose": {"entrypoint": ["sh", "-c", "trap exit TERM; echo dumb; sleep 999 & wait"]},
    },
    "first-request": {"compose": {"entrypoint": ["sh", "-c", ENDS_AT_REQUEST, "sh"]}},
    "dies-later": {"compose": {"entrypoint": ["sh", "-c", LIVES, "sh"]}},
    "truncated": {},
    "flag": {"args": {"no-such-flag": 1}},
    "no-device": {"compose": {"devices": ["/dev/no-such-device"]}},
}
STARTED = ("crashes", "silent", "first-request", "dies-later")
"""Those whose program ran, so that there is a log."""
PROVEN = {
    "not-made": "no-such-runtime",
    "truncated": "its weights are damaged: ",
    "flag": "its program refuses its arguments: invalid argument: --no-such-flag",
    "no-device": "Docker cannot give it its devices: error gathering device information",
}
"""Those of which it is proven, before the old one stops, that they fail → what their error says."""


CERTAIN = {"truncated", "flag"}
"""Those of PROVEN that only another entry, image or file can fix, so that they are not tried again."""


def faulty() -> Models:
    """Every model but one with its fault. The truncated file has the sha256 that the inventory says."""
    content = (WEIGHTS / "gamma.gguf").read_bytes()
    content = content[: len(content) * 3 // 5]
    (WEIGHTS / "truncated.gguf").write_bytes(content)
    weights = {"url": "http://weights.testbed/truncated.gguf", "sha256": hashlib.sha256(content).hexdigest()}
    changed = {name: {**entry, **FAULTS[name], **NEW} if name in FAULTS else entry for name, entry in MODELS.items()}
    changed["truncated"]["weights"] = weights
    return changed


@dataclass(frozen=True)
class Tried:
    """The run with all faults, and what was seen of it."""

    run: Run
    before: dict[str, tuple[str, str]]
    compose: bytes
    samples: Samples
    events: list[tuple[str, str, int]]
    after: dict[str, tuple[str, str]]
    limit: float
    """Seconds within which each must answer again."""


@pytest.fixture(scope="module")
def tried(lab: Lab, host: Host) -> Tried:
    """One run in which all but one fail."""
    settle(lab, host, MODELS)
    before, compose = identities(host), host.get(COMPOSE)
    with sampled(host, answering(*(entry["port"] for entry in MODELS.values()))) as samples:
        run = apply(lab, faulty())
    assert run.exit_code == 1, run.output
    limit = within(LOAD + GRACE, SILENT * 0.75)  # the others end up to some seconds after its start
    return Tried(run, before, compose, samples, lifetimes(host, run.begun), identities(host), limit)


@pytest.mark.parametrize("name", FAULTS)
def test_old_model_is_in_its_container(tried: Tried, name: str) -> None:
    assert "FAILED" in tried.run.row(NAME, name), tried.run.output
    assert tried.after[name][0] == tried.before[name][0], "another container"


def test_all_old_models_serve_and_nothing_is_left(tried: Tried, host: Host) -> None:
    right(host, SERVING)


@pytest.mark.parametrize("name", FAULTS)
def test_old_model_answers_within_its_load_time_and_five_seconds(tried: Tried, name: str) -> None:
    """Counted from the end of the new one, or of the old one where the new one never ran. What is proven before stops
    nothing."""
    port = MODELS[name]["port"]
    if name in PROVEN:
        assert outages(tried.samples, port) == []
        assert tried.after[name] == tried.before[name], "it was restarted"
        return
    ends = [at / 1e9 for one, action, at in tried.events if action == "die" and one in (name, f"{name}.previous")]
    late = [outage for outage in outages(tried.samples, port) if outage.ended > max(ends) + tried.limit]
    assert not late, (late, tried.limit, tried.events)


def test_error_says_what_failed_and_what_serves(tried: Tried) -> None:
    for name in FAULTS.keys() - PROVEN.keys():
        serves_again(tried.run, name)
    for name, why in PROVEN.items():
        assert why in sentence(tried.run, name)
    assert "no-such-user" in sentence(tried.run, "refused")
    assert "/dev/no-such-device" in sentence(tried.run, "no-device")
    assert f"not ready after {SILENT} s" in sentence(tried.run, "silent")
    assert "exit code 1" in sentence(tried.run, "dies-later")
    assert "| it did not live long" in tried.run.output
    assert "nothing changed" not in tried.run.output
    assert tried.run.row(NAME, "steady").endswith("ready")


def test_logs_of_failed_ones_are_kept_for_root(tried: Tried, host: Host) -> None:
    for name in STARTED:
        path = f"/var/lib/gpurack/logs/_/{name}.failed.log"
        assert host.root(f"stat -c '%a %U' {path}").stdout.split() == ["600", "root"]
        assert host.root(f"test -s {path}", check=False).returncode == 0
    assert "no-such-flag" in host.get("/var/lib/gpurack/logs/_/crashes.failed.log").decode()


def test_compose_file_and_record_are_as_before(tried: Tried, host: Host) -> None:
    assert host.get(COMPOSE) == tried.compose
    failed = record(host)["failed"][""]
    assert set(failed) >= {*STARTED, "refused"}
    assert set(failed) & PROVEN.keys() == CERTAIN
    assert all(entry["serves"] for entry in failed.values()), json.dumps(failed, indent=1)
    assert tried.after["steady"] == tried.before["steady"]


def test_later_nights_try_nothing_again(tried: Tried, lab: Lab, host: Host) -> None:
    """Two more runs of the same inventory: exit 1, no container starts or stops, and every model answers throughout."""
    for _ in range(2):
        before = identities(host)
        with sampled(host, answering(*(entry["port"] for entry in MODELS.values()))) as samples:
            run = apply(lab, faulty())
        assert run.exit_code == 1, run.output
        assert lifetimes(host, run.begun) == []
        assert identities(host) == before
        assert [name for name in MODELS if outages(samples, MODELS[name]["port"])] == []
        for name in FAULTS:
            assert "FAILED" in run.row(NAME, name), run.output
            assert ("was tried at" in sentence(run, name)) == (name in CERTAIN or name not in PROVEN)


def test_retry_tries_one_again(tried: Tried, lab: Lab, host: Host) -> None:
    run = apply(lab, faulty(), "-y", "--data", f"retry={NAME}/crashes")
    assert run.exit_code == 1, run.output
    assert {name for name, _, _ in lifetimes(host, run.begun)} <= {"crashes", "crashes.previous"}
    assert lifetimes(host, run.begun), "it was not tried"
    right(host, SERVING)


def test_changed_entry_is_tried_and_the_rest_is_as_it_serves(tried: Tried, lab: Lab, host: Host) -> None:
    """The inventory is corrected: one entry has another context, the others are what serves."""
    old = ids(host)
    run = apply(lab, {**MODELS, "crashes": {**MODELS["crashes"], "context": 512}})
    assert run.exit_code == 0, run.output
    new = ids(host)
    assert {name for name in new if new[name] != old[name]} == {"crashes"}
    assert not record(host).get("failed", {}).get("", {}).get("crashes")
    right(host, SERVING)
    assert apply(lab, {**MODELS, "crashes": {**MODELS["crashes"], "context": 512}}).unchanged
