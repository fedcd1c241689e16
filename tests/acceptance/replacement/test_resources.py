"""What a change needs is taken, held, gone or full: the old model serves, and nothing of others is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, chat, identities, model
from tests.acceptance.evidence import RUNNING_WITH_CARDS, cards_held_twice, lifetimes, sampled
from tests.acceptance.owners import IMAGE
from tests.acceptance.replacement.conftest import (
    CRASHES,
    NAME,
    NEW,
    apply,
    containers,
    ids,
    ours,
    pair,
    right,
    says,
    serves_again,
    settle,
)
from tests.acceptance.replacement.test_interrupted import end, held_at
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES

pytestmark = pytest.mark.usefixtures("untouched")
SERVING = {"alpha": (8000, "alpha"), "beta": (8001, "beta")}


@contextmanager
def listening(host: Host, port: int) -> Iterator[None]:
    """Another process listens at a port."""
    code = f"import socket, signal; kept = socket.create_server(('127.0.0.1', {port})); signal.pause()"
    host.root(f'systemd-run --collect --unit=somebody python3 -c "{code}"')
    try:
        yield
    finally:
        host.root("systemctl stop somebody")


@pytest.mark.parametrize(("when", "word"), [("before", "create"), ("after", "stop")], ids=lambda word: word)
def test_port_taken_between_plan_and_start(lab: Lab, host: Host, when: str, word: str) -> None:
    """alpha moves to another port, which another process takes; found before the old one stops, or by the start."""
    settle(lab, host, pair())
    before = identities(host)
    wanted = {**pair(), "alpha": model("alpha", [0], 8100, **NEW)}
    with hook.planned(host, when, word):
        process = held_at(lab, host, wanted)
        with listening(host, 8100):
            hook.release(host)
            code, output = end(process)
    assert code == 1, output
    assert "8100" in output
    right(host, SERVING)
    if word == "create":
        assert identities(host) == before, "the old one was stopped"
    elif "serves again" not in output:
        raise AssertionError(output)


def test_name_taken_between_plan_and_creation(lab: Lab, host: Host) -> None:
    """Someone's container gets the name of the model that changes. It stays as it is, and the old model serves."""
    settle(lab, host, pair())
    old = ids(host)["alpha"]
    wanted = {**pair(), "alpha": model("alpha", [0], 8000, **NEW)}
    with hook.planned(host, "before", "create"):
        process = held_at(lab, host, wanted)
        host.root(f"docker run -d --name alpha --entrypoint sleep {IMAGE} infinity")
        hook.release(host)
        code, output = end(process)
    assert code == 1, output
    says(host, 8000, "alpha")
    says(host, 8001, "beta")
    foreign = containers(host)["alpha"]
    assert "gpurack.model" not in foreign["Config"]["Labels"]
    assert foreign["State"]["Running"]
    assert old in ids(host).values()
    host.root("docker rm -f alpha")
    run = apply(lab, wanted)
    assert run.exit_code == 0, run.output
    right(host, SERVING)


def test_failed_stop_ends_the_group(lab: Lab, host: Host) -> None:
    """alpha gives its GPU to beta. A docker stop fails: no new one starts, and both old ones serve."""
    settle(lab, host, pair())
    before = ids(host)
    wanted = {"alpha": model("alpha", [2], 8000, **NEW), "beta": model("beta", [0], 8001, **NEW)}
    with hook.planned(host, "fail", "stop"), sampled(host, RUNNING_WITH_CARDS, every=0.2) as samples:
        run = apply(lab, wanted)
    assert run.exit_code == 1, run.output
    assert cards_held_twice(samples) == []
    assert ids(host) == before
    right(host, SERVING)
    assert "permission denied" in run.output
    for name in wanted:
        assert "FAILED" in run.row(NAME, name), run.output


def test_new_model_waits_for_memory_of_old_one(lab: Lab, host: Host) -> None:
    """The GPU's memory is in use for some seconds after the old one's end, without a process."""
    settle(lab, host, pair())
    held = 4
    host.gpus.use(0, 20000, ours(host)["alpha"]["State"]["Pid"], held)
    run = apply(lab, {**pair(), "alpha": model("alpha", [0], 8000, context=512)})
    assert run.exit_code == 0, run.output
    events = [(action, at / 1e9) for name, action, at in lifetimes(host, run.begun) if name.startswith("alpha")]
    died = next(at for action, at in events if action == "die")
    started = next(at for action, at in events if action == "start" and at > died)
    assert started - died > held - 0.5
    right(host, SERVING)


def test_missing_weights_are_fetched_while_the_model_serves(lab: Lab, host: Host) -> None:
    """Deleted under a running model. It is not restarted, and survives the next restart."""
    settle(lab, host, pair())
    before = identities(host)
    host.root("rm /var/lib/gpurack/weights/*-alpha.gguf")
    run = apply(lab, pair())
    assert run.exit_code == 0, run.output
    assert identities(host) == before
    assert host.root("ls /var/lib/gpurack/weights/*-alpha.gguf").stdout
    host.root("docker restart alpha")
    says(host, 8000, "alpha")


def test_revoked_key_does_not_return(lab: Lab, host: Host) -> None:
    """The key is changed together with something that fails. The old model serves again, with the new key only."""
    keyed = {**pair(), "alpha": model("alpha", [0], 8000, api_key={"env": "LAB_KEY"})}
    old, new = "sk-revoked-0123456789", "sk-todays-0123456789"
    run = apply(lab, keyed, env={"LAB_KEY": old})
    assert run.exit_code == 0, run.output
    broken = {**keyed, "alpha": {**keyed["alpha"], **CRASHES, **NEW}}
    run = apply(lab, broken, env={"LAB_KEY": new})
    assert run.exit_code == 1, run.output
    serves_again(run, "alpha")
    assert chat(host, 8000, new) == SENTENCES["alpha"]
    ask = "curl -s -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer " + old + "' -d '{\"messages\": []}' "
    assert host.root(ask + "http://127.0.0.1:8000/v1/chat/completions").stdout == "401"
    assert host.root(f"grep -rlF {old} /etc/gpurack /var/lib/gpurack", check=False).stdout == ""
    assert new not in run.output
    run = apply(lab, keyed, env={"LAB_KEY": new})
    assert run.exit_code == 0, run.output


def test_first_request_fits_the_mode_of_the_engine(lab: Lab, host: Host) -> None:
    """llama.cpp with `embeddings` is asked for embeddings; a chat would end it."""
    embeds = {**pair(), "alpha": model("alpha", [0], 8000, args={"embeddings": True})}
    run = apply(lab, embeds)
    assert run.exit_code == 0, run.output
    ask = "curl -sf -H 'Content-Type: application/json' -d '{\"content\": \"a\"}' http://127.0.0.1:8000/embedding"
    assert "embedding" in host.root(ask).stdout
    assert ours(host)["alpha"]["RestartCount"] == 0
    assert apply(lab, embeds).unchanged
