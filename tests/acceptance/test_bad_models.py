"""Models that cannot start: each has a reason and a hint, and the others are served.

One host is installed for the whole file. `beta` and `delta` must never change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY, weights

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-b7000"
KEY = "sk-bad-day-0123456789"
GOOD: dict[str, Any] = {
    "alpha": model("alpha", [0], 8000),
    "beta": model("beta", [1], 8001),
    "delta": model("delta", [], 8003),
}
SHORT_WAIT = """\
from gpurack.spec.model import Model

Model.ready_seconds = 6  # instead of half an hour

from gpurack.deploys import gpu_host  # noqa: E402

gpu_host()
"""


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """gpu1 with the good models running."""
    host = lab.testbed.host("gpu1")
    lab.settle(host, GOOD)
    return host


@pytest.fixture
def strangers(host: Host) -> Iterator[dict[str, tuple[str, str]]]:
    """Foreign: a web page on port 9001, a container with a model's name, a process on port 9000."""
    sleep = f"--entrypoint sleep {IMAGE} infinity"
    host.root(f"docker run -d --name grafana -p 127.0.0.1:9001:3000 {sleep}")
    host.root(f"docker run -d --name namesake {sleep}")
    host.root("systemd-run --unit=somebody -p User=lab -p WorkingDirectory=/run python3 -m http.server 9000")
    seen = identities(host)
    yield {name: seen[name] for name in ("grafana", "namesake")}
    host.root("docker rm -f grafana namesake; systemctl stop somebody")


def listening(host: Host, port: int) -> bool:
    """Does anything listen there?"""
    return bool(host.root(f"ss -Hltn sport = :{port}").stdout.strip())


def sentence(run: Run, name: str) -> str:
    """The error below the table about one model of gpu1."""
    found = [error for error in run.errors("gpu1") if name in error.partition(": ")[0].split(", ")]
    assert len(found) == 1, f"{name}: {found}\n{run.output}"
    return found[0].partition(": ")[2]


def test_bad_models_have_errors_and_others_are_served(
    lab: Lab, host: Host, strangers: dict[str, tuple[str, str]]
) -> None:
    """Twelve bad models in one run, beside one that changes and two that stay."""
    uuids = host.gpus.uuids
    print_key = {"entrypoint": ["sh", "-c", "echo loading; echo key is $(cat /run/secrets/api_key); exit 3"]}
    bad = {
        "no-index": model("gamma", [7], 8010),
        "no-uuid": model("gamma", ["GPU-ffffffff"], 8011),
        "same-card": model("gamma", [uuids[1][:20]], 8012),
        "process-port": model("gamma", [], 9000),
        "container-port": model("gamma", [], 9001),
        "namesake": model("gamma", [], 8013),
        "no-weights": {"weights": "/data/nowhere/gamma.gguf", "gpus": [], "port": 8014},
        "wrong-sum": {"weights": {**weights("gamma"), "sha256": "0" * 64}, "gpus": [], "port": 8015},
        "gone-url": {
            "weights": {"url": "http://weights.testbed/gone.gguf", "sha256": "1" * 64},
            "gpus": [],
            "port": 8016,
        },
        "no-image": model("gamma", [], 8017, image=f"{REGISTRY}/nobody/nothing:1"),
        "exits": model("gamma", [], 8018, compose=print_key, api_key={"env": "BAD_DAY_KEY"}),
        "no-service": model("gamma", [], 8020, compose={"volumes": 5}),
    }
    before = identities(host)
    changed = {**GOOD, "alpha": model("alpha", [0], 8000, context=512)}
    run = lab.run(lab.inventory({"gpu1": {"models": {**changed, **bad}}}), env={"BAD_DAY_KEY": KEY})
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output

    for name in bad:
        assert "FAILED" in run.row("gpu1", name), run.output
    assert "GPU 7 does not exist; the host has 0 (GPU-" in sentence(run, "no-index")
    assert "GPU-ffffffff does not exist; the host has 0 (GPU-" in sentence(run, "no-uuid")
    assert uuids[1] in sentence(run, "same-card")
    assert "is claimed by 2 models: beta, same-card. Running there: beta." in sentence(run, "same-card")
    assert "(free: 2, 3)" in sentence(run, "same-card")
    pid = host.root("systemctl show -p MainPID --value somebody").stdout.strip()
    assert f"port 9000 is already in use by process python3 (pid {pid}, user lab)" in sentence(run, "process-port")
    assert "port 9001 is already in use by container `grafana`, which gpurack does not manage" in sentence(
        run, "container-port"
    )
    assert sentence(run, "process-port").endswith("Stop it or use another port.")
    assert sentence(run, "container-port").endswith("replaces: grafana`, stop it, or use another port.")
    assert "a container named `namesake` already exists and is not managed by gpurack" in sentence(run, "namesake")
    assert "Adopt it with `replaces: namesake`, or rename the model." in sentence(run, "namesake")
    assert "/data/nowhere/gamma.gguf do not exist on the host. Copy them there" in sentence(run, "no-weights")
    assert f"not {'0' * 64}" in sentence(run, "wrong-sum")
    assert weights("gamma")["sha256"] in sentence(run, "wrong-sum")
    assert "http://weights.testbed/gone.gguf" in sentence(run, "gone-url")
    assert "404" in sentence(run, "gone-url")
    assert f"cannot pull image {REGISTRY}/nobody/nothing:1: " in sentence(run, "no-image")
    assert f"docker pull {REGISTRY}/nobody/nothing:1" in sentence(run, "no-image")
    assert "Compose rejects it, so it was not changed. Correct its `compose` field." in sentence(run, "no-service")
    assert "volumes must be a" in sentence(run, "no-service")
    kept = "/var/lib/gpurack/logs/_/exits.failed.log"
    assert sentence(run, "exits").startswith("exited while loading (exit code 3). ")
    assert sentence(run, "exits").endswith(f"Its log: {kept}")
    assert "| loading" in run.output
    assert "| key is •••" in run.output
    assert KEY not in run.output
    assert "3 of 15 models answered, 1 changed." in run.output

    # the others: one changed as requested, two and the foreign containers untouched
    assert run.row("gpu1", "alpha").endswith("ready, recreated"), run.output
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence
    after = identities(host)
    assert after["alpha"] != before["alpha"]
    assert "ctx-size" in str(containers(host)["alpha"]["Args"])
    for name in ("beta", "delta"):
        assert after[name] == before[name], f"{name} was touched"
        assert run.row("gpu1", name).endswith("ready")
    for name, identity in strangers.items():
        assert after[name] == identity, f"{name} was touched"
    # none of the failed ones has a container; of the one that started and exited the log is kept, without its key
    assert set(after) == {"alpha", "beta", "delta", "grafana", "namesake"}
    assert host.get(kept).decode().splitlines()[-2:] == ["loading", "key is •••"]
    assert host.root(f"stat -c '%a %U' {kept}").stdout.split() == ["600", "root"]
    assert not listening(host, 8018)
    # no unverified file is in place, not even a partial one
    assert "0000000000000000" not in host.root("ls /var/lib/gpurack/weights").stdout

    again = lab.run(lab.inventory({"gpu1": {"models": changed}}))
    assert again.exit_code == 0, again.output
    assert set(identities(host)) == {"alpha", "beta", "delta", "grafana", "namesake"}
    settled = lab.run(lab.inventory({"gpu1": {"models": changed}}))
    assert settled.unchanged, settled.output


class Caller(threading.Thread):
    """Keeps asking a model, and counts the answers other than its own sentence."""

    def __init__(self, host: Host, port: int, sentence: str) -> None:
        super().__init__(daemon=True)
        self.host, self.port, self.sentence = host, port, sentence
        self.answers, self.wrong, self.ended = 0, list[str](), threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                answer = chat(self.host, self.port)
            except Exception as error:
                answer = repr(error)
            self.answers += 1
            if answer != self.sentence:
                self.wrong.append(answer)

    def finish(self) -> None:
        """Stop asking. Every answer so far must have been correct."""
        self.ended.set()
        self.join()
        assert self.answers > 2
        assert self.wrong == []


@pytest.fixture
def calling(lab: Lab, host: Host) -> Iterator[Callable[[str, int], Caller]]:
    """Start to ask a model; ends with the test."""
    begun: list[Caller] = []

    def begin(name: str, port: int) -> Caller:
        begun.append(Caller(host, port, lab.testbed.weights(name).sentence))
        begun[-1].start()
        return begun[-1]

    yield begin
    for caller in begun:
        caller.ended.set()
        caller.join()


def test_old_model_serves_during_and_after_failed_replacement(
    lab: Lab, host: Host, calling: Callable[[str, int], Caller]
) -> None:
    """A wrong sha256, a missing image, missing weights: the old models are never stopped."""
    assert lab.run(lab.inventory({"gpu1": {"models": GOOD}})).exit_code == 0
    before = identities(host)
    callers = [calling("alpha", 8000), calling("beta", 8001), calling("delta", 8003)]
    wanted = {
        "alpha": {**GOOD["alpha"], "weights": {**weights("gamma"), "sha256": "2" * 64}},
        "beta": {**GOOD["beta"], "image": f"{REGISTRY}/nobody/nothing:1"},
        "delta": {**GOOD["delta"], "weights": "/data/nowhere/delta.gguf"},
    }
    run = lab.run(lab.inventory({"gpu1": {"models": wanted}}))
    assert run.exit_code == 1, run.output
    for caller in callers:
        caller.finish()
    assert identities(host) == before
    for name in wanted:
        assert "FAILED" in run.row("gpu1", name), run.output
    # by hand, with the file that admins may use, it is still the old project
    shown = host.root("docker compose -f /etc/gpurack/compose.yaml ps --format '{{.Name}} {{.State}}'").stdout
    assert sorted(shown.split()) == sorted(["alpha", "beta", "delta", "running", "running", "running"])
    host.root("docker compose -f /etc/gpurack/compose.yaml up -d --no-deps --pull never")
    assert identities(host) == before, "the file does not describe what runs"

    settled = lab.run(lab.inventory({"gpu1": {"models": GOOD}}))
    assert settled.unchanged, settled.output


def test_model_that_never_gets_ready_is_reported(lab: Lab, host: Host, tmp_path: Path) -> None:
    """With the request and where its log is. It had no predecessor, so nothing of it stays but the log."""
    before = identities(host)
    deploy = tmp_path / "short_wait.py"
    deploy.write_text(SHORT_WAIT)
    silent = {"entrypoint": ["sh", "-c", "echo tensors are missing; exec sleep infinity"]}
    wanted = {**GOOD, "silent": model("gamma", [2], 8019, compose=silent)}
    run = lab.run(lab.inventory({"gpu1": {"models": wanted}}), deploy=str(deploy))
    assert run.exit_code == 1, run.output
    assert "silent: loading" in run.output
    assert "not ready after 6 s" in sentence(run, "silent")
    assert "http://127.0.0.1:8019/v1/models" in sentence(run, "silent")
    assert "/var/lib/gpurack/logs/_/silent.failed.log" in sentence(run, "silent")
    assert "| tensors are missing" in run.output
    assert "FAILED: not ready after 6 s" in run.row("gpu1", "silent")
    for name in GOOD:
        assert identities(host)[name] == before[name]
    assert "silent" not in containers(host)
    assert "tensors are missing" in host.get("/var/lib/gpurack/logs/_/silent.failed.log").decode()
