"""`gpurack status`: hosts, GPUs and models, for possible snapshots."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from gpurack import screen
from gpurack.commands.lab_status import HostStatus, ModelStatus, host_status, is_well, lab_status
from gpurack.commands.status import as_data, served_text, show, state_text, summary
from gpurack.commands.status_page import write_page
from gpurack.facts.gpus import MISMATCH, Driver, Xid
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.facts.record import Entry
from gpurack.plan.models.states import ModelState
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from tests.given import container, gpu, host_state, models, running, said, spec, uuid

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def ago(**time: float) -> str:
    """A moment before NOW, in Docker's format."""
    return (NOW - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%S.000000001Z")


def one(**container: Any) -> tuple[Host, Container]:
    """The only model of a lab, and its container."""
    wanted = models(alpha={})
    return wanted, replace(running(wanted, "alpha", host_state()), **container)


def status_of(spec: Host, *containers: Container, **said: Any) -> ModelStatus:
    """The status of `alpha`."""
    [model] = host_status("gpu1", spec, host_state(containers=containers, **said), NOW).models
    return model


@pytest.mark.parametrize(
    ("restarts", "tested", "text"),
    [
        (3, {"restarts": 0}, "ready 2 h, restarted 3 times since 08:02"),
        (4, {"restarts": 3}, "ready 2 h, restarted once since 08:02"),
        (3, {"restarts": 0, "at": "2026-11-18T14:02:00Z"}, "ready 2 h, restarted 3 times since 2026-11-18 14:02"),
        (3, {"restarts": 3}, "ready 2 h, 3 restarts"),
        (3, {"restarts": None}, "ready 2 h, 3 restarts"),
        (0, {"restarts": 0}, "ready 2 h"),
    ],
)
def test_says_that_ready_model_was_restarted_since_its_test(restarts: int, tested: dict[str, Any], text: str) -> None:
    wanted, container = one(started=ago(hours=2), restarts=restarts)
    test = {"id": container.id, "at": "2026-11-20T08:02:00Z", "since": "", "why": "", **tested}
    probes = {"alpha": [200, '{"data":[{"id":"alpha"}]}']}
    found = status_of(wanted, container, probes=probes, tests={"alpha": test})
    assert state_text(found, NOW) == text
    # one that Docker restarts again and again answers meanwhile, and is not ready
    again = replace(container, started=ago(seconds=4), restarts=restarts + 1)
    found = status_of(wanted, again, probes=probes, tests={"alpha": test}, now=NOW)
    assert found.state == "DOWN"
    assert state_text(found, NOW) == f"DOWN: restarts again and again, {restarts + 1} restart{'s' * (restarts > 0)}"


def test_shows_start_and_counter_of_ready_model() -> None:
    wanted, container = one(started=ago(days=6))
    found = status_of(
        wanted, container, probes={"alpha": [200, '{"data":[{"id":"alpha"}]}']}, counters={"alpha": 1234.0}
    )
    assert (found.state, found.endpoint, found.served, found.unit) == (
        "ready", "http://localhost:8000/v1", 1234.0, "tokens",
    )  # fmt: skip
    assert state_text(found, NOW) == "ready 6 d"


@pytest.mark.parametrize(
    ("container", "probe", "text"),
    [
        ({"status": "exited", "exit_code": 137, "finished": ago(hours=5)}, None, "DOWN 5 h: exited with code 137"),
        (
            {"status": "restarting", "restarts": 41, "finished": "0001-01-01T00:00:00Z"},
            None,
            "DOWN: restarting, 41 restarts",
        ),
        ({"status": "paused"}, None, "DOWN: paused"),
        ({"status": "paused", "finished": ago(hours=5)}, None, "DOWN: paused"),
        ({"started": ago(seconds=40)}, [503, "Loading model"], "loading 40 s"),
        ({"started": ago(seconds=90)}, [0, "Connection refused"], "loading 90 s"),
        ({"started": ago(seconds=4), "restarts": 3}, [0, "refused"], "DOWN: restarts again and again, 3 restarts"),
        ({}, [0, "Operation timed out after 5000 ms"], "DOWN: runs but does not answer"),
        ({}, [401, "Invalid API Key"], "DOWN: answers HTTP 401"),
        (
            {"started": ago(hours=3)},
            [200, '{"data":[{"id":"beta"}]}'],
            "DOWN 3 h: another model answers at http://127.0.0.1:8000/v1/models",
        ),
    ],
)
def test_shows_why_model_is_not_ready(container: dict[str, Any], probe: list[Any] | None, text: str) -> None:
    wanted, found = one(**container)
    assert state_text(status_of(wanted, found, probes={"alpha": probe} if probe else {}), NOW) == text


def test_shows_a_port_that_docker_lost() -> None:
    wanted, found = one(ports=(("127.0.0.1", 8000),))
    status = status_of(wanted, found, probes={"alpha": [0, "refused"]}, listeners=["0.0.0.0:22 sshd (pid 1)"])
    assert state_text(status, NOW) == "DOWN: runs but Docker no longer publishes its port 8000"
    assert status.problem
    assert status.problem.hint == "The next run restarts it. By hand: docker restart alpha."


def test_shows_missing_and_disabled_models_and_missing_docker() -> None:
    assert state_text(status_of(models(alpha={})), NOW) == "DOWN: no container"
    off = status_of(models(alpha={"enabled": False}))
    assert (off.state, off.endpoint, state_text(off, NOW)) == ("disabled", "", "disabled")
    host = host_status("gpu1", models(alpha={}), host_state(docker={}), NOW)
    assert host.state == "DEGRADED"
    assert said(host.errors) == ("Docker is not installed. Run `gpurack apply`.",)
    assert host.models[0].why == "Docker does not answer"


def lost_card(xids: tuple[Xid, ...] = ()) -> tuple[Host, HostFacts]:
    """Four GPUs, of which number 2 is lost; beta has it."""
    wanted = spec({"hardware": {"A30": 4}, "models": {"beta": {"gpus": [1, 2], "port": 8001}}})
    whole = host_state(gpus=4)
    pci = {f"0000:{place}:00.0": uuid(card) for card, place in enumerate(("17", "65", "ca", "e1"))}
    facts = replace(
        host_state(gpus=4, containers=[running(wanted, "beta", whole, (uuid(1), uuid(2)))]),
        gpus=(gpu(0), gpu(1), gpu(3)),
        driver=Driver("580.159.04", 15, "GPU is lost", pci, xids),
    )
    return wanted, facts


def test_shows_when_and_why_gpu_was_lost_and_its_models() -> None:
    xid = Xid("0000:ca:00", 79, datetime(2026, 11, 20, 2, 11, tzinfo=UTC))
    host = host_status("gpu1", *lost_card((xid,)), NOW)
    assert host.state == "DEGRADED"
    assert said(host.errors) == (
        "GPU 2 lost since 2026-11-20 02:11 (Xid 79, GPU-0000…, PCI ca:00.0). Reboot the host. Affected models: beta.",
    )
    assert [(card.index, bool(card.lost), card.models) for card in host.gpus] == [
        (0, False, ()), (1, False, ("beta",)), (2, True, ("beta",)), (3, False, ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "cause"),
    [((31, 79, 154), "02:02 (Xid 79,"), ((31, 119), "02:02 (Xid 119,"), ((79, 31, 79), "02:01 (Xid 79,")],
)
def test_a_lost_card_was_lost_by_its_fall_and_not_by_what_a_program_did_before(
    numbers: tuple[int, ...], cause: str
) -> None:
    xids = tuple(
        Xid("0000:ca:00", number, datetime(2026, 11, 20, 2, minute, tzinfo=UTC))
        for minute, number in enumerate(numbers, start=1)
    )
    [trouble] = host_status("gpu1", *lost_card(xids), NOW).errors
    assert trouble.what.startswith(f"GPU 2 lost since 2026-11-20 {cause} GPU-")


def test_hint_of_a_lost_gpu_names_what_its_reboot_stops_of_others() -> None:
    wanted, facts = lost_card()
    train = replace(container("train-7", user="ada"), started="2026-11-25T03:00:00Z")
    ended = replace(container("old"), status="exited")
    facts = replace(facts, containers=(*facts.containers, train, ended), now=datetime(2026, 11, 28, 4, tzinfo=UTC))
    [lost] = host_status("gpu1", wanted, facts, NOW).errors
    assert lost.hint == "The reboot also stops train-7 (not gpurack's, up 3 d)."
    torn = replace(facts, driver=Driver("580.1", MISMATCH, "Driver/library version mismatch"), gpus=())
    [lost] = host_status("gpu1", wanted, torn, NOW).errors
    assert lost.hint.endswith("then run again. The reboot also stops train-7 (not gpurack's, up 3 d).")


def test_shows_lost_gpu_without_kernel_log() -> None:
    [trouble] = host_status("gpu1", *lost_card(), NOW).errors
    assert trouble.what == "GPU 2 lost (GPU-0000…, PCI ca:00.0). Reboot the host. Affected models: beta."


def test_reports_missing_driver_mismatch_and_missing_gpus() -> None:
    wanted = spec({"hardware": {"A30": 4}, "models": {"beta": {"gpus": [1], "port": 8001}}})

    def troubles(facts: HostFacts) -> str:
        [trouble] = host_status("gpu1", wanted, facts, NOW).errors
        return trouble.what

    assert troubles(host_state()).startswith("no NVIDIA driver")
    mismatch = {"exit_code": 18, "message": "Driver/library version mismatch NVML library version: 580.95"}
    assert "580.159.04" in troubles(host_state(driver=mismatch))
    assert troubles(host_state(gpus=3)) == "1 of the 4 GPUs in `hardware` are missing."


def test_unreachable_host_has_unknown_models() -> None:
    fleet = {"gpu1": models(alpha={}), "gpu2": models(off={"enabled": False})}
    trouble = "could not connect: Connection refused"
    lab = lab_status(fleet, {"gpu1": HostFacts.not_inspected(trouble), "gpu2": host_state()}, NOW)
    assert [(host.state, said(host.errors)) for host in lab] == [("UNREACHABLE", (trouble,)), ("ok", ())]
    assert not is_well(lab)
    assert is_well(lab[1:])
    assert summary(lab) == "0 of 1 model ready, 1 unknown. 1 host needs attention: gpu1."


def test_names_models_that_the_next_apply_removes() -> None:
    """Those of another lab are not named, nor what does not run any more."""
    there = [container(name, label={}) for name in ("alpha", "delta", "of-vision")] + [
        container("old", "exited", label={})
    ]
    record = {"": {each.name: Entry(each.id, "model", lab="nlp") for each in there}}
    record[""]["of-vision"] = replace(record[""]["of-vision"], lab="vision")
    facts = host_state(containers=there, record=record, probes={"alpha": [200, '{"data":[{"id":"alpha"}]}']})
    wanted = models(alpha={}).model_copy(update={"lab": "nlp"})
    lab = [host_status("gpu1", wanted, facts, NOW)]
    line = "also runs: delta (not in the inventory; the next apply removes it)"
    assert printed(lab)[1] == f"note  gpu1  {line}"
    [note] = as_data(lab)["hosts"]["gpu1"]["warnings"]
    assert (note["code"], note["message"], note["parameters"]["names"]) == ("not-in-inventory", line, "delta")
    assert is_well(lab)


def test_loading_model_is_well() -> None:
    wanted, container = one(started=ago(seconds=3))
    lab = [host_status("gpu1", wanted, host_state(containers=[container], probes={"alpha": [503, ""]}), NOW)]
    assert is_well(lab)
    assert summary(lab) == "0 of 1 model ready, 1 loading."


@pytest.fixture
def lab() -> list[HostStatus]:
    """A degraded host, and one with special characters of HTML in its name."""
    wanted, state = lost_card()
    return [
        host_status(
            "gpu1",
            wanted,
            replace(state, gpus=tuple(replace(g, utilization=63, temperature=61) for g in state.gpus)),
            NOW,
        ),
        host_status("<b>", models(alpha={}), HostFacts.not_inspected("could not connect: <script>"), NOW),
    ]


def printed(lab: list[HostStatus], verbose: bool = False, width: int = 100) -> list[str]:
    console = screen.Console(file=(out := StringIO()), width=width)
    show(console, lab, NOW, verbose)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_prints_what_needs_attention_first(lab: list[HostStatus]) -> None:
    wanted, container = one(status="exited", exit_code=137, finished=ago(hours=5), restarts=41)
    down = host_status("gpu3", wanted, host_state(containers=[container]), NOW)
    well = host_status("gpu4", models(off={"enabled": False}), host_state(gpus=2), NOW)
    assert printed([well, *lab, down]) == [
        "DOWN         gpu1  beta :8001: readiness check did not run",
        "DOWN         gpu3  alpha :8000 since 04:00 (5 h), 41 restarts: exited with code 137",
        "DEGRADED     gpu1  GPU 2 lost (GPU-0000…, PCI ca:00.0). Reboot the host. Affected models: beta.",
        "UNREACHABLE  <b>   could not connect: <script>",
        "ok           gpu4  2 GPUs, 1 disabled",
        f"{summary([well, *lab, down])} Checked {NOW.astimezone():%H:%M %Z}.",
    ]


def test_models_that_are_down_come_before_those_that_load() -> None:
    young = host_state(containers=[one(started=ago(seconds=3))[1]], probes={"alpha": [503, ""]})
    loading = host_status("gpu1", models(alpha={}), young, NOW)
    wanted, container = one(status="exited", exit_code=137, finished=ago(hours=5))
    down = host_status("gpu2", wanted, host_state(containers=[container]), NOW)
    assert [line.split()[:2] for line in printed([loading, down])[:2]] == [["DOWN", "gpu2"], ["loading", "gpu1"]]


def test_verbose_says_whose_localhost_it_is() -> None:
    wanted = models(alpha={}, beta={"bind": "lan"})
    note = "localhost is the host itself. From your desk: ssh -L 8000:localhost:8000 gpu1. For your users: `bind: lan`."
    assert note in printed([host_status("gpu1", wanted, host_state(), NOW)], verbose=True, width=120)
    assert note not in printed([host_status("@local", wanted, host_state(), NOW)], verbose=True, width=120)
    on_the_lan = host_status("gpu1", models(alpha={"bind": "lan"}), host_state(), NOW)
    assert not any("localhost" in line for line in printed([on_the_lan], verbose=True, width=120))


def test_verbose_prints_every_gpu_and_model(lab: list[HostStatus]) -> None:
    lines = printed(lab, verbose=True)
    assert "  GPU 0  0.9 / 24 GiB  util 63 %  61 °C" in lines


def test_twelve_hosts_that_are_well_need_a_line_each() -> None:
    fleet = [
        host_status(f"gpu{number}.lab", models(off={"enabled": False}), host_state(gpus=4), NOW) for number in range(12)
    ]
    lines = printed(fleet)
    assert len(lines) == 13
    assert max(map(len, lines)) <= 100


def test_twelve_hosts_without_docker_need_two_lines_each() -> None:
    """What is the same of eight models is said once, and the reason of the host once."""
    wanted = models(**{f"qwen-{number}": {} for number in range(8)})
    fleet = [host_status(f"gpu{number}.lab", wanted, host_state(docker={}), NOW) for number in range(12)]
    lines = printed(fleet)
    assert len([line for line in lines if line.startswith("DOWN")]) == 12
    assert sum("qwen-7 :8007: Docker does not answer" in line for line in lines) == 12


def test_json_has_same_facts(lab: list[HostStatus]) -> None:
    data = json.loads(json.dumps(as_data(lab)))
    assert data["summary"] == summary(lab)
    assert data["hosts"]["gpu1"]["state"] == "SICK"
    assert [card["utilization"] for card in data["hosts"]["gpu1"]["gpus"]] == [63, 63, None, 63]
    assert [card["temperature"] for card in data["hosts"]["gpu1"]["gpus"]] == [61, 61, None, 61]
    assert data["hosts"]["gpu1"]["gpus"][2]["lost"].startswith("lost (GPU-0000…")
    assert data["hosts"]["<b>"]["models"]["alpha"]["state"] == "DOWN"


def test_page_has_what_is_down_first_and_nothing_green_beside_it(lab: list[HostStatus], tmp_path: Path) -> None:
    wanted, container = one(status="exited", exit_code=137)
    down = host_status("gpu3", wanted, host_state(containers=[container]), NOW)
    well = host_status("gpu4", models(off={"enabled": False}), host_state(gpus=2), NOW)
    away = host_status("gpu5", models(alpha={}), HostFacts.not_inspected("could not connect"), NOW)
    write_page(tmp_path / "lab.html", [well, away, down, lab[0]], "lab", NOW)
    sections = (tmp_path / "lab.html").read_text().split("<section")[1:]
    assert [section.partition("<h2>")[2].partition("<")[0] for section in sections] == ["gpu3", "gpu1", "gpu5", "gpu4"]
    assert all('class="ok"' not in section for section in sections[:3])
    assert ["bad" in section.partition(">")[0] for section in sections] == [True, True, True, False]
    assert '<span class="DOWN">1 DOWN</span>' in sections[0]
    assert "section.bad .ready { color: inherit; }" in (tmp_path / "lab.html").read_text()


def test_page_has_use_and_temperature_below_the_bar(lab: list[HostStatus], tmp_path: Path) -> None:
    """Beside it they would leave it no room on a phone."""
    write_page(tmp_path / "lab.html", lab, "lab.py", NOW)
    page = (tmp_path / "lab.html").read_text()
    assert '<span class="who">NVIDIA A30 · util 63 % · 61 °C</span>' in page
    assert "<span>0.9 / 24 GiB</span>" in page


def test_page_is_one_file_and_escapes_host_output(lab: list[HostStatus], tmp_path: Path) -> None:
    page = tmp_path / "lab.html"
    lab = [replace(lab[0], notes=(Problem.of("lines-ignored", what="the container <x> is not gpurack's."),)), *lab[1:]]
    well, container = models(alpha={"bind": "any"}), running(models(alpha={"bind": "any"}), "alpha", host_state())
    up = host_status(
        "ok1", well, host_state(containers=[container], probes={"alpha": [200, '{"data":[{"id":"alpha"}]}']}), NOW
    )
    write_page(page, [up, *lab], "lab", NOW, {"http://ok1:8000/v1": "curl 'x'"})
    text = page.read_text()
    assert "<h2>&lt;b&gt;</h2>" in text
    assert '<p class="note">the container &lt;x&gt; is not gpurack&#39;s.</p>' in text
    assert text.count("<script") == 1
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text, "a browser runs no other script"
    assert text.index("<h2>&lt;b&gt;</h2>") < text.index("<h2>ok1</h2>"), "hosts that need attention come first"
    assert 'data-copy="http://ok1:8000/v1">copy</button>' in text
    assert 'data-copy="curl &#39;x&#39;">copy curl</button>' in text
    assert 'href="http://localhost' not in text
    assert 'data-copy="http://localhost' not in text
    assert "localhost is the host itself. From your desk: ssh -L 8001:localhost:8001 gpu1." in text
    assert "execCommand" in script, "on a page without https, browsers give no clipboard"
    for reference in ("src=", "@import", "url(", "<link"):
        assert reference not in text
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(("served", "text"), [(1.0, "1 token"), (12345.0, "12,345 tokens"), (None, "")])
def test_one_token_is_not_plural(served: float | None, text: str) -> None:
    assert (
        served_text(ModelStatus("alpha", "llama.cpp", "0", "", 8000, ModelState.READY, served=served, unit="tokens"))
        == text
    )
