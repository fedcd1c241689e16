"""Docker and the NVIDIA Container Toolkit: which packages from where, holds, and when Docker may restart."""

import dataclasses
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Carried
from gpurack.plan.packages import apt
from gpurack.plan.packages.base import installed, upstream
from gpurack.plan.packages.platforms import CE_PACKAGES, PLATFORMS, TOOLKIT_PACKAGES
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Plan, SetAside, Shell, WriteFile
from gpurack.plan.system.docker import CE_URL, ce_repository, plan_docker, with_room
from gpurack.plan.system.nvidia_toolkit import plan_toolkit, repository
from gpurack.plan.system.restart import foreign_running, may_stop_foreign
from gpurack.shell import sh
from gpurack.spec.host import Docker, Host
from gpurack.spec.problems import Problem
from tests.given import SYSTEMS, container, docker_info, host_state, id_of, package, said, spec, uuid
from tests.unit.host_programs import SHELLS, Fakes

PREREQUISITES = {"ca-certificates": "20250419", "curl": "8.14.1-2", "python3": "3.13.5-1"}
CE = {
    "docker-ce": "5:28.5.2-1~debian.13~trixie",
    "docker-ce-cli": "5:28.5.2-1~debian.13~trixie",
    "containerd.io": "1.7.29-1~debian.13~trixie",
    "docker-buildx-plugin": "0.29.1-1~debian.13~trixie",
    "docker-compose-plugin": "2.40.3-1~debian.13~trixie",
}
DISTRO = {"docker.io": "26.1.5+dfsg1-9+b9", "docker-cli": "26.1.5+dfsg1-9+b9", "docker-compose": "2.26.1-4"}
TOOLKIT = dict.fromkeys(TOOLKIT_PACKAGES, "1.20.1-1")
TRIXIE = PLATFORMS["debian", "13"]
UNITS = {"docker.service": "loaded active enabled"}


def ce(version: str | None = None, **fields: Any) -> Host:
    return Host(docker=Docker(version=version, **fields))


def with_ce(held: bool = False, ours: tuple[str, ...] = (), **over: Any) -> HostFacts:
    """A host with docker-ce as gpurack installs it. `packages` in over changes some. ours: holds that gpurack noted."""
    repo = ce_repository(Host(), host_state(), TRIXIE)
    there = {**PREREQUISITES, **{name: f"{version}{' held' if held else ''}" for name, version in CE.items()}}
    there = {name: version for name, version in {**there, **over.pop("packages", {})}.items() if version}
    return host_state(
        packages=there,
        files={apt.repository_path(repo): apt.source(repo), apt.key_path(repo): repo.key, **noted(ours)},
        units=UNITS,
        **over,
    )


def noted(ours: tuple[str, ...]) -> dict[str, str]:
    """gpurack's note of its holds."""
    return {paths.HELD: "".join(f"{name}\n" for name in ours)} if ours else {}


def with_toolkit(spec: Host, held: bool = False, **over: Any) -> HostFacts:
    """A host with two GPUs and the toolkit as gpurack installs it."""
    repo = repository(spec, TRIXIE)
    there = {name: f"{version}{' held' if held else ''}" for name, version in TOOLKIT.items()}
    there = {name: version for name, version in {**there, **over.pop("packages", {})}.items() if version}
    cdi = [f"nvidia.com/gpu={uuid(0)}", f"nvidia.com/gpu={uuid(1)}", "nvidia.com/gpu=all"]
    usual = {"gpus": 2, "cdi": cdi}
    files = {apt.repository_path(repo): apt.source(repo), apt.key_path(repo): repo.key, **over.pop("files", {})}
    return host_state(packages=there, files=files, **{**usual, **over})


def reasons(plan: Plan) -> list[str]:
    return [step.reason for step in plan.steps]


def command(plan: Plan, beginning: str) -> str:
    """The command of the only step whose reason begins with this."""
    (found,) = [step for step in plan.steps if isinstance(step, Shell) and step.reason.startswith(beginning)]
    return found.command


@pytest.mark.parametrize(("free", "refused"), [("1000", True), ("66000", False), ("", False)])
@pytest.mark.parametrize("shell", SHELLS)
def test_changes_no_docker_on_a_full_disk(fakes: Fakes, shell: str, free: str, refused: bool, tmp_path: Path) -> None:
    """A dockerd that starts on a full disk loses containers. What df does not say is no reason."""
    facts = with_ce(docker=docker_info("28.5.2", DockerRootDir="/srv/my docker"))
    text = command(plan_docker(ce("29.0.0"), facts, True), "docker-ce 28.5.2")
    (check,) = with_room(facts)
    assert text.index(" update") < text.index(check) < text.index(" install --allow-downgrades")
    fakes.add(
        "df", f'[ "$2" = "/srv/my docker" ] && printf "Filesystem\\n/dev/x 9 9 %s\\n" "{free}"' if free else "exit 1"
    )
    done = subprocess.run([*shell, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == refused
    assert ("/srv/my docker has less than 64 MiB free" in done.stderr) == refused
    assert with_room(host_state(docker={})) == [], "Docker is new"


# --- apt -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "upstreams"),
    [
        ("5:28.5.2-1~debian.13~trixie", "28.5.2"),
        ("26.1.5+dfsg1-9+b9", "26.1.5"),
        ("20.10.24+dfsg1-1+deb12u1", "20.10.24"),
        ("5:26.1.3-0ubuntu1~24.04.1", "26.1.3"),
        ("28.2.2-0ubuntu1~24.04.1", "28.2.2"),
        ("1.20.1-1", "1.20.1"),
        ("1.18.0~rc.2-1", "1.18.0"),
        ("5:29.0.0~rc.1-1~ubuntu.24.04~noble", "29.0.0"),
        ("", ""),
    ],
)
def test_finds_upstream_version(version: str, upstreams: str) -> None:
    assert upstream(version) == upstreams


def test_repository_file_is_deb822_with_own_key() -> None:
    repo = ce_repository(Host(), host_state(), TRIXIE)
    lines = [line for line in apt.source(repo).splitlines() if not line.startswith("#")]
    assert lines == [
        "Types: deb",
        f"URIs: {CE_URL}/linux/debian",
        "Suites: trixie",
        "Components: stable",
        "Signed-By: /etc/apt/keyrings/gpurack-docker-ce.asc",
    ]
    assert repo.key.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_flat_repository_of_nvidia_has_no_component() -> None:
    text = apt.source(repository(Host(), TRIXIE))
    assert "URIs: https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)\nSuites: /\nSigned-By:" in text


def test_uses_mirrors_and_their_keys(tmp_path: Path) -> None:
    (tmp_path / "lab.asc").write_text("lab's key")
    mirrors = {
        "docker-ce": {"url": "https://mirror.example/docker-ce/", "key": str(tmp_path / "lab.asc")},
        "nvidia": "https://mirror.example/nvidia",
    }
    wanted = spec({"mirrors": mirrors})
    repo = ce_repository(wanted, host_state(os="ubuntu 24.04"), PLATFORMS["ubuntu", "24.04"])
    assert "URIs: https://mirror.example/docker-ce/linux/ubuntu\nSuites: noble\n" in apt.source(repo)
    assert repo.key == "lab's key"
    toolkit = repository(wanted, TRIXIE)
    assert "URIs: https://mirror.example/nvidia/stable/deb/$(ARCH)\n" in apt.source(toolkit)
    assert toolkit.key == repository(Host(), TRIXIE).key


DOCKERS = "download.docker.com/linux"
DEBIANS = "Types: deb\nURIs: https://mirror.uni.example/debian\nSuites: trixie\n"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"deb [arch=amd64] https://{DOCKERS}/debian x y\n", f"# deb [arch=amd64] https://{DOCKERS}/debian x y\n"),
        (f"deb a b c\ndeb https://{DOCKERS} x y\n", f"deb a b c\n# deb https://{DOCKERS} x y\n"),
        (f"deb a b c\ndeb https://{DOCKERS} x y", f"deb a b c\n# deb https://{DOCKERS} x y"),
        (f"Types: deb\nURIs: https://{DOCKERS}/ubuntu\n", f"# Types: deb\n# URIs: https://{DOCKERS}/ubuntu\n"),
        (
            f"{DEBIANS}\nTypes: deb\nURIs: https://{DOCKERS}\nSigned-By:\n -----BEGIN\n .\n",
            f"{DEBIANS}\n# Types: deb\n# URIs: https://{DOCKERS}\n# Signed-By:\n#  -----BEGIN\n#  .\n",
        ),
        (
            f"{DEBIANS}\ntypes: deb\nuris: https://{DOCKERS}\n".replace("\n", "\r\n"),
            f"{DEBIANS}\n# types: deb\n# uris: https://{DOCKERS}\n".replace("\n", "\r\n"),
        ),
        (
            f"# Docker\nTYPES: deb\nUris:\thttps://{DOCKERS}\n \t\n{DEBIANS}",
            f"# Docker\n# TYPES: deb\n# Uris:\thttps://{DOCKERS}\n \t\n{DEBIANS}",
        ),
        (
            f"enabled: no\ntypes: deb\nuris:\n https://{DOCKERS}\n\n{DEBIANS}",
            f"# enabled: no\n# types: deb\n# uris:\n#  https://{DOCKERS}\n\n{DEBIANS}",
        ),
        (f"# deb https://{DOCKERS}/debian x y\n", None),
        (f"  #deb https://{DOCKERS}/debian x y\n", None),
        (f"# instead of {DOCKERS}\n{DEBIANS}", None),
        (f"{DEBIANS}# not {DOCKERS}\nComponents: main\n", None),
        ("deb https://mirror.uni.example/debian trixie main\n", None),
        ("", None),
    ],
)
def test_comments_out_only_entries_of_repository(text: str, rest: str | None) -> None:
    once = apt.without(text, (DOCKERS,))
    assert once == (text if rest is None else rest)
    assert apt.without(once, (DOCKERS,)) == once


def test_edits_file_with_other_repositories_in_place() -> None:
    path, live = "/etc/apt/sources.list", "deb https://mirror.uni.example/debian trixie main\n"
    files = {path: {"text": f"{live}deb https://{DOCKERS}/debian trixie stable\n", "mode": "600"}}
    (step,) = [
        step
        for step in plan_docker(ce(), host_state(files=files), True).steps
        if isinstance(step, WriteFile) and step.path == path
    ]
    assert step.content == f"{live}# deb https://{DOCKERS}/debian trixie stable\n"
    assert step.mode == "600"  # it may contain the password of a mirror


def test_sets_aside_older_repository_files_first() -> None:
    old = "/etc/apt/sources.list.d/docker.list"
    files = {old: "deb https://download.docker.com/linux/debian trixie stable", "/etc/apt/sources.list": "deb x y z"}
    steps = plan_docker(ce(), host_state(files=files, packages=PREREQUISITES), True).steps[:3]
    assert [type(step) for step in steps] == [WriteFile, SetAside, WriteFile]
    assert isinstance(steps[1], SetAside)
    assert steps[1].path == old


@pytest.mark.parametrize("other", [{"content": b"half"}, {"mode": "666"}, {"mode": "600"}, {"uid": 1000}])
def test_rewrites_changed_key(other: dict[str, Any]) -> None:
    """Also a key that other users can change, or that apt's own user cannot read."""
    state = with_ce()
    key = "/etc/apt/keyrings/gpurack-docker-ce.asc"
    torn = dataclasses.replace(state, files={**state.files, key: dataclasses.replace(state.files[key], **other)})
    assert plan_docker(ce(), torn, True).steps == (
        WriteFile("key of the docker-ce repository", key, state.files[key].text),
    )


# --- Docker ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["debian 12", "debian 13", "ubuntu 22.04", "ubuntu 24.04"])
def test_installs_all_of_docker_ce_on_bare_host(system: str) -> None:
    plan = plan_docker(ce("28.5.2"), host_state(os=system, docker={}), True)
    assert not plan.errors
    assert reasons(plan) == [
        "install ca-certificates",  # else apt cannot read what follows
        "key of the docker-ce repository",
        f"repository {CE_URL}/linux/{SYSTEMS[system].id}",
        "install docker-ce 28.5.2, curl, python3",
        "start Docker and enable it at boot",
    ]
    assert "'docker-ce=5:28.5.2-*' 'docker-ce-cli=5:28.5.2-*' containerd.io docker-buildx-plugin" in command(
        plan, "install docker-ce"
    )
    assert f"apt-mark hold {' '.join(CE_PACKAGES)}" in command(plan, "install docker-ce")


def test_python3_comes_before_a_docker_that_restarts() -> None:
    lacking = with_ce(packages={"python3": ""})
    assert reasons(plan_docker(ce("29.0.0"), lacking, True))[:2] == ["install python3", "docker-ce 28.5.2 → 29.0.0"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_new_docker_gets_what_a_gpu_host_wants_of_its_recommended_packages(fakes: Fakes, shell: str) -> None:
    """What is installed is not touched, and what apt does not have is left out."""
    fakes.add("dpkg-query", '[ "$4" != procps ] || printf installed')
    known = "echo ' {} | 1.0 | http://repo trixie/main amd64 Packages'"  # nothing for one that is only referred to
    fakes.add("apt-cache", f'[ "$1 $2" = "madison pigz" ] || {known.format("$2")}')
    words = apt.recommended(["docker.io", "curl"], host_state(docker={}))
    done = subprocess.run([*shell, "-c", f"echo{words}"], capture_output=True, text=True, check=True)
    assert done.stdout == "apparmor xz-utils docker-buildx\n"
    assert "docker-buildx" not in str(apt.recommended(["docker-ce"], host_state(docker={})))


def test_buildkit_goes_with_the_docker_that_recommends_it() -> None:
    bare, marks = host_state(docker={}), "{ apt-mark auto docker-buildx >/dev/null 2>&1 || :; }"
    assert marks in command(plan_docker(ce(source="distro"), bare, True), "install docker.io")
    assert "apt-mark auto" not in command(plan_docker(ce(), bare, True), "install docker-ce")
    assert "apt-mark auto" not in apt.install("x", {"docker.io": None, "docker-buildx": None}, bare).command  # type: ignore[attr-defined]
    assert not apt.recommended(["docker-ce"], with_ce())
    assert not apt.recommended(["curl"], host_state(docker={}))


def test_unchanged_host_has_no_steps() -> None:
    assert plan_docker(ce(), with_ce(), True).nothing
    assert plan_docker(ce("28.5.2"), with_ce(held=True), True).nothing
    kept = host_state(packages=PREREQUISITES, compose="2.40.3")
    assert plan_docker(ce(source="keep"), kept, True).nothing
    distro = host_state(packages={**PREREQUISITES, **DISTRO}, units=UNITS)
    assert plan_docker(ce(source="distro"), distro, True).nothing


@pytest.mark.parametrize(
    ("spec", "facts", "reason", "words"),
    [
        (ce("29.0.0"), with_ce(held=True), "docker-ce 28.5.2 → 29.0.0", "'docker-ce=5:29.0.0-*'"),
        (ce("26.1.5"), with_ce(), "docker-ce 28.5.2 → 26.1.5", "--allow-downgrades --allow-change-held-packages"),
        (ce(), with_ce(packages={"docker-compose-plugin": ""}), "install docker-compose-plugin", " docker-compose-"),
        (ce(), with_ce(packages={"docker-ce": "5:28.5.2-1 half"}), "install docker-ce", " docker-ce |"),
        (
            ce("28.5.2"),
            with_ce(held=True, packages={"docker-ce-cli": "5:28.5.1-1 held"}),
            "docker-ce-cli 28.5.1 → 28.5.2",
            "'docker-ce-cli=5:28.5.2-*'",
        ),
        (ce(), with_ce(packages={"curl": ""}), "install curl", " curl"),
        (ce("28.5.2"), with_ce(), f"hold {', '.join(CE_PACKAGES)}", "apt-mark hold"),
        (ce(), with_ce(held=True, ours=CE_PACKAGES), f"no longer hold {', '.join(CE_PACKAGES)}", "apt-mark unhold"),
        (ce("26.1.5", source="distro"), host_state(), "install docker.io 26.1.5", "'docker.io=26.1.5*' docker-cli"),
    ],
    ids=["upgrade", "downgrade", "missing", "half", "cli behind", "curl", "hold", "unhold", "distro"],
)  # fmt: skip
def test_installs_packages_with_reason(spec: Host, facts: HostFacts, reason: str, words: str) -> None:
    plan = plan_docker(spec, facts, True)
    assert not plan.errors
    assert words in command(plan, reason)


def test_finishes_interrupted_installation_first() -> None:
    plan = plan_docker(ce(), with_ce(audit=1), True)
    assert reasons(plan) == ["finish an interrupted package installation"]
    assert apt.retry_while_locked(sh("dpkg --configure -a")) in command(plan, "finish")
    # apt and dpkg ignore it if nothing depends on it
    assert "install --reinstall --allow-downgrades --allow-change-held-packages $torn" in command(plan, "finish")
    half = with_ce(packages={"containerd.io": "1.7.29-1 half"})
    assert reasons(plan_docker(ce(), half, True))[0] == "finish an interrupted package installation"


@pytest.mark.parametrize(
    ("packages", "source", "sentence"),
    [
        (
            DISTRO,
            "docker-ce",
            'docker.io 26.1.5 is installed and conflicts with docker-ce. To keep it, set docker: {"source": '
            '"distro"}. To replace it, stop its containers, then run: apt-get remove docker.io docker-cli '
            "docker-compose.",
        ),
        (
            CE,
            "distro",
            'docker-ce 28.5.2 is installed and conflicts with docker.io. To keep it, set docker: {"source": '
            '"docker-ce"}. To replace it, stop its containers, then run: apt-get remove docker-ce docker-ce-cli '
            "containerd.io docker-buildx-plugin docker-compose-plugin.",
        ),
        # dpkg would fail halfway, because another package has the plugins' files
        (
            {"docker-cli": "26.1.5+dfsg1-9+b9", "docker-buildx": "0.13.1+ds1-3"},
            "docker-ce",
            'docker-cli 26.1.5 is installed and conflicts with docker-ce. To keep it, set docker: {"source": '
            '"distro"}. To replace it, stop its containers, then run: apt-get remove docker-cli docker-buildx.',
        ),
        (
            {**DISTRO, "docker-compose-plugin": "2.40.3-1~debian.13~trixie"},
            "distro",
            "docker-compose-plugin 2.40.3 is installed and conflicts with docker.io. To keep it, set docker: "
            '{"source": "docker-ce"}. To replace it, stop its containers, then run: apt-get remove '
            "docker-compose-plugin.",
        ),
        (
            {"podman-docker": "5.4.2+ds1-2"},
            "distro",
            "podman-docker 5.4.2 is installed and conflicts with docker.io. It only names podman docker: "
            "apt-get remove podman-docker.",
        ),
    ],
    ids=["docker.io", "docker-ce", "left of docker.io", "left of docker-ce", "podman"],
)
def test_two_dockers_are_never_swapped_unasked(packages: dict[str, str], source: Any, sentence: str) -> None:
    found = plan_docker(ce(source=source), host_state(packages=packages), True)
    assert (found.steps, said(found.errors)) == ((), (sentence,))


def test_keeps_compose_v1_of_older_release() -> None:
    there = host_state(os="debian 12", packages={**PREREQUISITES, "docker-compose": "1.29.2-3"}, docker={})
    assert not plan_docker(ce(), there, True).errors


def test_remains_of_package_are_no_conflict() -> None:
    half = host_state(packages={**PREREQUISITES, "docker.io": "26.1.5-1 half"})
    assert not plan_docker(ce(), half, True).errors


def at(repository: str, *versions: str, fresh: bool = True) -> tuple[Carried, ...]:
    found = versions or ("5:28.5.2-1~debian.13~trixie", "5:28.5.1-1~debian.13~trixie")
    return tuple(Carried(version, repository, fresh) for version in found)


def mirrored(version: str) -> Host:
    return spec(
        {
            "docker": {"source": "docker-ce", "version": version},
            "mirrors": {"docker-ce": "https://mirror.lab/docker-ce"},
        }
    )


OF_DOCKER = at("https://download.docker.com/linux/debian trixie/stable")
OF_MIRROR = at("https://mirror.lab/docker-ce/linux/debian trixie/stable")
OLD_OF_DEBIAN = Carried("26.1.5+dfsg1-9+b9", "http://mirror.example/debian trixie/main", True)
SNAP = {"snap.docker.dockerd.service": "loaded active enabled"}
REFUSED: dict[str, tuple[Host, HostFacts, str]] = {
    "suse": (ce(), host_state(os="suse 15"), "platform-unsupported"),
    **{f"snap-{source}": (ce(source=source), host_state(units=SNAP), "docker-snap")
       for source in ("docker-ce", "distro", "keep")},
    "no-systemd": (ce(), host_state(init="tini"), "no-systemd"),
    "bookworm-own": (ce(source="distro"), host_state(os="debian 12"), "distribution-without-docker"),
    "distro-without-version": (
        ce("28.5.2", source="distro"), host_state(carried={"docker.io": (OLD_OF_DEBIAN,)}), "version-not-carried",
    ),
    "repository-without-version": (ce("28.5.9"), host_state(carried={"docker-ce": OF_DOCKER}), "version-not-found"),
    "mirror-without-version": (
        mirrored("28.5.9"), host_state(carried={"docker-ce": OF_MIRROR}), "version-not-found",
    ),
    "kept-without-daemon": (ce(source="keep"), host_state(docker={}), "docker-kept-silent"),
    "kept-with-compose-1": (ce(source="keep"), host_state(compose="1.29.2"), "docker-kept-without-compose"),
    "kept-without-compose": (ce(source="keep"), host_state(compose=""), "docker-kept-without-compose"),
}  # fmt: skip


def test_version_is_refused_only_where_the_lists_of_its_repository_are_known() -> None:
    carried = {"docker.io": (OLD_OF_DEBIAN,)}
    there = host_state(packages={**PREREQUISITES, "docker.io": "28.5.2-1"}, carried=carried)
    other_suite = at("https://download.docker.com/linux/debian bookworm/stable")
    installed_by_hand = {**PREREQUISITES, "docker-ce": "5:28.5.9-1"}
    elsewhere = (*OF_DOCKER, *at("https://mirror.lab/test trixie/test", "5:28.5.9-1~debian.13~trixie"))
    for wanted, facts in (
        (ce("26.1.5", source="distro"), host_state(carried=carried)),
        (ce("28.5.2", source="distro"), host_state()),
        (ce("28.5.2", source="distro"), there),
        (ce("28.5.2", source="distro"), host_state(carried={"docker.io": (OLD_OF_DEBIAN._replace(fresh=False),)})),
        (ce("28.5.2"), host_state(carried=carried)),
        (ce("28.5.2"), host_state(carried={"docker-ce": OF_DOCKER})),
        (ce("28.5.9"), host_state(carried={"docker-ce": other_suite})),
        (ce("28.5.9"), host_state(carried={"docker-ce": elsewhere})),
        (ce("28.5.9"), host_state(carried={"docker-ce": at(OF_DOCKER[0].repository, fresh=False)})),
        (mirrored("28.5.9"), host_state(carried={"docker-ce": OF_DOCKER})),
        (ce("28.5.9"), host_state(carried={"docker-ce": OF_DOCKER}, packages=installed_by_hand)),
    ):
        assert not plan_docker(wanted, facts, True).errors


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    wanted, facts, code = REFUSED[case]
    found = plan_docker(wanted, facts, True)
    assert (found.steps, [error.code for error in found.errors]) == ((), [code])


def test_wording_of_what_docker_lacks_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    refused = {case: plan_docker(wanted, facts, True) for case, (wanted, facts, _) in REFUSED.items()}
    check_golden("docker", {case: [error.what for error in plan.errors] for case, plan in refused.items()})


@pytest.mark.parametrize("version", ["dev", "v2", "2.40.3-desktop.1", "2.26.1-4"])
def test_accepts_any_version_of_kept_compose(version: str) -> None:
    kept = host_state(packages=PREREQUISITES, compose=version)
    assert plan_docker(ce(source="keep"), kept, True).nothing


@pytest.mark.parametrize("unit", ["loaded inactive disabled", "loaded failed enabled"])
def test_starts_and_enables_docker(unit: str) -> None:
    plan = plan_docker(ce(), with_ce_and_unit(unit), True)
    assert reasons(plan) == ["start Docker and enable it at boot"]
    start = command(plan, "start Docker")
    assert start.startswith("systemctl reset-failed docker.service")
    assert "systemctl enable docker.service" in start
    assert start.endswith("systemctl start docker.service && systemctl -q is-enabled docker.service")


def with_ce_and_unit(unit: str) -> HostFacts:
    return dataclasses.replace(with_ce(), units=host_state(units={"docker.service": unit}).units)


def test_does_not_unmask_docker() -> None:
    plan = plan_docker(ce(), with_ce_and_unit("masked inactive masked"), True)
    assert ([error.code for error in plan.errors], plan.steps) == (["docker-masked"], ())
    # Debian masks it when docker.io is removed but not purged
    removed = host_state(docker={}, units={"docker.service": "masked inactive masked"})
    assert "install docker-ce" in reasons(plan_docker(ce(), removed, True))


def test_installs_no_docker_beside_one_without_package() -> None:
    static = host_state(tools=["dockerd"], docker_flags="/usr/local/bin/dockerd -H fd://", packages=PREREQUISITES)
    for wanted in (ce(), ce(source="distro")):
        plan = plan_docker(wanted, static, True)
        assert ([error.code for error in plan.errors], plan.steps) == (["docker-without-package"], ())
        assert "(/usr/local/bin/dockerd)" in plan.errors[0].what
    kept = dataclasses.replace(static, compose="2.40.3")
    assert plan_docker(ce(source="keep"), kept, True).nothing
    assert plan_docker(ce(), with_ce(tools=["dockerd"]), True).nothing


# --- the toolkit -----------------------------------------------------------------------------------------------------

GPU = spec({"nvidia": {"toolkit": "1.20.1"}, "models": {"alpha": {"port": 1, "gpus": [0]}}})
FLOATING = spec({"models": {"alpha": {"port": 1, "gpus": [0]}}})


def test_skips_toolkit_without_gpus() -> None:
    assert plan_toolkit(spec({"nvidia": {"toolkit": "1.20.1"}}), host_state()).nothing


def test_a_model_that_wants_a_card_where_there_is_no_driver() -> None:
    assert said(plan_toolkit(GPU, host_state()).errors) == (
        "a model wants a GPU, but no NVIDIA driver (/proc/driver/nvidia) or AMD driver (/sys/class/kfd) is loaded. "
        "Install the driver and reboot, or set gpus: [] for the model.",
    )


def test_writes_restart_marker_before_installing() -> None:
    plan = plan_toolkit(GPU, host_state(gpus=2))
    assert reasons(plan) == [
        "key of the nvidia-container-toolkit repository",
        "repository https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)",
        "note that Docker must restart: the NVIDIA Container Toolkit changed",
        "install the NVIDIA Container Toolkit 1.20.1",
        "CDI specs for 2 GPUs",
    ]
    assert " ".join(f"'{name}=1.20.1-*'" for name in TOOLKIT_PACKAGES) in command(plan, "install the NVIDIA")


def test_unchanged_toolkit_has_no_steps() -> None:
    assert plan_toolkit(GPU, with_toolkit(GPU, held=True)).nothing
    assert plan_toolkit(FLOATING, with_toolkit(FLOATING)).nothing


@pytest.mark.parametrize(
    ("spec", "packages", "reason"),
    [
        (GPU, dict.fromkeys(TOOLKIT, "1.19.1-1 held"), "NVIDIA Container Toolkit 1.19.1 → 1.20.1"),
        (GPU, {"libnvidia-container1": "1.19.1-1 held"}, "NVIDIA Container Toolkit 1.19.1 and 1.20.1 → 1.20.1"),
        (GPU, {"libnvidia-container-tools": ""}, "NVIDIA Container Toolkit 1.20.1 → 1.20.1"),
        (FLOATING, {"libnvidia-container1": "1.19.1-1"}, "install the NVIDIA Container Toolkit"),
    ],
    ids=["upgrade", "mixed", "missing", "mixed, floating"],
)
def test_moves_all_four_packages_together(spec: Host, packages: dict[str, str], reason: str) -> None:
    plan = plan_toolkit(spec, with_toolkit(spec, held=spec is GPU, packages=packages))
    assert reasons(plan)[:2] == ["note that Docker must restart: the NVIDIA Container Toolkit changed", reason]
    install = command(plan, reason)
    assert all(name in install for name in TOOLKIT_PACKAGES)


def test_holds_follow_inventory() -> None:
    held = plan_toolkit(GPU, with_toolkit(GPU))
    assert reasons(held) == [f"hold {', '.join(TOOLKIT_PACKAGES)}"]
    ours = with_toolkit(FLOATING, held=True, files={paths.HELD: "docker-ce\n" + "\n".join(TOOLKIT_PACKAGES)})
    released = plan_toolkit(FLOATING, ours)
    assert reasons(released) == [
        f"no longer hold {', '.join(TOOLKIT_PACKAGES)}", "forget which packages gpurack held"
    ]  # fmt: skip
    assert f" docker-ce >{paths.HELD}.new " in command(released, "forget")


def test_notes_its_holds_before_it_sets_them() -> None:
    wanted, facts = ce("28.5.2"), with_ce(packages={"docker-ce-cli": "5:28.5.2-1 held"})
    ours = [name for name in CE_PACKAGES if name != "docker-ce-cli"]
    hold = command(plan_docker(wanted, facts, True), "hold")
    assert hold.index(f"{' '.join(sorted(ours))} >{paths.HELD}.new") < hold.index("apt-mark hold")
    install = command(plan_docker(wanted, host_state(docker={}), True), "install docker-ce")
    assert install.index(f"{' '.join(sorted(CE_PACKAGES))} >{paths.HELD}.new") < install.index("apt-mark hold")


@pytest.mark.parametrize("ours", [(), ("docker-ce-cli",)], ids=["none", "one"])
def test_holds_of_others_stay(ours: tuple[str, ...]) -> None:
    plan = plan_docker(ce(), with_ce(held=True, ours=ours), True)
    others = sorted(set(CE_PACKAGES) - set(ours))
    (stay,) = said(plan.warnings)
    assert stay.startswith(f"{', '.join(others)}: on hold, and not by gpurack, so the hold stays.")
    assert stay.endswith(f"apt-mark unhold {' '.join(others)}")
    assert plan.findings[0].kind == "warning"
    assert reasons(plan) == (
        ["no longer hold docker-ce-cli", "forget which packages gpurack held"] if ours else []
    )  # fmt: skip
    assert "apt-mark unhold docker-ce " not in str(plan.steps)
    assert not plan_docker(ce("28.5.2"), with_ce(held=True), True).warnings


def test_cdi_spec_has_every_working_gpu() -> None:
    one = with_toolkit(GPU, held=True, cdi=[f"nvidia.com/gpu={uuid(0)}"])
    assert reasons(plan_toolkit(GPU, one)) == ["CDI specs for 1 GPU"]
    lost = dataclasses.replace(one, driver=dataclasses.replace(one.driver, exit_code=15))
    assert plan_toolkit(GPU, lost).nothing


def test_toolkit_has_no_steps_after_refused_docker() -> None:
    assert plan_toolkit(GPU, host_state(os="suse 15", gpus=1)).nothing


# --- restart and remove ----------------------------------------------------------------------------------------------

OURS = container("alpha", label={})
FOREIGN = [container("db"), container("app"), container("old", "exited")]


@pytest.mark.parametrize(
    ("restart", "unattended", "live_restore", "refused"),
    [
        ("ask", True, False, True),
        ("ask", False, False, False),
        ("ask", True, True, False),
        ("never", True, False, True),
        ("never", False, False, True),
        ("never", True, True, False),
        ("always", True, False, False),
    ],
)
def test_decides_when_docker_may_restart(restart: Any, unattended: bool, live_restore: bool, refused: bool) -> None:
    facts = host_state(containers=[OURS, *FOREIGN], docker={"LiveRestoreEnabled": live_restore})
    sentence = may_stop_foreign(ce(restart=restart), facts, unattended, "Docker 29.0.0")
    assert bool(sentence) is refused
    if sentence:
        assert sentence.what.startswith(
            "Docker 29.0.0 needs a restart of Docker, which would stop containers that gpurack does not manage: "
            "app, db. "
        )


def test_restart_depends_on_planned_live_restore() -> None:
    facts = host_state(containers=FOREIGN, docker={"LiveRestoreEnabled": True})
    assert may_stop_foreign(ce(), facts, True, "x", live_restore=False)
    assert not may_stop_foreign(ce(), facts, True, "x", live_restore=True)


def test_managed_containers_never_prevent_restart() -> None:
    facts = host_state(containers=[OURS], docker={"LiveRestoreEnabled": False})
    assert foreign_running(facts) == []
    assert may_stop_foreign(ce(restart="never"), facts, True, "x") is None


def test_refuses_upgrade_that_would_stop_foreign_containers() -> None:
    state = with_ce(containers=FOREIGN, docker={"LiveRestoreEnabled": False})
    plan = plan_docker(ce("29.0.0"), state, True)
    assert not plan.steps
    assert "Run without -y and confirm" in plan.errors[0].what


def test_remove_models_keeps_docker_and_data() -> None:
    facts = host_state(
        packages={**CE, **TOOLKIT},
        containers=[OURS, container("beta", "exited", label={}), *FOREIGN],
        files={
            "/etc/gpurack/compose.yaml": "",
            "/etc/systemd/system/gpurack.service": "",
            "/etc/docker/daemon.json": "",
            "/etc/tmpfiles.d/gpurack-logs.conf": "",
        },
    )
    plan = plan_remove(facts, "models")
    assert reasons(plan) == [
        "remove alpha, beta",
        "remove the project's network",
        "remove gpurack.service",
        "remove compose.yaml, secrets and the runner",
        "remove kept logs, which nothing would remove after their time",
    ]
    assert command(plan, "remove kept logs").endswith("rm -f /etc/tmpfiles.d/gpurack-logs.conf")
    assert f"docker rm --force -- {id_of('alpha')} {id_of('beta')} >/dev/null" in command(plan, "remove alpha")
    assert plan_remove(host_state(packages=CE), "models").nothing


def test_remove_lets_running_requests_end() -> None:
    """As gpurack stop; the runner asks the engines, and what it leaves running is killed."""
    containers = [OURS, container("beta", "exited", label={}), *FOREIGN]
    facts = host_state(packages=CE, containers=containers, files={"/usr/local/lib/gpurack/models.py": ""})
    ending, _, removing = command(plan_remove(facts, "models"), "remove alpha").partition(" || :; ")
    assert ending.endswith("| timeout -k 5 600 python3 /usr/local/lib/gpurack/models.py end")
    told = json.loads(shlex.split(ending)[3])  # { printf %s JSON
    assert [each["name"] for each in told["containers"]] == ["alpha"]
    assert (told["user"], told["containers"][0]["id"]) == ("", id_of("alpha"))
    assert f"docker rm --force -- {id_of('alpha')} {id_of('beta')} " in removing
    without = host_state(packages=CE, containers=containers)
    assert "models.py" not in command(plan_remove(without, "models"), "remove alpha")


def test_remove_all_removes_packages_but_keeps_daemon_json_and_data() -> None:
    facts = host_state(
        packages={**PREREQUISITES, **CE, **TOOLKIT},
        files={
            "/etc/apt/sources.list.d/gpurack-docker-ce.sources": "x",
            "/etc/apt/sources.list": "y",
            "/etc/apt/keyrings/gpurack-docker-ce.asc": "k",
            "/etc/docker/daemon.json": "{}",
            "/etc/tmpfiles.d/gpurack-logs.conf": "",
        },
    )
    plan = plan_remove(facts, "all")
    packages = command(plan, "remove nvidia-container-toolkit")
    assert "purge" not in packages
    assert not {"curl", "python3"} & set(packages.split())
    assert command(plan, "remove gpurack's repository") == (
        "rm -f /etc/apt/keyrings/gpurack-docker-ce.asc /etc/apt/sources.list.d/gpurack-docker-ce.sources"
    )
    everything = " ".join(step.command for step in plan.steps if isinstance(step, Shell))
    assert "daemon.json" not in everything
    assert "/var/lib" not in everything.replace("/var/lib/gpurack/logs", "")


def test_remove_all_is_refused_beside_foreign_containers() -> None:
    plan = plan_remove(host_state(packages=CE, containers=FOREIGN), "all")
    assert plan == Plan(errors=(Problem.of("remove-would-stop-others", names="app, db"),))


def test_remove_knows_two_words() -> None:
    assert said(plan_remove(host_state(), "everything").errors) == (
        'remove="everything" is not supported. Use --data remove=models or --data remove=all.',
    )


# --- every command is shell ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        plan_docker(ce("28.5.2"), host_state(docker={}), True),
        plan_docker(ce("28.5.2"), with_ce(audit=1), True),
        plan_docker(ce(), dataclasses.replace(with_ce(held=True, ours=CE_PACKAGES), units={}), True),
        plan_toolkit(GPU, host_state(gpus=2)),
        plan_toolkit(GPU, with_toolkit(GPU)),
        plan_remove(with_ce(containers=[OURS], audit=0), "all"),
    ],
    ids=["docker", "interrupted", "unhold", "toolkit", "hold", "remove"],
)
def test_every_command_parses_in_all_shells(plan: Plan) -> None:
    commands = [step.command for step in plan.steps if isinstance(step, Shell)]
    assert commands
    for shell in SHELLS:
        for text in commands:
            done = subprocess.run([*shell, "-n", "-c", text], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), text


@pytest.mark.parametrize(
    ("program", "command", "message"),
    [
        ("apt-get", apt.UPDATE, "E: Could not get lock /var/lib/apt/lists/lock"),
        # dpkg 1.22 (Debian 13) and 1.21 (Debian 12, Ubuntu 22.04)
        (
            "dpkg",
            apt.retry_while_locked(sh("dpkg --configure -a")),
            "dpkg: error: dpkg frontend lock was locked by apt-get process",
        ),
        (
            "apt-mark",
            apt.retry_while_locked(sh("apt-mark hold x")),
            "dpkg: error: dpkg frontend lock was locked by another process",
        ),
    ],
)
def test_retries_only_while_lock_is_taken(tmp_path: Path, program: str, command: str, message: str) -> None:
    fakes = {
        program: 'n=$(cat "$COUNT" 2>/dev/null || echo 0); echo $((n + 1)) >"$COUNT"; '
        f'case $n in 0|1) echo "{message}" >&2; exit 100;; *) exit $LATER;; esac',
        "sleep": ":",
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def update(later: int) -> tuple[int, str, int]:
        count = tmp_path / f"count{later}"
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "COUNT": str(count), "LATER": str(later)}
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout, int(count.read_text())

    waiting = "apt is busy with another installation or update; waiting\n"
    assert update(0) == (0, waiting * 2, 3)
    assert update(100) == (1, waiting * 2 + "\n", 3)


def test_half_configured_package_is_not_installed() -> None:
    facts = HostFacts(packages={"curl": package("8 half"), "python3": package("3")})
    assert installed(("curl", "python3", "tar"), facts) == {"python3": "3"}
    assert apt.prerequisites(facts) == ["ca-certificates", "curl"]


STUCK = ["127.0.0.1:8000 docker-proxy (pid 7, user root) in docker.service"]


@pytest.mark.parametrize("over", [{}, {"busy": "models since 14:02, pid 7"}, {"changing": frozenset({"b1"})}])
def test_port_that_docker_keeps_is_freed_only_where_no_other_run_works(over: dict[str, Any]) -> None:
    """It may be of the container that the other run starts."""
    facts = dataclasses.replace(with_ce(listeners=STUCK), **over)
    steps = plan_docker(spec({"models": {"alpha": {"port": 8000}}}), facts, False).steps
    assert [step.reason for step in steps] == (
        [] if over else ["note that Docker must restart: it listens at port 8000 for a container that does not run"]
    )


@pytest.mark.parametrize(
    ("docker", "ends", "restarts"),
    [(":", False, True), (":", True, False), ("echo 8ed3f6ad685b", False, False), ("exit 1", False, False)],
    ids=["stuck", "proxy ended", "container runs by now", "Docker gives no answer"],
)
def test_docker_restarts_only_where_it_still_listens_for_no_container(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, ends: bool, restarts: bool
) -> None:
    """The snapshot may be from within the start of a container."""
    marker = tmp_path / "run/docker-restart"
    monkeypatch.setattr(paths, "RUN", str(marker.parent))
    monkeypatch.setattr(paths, "RESTART_MARKER", str(marker))
    monkeypatch.setattr("gpurack.plan.system.restart.SETTLING", 1)
    fakes.add("docker", docker)
    (tmp_path / "docker-proxy").symlink_to("/bin/sleep")
    proxy = subprocess.Popen([tmp_path / "docker-proxy", "60"])
    try:
        listeners = [each.replace("pid 7", f"pid {proxy.pid}") for each in STUCK]
        plan = plan_docker(spec({"models": {"alpha": {"port": 8000}}}), with_ce(listeners=listeners), False)
        (step,) = plan.steps
        assert isinstance(step, Shell)
        if ends:
            proxy.kill()
            proxy.wait()
        subprocess.run(["sh", "-c", step.command], check=True)
    finally:
        proxy.kill()
        proxy.wait()
    assert marker.exists() == restarts
    assert set(fakes.calls) == (set() if ends else {"docker ps -q --filter publish=8000"})
