"""dnf 4, dnf 5 and yum 3: what the snapshot has about packages and holds, and what is planned."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts import rpm as seen
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Carried, File, Package
from gpurack.plan.packages import rpm
from gpurack.plan.packages.base import Pin
from gpurack.plan.packages.platforms import CE_PACKAGES, PLATFORMS, TOOLKIT_PACKAGES
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Plan, SetAside, Shell, WriteFile
from gpurack.plan.system.docker import ce_repository, plan_docker
from gpurack.plan.system.nvidia_toolkit import plan_toolkit, repository
from gpurack.spec.host import Docker, Host
from tests.given import host_state, said, spec, uuid
from tests.unit.host_programs import SHELLS

ROCKY = PLATFORMS["rocky", "9"]
CE = {
    "docker-ce": "3:28.5.2-1.el9",
    "docker-ce-cli": "1:28.5.2-1.el9",
    "containerd.io": "2.1.9-1.el9",
    "docker-buildx-plugin": "0.29.1-1.el9",
    "docker-compose-plugin": "2.40.3-1.el9",
}
BASE = {"ca-certificates": "2024.2.69-91.el9", "python3-dnf-plugin-versionlock": "4.3.0-20.el9"}
TOOLKIT = dict.fromkeys(TOOLKIT_PACKAGES, "1.20.1-1")
UNITS = {"docker.service": "loaded active enabled"}
PINNED = spec({"nvidia": {"toolkit": "1.20.1"}, "models": {"alpha": {"port": 1, "gpus": [0]}}})


def ce(version: str | None = None, **fields: Any) -> Host:
    return Host(docker=Docker(version=version, **fields))


def bare(**over: Any) -> HostFacts:
    """A Rocky 9 without Docker and toolkit."""
    usual = {"os": "rocky 9", "docker": {}, "tools": ["python3"], "packages": {"ca-certificates": "1-1"}}
    return host_state(**{**usual, **over})


def with_ce(held: bool = False, ours: Sequence[str] = (), **over: Any) -> HostFacts:
    """A host with docker-ce as gpurack installs it. `packages` in over changes some. ours: holds that gpurack noted."""
    over["files"] = {**over.get("files", {}), **({paths.HELD: "\n".join(ours)} if ours else {})}
    repo = ce_repository(Host(), bare(), ROCKY)
    there = {**BASE, **{name: f"{version}{' held' if held else ''}" for name, version in CE.items()}}
    usual = {
        "os": "rocky 9", "tools": ["curl", "python3"], "units": UNITS,
        "packages": {name: version for name, version in {**there, **over.pop("packages", {})}.items() if version},
        "files": {rpm.repository_path(repo): rpm.source(repo), rpm.key_path(repo): repo.key, **over.pop("files", {})},
    }  # fmt: skip
    return host_state(**{**usual, **over})


def with_toolkit(held: bool = False, **over: Any) -> HostFacts:
    """A host with two GPUs and the toolkit as gpurack installs it."""
    repo = repository(PINNED, ROCKY)
    there = {**BASE, **{name: f"{version}{' held' if held else ''}" for name, version in TOOLKIT.items()}}
    usual = {
        "os": "rocky 9", "tools": ["curl", "python3"], "gpus": 2, "packages": {**there, **over.pop("packages", {})},
        "cdi": [f"nvidia.com/gpu={uuid(0)}", f"nvidia.com/gpu={uuid(1)}"],
        "files": {rpm.repository_path(repo): rpm.source(repo), rpm.key_path(repo): repo.key},
    }  # fmt: skip
    return host_state(**{**usual, **over})


def reasons(plan: Plan) -> list[str]:
    return [step.reason for step in plan.steps]


def command(plan: Plan, beginning: str) -> str:
    """The command of the only step whose reason begins with this."""
    (found,) = [step for step in plan.steps if isinstance(step, Shell) and step.reason.startswith(beginning)]
    return found.command


# --- the look --------------------------------------------------------------------------------------------------------


def files(**texts: str) -> dict[str, File]:
    """Lists of held packages: dnf4, yum3, dnf5. note: of an unfinished transaction."""
    places = {"dnf4": seen.LISTS[0], "yum3": seen.LISTS[1], "dnf5": seen.TOML, "note": paths.RPM_TRANSACTION}
    return {places[name]: File(text.encode(), "644", 0, 0) for name, text in texts.items()}


LINES = [
    "docker-ce|3|28.5.2-1.el9|x86_64|1795207385",
    "containerd.io|(none)|2.1.9-1.el9|x86_64|1795207384",
    "nvidia-container-toolkit|0|1.20.1-1|x86_64|1795207390",
]


def test_reads_rpm_packages() -> None:
    assert seen.packages(LINES, {}) == {
        "docker-ce": Package("3:28.5.2-1.el9", held=False, whole=True),
        "containerd.io": Package("2.1.9-1.el9", held=False, whole=True),
        "nvidia-container-toolkit": Package("1.20.1-1", held=False, whole=True),
    }
    assert seen.packages([], {}) == {}


DNF5 = """version = "1.0"
[[packages]]
name = "docker-ce"
comment = "Added by 'versionlock add' command on 2026-11-20 20:43:08"
[[packages.conditions]]
key = "evr"
comparator = "="
value = "3:28.5.2-1.el9"
"""


@pytest.mark.parametrize(
    ("lists", "held"),
    [
        ({}, False),
        ({"dnf4": "\n# Added lock on Fri Nov 20 20:43:08 2026\ndocker-ce-3:28.5.2-1.el9.*\n"}, True),
        ({"dnf4": "docker-ce-3:28.5.2-1.el9.x86_64\n"}, True),
        ({"dnf4": "docker-ce-28.5.2-1.el9.*\n"}, True),
        ({"dnf4": "docker-ce-3:28.5.*\n"}, True),
        ({"dnf4": "docker-ce-3:26.1.5-1.el9.*\n"}, False),
        ({"dnf4": "docker-ce-cli-1:28.5.2-1.el9.*\n"}, False),
        ({"dnf4": "# docker-ce-3:28.5.2-1.el9.*\n"}, False),
        ({"dnf4": "!docker-ce-3:28.5.2-1.el9.*\n"}, False),
        ({"dnf4": "docker-ce*\n"}, False),
        ({"yum3": "3:docker-ce-28.5.2-1.el9.*\n"}, True),
        ({"yum3": "3:docker-ce-26.1.5-1.el9.*\n"}, False),
        ({"dnf5": DNF5}, True),
        ({"dnf5": DNF5.replace('"="', '"<"')}, False),
        ({"dnf5": DNF5.replace("28.5.2", "28.5.1")}, False),
        ({"dnf5": DNF5.replace('"docker-ce"', '"docker"')}, False),
        ({"dnf5": "packages = 3"}, False),
        ({"dnf5": "not toml ["}, False),
    ],
)
def test_reads_holds_of_versionlock(lists: dict[str, str], held: bool) -> None:
    assert seen.packages(LINES, files(**lists))["docker-ce"].held is held


def test_reads_hold_of_package_without_epoch() -> None:
    both = files(dnf4="containerd.io-0:2.1.9-1.el9.*\nnvidia-container-toolkit-0:1.20.1-1.*\n")
    assert [name for name, package in seen.packages(LINES, both).items() if package.held] == [
        "containerd.io",
        "nvidia-container-toolkit",
    ]


def test_package_of_unfinished_transaction_is_not_whole() -> None:
    twice = seen.packages([*LINES, "docker-ce|3|26.1.5-1.el9|x86_64|1795000000"], {})
    assert twice["docker-ce"] == Package("3:28.5.2-1.el9", held=False, whole=False)
    assert twice["containerd.io"].whole
    noted = seen.packages(LINES, files(note="1795207385 docker-ce containerd.io docker-compose-plugin\n"))
    assert [name for name, package in noted.items() if not package.whole] == ["docker-ce"]
    assert all(package.whole for package in seen.packages(LINES, files(note="")).values())
    other = [LINES[0], "docker-ce|3|28.5.2-1.el9|i686|1795207385"]
    assert seen.packages(other, {})["docker-ce"].whole, "two architectures are no accident"


@pytest.mark.parametrize(
    ("words", "manager"),
    [("dnf dnf4", ("dnf", "dnf4")), ("yum yum3", ("yum", "yum3")), ("", ("", ""))],
)
def test_finds_package_manager(words: str, manager: tuple[str, str]) -> None:
    assert (seen.manager(words).program, seen.manager(words).generation) == manager


# --- repositories ----------------------------------------------------------------------------------------------------


def test_repository_file_names_own_key_and_signed_parts() -> None:
    text = rpm.source(ce_repository(Host(), bare(), ROCKY))
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "[gpurack-docker-ce]",
        "name=gpurack-docker-ce",
        "baseurl=https://download.docker.com/linux/centos/9/$basearch/stable",
        "enabled=1",
        "gpgcheck=1",
        "repo_gpgcheck=0",
        "gpgkey=file:///etc/pki/rpm-gpg/gpurack-docker-ce.asc",
    ]


def test_shipped_keys_are_those_of_docker_and_nvidia(tmp_path: Path) -> None:
    assert shutil.which("gpg"), "gnupg is among the testbed's tools"
    fingerprints = {
        "docker": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
        "docker-rpm": "060A61C51B558A7F742B77AAC52FEB6B621E9F35",
        "nvidia": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
    }
    for name, fingerprint in fingerprints.items():
        argv = ["gpg", "--homedir", str(tmp_path), "--with-colons", "--show-keys", f"files/keys/{name}.asc"]
        assert fingerprint in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_removes_cached_keys_of_changed_repository() -> None:
    """dnf caches the keys of a repository, and trusts them whatever the file says later."""
    torn = with_ce(files={"/etc/pki/rpm-gpg/gpurack-docker-ce.asc": "another"})
    plan = plan_docker(ce(), torn, True)
    assert reasons(plan) == ["key of the docker-ce repository", "forget what the old key of docker-ce vouched for"]
    assert "/var/cache/dnf/gpurack-docker-ce* /var/cache/libdnf5/gpurack-docker-ce*" in command(plan, "forget")


OLD = "[docker-ce-stable]\nbaseurl=https://download.docker.com/linux/centos/$releasever/$basearch/stable\nenabled=1\n"
EPEL = "[epel]\nname=EPEL, without https://download.docker.com/linux\nmetalink=https://mirrors.example/epel\n"


def test_sets_aside_older_files_and_removes_section_of_shared_ones() -> None:
    folder = "/etc/yum.repos.d"
    sources = {f"{folder}/docker-ce.repo": f"# by hand\n{OLD}", f"{folder}/mixed.repo": f"{EPEL}\n{OLD}"}
    steps = plan_docker(ce(), bare(files={**sources, f"{folder}/epel.repo": EPEL}), True).steps
    assert [step.path for step in steps if isinstance(step, SetAside)] == [f"{folder}/docker-ce.repo"]
    (mixed,) = [step for step in steps if isinstance(step, WriteFile) and step.path == f"{folder}/mixed.repo"]
    commented = "".join(f"# {line}\n" for line in OLD.splitlines())
    assert mixed.content == f"{EPEL}\n{commented}"
    assert rpm.without(mixed.content, ("download.docker.com/linux",)) == mixed.content
    assert f"{folder}/epel.repo" not in [getattr(step, "path", "") for step in steps]


def test_removes_unused_repository() -> None:
    state = with_ce(os="fedora 43", packages=dict.fromkeys(CE, ""))
    assert reasons(plan_docker(ce(source="distro"), state, True))[0] == (
        "remove /etc/yum.repos.d/gpurack-docker-ce.repo, which is no longer used"
    )


def test_repairs_toolkit_repository_before_docker() -> None:
    """An earlier run may have written a wrong mirror or key. dnf then refuses every command."""
    repo = repository(PINNED, ROCKY)
    broken = {rpm.repository_path(repo): "[gpurack-nvidia-container-toolkit]\nbaseurl=http://wrong.example\n"}
    steps = plan_docker(ce("28.5.2"), bare(files=broken), True).steps
    written = [step.path for step in steps if isinstance(step, WriteFile)]
    assert rpm.repository_path(repo) in written
    assert rpm.key_path(repo) in written
    assert not [path for path in written if "nvidia" in path and not path.startswith(("/etc/yum", "/etc/pki"))]
    fresh = plan_docker(ce("28.5.2"), bare(), True).steps
    assert not [step for step in fresh if isinstance(step, WriteFile) and "nvidia" in step.path]


# --- packages --------------------------------------------------------------------------------------------------------


def test_installs_exact_docker_ce_on_bare_host_and_holds_it() -> None:
    plan = plan_docker(ce("28.5.2"), bare(), True)
    assert not plan.errors
    assert reasons(plan) == [
        "key of the docker-ce repository",
        "repository https://download.docker.com/linux/centos/9/$basearch/stable",
        "install docker-ce 28.5.2, curl",
        "start Docker and enable it at boot",
    ]
    install = command(plan, "install docker-ce")
    assert (
        "dnf -y install 'docker-ce-28.5.2-*' 'docker-ce-cli-28.5.2-*' containerd.io docker-buildx-plugin "
        "docker-compose-plugin curl python3-dnf-plugin-versionlock;"
    ) in install
    assert f"dnf -q --disablerepo='*' versionlock add {' '.join(CE_PACKAGES)}" in install


def test_unchanged_host_has_no_steps() -> None:
    assert plan_docker(ce(), with_ce(), True).nothing
    assert plan_docker(ce("28.5.2"), with_ce(held=True), True).nothing
    assert plan_toolkit(PINNED, with_toolkit(held=True)).nothing


@pytest.mark.parametrize(
    ("spec", "facts", "reason", "words"),
    [
        (ce("29.0.0"), with_ce(held=True), "docker-ce 28.5.2 → 29.0.0", "install 'docker-ce-29.0.0-*'"),
        (ce("26.1.5"), with_ce(held=True), "docker-ce 28.5.2 → 26.1.5", "install 'docker-ce-26.1.5-*'"),
        (ce("26.1.5"), with_ce(held=True), "docker-ce 28.5.2 → 26.1.5", "versionlock delete docker-ce docker-ce-cli >"),
        (ce(), with_ce(packages={"docker-compose-plugin": ""}), "install docker-compose-plugin", "docker-compose-"),
        (ce("28.5.2"), with_ce(), f"hold {', '.join(CE_PACKAGES)}", "versionlock add docker-ce"),
        (
            ce(),
            with_ce(held=True, ours=CE_PACKAGES),
            f"no longer hold {', '.join(CE_PACKAGES)}",
            "versionlock delete docker-ce",
        ),
        (ce("28.5.2"), with_ce(packages={"python3-dnf-plugin-versionlock": ""}), "hold", "dnf -y install python3-dnf-"),
        (
            ce("28.5.2"),
            with_ce(manager="yum dnf4", packages={"docker-ce-cli": "1:28.5.1-1.el9"}),
            "docker-ce-cli 28.5.1 → 28.5.2",
            "yum -y install 'docker-ce-cli-28.5.2-*'",
        ),
        (ce(source="distro"), bare(os="fedora 43"), "install moby-engine", "install moby-engine docker-cli docker-bu"),
    ],
)
def test_installs_packages_with_reason(spec: Host, facts: HostFacts, reason: str, words: str) -> None:
    plan = plan_docker(spec, facts, True)
    assert not plan.errors
    assert words in command(plan, reason)


def test_refreshes_metadata_of_own_repositories_only() -> None:
    text = command(plan_docker(ce("29.0.0"), with_ce(), True), "docker-ce 28.5.2")
    assert "dnf -q --disablerepo='*' --enablerepo='gpurack-*' clean expire-cache" in text
    assert "expire-cache" not in command(plan_docker(ce(), bare(os="fedora 43"), True), "install docker-ce")


def test_names_exact_version_with_epoch_and_release() -> None:
    pins = {"docker-ce": Pin("3:28.5.2-1.el9", exact=True), "containerd.io": Pin("2.1.9-1.el9", exact=True)}
    step = rpm.install("x", pins, bare())
    assert isinstance(step, Shell)
    assert "dnf -y install docker-ce-3:28.5.2-1.el9 containerd.io-2.1.9-1.el9;" in step.command
    assert pins["docker-ce"].met_by("3:28.5.2-1.el9")
    assert not pins["docker-ce"].met_by("3:28.5.2-2.el9")


@pytest.mark.parametrize(
    ("there", "pin", "down"),
    [
        ("3:28.5.2-1.el7", Pin("26.1.4"), True),
        ("3:28.5.2-1.el7", Pin("29.0.0"), False),
        ("3:28.10.0-1.el7", Pin("28.9.0"), True),
        ("3:28.5.2-1.el7", Pin("28.5.2"), False),
        ("3:28.5.2-2.el7", Pin("3:28.5.2-1.el7", exact=True), True),
        ("3:28.5.2-1.el7", Pin("3:28.5.2-2.el7", exact=True), False),
    ],
)
def test_yum_3_downgrades_by_own_command(there: str, pin: Pin, down: bool) -> None:
    facts = host_state(os="amazon 2", manager="yum yum3", packages={"docker-ce": there})
    step = rpm.install("x", {"docker-ce": pin}, facts, ["docker-ce"])
    assert isinstance(step, Shell)
    assert ("yum -y downgrade" in step.command) is down
    assert "yum -y install" in step.command
    assert "yum-plugin-versionlock" in step.command
    assert "yum -y downgrade" not in rpm.install("x", {"docker-ce": pin}, bare()).command  # type: ignore[attr-defined]


def test_error_hint_uses_package_manager_of_host() -> None:
    step = rpm.install("x", {"curl": None}, bare(manager="yum dnf4"))
    assert isinstance(step, Shell)
    assert "(yum repolist)" in str(step.explain(["Error: Unable to find a match: curl"]))


def test_dnf_5_holds_without_plugin() -> None:
    text = command(plan_docker(ce("28.5.2"), bare(os="fedora 43", manager="dnf dnf5"), True), "install docker-ce")
    assert "plugin-versionlock" not in text
    assert "versionlock add" in text


def test_accepts_curl_minimal_and_system_python() -> None:
    assert rpm.prerequisites(bare()) == ["curl"]
    assert rpm.prerequisites(bare(tools=["curl", "python3"])) == []
    assert rpm.prerequisites(bare(tools=[], packages={})) == ["ca-certificates", "curl", "python3"]


def test_finishes_interrupted_transaction_first() -> None:
    torn = with_ce(packages={"docker-ce": "3:28.5.2-1.el9 half"})
    plan = plan_docker(ce("28.5.2"), torn, True)
    assert reasons(plan)[:2] == ["finish an interrupted package installation", "install docker-ce 28.5.2"]
    text = command(plan, "finish")
    assert "rpm -qa --qf '%{NAME}.%{ARCH}\\n' docker-ce | sort | uniq -d" in text
    assert "dnf -y reinstall docker-ce;" in text
    noted = with_ce(files={paths.RPM_TRANSACTION: "1795207385 docker-ce\n"})
    plan = plan_docker(ce(), noted, True)
    assert reasons(plan) == ["finish an interrupted package installation"]
    assert "reinstall" not in command(plan, "finish"), "it was cut short before it changed anything"


MOBY = {
    "moby-engine": "27.3.1-3.fc43",
    "docker-cli": "27.3.1-3.fc43",
    "docker-buildx": "0.29.1-1.fc43",
    "docker-compose": "2.40.3-1.fc43",
}
PODMAN = "containerd.io has its own. Podman and buildah also run with crun: dnf install crun, "


@pytest.mark.parametrize(
    ("packages", "source", "system", "sentence"),
    [
        (
            {"podman-docker": "2:5.4.0-1.el9"},
            "docker-ce",
            "rocky 9",
            "podman-docker 5.4.0 is installed and conflicts with docker-ce. It only names podman docker: dnf "
            "remove podman-docker.",
        ),
        (
            {"runc": "4:1.2.5-2.el9"},
            "docker-ce",
            "rocky 9",
            f"runc 1.2.5 is installed and conflicts with docker-ce. {PODMAN}then dnf remove runc.",
        ),
        (
            {"docker": "25.0.8-1.amzn2023.0.5", "containerd": "2.0.5-1.amzn2023"},
            "docker-ce",
            "amazon 2023",
            'docker 25.0.8 is installed and conflicts with docker-ce. To keep it, set docker: {"source": "keep"}. '
            "To replace it, stop its containers, then run: dnf remove docker.",
        ),
        (
            CE,
            "distro",
            "fedora 43",
            'docker-ce 28.5.2 is installed and conflicts with moby-engine. To keep it, set docker: {"source": '
            '"docker-ce"}. To replace it, stop its containers, then run: dnf remove docker-ce docker-ce-cli '
            "containerd.io docker-buildx-plugin docker-compose-plugin.",
        ),
        (
            {**MOBY, "runc": "1.2.5-1.fc43", "containerd": "2.0.5-1.fc43"},
            "docker-ce",
            "fedora 43",
            'moby-engine 27.3.1 is installed and conflicts with docker-ce. To keep it, set docker: {"source": '
            '"distro"}. To replace it, stop its containers, then run: dnf remove moby-engine docker-cli docker-buildx '
            "docker-compose.",
        ),
        # its plugins are the same files as docker-ce's, and docker-buildx declares no conflict
        (
            {"docker-cli": "28.5.1-1.fc43", "docker-buildx": "0.29.1-1.fc43"},
            "docker-ce",
            "fedora 43",
            'docker-cli 28.5.1 is installed and conflicts with docker-ce. To keep it, set docker: {"source": '
            '"distro"}. To replace it, stop its containers, then run: dnf remove docker-cli docker-buildx.',
        ),
        (
            {**MOBY, "docker-compose-plugin": "2.40.3-1.fc43"},
            "distro",
            "fedora 43",
            "docker-compose-plugin 2.40.3 is installed and conflicts with moby-engine. To keep it, set docker: "
            '{"source": "docker-ce"}. To replace it, stop its containers, then run: dnf remove docker-compose-plugin.',
        ),
        (
            {"moby-engine": "27.3.1-3.fc43"},
            "docker-ce",
            "fedora 43",
            'moby-engine 27.3.1 is installed and conflicts with docker-ce. To keep it, set docker: {"source": '
            '"distro"}. To replace it, stop its containers, then run: dnf remove moby-engine.',
        ),
    ],
    ids=[
        "podman-docker",
        "runc",
        "amazon",
        "docker-ce",
        "fedora's whole",
        "left of fedora's",
        "left of docker-ce",
        "fedora's engine",
    ],
)
def test_refuses_packages_that_conflict_with_docker(
    packages: dict[str, str], source: Any, system: str, sentence: str
) -> None:
    state = bare(os=system, packages={**packages, "ca-certificates": "1-1"})
    found = plan_docker(ce(source=source), state, True)
    assert (found.steps, said(found.errors)) == ((), (sentence,))


def test_accepts_runc_and_containerd_for_fedoras_docker() -> None:
    state = bare(os="fedora 43", packages={"runc": "1.2.5-1.fc43", "containerd": "2.0.5-1.fc43"})
    assert not plan_docker(ce(source="distro"), state, True).errors


def test_remove_keeps_dependencies() -> None:
    plan = plan_remove(with_ce(held=True), "all")
    text = command(plan, "remove docker-ce")
    assert "dnf -y remove '--disablerepo=*' --setopt=clean_requirements_on_remove=False docker-ce " in text
    assert "versionlock delete docker-ce" in text
    assert command(plan, "remove gpurack's repository") == (
        "rm -f /etc/pki/rpm-gpg/gpurack-docker-ce.asc /etc/yum.repos.d/gpurack-docker-ce.repo"
    )


# --- every command is shell ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        plan_docker(ce("28.5.2"), bare(), True),
        plan_docker(ce("28.5.2"), with_ce(packages={"docker-ce": "3:28.5.2-1.el9 half"}), True),
        plan_docker(ce(), with_ce(held=True, ours=CE_PACKAGES), True),
        plan_docker(ce("26.1.4"), with_ce(os="amazon 2", manager="yum yum3"), True),
        plan_toolkit(PINNED, with_toolkit()),
        plan_remove(with_ce(), "all"),
    ],
    ids=["docker", "interrupted", "unhold", "yum 3", "hold", "remove"],
)
def test_every_command_parses_in_all_shells(plan: Plan) -> None:
    commands = [step.command for step in plan.steps if isinstance(step, Shell)]
    assert commands
    for shell in SHELLS:
        for text in commands:
            done = subprocess.run([*shell, "-n", "-c", text], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), text


BEHIND = """Waiting for process with pid 513 to finish.
[Errno 2] No such file or directory: '/var/cache/dnf/a/packages/containerd.io-2.1.9-1.el9.x86_64.rpm'"""
"""Observed: the dnf of a killed run continued, and cleaned up at its end."""
LOCKED = "RPM: error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)"


@pytest.mark.parametrize(
    ("code", "message", "runs", "exit_code", "noted"),
    [
        (0, "Complete!", 1, 0, False),
        (1, LOCKED, 3, 0, False),
        (1, BEHIND, 3, 0, False),
        (1, "Error: Unable to find a match: docker-ce-99.9.9-*", 1, 1, False),
        (137, "Killed", 1, 1, True),
    ],
    ids=["well", "rpm's lock", "behind another dnf", "fails", "killed"],
)
def test_transaction_waits_for_rpm_lock_and_leaves_note_when_killed(
    tmp_path: Path, code: int, message: str, runs: int, exit_code: int, noted: bool
) -> None:
    """With a dnf that fails twice as the test says, then works. Its list has two versions in two repositories."""
    fakes = {
        "dnf": 'case "$*" in *list*) printf "Installed Packages\\ndocker-ce.x86_64 3:1-1 @a\\nAvailable Packages\\n'
        'docker-ce.x86_64 3:1-1 a\\ndocker-ce.x86_64 3:2-1 b\\n"; exit;; esac; '
        'n=$(cat "$COUNT" 2>/dev/null || echo 0); echo $((n + 1)) >"$COUNT"; '
        '[ $n -lt 2 ] || exit 0; echo "$MESSAGE"; exit $CODE',
        "sleep": ":",
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    text = rpm.transaction(bare(), "install", ["docker-ce"], ["docker-ce"]).replace(
        paths.STATE, str(tmp_path / "state")
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "COUNT": str(tmp_path / "count"), "CODE": str(code),
        "MESSAGE": message, "TMPDIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, int((tmp_path / "count").read_text())) == (exit_code, runs)
    note = tmp_path / "state/rpm-transaction"
    assert note.exists() is noted
    if noted:
        assert note.read_text().split()[1:] == ["docker-ce"]
    assert ("there: docker-ce 3:1-1@a 3:2-1@b" in done.stdout) is (exit_code == 1)
    assert done.stdout.count("rpm is busy with another installation; waiting") == (
        2 if message in (LOCKED, BEHIND) else 0
    )
    assert not list(tmp_path.glob("tmp.*"))


LISTED = (Carried("3:28.5.1-1.el9", "gpurack-docker-ce", True), Carried("3:28.5.2-1.el9", "gpurack-docker-ce", True))
OF_NVIDIA = (Carried("1.19.1-1", "gpurack-nvidia-container-toolkit", True),)


def test_refuses_version_that_its_repository_is_known_to_lack() -> None:
    found = plan_docker(ce("28.5.9"), with_ce(carried={"docker-ce": LISTED}), True)
    assert [(error.code, error.path) for error in found.errors] == [("version-not-found", "docker.version")]
    assert dict(found.errors[0].parameters)["versions"] == "28.5.1, 28.5.2"
    repo = repository(PINNED, ROCKY)
    files = {rpm.repository_path(repo): rpm.source(repo), rpm.key_path(repo): repo.key}
    there = with_ce(files=files, gpus=[0], carried={"nvidia-container-toolkit": OF_NVIDIA})
    toolkit = plan_toolkit(PINNED, there)
    assert [(error.code, error.path) for error in toolkit.errors] == [("version-not-found", "nvidia.toolkit")]
    assert not toolkit.steps


def test_lists_of_a_repository_that_is_not_ours_yet_prove_nothing() -> None:
    """Its id is the same, but it may be another mirror."""
    assert not plan_docker(ce("28.5.9"), bare(carried={"docker-ce": LISTED}), True).errors
    old = [each._replace(fresh=False) for each in LISTED]
    assert not plan_docker(ce("28.5.9"), with_ce(carried={"docker-ce": old}), True).errors
    assert not plan_toolkit(PINNED, with_ce(gpus=[0], carried={"nvidia-container-toolkit": OF_NVIDIA})).errors
