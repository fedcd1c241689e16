"""`gpurack manifest`: the same host is the same text, also with other cards, other salts and containers made anew."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from gpurack import paths
from gpurack.locking.manifest import manifest
from gpurack.plan import compose
from gpurack.plan.ledger import assign
from gpurack.state.model import HostState
from tests.given import container, host_state, running, spec
from tests.unit.host_programs import FILES

SCRIPT = FILES / "manifest.sh"
SHELLS = [shell for shell in (["sh"], ["dash"], ["busybox", "ash"], ["bash", "--posix"]) if shutil.which(shell[0])]
WANTED = spec({"models": {"alpha": {"port": 8000, "gpus": [1], "api_key": {"env": "PATH"}}}})
MORE = ["package runc 1.1 held", "file /etc/docker/daemon.json 644 root root 12ab", "unit docker.service enabled"]


def provisioned(cards: str, salt: str, said: str = "sk-secret") -> HostState:
    """The host after a run, with cards whose UUIDs end in these letters."""
    state = host_state(gpus=list(cards), secrets={paths.container_file("", "alpha", "api_key"): "400"})
    uuids = assign(WANTED, state).uuids["alpha"]
    words = compose.definition("alpha", WANTED, state, uuids, {"api_key": said}, salt)
    service = compose.labelled("alpha", WANTED, state, uuids, words)
    return replace(
        state,
        containers=(replace(running(WANTED, "alpha", state, uuids), labels=service["labels"]), container("db")),
        files=host_state(files={paths.compose_file(""): compose.document({"alpha": service})}).files,
        digests={"sha256:0123456789abcdef": ("ghcr.io/ggml-org/llama.cpp@sha256:feed",)},
    )


def test_it_says_what_defines_the_host() -> None:
    lines = manifest(WANTED, provisioned("ab", "5a" * 16), MORE).splitlines()
    assert lines == sorted(lines)
    for line in (
        *MORE,
        "os Debian GNU/Linux 13 (trixie)",
        "card 1 NVIDIA A30 24125 MiB",
        "lock driver 580.159.04",
        "lock alpha image ghcr.io/ggml-org/llama.cpp:server-cuda-b7000@sha256:feed",
        "runs alpha gpus [1]",
        "runs alpha api_key set",
        "secret /etc/gpurack/secrets/alpha/api_key 400 uid 0",
        "container db is not gpurack's",
        "service alpha image ghcr.io/ggml-org/llama.cpp:server-cuda-b7000",
    ):
        assert line in lines
    assert any(line.startswith("service alpha deploy ") and '"nvidia.com/gpu=card-1"' in line for line in lines)


def test_other_cards_and_salts_are_no_difference() -> None:
    assert manifest(WANTED, provisioned("ab", "5a" * 16), MORE) == manifest(WANTED, provisioned("cd", "6b" * 16), MORE)


def test_nothing_of_a_secret_is_in_it() -> None:
    state = provisioned("ab", "5a" * 16)
    fingerprint = json.loads(state.ours["alpha"].labels["gpurack.model"])["api_key"]
    text = manifest(WANTED, state, MORE)
    assert "sk-secret" not in text
    assert fingerprint.split(":")[1] not in text


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_the_script_runs_in_every_shell(shell: list[str]) -> None:
    done = subprocess.run([*shell, "-s"], input=SCRIPT.read_text(), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"package", "file", "link", "unit", "versionlock"}
