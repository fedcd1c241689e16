"""Closed networks: a proxy for packages, Docker and downloads, and a private authority in the trust store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.platforms import PLATFORMS
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Shell, Step, WriteFile
from gpurack.plan.system.docker import plan_docker
from gpurack.plan.system.network import certificates, plan_network
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models_plan, spec

TRIXIE = PLATFORMS["debian", "13"]
RUNS = {"units": {"docker.service": "loaded active enabled"}, "packages": {"ca-certificates": "20250419"}}
URL = "http://proxy.lab.example:3128"
ONE = "-----BEGIN CERTIFICATE-----\nMIIBfake0ne=\n-----END CERTIFICATE-----\n"
TWO = "-----BEGIN CERTIFICATE-----\nMIIBfakeTw0=\n-----END CERTIFICATE-----\n"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "lab-ca.pem"
    path.write_text(f"Issuer: the lab\n{ONE}\n{TWO}")
    return path


def carried_out(steps: list[Step], **before: Any) -> HostFacts:
    """The files of the host after these steps."""
    files = dict(before.pop("files", {}))
    for step in steps:
        if isinstance(step, WriteFile):
            files[step.path] = step.content
        elif isinstance(step, Shell):
            words = step.command.split()
            files = {path: text for path, text in files.items() if not (words[0] == "rm" and path in words)}
            if paths.TRUSTED in step.command:
                quoted = step.command.partition("printf %s ")[2].rpartition(" > ")[0]
                files[paths.TRUSTED] = quoted.strip("'")
    return host_state(files=files, **{**RUNS, **before})


def of(spec: Host, facts: HostFacts) -> list[Step]:
    return TRIXIE.packages.proxy(spec.proxy, facts) + plan_network(spec, facts, TRIXIE)


def written(steps: list[Step]) -> dict[str, str]:
    return {step.path: step.content for step in steps if isinstance(step, WriteFile)}


# --- proxy -----------------------------------------------------------------------------------------------------------


def test_configures_proxy_for_apt_and_docker_with_restart() -> None:
    wanted = spec({"proxy": {"url": URL, "no_proxy": ["mirror.lab.example", ".lab.example", "10.0.0.0/8"]}})
    steps = of(wanted, host_state(**RUNS))
    files = written(steps)
    assert files[paths.APT_PROXY].splitlines() == [
        "// Written by gpurack from the inventory.",
        f'Acquire::http::Proxy "{URL}";',
        f'Acquire::https::Proxy "{URL}";',
        'Acquire::http::Proxy::mirror.lab.example "DIRECT";',
        'Acquire::https::Proxy::mirror.lab.example "DIRECT";',
    ]
    assert files[paths.DOCKER_PROXY].splitlines() == [
        "# Written by gpurack from the inventory.",
        "[Service]",
        f'Environment="HTTP_PROXY={URL}"',
        f'Environment="HTTPS_PROXY={URL}"',
        'Environment="NO_PROXY=localhost,127.0.0.1,::1,mirror.lab.example,.lab.example,10.0.0.0/8"',
    ]
    reasons = [step.reason for step in steps]
    owed = "note that Docker must restart: its proxy or the certificates it trusts changed"
    assert reasons == [f"proxy {URL} for apt", owed, f"proxy {URL} for Docker", "reload systemd"]
    assert of(wanted, carried_out(steps)) == []


def test_needs_no_restart_of_stopped_docker() -> None:
    reasons = [step.reason for step in of(spec({"proxy": URL}), host_state(docker=""))]
    assert reasons == [f"proxy {URL} for apt", f"proxy {URL} for Docker", "reload systemd"]


def test_removes_settings_missing_in_inventory() -> None:
    there = carried_out(of(spec({"proxy": URL}), host_state(**RUNS)))
    steps = of(Host(), there)
    assert [step.reason for step in steps] == [
        "remove the proxy for apt",
        "note that Docker must restart: its proxy or the certificates it trusts changed",
        "remove the proxy for Docker",
    ]
    after = carried_out(steps, files={path: file.text for path, file in there.files.items()})
    assert of(Host(), after) == []
    assert not {paths.APT_PROXY, paths.DOCKER_PROXY} & set(after.files)


def test_configures_network_before_packages() -> None:
    plan = plan_docker(spec({"proxy": URL}), host_state(docker={}, audit=2), unattended=True)
    assert [step.reason for step in plan.steps][:4] == [
        f"proxy {URL} for apt", "finish an interrupted package installation", f"proxy {URL} for Docker",
        "reload systemd",
    ]  # fmt: skip


def test_configures_proxy_for_kept_docker() -> None:
    wanted = spec({"proxy": URL, "docker": {"source": "keep"}})
    plan = plan_docker(wanted, host_state(compose="2.40.3", **RUNS), unattended=True)
    assert f"proxy {URL} for Docker" in [step.reason for step in plan.steps]


def test_passes_proxy_to_downloads() -> None:
    entry = {"alpha": {"port": 8000, "weights": {"url": "http://w.example/a.gguf", "sha256": "0" * 64}}}
    job = models_plan(spec({"proxy": URL, "models": entry}), host_state()).job
    assert job is not None
    assert job["proxy"] == {"http_proxy": URL, "https_proxy": URL, "no_proxy": "localhost,127.0.0.1,::1"}
    without = models_plan(spec({"models": entry}), host_state()).job
    assert without is not None
    assert "proxy" not in without


@pytest.mark.parametrize(
    ("proxy", "sentence"),
    [
        ("http://ada:hunter2@proxy:3128", "contains credentials, which apt, dnf and dockerd would"),
        ({"url": "ada:hunter2@proxy:3128"}, "contains credentials"),
        ("proxy:3128", '"proxy:3128" is not a proxy\'s URL. Write "http://proxy.lab.example:3128".'),
        ("http://proxy:3128/path", "is not a proxy's URL"),
        ({"url": URL, "no_proxy": ["a b"]}, '"a b" is not one name, domain or address.'),
        ({"url": URL, "no-proxy": []}, 'Did you mean "no_proxy"?'),
    ],
)
def test_refuses_invalid_proxy_without_its_password(proxy: object, sentence: str) -> None:
    with pytest.raises(InventoryError) as refused:
        spec({"proxy": proxy})
    assert sentence in str(refused.value)
    assert "hunter2" not in str(refused.value)


# --- authority -------------------------------------------------------------------------------------------------------


def test_writes_each_certificate_and_rebuilds_store(ca: Path) -> None:
    wanted = spec({"ca": str(ca)})
    steps = of(wanted, host_state(**RUNS))
    files = written(steps)
    assert sorted(files.values()) == sorted([ONE, TWO])
    assert all(path.startswith("/usr/local/share/ca-certificates/gpurack-") for path in files)
    assert [step.reason for step in steps] == [
        "note that Docker must restart: its proxy or the certificates it trusts changed",
        "certificate of the private authority",
        "certificate of the private authority",
        f"trust {ca}",
    ]
    assert isinstance(steps[-1], Shell)
    assert steps[-1].command.startswith("update-ca-certificates && ")
    assert of(wanted, carried_out(steps)) == []


def test_rebuilds_store_after_killed_run(ca: Path) -> None:
    wanted = spec({"ca": str(ca)})
    steps = of(wanted, host_state(**RUNS))
    half = carried_out([step for step in steps if isinstance(step, WriteFile)])
    assert [step.reason for step in of(wanted, half)][-1] == f"trust {ca}"


def test_replaces_old_certificate(ca: Path) -> None:
    there = carried_out(of(spec({"ca": str(ca)}), host_state(**RUNS)))
    (old,) = (path for path, file in there.files.items() if file.text == TWO)
    ca.write_text(ONE)
    steps = of(spec({"ca": str(ca)}), there)
    assert written(steps) == {}
    assert isinstance(steps[-1], Shell)
    assert steps[-1].command.startswith(f"rm -f {old} && update-ca-certificates && ")


def test_removes_authority_missing_in_inventory(ca: Path) -> None:
    there = carried_out(of(spec({"ca": str(ca)}), host_state(**RUNS)))
    steps = of(Host(), there)
    assert steps[-1].reason == "stop trusting the private authority"
    assert of(Host(), carried_out(steps)) == []


def test_installs_program_for_trust_store(ca: Path) -> None:
    steps = certificates(spec({"ca": str(ca)}), host_state(), TRIXIE)
    assert steps[0].reason == "install ca-certificates"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file or directory."),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "contains no certificate"),
        (b"\x30\x82\x01\xff\xfe", "is not text. Convert it to PEM: openssl x509 -inform der"),
    ],
)
def test_refuses_invalid_certificate(tmp_path: Path, content: str | bytes | None, sentence: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InventoryError) as refused:
        spec({"ca": str(path)})
    assert sentence in str(refused.value)


# --- away again ------------------------------------------------------------------------------------------------------


def test_remove_all_removes_proxy_and_authority(ca: Path) -> None:
    there = carried_out(of(spec({"ca": str(ca), "proxy": URL}), host_state(**RUNS)))
    reasons = [step.reason for step in plan_remove(there, "all").steps]
    expected = {
        "remove the proxy for apt", "remove the proxy for Docker", "stop trusting the private authority",
    }  # fmt: skip
    assert expected <= set(reasons)
    assert not expected & {step.reason for step in plan_remove(there, "models").steps}


# --- dnf and yum -----------------------------------------------------------------------------------------------------

ROCKY = PLATFORMS["rocky", "9"]
CONF = "[main]\ngpgcheck=1\nproxy = http://old.example:8080\nbest=True\n"


def dnf_conf(spec: Host, text: str, **said: Any) -> str:
    """dnf.conf after a run."""
    path = said.pop("path", paths.DNF_CONF)
    steps = ROCKY.packages.proxy(spec.proxy, host_state(os="rocky 9", files={path: text}, **said))
    return written(steps).get(path, text)


def test_writes_proxy_to_main_section_of_dnf_conf() -> None:
    text = dnf_conf(spec({"proxy": URL}), CONF)
    assert text == (
        f"[main]\n# by gpurack: the inventory's proxy\nproxy={URL}\ngpgcheck=1\n"
        "# set aside by gpurack: proxy = http://old.example:8080\nbest=True\n"
    )
    assert dnf_conf(spec({"proxy": URL}), text) == text
    assert dnf_conf(spec({"proxy": "http://other:1"}), text) == text.replace(URL, "http://other:1")
    assert dnf_conf(Host(), text) == CONF


def test_keeps_dnf_conf_without_proxy_and_completes_empty_one() -> None:
    assert dnf_conf(Host(), CONF) == CONF
    assert dnf_conf(spec({"proxy": URL}), "") == f"[main]\n# by gpurack: the inventory's proxy\nproxy={URL}\n"


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://mirror.lab.example/docker-ce", ["mirror.lab.example"], True),
        ("http://MIRROR.lab.example:8081/docker-ce", ["Mirror.Lab.Example"], True),
        ("http://mirror.lab.example:8081/docker-ce", ["mirror.lab.example:8081"], True),
        ("http://mirror.lab.example/docker-ce", ["mirror.lab.example:8081"], False),
        ("http://mirror.lab.example/docker-ce", ["lab.example"], True),
        ("http://mirror.lab.example/docker-ce", [".lab.example"], True),
        ("http://mirror.lab.example/docker-ce", ["*"], True),
        ("http://mirror.mylab.example/docker-ce", ["lab.example", ".ab.example"], False),
        ("http://10.1.2.3/docker-ce", ["10.0.0.0/8"], True),
        ("http://10.1.2.3:8081/docker-ce", ["10.1.2.3"], True),
        ("http://11.1.2.3/docker-ce", ["10.0.0.0/8", "fd00::/8"], False),
        ("http://[fd00::1]:8081/docker-ce", ["fd00::/8"], True),
        ("http://mirror.lab.example/docker-ce", ["10.0.0.0/8"], False),
        ("http://localhost:8081/docker-ce", [], True),
        ("https://download.docker.com", ["mirror.lab.example"], False),
    ],
)
def test_finds_targets_without_proxy(url: str, no_proxy: list[str], direct: bool) -> None:
    proxy = spec({"proxy": {"url": URL, "no_proxy": no_proxy}}).proxy
    assert proxy is not None
    assert proxy.spares(url) is direct


@pytest.mark.parametrize("no_proxy", [[], [".lab.example"]])
def test_repository_of_mirror_in_no_proxy_skips_proxy(no_proxy: list[str]) -> None:
    """dnf.conf itself has no exceptions."""
    mirrors = {"docker-ce": "http://mirror.lab.example/docker-ce", "nvidia": "http://other.example/nvidia"}
    wanted = spec({"mirrors": mirrors, "proxy": {"url": URL, "no_proxy": no_proxy}})
    bare = host_state(os="rocky 9", docker={}, gpus=1)
    files = written([*plan_docker(wanted, bare, unattended=True).steps, *plan_toolkit(wanted, bare).steps])
    docker, nvidia = (text for path, text in files.items() if path.endswith(".repo"))
    assert ("\nproxy=_none_\n" in docker) is bool(no_proxy)
    assert "proxy=" not in nvidia
    assert (
        "proxy="
        not in written(list(plan_docker(spec({"mirrors": mirrors}), bare, unattended=True).steps))[
            "/etc/yum.repos.d/gpurack-docker-ce.repo"
        ]
    )


def test_uses_trust_store_of_red_hat_family(ca: Path) -> None:
    steps = certificates(spec({"ca": str(ca)}), host_state(os="rocky 9", **RUNS), ROCKY)
    assert all(path.startswith("/etc/pki/ca-trust/source/anchors/gpurack-") for path in written(steps))
    assert isinstance(steps[-1], Shell)
    assert steps[-1].command.startswith("update-ca-trust && ")
