"""`gpurack manifest`: the same host gives the same text, also with other GPUs, salts and new containers."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.locking.manifest import manifest
from gpurack.plan.models import compose
from gpurack.plan.models.desired import desire
from gpurack.plan.models.ledger import assign
from tests.given import container, host_state, running, spec
from tests.sampling import sample
from tests.unit.host_programs import FILES, SHELLS, Fakes

pytestmark = pytest.mark.sampled

SCRIPT = FILES / "manifest.sh"
WANTED = spec({"models": {"alpha": {"port": 8000, "gpus": [1], "api_key": {"env": "PATH"}}}})
MORE = ["package runc 1.1 held", "file /etc/docker/daemon.json 644 root root 12ab", "unit docker.service enabled"]


def provisioned(cards: str, salt: str, said: str = "sk-secret") -> HostFacts:
    """The host after a run, with GPUs whose UUIDs end in these letters."""
    facts = host_state(gpus=list(cards), secrets={paths.container_file("", "alpha", "api_key"): "400"})
    uuids = assign(WANTED, facts).uuids["alpha"]
    desired = desire("alpha", WANTED, facts, uuids, {"api_key": said}, salt)
    words, service = desired.definition, desired.labelled
    return replace(
        facts,
        containers=(running(WANTED, "alpha", facts, uuids, labels=service["labels"], label=words), container("db")),
        files=host_state(files={paths.compose_file(""): compose.document({"alpha": service})}).files,
        digests={"sha256:0123456789abcdef": ("ghcr.io/ggml-org/llama.cpp@sha256:feed",)},
    )


def test_lists_what_defines_the_host() -> None:
    lines = manifest(WANTED, provisioned("ab", "5a" * 16), MORE).splitlines()
    assert lines == sorted(lines)
    for line in (
        *MORE,
        "os Debian GNU/Linux 13 (trixie)",
        "gpu 1 NVIDIA A30 24125 MiB",
        "lock driver 580.159.04",
        "lock alpha image ghcr.io/ggml-org/llama.cpp:server-cuda-b7000@sha256:feed",
        "runs alpha gpus [1]",
        "runs alpha api_key set",
        "secret /etc/gpurack/secrets/alpha/api_key 400 uid 0",
        "container db is not gpurack's",
        "service alpha image ghcr.io/ggml-org/llama.cpp:server-cuda-b7000",
    ):
        assert line in lines
    assert any(line.startswith("service alpha deploy ") and '"nvidia.com/gpu=gpu-1"' in line for line in lines)


def test_lists_enabled_jobs_of_inventory_only() -> None:
    """The file of a removed job stays on the host, but a rebuilt host does not have it."""
    once = {"engine": "llama.cpp", "version": "b7000", "command": ["-p", "hello"]}
    wanted = spec({"jobs": {"once": once, "off": {**once, "enabled": False}}})
    more = [f"job /etc/gpurack/jobs/{name}.yaml 12ab" for name in ("off", "once", "once-more")]
    assert [line for line in manifest(wanted, host_state(), more).splitlines() if line.startswith("job")] == [more[1]]


def test_ignores_other_gpus_and_salts() -> None:
    assert manifest(WANTED, provisioned("ab", "5a" * 16), MORE) == manifest(WANTED, provisioned("cd", "6b" * 16), MORE)


def test_a_later_generation_is_the_same() -> None:
    """A manifest that is older than a model's container stays equal."""
    first, service = provisioned("ab", "5a" * 16), {"alpha": {"container_name": "alpha"}}

    def told(key: str) -> str:
        compose_file = {paths.compose_file(""): compose.document(service, "", {"alpha": key})}
        secrets = {paths.container_file("", key, "api_key"): ("400", 0)}
        facts = replace(first, files=host_state(files=compose_file).files, secrets=secrets)
        return manifest(WANTED, facts, [f"file /etc/gpurack/secrets/{key}/a.yaml 400 root root 12ab"])

    assert told("alpha") == told("alpha.2")


def test_contains_no_secret() -> None:
    state = provisioned("ab", "5a" * 16)
    fingerprint = json.loads(state.ours["", "alpha"].labels["gpurack.model"])["api_key"]
    text = manifest(WANTED, state, MORE)
    assert "sk-secret" not in text
    assert fingerprint.split(":")[1] not in text


DEFINES = (
    "/etc/apparmor.d/gpurack-rootlesskit",
    "/etc/apt/sources.list.d/gpurack-docker-ce.sources",
    "/etc/gpurack/secrets/gateway/gateway.py",
    "/etc/gpurack/secrets/gateway/litellm.yaml",
    "/etc/pki/ca-trust/source/anchors/gpurack-1.crt",
    "/etc/pki/rpm-gpg/gpurack-docker-ce.asc",
    "/etc/tmpfiles.d/gpurack.conf",
    "/etc/yum.conf",
    "/home/alice/.config/nvidia-container-runtime/config.toml",
    "/usr/local/libexec/gpurack/dockerd-rootless",
    "/usr/local/share/ca-certificates/gpurack-1.crt",
    "/var/lib/gpurack/users/bob/secrets/py/llama-cpp-python.json",
    "/srv/bob/.config/docker/daemon.json",
    "/srv/bob/.config/systemd/user/docker.service",
)
NOT_TOLD = (
    "/etc/cdi/nvidia.yaml",
    "/etc/apparmor.d/usr.bin.man",
    "/etc/gpurack/secrets/gateway/api_key",
    "/etc/gpurack/secrets/gateway/keys",
    "/etc/gpurack/secrets/gateway/upstream_key_0",
    "/srv/bob/.config/systemd/user/docker.service~",
)


ABSOLUTE = re.compile(r'(?<![\w*}"])/(?=(etc|home|usr/local/(lib|libexec|share)|var/lib)/)')


class Root:
    """A folder that the script treats as a host's root, with users' homes in /home and elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path, self.limit = path, 20
        self.fakes = Fakes(path / "bin")
        self.fakes.add("getent", f'[ "$2" = bob ] && echo "bob:x:1001:1001::{path}/srv/bob:/bin/bash"')
        self.fakes.add("setpriv", 'shift 5; exec "$@"')  # the tests need no root
        for name in ("dpkg-query", "systemctl"):
            self.fakes.add(name, "")

    def put(self, file: str, text: str = "x\n") -> None:
        place = self.path / file.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def says(self, shell: list[str]) -> list[str]:
        """The lines of the script, with paths as on a host."""
        text = ABSOLUTE.sub(f"{self.path}/", SCRIPT.read_text()).replace("limit=20", f"limit={self.limit}")
        env = {**os.environ, "PATH": self.fakes.path()}
        done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=True, env=env)
        assert done.stderr == ""
        return done.stdout.replace(str(self.path), "").splitlines()


@pytest.mark.parametrize("shell", sample(SHELLS, "script_runs_in_every_shell"), ids=lambda shell: shell[0])
def test_script_runs_in_every_shell(shell: list[str], tmp_path: Path) -> None:
    """With this machine's own packages, but few files and units: the script starts two programs for each file, and
    systemctl takes a second to list all units."""
    root = Root(tmp_path)
    (root.fakes.folder / "dpkg-query").unlink()
    root.fakes.add("systemctl", "printf '%s\\n' 'ssh.service      enabled enabled' 'cups.service   masked  enabled'")
    for file in DEFINES:
        root.put(file)
    told = root.says(shell)
    assert [line for line in told if line.startswith("unit")] == [
        "unit ssh.service enabled",
        "unit cups.service masked",
    ]
    words = {line.split()[0] for line in told}
    assert {"file"} <= words <= {"package", "file", "job", "link", "secret", "unit", "unread", "versionlock"}


@pytest.mark.parametrize("shell", sample(SHELLS, "lists_files_without_secrets"), ids=lambda shell: shell[0])
def test_lists_files_without_secrets(shell: list[str], tmp_path: Path) -> None:
    root = Root(tmp_path)
    for file in (*DEFINES, *NOT_TOLD):
        root.put(file)
    told = [line.split()[1] for line in root.says(shell) if line.startswith("file ")]
    assert sorted(told) == sorted(DEFINES)


@pytest.mark.parametrize("shell", sample(SHELLS, "does_not_wait_for_process_left_by_user"), ids=lambda shell: shell[0])
def test_does_not_wait_for_process_left_by_user(shell: list[str], tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.put("/home/alice/.config/systemd/user/x.service")
    root.fakes.add("setpriv", 'shift 5; setsid sleep 8 & exec "$@"')
    begun = time.monotonic()
    assert [line.split()[1] for line in root.says(shell)] == ["/home/alice/.config/systemd/user/x.service"]
    assert time.monotonic() - begun < 6


def test_reports_home_that_does_not_answer(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.put("/home/alice/.config/systemd/user/x.service")
    for file in ("/srv/bob/.config/systemd/user/y.service", "/var/lib/gpurack/users/bob/compose.yaml"):
        root.put(file)
    root.fakes.add("setpriv", 'shift 5; case "$*" in */alice*) exec sleep 60;; esac; exec "$@"')
    root.limit = 4
    said = root.says(["sh"])
    assert "unread /home/alice/.config: no end in 4 s" in said
    assert [line.split()[1] for line in said if line.startswith("file")] == ["/srv/bob/.config/systemd/user/y.service"]


def test_homes_of_a_dead_file_server_are_named_and_cost_one_limit(tmp_path: Path) -> None:
    """Not even who owns them can be asked there, so root asks with a limit, and of all at once."""
    root = Root(tmp_path)
    for user in ("alice", "carol", "dave", "erin"):
        root.put(f"/home/{user}/.config/systemd/user/x.service")
    (tmp_path / "home/link").symlink_to("erin")
    stat = shutil.which("stat")
    root.fakes.add("stat", f'case "$*" in */home/erin*|*/link) ;; */home/*) exec sleep 60;; esac; exec {stat} "$@"')
    root.limit = 2
    begun = time.monotonic()
    said = root.says(["sh"])
    assert time.monotonic() - begun < 2 * root.limit + 3
    assert [line for line in said if line.startswith("unread")] == [
        f"unread /home/{user}: no end in 2 s" for user in ("alice", "carol", "dave")
    ]
    assert [line.split()[1] for line in said if line.startswith("file")] == [
        "/home/erin/.config/systemd/user/x.service"
    ]


@pytest.mark.parametrize("shell", sample(SHELLS, "does_not_hash_passwords_of_apt"), ids=lambda shell: shell[0])
def test_does_not_hash_passwords_of_apt(shell: list[str], tmp_path: Path) -> None:
    root = Root(tmp_path)
    for file in ("/etc/apt/auth.conf", "/etc/apt/auth.conf.d/mirror.conf"):
        root.put(file, "machine mirror login lab password 1234\n")
    digest = hashlib.sha256(b"machine mirror login lab password 1234\n").hexdigest()
    said = root.says(shell)
    assert sorted(line.split()[:2] for line in said) == [
        ["secret", "/etc/apt/auth.conf"], ["secret", "/etc/apt/auth.conf.d/mirror.conf"]
    ]  # fmt: skip
    assert digest not in "".join(said)


@pytest.mark.parametrize("shell", sample(SHELLS, "job_is_same_on_other_gpu"), ids=lambda shell: shell[0])
def test_job_is_same_on_other_gpu(shell: list[str], tmp_path: Path) -> None:
    root, said = Root(tmp_path), []
    for card, prompt in (("6f1c-aa", "hello"), ("77ab-00", "hello"), ("77ab-00", "bye")):
        root.put("/etc/gpurack/jobs/once.yaml", f"device_ids: ['nvidia.com/gpu=GPU-{card}']\ncommand: ['{prompt}']\n")
        said.append(root.says(shell))
    assert said[0][0].startswith("job /etc/gpurack/jobs/once.yaml ")
    assert said[0] == said[1] != said[2]
