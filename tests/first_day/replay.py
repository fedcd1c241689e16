"""Make one mistake in a fresh project, and return what the user sees. `python -m tests.first_day.replay` rewrites the
screens.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from socket import gaierror
from typing import Any

import paramiko
import pyinfra
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.connectors import ssh

from gpurack.commands.main import main
from gpurack.facts import snapshot
from gpurack.facts.gpus import Driver
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Carried
from gpurack.facts.unreachable import sudo_needs_password
from gpurack.operations import run_state
from tests import forked
from tests.first_day.mistakes import LAB, MISTAKES, Mistake
from tests.given import host_state, uuid

CHECKOUT = Path(__file__).parents[2]
SCREENS = Path(__file__).parent / "screens.txt"
HEADER = "# Written by: python -m tests.first_day.replay\n"


class Key(paramiko.PKey):
    """A host key with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def asbytes(self) -> bytes:
        return self.content

    def get_base64(self) -> str:
        return self.content.hex()


SSH_ERRORS: dict[str, Exception] = {
    "auth": paramiko.AuthenticationException("Authentication failed."),
    "unknown": gaierror(-2, "Name or service not known"),
    "refused": NoValidConnectionsError({("10.0.0.7", 22): ConnectionRefusedError(111, "Connection refused")}),
    "timeout": TimeoutError("timed out"),
    "key": paramiko.BadHostKeyException("gpu1.lab", Key(b"new"), Key(b"known")),
}


BARE = {"ca-certificates": "20250419", "curl": "8.14.1-2", "python3": "3.13.5-1"}
DOCKER_IO = dict.fromkeys(("docker.io", "docker-cli", "docker-compose"), "26.1.5+dfsg1-9")
WEIGHTS = {"/w/qwen.gguf": 8 << 30, "/w/bge-m3": 2 << 30}
FRESH = host_state(gpus=2, docker={}, packages=BARE, weights=WEIGHTS)
CE = "https://download.docker.com/linux/debian trixie/stable"
LISTS = {
    "docker-ce": (Carried("5:28.5.1-1~debian.13~trixie", CE, True), Carried("5:28.5.2-1~debian.13~trixie", CE, True)),
    "docker.io": (Carried("26.1.5+dfsg1-9", "http://mirror.example/debian trixie/main", True),),
}
SNAPSHOTS = {
    "NEEDS_ROOT": snapshot.NEEDS_ROOT,
    "NEEDS_PASSWORD": HostFacts.not_inspected(sudo_needs_password("ada")),
    "fresh, with package lists": replace(FRESH, carried=LISTS),
    "docker.io": host_state(gpus=2, packages=BARE | DOCKER_IO, weights=WEIGHTS),
    "docker.io of Debian 12": host_state(
        os="debian 12", gpus=2, packages={**BARE, "docker.io": "20.10.24+dfsg1-1"}, compose="1.29.2", weights=WEIGHTS
    ),
    "snap": host_state(gpus=2, packages=BARE, units={"snap.docker.dockerd.service": "loaded active enabled"}),
    "lost GPU": replace(
        host_state(gpus=1, packages=BARE | DOCKER_IO, weights=WEIGHTS),
        driver=Driver("580.159.04", 15, "GPU is lost", {"0000:17:00.0": uuid(0), "0000:65:00.0": uuid(1)}),
    ),
    "no driver": host_state(packages=BARE | DOCKER_IO, weights=WEIGHTS),
}
"""What the inspection of gpu1.lab finds."""


def replay(mistake: Mistake, folder: Path) -> str:
    """The screen after a mistake, with the exit code in its last line."""
    prepare(mistake, folder)
    words = shlex.split(mistake.command)
    environment = {"HOME": str(folder), "XDG_STATE_HOME": f"{folder}/state", "PATH": "/usr/bin:/bin", "LOGNAME": "ada"}
    argv = [words[0].partition("-")[0], *words[1:]]
    done = forked.run(lambda: program(mistake, words[0]), argv, environment, folder)
    shown = (done.stdout + done.stderr).replace(f"{folder}/", "").replace(sys.prefix, "VENV")
    shown = shown.replace(f"{CHECKOUT}/", "").replace(f"({pyinfra.__version__}, ", "(VERSION, ")
    shown = re.sub(r"(\d+ min )?\d+(\.\d)? s$", "0.1 s", shown, flags=re.MULTILINE)
    shown = re.sub(r"Checked \d\d:\d\d \S+\.$", "Checked 03:00 CET.", shown, flags=re.MULTILINE)
    return "\n".join([f"$ {mistake.command}", *map(str.rstrip, shown.splitlines()), f"exit code {done.returncode}"])


def prepare(mistake: Mistake, folder: Path) -> None:
    """Write the project."""
    wrong, right = mistake.lab
    assert wrong in LAB, mistake
    files: dict[str, str | None] = {
        "config.py": (CHECKOUT / "config.py").read_text(),
        "deploys/gpu_host.py": (CHECKOUT / "deploys/gpu_host.py").read_text(),
        "inventories/lab.yaml": None if mistake.python else LAB.replace(wrong, right, 1) if wrong else LAB,
        "inventories/lab.py": mistake.python or None,
        **mistake.files,
    }
    for name, text in files.items():
        if text is not None:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")


def program(mistake: Mistake, command: str) -> None:
    """Run the command, with ssh and hosts that behave as the mistake says."""

    def connect(client: Any, hostname: str, **how: Any) -> None:
        client._ssh_config = {}
        if mistake.ssh:
            raise SSH_ERRORS[mistake.ssh]

    ssh.SSHClient.connect = connect  # type: ignore[assignment,method-assign]
    if mistake.snapshot:
        run_state.take_snapshot = lambda host, questions: SNAPSHOTS[mistake.snapshot]
    if command == "gpurack":
        main(prog_name="gpurack")
    if command == "pyinfra-elsewhere":
        for module in [name for name in sys.modules if name.split(".")[0] == "gpurack"]:
            del sys.modules[module]
        sys.modules["gpurack"] = None  # type: ignore[assignment]
    runpy.run_module("pyinfra", run_name="__main__")


def read_screens() -> dict[str, str]:
    """Mistake → its screen."""
    blocks = SCREENS.read_text(encoding="utf-8").removeprefix(HEADER).strip("\n").split("\n\n## ")
    return {name: screen for name, _, screen in (block.removeprefix("## ").partition("\n") for block in blocks)}


def rewrite() -> None:
    """Write the screens anew."""
    blocks = []
    for mistake in MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            blocks.append(f"## {mistake.name}\n{replay(mistake, Path(folder))}\n")
    SCREENS.write_text(HEADER + "\n" + "\n".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
