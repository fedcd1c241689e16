"""Parsing the snapshot to HostFacts: real outputs, and garbage that never raises."""

import base64
import json
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.docker import container, counter, docker, probe
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import Container, File, Listener, Os, Package, Probe, Unit
from gpurack.facts.sections import split
from gpurack.facts.snapshot import (
    AS_ROOT,
    NEEDS_PASSWORD,
    NEEDS_ROOT,
    NO_SUDO,
    RAISED,
    SUDO_PASSWORD,
    Snapshot,
)
from gpurack.facts.system import files, listeners, os_release, packages, units
from gpurack.facts.weights import weights
from tests.given import framed, said
from tests.unit.host_programs import SHELLS, Fakes

DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
ID=debian
HOME_URL="https://os.example/"
"""
UBUNTU = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""
ROCKY = """\
NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"
"""
# One NVIDIA H200, driver 580.159.04, by --format=csv,noheader,nounits (a real machine's, 2026-11-20).
H200 = "0, GPU-45c1f5da-e0c4, NVIDIA H200, 143771, 0, 580.159.04, 9.0, Disabled, 00000000:00:06.0, 0"
KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Nov 18 06:12:00 UTC 2026"

ID, IMAGE = "f3" * 32, f"sha256:{'ab' * 32}"
LABELS = {
    "gpurack.model": "{}", "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha",
}  # fmt: skip
RECORD = {"format": 1, "containers": {"": {"alpha": {"id": ID, "kind": "model"}}}}


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def inspected(**over: Any) -> dict[str, Any]:
    """A line of the snapshot's own `docker inspect --format` (Docker 28.5)."""
    state = {
        "Status": "running", "Running": True, "Paused": False, "Restarting": False, "OOMKilled": False, "Dead": False,
        "Pid": 4242, "ExitCode": 0, "Error": "", "StartedAt": "2026-11-20T16:58:01.1Z", "FinishedAt": "0001-01-01",
    }  # fmt: skip
    said = {
        "id": ID, "name": "/alpha", "image": IMAGE, "state": state, "labels": LABELS,
        "ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}, "restarts": 0,
    }  # fmt: skip
    return {**said, **over}


@pytest.mark.parametrize(
    ("text", "os"),
    [
        (DEBIAN, Os("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)")),
        (UBUNTU, Os("ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS")),
        (ROCKY, Os("rocky", "9.6", "", "Rocky Linux 9.6 (Blue Onyx)")),
        ("", Os()),
        ("nonsense", Os()),
    ],
    ids=["debian", "ubuntu", "rocky", "empty", "nonsense"],
)
def test_parses_os_release(text: str, os: Os) -> None:
    assert os_release(text.splitlines()) == os


def test_parses_dpkg_states() -> None:
    lines = [
        "ii |docker-ce|5:28.5.2-1~debian.13~trixie",
        "hi |containerd.io|1.7.29-1~debian.13~trixie",
        "un |docker.io|",
        "rc |docker-compose|1.29.2-3",
        "iF |docker-ce-cli|5:28.5.2-1~debian.13~trixie",
        "iU |curl|8.14.1-2",
        "iHR|python3|3.13.5-1",
        "iiR|nvidia-container-toolkit|1.20.1-1",
    ]
    assert packages(lines) == {
        "docker-ce": Package("5:28.5.2-1~debian.13~trixie", held=False, whole=True),
        "containerd.io": Package("1.7.29-1~debian.13~trixie", held=True, whole=True),
        "docker-ce-cli": Package("5:28.5.2-1~debian.13~trixie", held=False, whole=False),
        "curl": Package("8.14.1-2", held=False, whole=False),
        "python3": Package("3.13.5-1", held=False, whole=False),
        "nvidia-container-toolkit": Package("1.20.1-1", held=False, whole=False),
    }


def test_parses_ss_listeners() -> None:
    lines = [
        "LISTEN 0      4096       127.0.0.1:8000  0.0.0.0:*  ino:71 sk:1 cgroup:/system.slice/docker.service <->",
        "LISTEN 0      128          0.0.0.0:22    0.0.0.0:*  ino:72 sk:2 cgroup:/system.slice/a/docker.service <->",
        "LISTEN 0      4096   127.0.0.53%lo:53         0.0.0.0:*",
        "LISTEN 0      4096            [::]:8001          [::]:*    uid:1001 ino:73 sk:3 v6only:1 <->",
        "LISTEN 0      511                *:80               *:*",
        "LISTEN 0      128   [fe80::1]%eth0:546              *:*",
        "broken",
    ]
    owners = ["71 911 root docker-proxy", "72 1 root sshd", "72 2 root systemd", "73 912  docker-proxy", "nonsense"]
    assert listeners(lines, owners) == [
        Listener("127.0.0.1", 8000, "docker-proxy (pid 911, user root)", "docker.service"),
        Listener("0.0.0.0", 22, "sshd (pid 1, user root)"),
        Listener("127.0.0.53", 53, ""),
        Listener("::", 8001, "docker-proxy (pid 912)"),
        Listener("*", 80, ""),
        Listener("fe80::1", 546, ""),
    ]


def test_parses_units_in_any_order() -> None:
    lines = [
        "docker.service LoadState=loaded ActiveState=active UnitFileState=enabled ",
        "containerd.service UnitFileState=masked ActiveState=inactive LoadState=masked ",
        "gpurack.service LoadState=not-found ActiveState=inactive UnitFileState= ",
        "flags /usr/bin/dockerd -H fd:// ",
    ]
    assert units(lines) == {
        "docker.service": Unit("loaded", "active", "enabled"),
        "containerd.service": Unit("masked", "inactive", "masked"),
        "gpurack.service": Unit("not-found", "inactive", ""),
    }


def test_parses_files_with_and_without_content() -> None:
    found = files([f"/etc/docker/daemon.json 644 0 0 {encoded('{}')}", "/run/gpurack/docker-restart 600 0 27 "])
    assert (found["/etc/docker/daemon.json"].text, found["/etc/docker/daemon.json"].mode) == ("{}", "644")
    assert (found["/run/gpurack/docker-restart"].content, found["/run/gpurack/docker-restart"].gid) == (b"", 27)


def test_parses_existing_and_missing_weights() -> None:
    lines = ["3145728 regular file|/w/a b|c.gguf", "- missing|/w/b.gguf", "4096 directory|/w/qwen"]
    assert weights(lines) == {
        "/w/a b|c.gguf": (3145728, "regular file"), "/w/b.gguf": (None, "missing"), "/w/qwen": (4096, "directory"),
    }  # fmt: skip


def test_sums_counter_over_labels() -> None:
    lines = ['vllm:request_success_total{finished_reason="stop"} 12.0', 'vllm:request_success_total{a="b c"} 1e+03']
    assert counter(lines) == 1012
    assert counter(["llamacpp:tokens_predicted_total 7", "llamacpp:tokens_predicted_total NaN"]) == 7


def test_client_without_daemon_is_no_docker() -> None:
    assert docker(['{"ServerVersion":"28.5.2","Runtimes":{}}']) == {"ServerVersion": "28.5.2", "Runtimes": {}}
    assert docker(['{"ServerVersion":"","ServerErrors":["Cannot connect to the Docker daemon"]}']) == {}
    assert docker(["Cannot connect to the Docker daemon"]) == {}
    assert docker([]) == {}


def test_parses_container() -> None:
    found = container(inspected())
    assert found == Container(
        ID, "alpha", IMAGE, "running", 0, "", "2026-11-20T16:58:01.1Z", 0,
        LABELS, (("127.0.0.1", 8000),), "0001-01-01",
    )  # fmt: skip
    assert found.kind == "model"
    assert found.running


@pytest.mark.parametrize(
    ("ports", "published", "chosen"),
    [
        (None, (), False),
        ({}, (), False),
        ({"8080/tcp": None}, (), False),
        ({"8080/tcp": [{"HostIp": "", "HostPort": "0"}, {"HostPort": "81"}]}, (("", 0), ("", 81)), True),
        ({"8080/tcp": [{"HostIp": "", "HostPort": ""}]}, (), True),
        ({"8080/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}, (), True),
        ({"8080/tcp": [{"HostIp": "2001:DB8:0::7", "HostPort": "80"}]}, (("2001:db8::7", 80),), False),
    ],
)
def test_parses_published_ports(ports: Any, published: Any, chosen: bool) -> None:
    found = container(inspected(ports=ports, labels=None))
    assert (found.ports, found.chosen_ports) == (published, chosen)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"data":[]}\n200', Probe(200, '{"data":[]}')),
        ('{"error":\n"Loading model"}\n503', Probe(503, '{"error":\n"Loading model"}')),
        ("curl: (28) Operation timed out\n\n000", Probe(0, "curl: (28) Operation timed out\n")),
        ("", Probe(0, "")),
        ("no status", Probe(0, "")),
    ],
)
def test_parses_answer_of_model(said: str, expected: Probe) -> None:
    assert probe([encoded(said)]) == expected


def whole_look() -> list[str]:
    return framed(plain_look())


def plain_look() -> list[str]:
    return [
        "@@ raised", "@@ os", *DEBIAN.splitlines(),
        "@@ machine", "arch amd64", "init systemd", f"id {32 * 'a'}", "address 10.0.0.7", "tool python3",
        "busy models since 16:58, pid 7",
        "@@ packages", "ii |docker-ce|5:28.5.2-1~debian.13~trixie", "@@ audit", "2",
        "@@ units", "docker.service LoadState=loaded ActiveState=active UnitFileState=enabled", "flags dockerd -H fd://",
        "@@ files", f"/etc/docker/daemon.json 644 0 0 {encoded('{}')}",
        f"/var/lib/gpurack/record.json 600 0 0 {encoded(json.dumps(RECORD))}",
        f"/etc/apt/sources.list 640 0 0 {encoded('deb http://repo trixie main')}",
        "@@ secrets", "/etc/gpurack/secrets/alpha/api_key 400 0", "@@ weights", "3 regular file|/w/a.gguf",
        "@@ ports", "LISTEN 0 4096 127.0.0.1:8000 0.0.0.0:*",
        "@@ driver", KERNEL, "@@ pci", "@@ gpus", H200, "@@ processes", "GPU-45c1,1,5,anna,,python",
        "@@ cdi", "nvidia.com/gpu=all", "@@ docker", '{"ServerVersion":"28.5.2"}', "@@ compose", "v2.40.3",
        "@@ containers", json.dumps(inspected()), "@@ images", f"{IMAGE}|ghcr.io/a/b:1", "-|ghcr.io/a/b:2",
        "@@ probe alpha", encoded('{"data":[]}\n200'), "@@ end",
    ]  # fmt: skip


def test_parses_whole_snapshot() -> None:
    seen = Snapshot().process(whole_look())
    assert (seen.trouble, seen.raised, seen.os.codename, seen.init, seen.address) == (
        None,
        True,
        "trixie",
        "systemd",
        "10.0.0.7",
    )
    assert seen.machine_id == 32 * "a"
    assert (seen.tools, seen.busy, seen.audit) == ({"python3"}, "models since 16:58, pid 7", 2)
    assert seen.sources == {"/etc/apt/sources.list": File(b"deb http://repo trixie main", "640", 0, 0)}
    assert (seen.docker_flags, seen.compose) == ("dockerd -H fd://", "2.40.3")
    assert seen.secrets == {"/etc/gpurack/secrets/alpha/api_key": ("400", 0)}
    assert seen.images == {"ghcr.io/a/b:1": IMAGE}
    assert (list(seen.ours), seen.probes["", "alpha"].status, seen.has_nvidia) == ([("", "alpha")], 200, True)
    assert (seen.remarks, seen.late) == ([], {})


def test_incomplete_snapshot_is_trouble() -> None:
    lines = whole_look()
    for cut in range(len(lines)):
        assert "is incomplete" in str(Snapshot().process(lines[:cut]).trouble)


def test_recognises_three_kinds_of_sudo() -> None:
    assert Snapshot().process([NO_SUDO]) is NEEDS_ROOT
    assert Snapshot().process([SUDO_PASSWORD]) is NEEDS_PASSWORD
    assert not Snapshot().process([line for line in whole_look() if line != RAISED]).raised
    assert "no longer reachable" in str(Snapshot.default().trouble)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("sudo", "lines", "code", "calls"),
    [
        ('shift; exec "$@"', [RAISED, "said"], 0, ["sudo -n sh -s"]),
        ("exit 1", [RAISED, SUDO_PASSWORD], 0, ["sudo -n sh -s", "sudo -n true"]),
        ('[ "$2" = true ] || exit 7', [RAISED], 7, ["sudo -n sh -s", "sudo -n true"]),
    ],
    ids=["allowed", "password", "script-failed"],
)
def test_asks_sudo_once_where_it_is_allowed(
    fakes: Fakes, shell: list[str], sudo: str, lines: list[str], code: int, calls: list[str]
) -> None:
    fakes.add("id", "echo 1000")
    fakes.add("sudo", sudo)
    done = subprocess.run([*shell, "-c", AS_ROOT], input="echo said", capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.returncode) == (lines, code)
    assert [call for call in fakes.calls if call.startswith("sudo")] == calls


SECTIONS = sorted({line[3:] for line in plain_look() if line.startswith("@@ ")} - {"end", "raised"})
PIECES = [
    "", " ", "a", "1", "-", "|", "a|b", "a|b|c", "a b c d", "exit 15|x", "exit |", "=", "a=b", "{", "{}", "[]", "é",
    "\x00",
    '{"id":1}', '{"ServerVersion":7}', "GPU-a, b, c, d", "x, GPU-a, c, d, e, f, g, h, i", "a:b c d:e f:g h:i",
    "== not base64 ==", "GPU-a,1,b,c,d", "a 644 0 0 !", "tool ", "flags", "ii|a", "x y z w:1 v",
    json.dumps(inspected(name=7)), json.dumps(inspected(ports=7)), json.dumps(inspected(ports={"a": 7})),
    json.dumps(inspected(ports={"a": [7]})), json.dumps(inspected(state=[])), json.dumps(inspected(state=None)),
]  # fmt: skip


@pytest.mark.parametrize("section", [*SECTIONS, "probe alpha"])
def test_garbage_in_a_section_is_ignored(section: str) -> None:
    for piece in PIECES:
        seen = Snapshot().process(framed([f"@@ {section}", piece, "@@ end"]))
        assert not seen.trouble, piece


def test_deep_nesting_is_ignored_with_remark() -> None:
    lines = ["@@ docker", '{"a":' * 100_000, "@@ end"]
    seen = Snapshot().process(framed(lines))
    assert (seen.trouble, seen.docker) == (None, {})
    assert said(seen.remarks) == ("ignored 1 line from the host that could not be parsed (docker 1).",)


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_text_gives_facts(lines: list[str]) -> None:
    assert isinstance(Snapshot().process(lines), HostFacts)


def test_joins_repeated_sections_and_skips_empty_lines() -> None:
    assert split(["@@ a", "1", "", "  ", "@@ b", "@@ a", "2"]) == {"a": ["1", "2"], "b": []}


def test_parse_requires_end_section() -> None:
    assert parse(framed(["@@ os"])).trouble
    assert not parse(framed(["@@ end"])).trouble
    assert parse(["@@ end"]).trouble, "a heading that the look did not make"
