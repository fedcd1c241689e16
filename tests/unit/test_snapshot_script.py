"""files/snapshot.sh, in every available shell, with fakes of the commands that it runs."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpurack.facts.snapshot import RAISED, Snapshot, script
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.questions import images_by_user, questions
from tests.given import models, recorded, spec
from tests.sampling import sample
from tests.unit.host_programs import FILES, SHELLS, Fakes, without_parts

pytestmark = pytest.mark.sampled

SCRIPTS = [FILES / "snapshot.sh", FILES / "snapshot_docker.sh"]
ID, IMAGE = "a" * 64, f"sha256:{'cd' * 32}"
H200 = "0, GPU-45c1f5da, NVIDIA H200, 143771, 0, 580.159.04, 9.0, Disabled, 00000000:00:06.0, 0"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_parses_in_every_shell(shell: list[str], script: Path) -> None:
    done = subprocess.run([*shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(
    not shutil.which("shellcheck"),
    reason="shellcheck is no dependency (apt-get install shellcheck); the shells above parse the script all the same",
)
def test_passes_shellcheck() -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "--severity=warning", "--exclude=SC2034,SC2154", *map(str, SCRIPTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


DEBIAN = "http://repo.testbed/debian trixie/main"
DOCKER = {"docker.io": [("26.1.5+dfsg1-9+b9", DEBIAN, True), ("26.1.5+dfsg1-9", DEBIAN, True)]}
OF_NVIDIA = "https://nvidia.github.io/libnvidia-container/stable/deb/amd64"
NVIDIA = {"nvidia-container-toolkit": [("1.18.0-1", OF_NVIDIA, True)]}
APT_CACHE = f"""
for name; do
    case $name in
    docker.io)
        echo " docker.io | 26.1.5+dfsg1-9+b9 | {DEBIAN} amd64 Packages"
        echo " docker.io | 26.1.5+dfsg1-9 | {DEBIAN} amd64 Packages" ;;
    nvidia-container-toolkit) echo " nvidia-container-toolkit | 1.18.0-1 | {OF_NVIDIA}  Packages" ;;
    esac
done"""
DNF = """
case " $* " in *" -C FLAG repoquery --showduplicates "*"docker-ce docker.io moby-engine "*) ;; *) exit 1 ;; esac
echo 'docker-ce 3:28.5.2-1.el9 gpurack-docker-ce'
echo
echo 'moby-engine 0:28.1.0-1.fc43 updates'
echo 'docker-ce 3:28.5.2-1.el9 $(reboot)'"""


def pinning(docker: dict[str, str], toolkit: str | None = None) -> str:
    """The snapshot's script, with nothing but its question for pinned packages."""
    entry = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "gpus": [0]}
    data = {"docker": docker, "nvidia": {"toolkit": toolkit}, "models": {"alpha": entry}}
    [(_, spec)] = check_fleet({"gpu1": [data]}).items()
    return without_parts(script(replace(questions(spec), weights=())))


def carried_by(shell: list[str], text: str) -> dict[str, list[tuple[str, str, bool]]]:
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    carried = Snapshot().process(done.stdout.splitlines()).carried
    return {name: [tuple(each) for each in versions] for name, versions in carried.items()}


@pytest.mark.parametrize(
    "shell", sample(SHELLS, "reads_the_lists_of_apt_for_what_is_pinned_and_not_installed"), ids=lambda shell: shell[0]
)
@pytest.mark.parametrize(
    ("installed", "docker", "toolkit", "carried"),
    [
        ("", {"source": "distro", "version": "28.5.2"}, None, DOCKER),
        ("docker.io 26.1.5+dfsg1-9+b9", {"source": "distro", "version": "28.5.2"}, None, DOCKER),
        ("docker.io 26.1.5+dfsg1-9+b9", {"source": "distro", "version": "26.1.5"}, None, {}),
        ("docker-ce 5:28.5.2-1~debian.13~trixie", {"version": "28.5.2"}, None, {}),
        ("docker-ce 5:28.5.2-1~debian.13~trixie", {"version": "28.5"}, None, DOCKER),
        ("", {}, "1.20.0", NVIDIA),
        ("nvidia-container-toolkit 1.20.0-1", {}, "1.20.0", {}),
        ("", {}, None, {}),
    ],
)
def test_reads_the_lists_of_apt_for_what_is_pinned_and_not_installed(
    fakes: Fakes,
    tmp_path: Path,
    shell: list[str],
    installed: str,
    docker: dict[str, str],
    toolkit: str | None,
    carried: dict[str, object],
) -> None:
    (tmp_path / "lists").mkdir()
    name, _, version = installed.partition(" ")
    fakes.add("dpkg-query", f"case $* in *' {name or 'none'}') echo '{version}' ;; *) exit 1 ;; esac")
    fakes.add("apt-cache", APT_CACHE)
    text = pinning(docker, toolkit).replace("/var/lib/apt/lists", f"{tmp_path}/lists")
    assert carried_by(shell, text) == carried
    assert bool(carried) == any(call.startswith("apt-cache") for call in fakes.calls)


@pytest.mark.parametrize(
    "shell", sample(SHELLS, "reads_the_lists_of_dnf_without_what_holds_hide"), ids=lambda shell: shell[0]
)
@pytest.mark.parametrize(
    ("generation", "flag"), [("dnf-3", "--disableplugin=versionlock"), ("dnf5", "--setopt=disable_excludes=*")]
)
def test_reads_the_lists_of_dnf_without_what_holds_hide(
    fakes: Fakes, tmp_path: Path, shell: list[str], generation: str, flag: str
) -> None:
    """From its cache only, and with the age of each repository's lists."""
    for place, age in (("gpurack-docker-ce-0123abcd", 60), ("updates-0123abcd", 90000)):
        lists = tmp_path / "dnf" / place / "repodata" / "primary.xml.gz"
        lists.parent.mkdir(parents=True)
        lists.touch()
        os.utime(lists, (time.time() - age,) * 2)
    fakes.add(generation, DNF.replace("FLAG", flag))
    (fakes.folder / "dnf").symlink_to(generation)
    text = pinning({"version": "28.5.9"}).replace("have apt-cache", "false")
    text = text.replace("/var/cache/dnf", f"{tmp_path}/dnf")
    assert carried_by(shell, text) == {
        "docker-ce": [("3:28.5.2-1.el9", "gpurack-docker-ce", True)],
        "moby-engine": [("0:28.1.0-1.fc43", "updates", False)],
    }


@pytest.fixture
def host(fakes: Fakes) -> Fakes:
    """Docker with two containers, and one GPU."""
    fakes.state("info", {"ServerVersion": "28.5.2"})
    state = {"Status": "running", "ExitCode": 0, "Error": "", "Pid": 7, "StartedAt": "2026-11-20"}
    one = {
        "id": ID, "name": "/alpha", "image": f"sha256:{'ab' * 32}", "state": state,
        "labels": {
            "gpurack.model": "{}", "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha",
        },
        "ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}, "restarts": 0,
    }  # fmt: skip
    fakes.state(
        "containers", f"{json.dumps(one)}\n{json.dumps({**one, 'name': '/db', 'labels': None, 'ports': None})}\n"
    )
    fakes.state("published", "/alpha|running|alpha|8080/tcp;127.0.0.1;8000 \n")
    fakes.add(
        "docker",
        'case "$*" in info*) cat "$STATE/info"; echo;; "compose version"*) echo v2.40.3;; '
        '"ps -aq"*) echo one; echo two;; ps*running*restarting*) echo one;; '
        'inspect*HostIp*) cat "$STATE/published";; inspect*) cat "$STATE/containers";; '
        f'"image inspect"*server-b7000) echo {IMAGE};; "image"*) exit 1;; esac',
    )
    fakes.add("curl", 'printf \'{"data":[{"id":"alpha"}]}\\n200\'')
    fakes.add(
        "nvidia-smi",
        f"case \"$*\" in *query-gpu*) echo '{H200}';; *compute-apps*) echo 'GPU-45c1f5da, 1, 5';; esac",
    )
    fakes.add("nvidia-ctk", "echo nvidia.com/gpu=all")
    fakes.add("ss", "echo 'LISTEN 0 4096 127.0.0.1:8000 0.0.0.0:* ino:1 sk:1 <->'")
    fakes.add(
        "systemctl",
        "shift; between=; for unit; do "
        "case $unit in -p) exit;; docker.service) state=active;; *) state=inactive;; esac; "
        'printf "${between}ExecStart={ argv[]=/usr/bin/%s -H fd:// ; ignore=no }\\nNames=alias.service %s\\n" '
        '"${unit%%.service}d" "$unit"; '
        'printf "LoadState=%s\\nActiveState=%s\\n" "${unit%%.*}" "$state"; between="\\n"; done',
    )
    return fakes


def look(shell: list[str], text: str) -> list[str]:
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", sample(SHELLS, "output_is_parsed"), ids=lambda shell: shell[0])
def test_output_is_parsed(shell: list[str], host: Fakes, tmp_path: Path) -> None:
    weights = tmp_path / "a weight's.gguf"
    weights.write_bytes(b"123")
    wanted = models(alpha={"weights": str(weights)}, beta={"weights": "/no/such.gguf"})
    seen = Snapshot().process([RAISED, *look(shell, script(questions(wanted)))])
    assert (seen.trouble, seen.raised) == (None, True)
    assert seen.weights == {str(weights): 3, "/no/such.gguf": None}
    assert (seen.docker, seen.compose, seen.late) == ({"ServerVersion": "28.5.2"}, "", {})
    assert [container.name for container in seen.containers] == ["alpha", "db"]
    assert sorted(replace(seen, record=recorded(*seen.containers)).ours) == [("", "alpha")]
    assert seen.images == {name: IMAGE for _, name in images_by_user(wanted) if name.endswith("server-b7000")}
    assert (seen.probes["", "alpha"].status, seen.probes["", "alpha"].body) == (200, '{"data":[{"id":"alpha"}]}')
    assert [(card.index, card.uuid) for card in seen.gpus] == [(0, "GPU-45c1f5da")]
    assert [(process.pid, process.name) for process in seen.gpu_processes] == [
        (1, Path("/proc/1/comm").read_text().strip())
    ]
    assert seen.cdi == {"nvidia.com/gpu=all"}
    assert [(listener.address, listener.port) for listener in seen.listeners] == [("127.0.0.1", 8000)]
    assert {name: (unit.loaded, unit.active) for name, unit in seen.units.items()} == {
        f"{name}.service": (name.partition(".")[0], "active" if name == "docker" else "inactive")
        for name in (
            "docker", "containerd", "gpurack", "nvidia-cdi-refresh", "snap.docker.dockerd", "firewalld",
            "nvidia-fabricmanager", "nvidia-persistenced",
        )
    }  # fmt: skip
    assert seen.docker_flags == "/usr/bin/dockerd -H fd://"
    assert seen.init == Path("/proc/1/comm").read_text().strip()
    assert seen.os.id


def test_asks_for_compose_only_where_it_is_kept(host: Fakes) -> None:
    kept = spec({"docker": {"source": "keep"}})
    assert Snapshot().process(look(["sh"], without_parts(script(questions(kept)), "Docker"))).compose == "2.40.3"
    assert [call for call in host.calls if "compose version" in call] == ["docker compose version --short"]
    look(["sh"], without_parts(script(questions(spec())), "Docker"))
    assert len([call for call in host.calls if "compose version" in call]) == 1


@pytest.mark.parametrize("shell", sample(SHELLS, "reads_only_lines_about_cuda_of_logs"), ids=lambda shell: shell[0])
def test_reads_only_lines_about_cuda_of_logs(shell: list[str], host: Fakes) -> None:
    host.state("published", "/alpha|running|alpha|11434/tcp;127.0.0.1;8000 |2026-11-20T07:00:00.5Z\n")
    host.state("log", "a prompt of a user\nggml_cuda_init: failed to initialize CUDA: unknown error\n[GIN] 200\n")
    docker = (host.folder / "docker").read_text()
    logs = """[ "$*" = "logs --since 2026-11-20T07:00:00.5Z alpha" ] && cat "$STATE/log" >&2 && exit\n"""
    host.add("docker", logs + docker)
    ollama = {"engine": "ollama", "version": "0.33.0", "weights": None}
    asked = without_parts(script(questions(models(alpha={"gpus": [0], **ollama}))), "Docker")
    seen = Snapshot().process(look(shell, asked))
    assert seen.cuda_logs == {("", "alpha"): "ggml_cuda_init: failed to initialize CUDA: unknown error\n"}
    assert seen.probes["", "alpha"].status == 200
    lines = [f"load_tensors: offloaded {number}/99 layers to GPU\n" for number in range(50)]
    host.state("log", "".join(lines))
    kept = "".join([*lines[:20], *lines[-20:]])  # as ollama loads models, the last ones count
    assert Snapshot().process(look(shell, asked)).cuda_logs == {("", "alpha"): kept.rstrip()}
    host.state("log", "nothing about it\n")
    seen = Snapshot().process(look(shell, asked))
    assert not seen.cuda_logs.get(("", "alpha"))
    before = len(host.calls)
    look(shell, without_parts(script(questions(models(alpha={"gpus": []}))), "Docker"))
    assert not [call for call in host.calls[before:] if call.startswith("docker logs")]


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (
            "Unable to determine the device handle for GPU0000:E1:00.0: GPU is lost. Reboot the system",
            15,
            "GPU is lost",
        ),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95", 18, "580.95"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "couldn't communicate"),
    ],
    ids=["lost", "mismatch", "no driver"],
)
def test_reports_error_of_nvidia_smi(host: Fakes, answer: str, code: int, message: str) -> None:
    host.state("answer", answer)
    host.add("nvidia-smi", f'case "$*" in *compute-apps*) ;; *) cat "$STATE/answer"; exit {code};; esac')
    text = without_parts(script(questions(models(alpha={}))), "NVIDIA")
    seen = Snapshot().process(look(["sh"], text))
    assert (seen.trouble, seen.driver.exit_code, seen.gpus) == (None, code, ())
    assert message in seen.driver.message


def test_silent_docker_is_missing(host: Fakes) -> None:
    host.add("docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
    text = without_parts(script(questions(models(alpha={}))), "Docker")
    seen = Snapshot().process(look(["sh"], text))
    assert (seen.trouble, seen.docker, seen.containers, seen.probes) == (None, {}, (), {})
    assert [call.split()[1] for call in host.calls if call.startswith("docker ")] == ["info", "ps"]


@pytest.mark.parametrize(
    "shell",
    sample(SHELLS, "other_hosts_are_asked_with_the_key_of_the_service_s_generation"),
    ids=lambda shell: shell[0],
)
@pytest.mark.parametrize(
    ("label", "sent"), [("gateway", "sk-gateway"), ("gateway.3", "sk-gateway.3"), ("else", "sk-gateway")]
)
def test_other_hosts_are_asked_with_the_key_of_the_service_s_generation(
    shell: list[str], host: Fakes, tmp_path: Path, label: str, sent: str
) -> None:
    for key in ("gateway", "gateway.3", "else"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "upstream_key_1").write_text(f"sk-{key}\n")
    host.add("docker", f'case "$*" in *compose.service*gateway) echo {label};; esac')
    host.add("curl", 'grep -o "sk-[a-z0-9.]*" >>"$STATE/asked"; printf "|200"')
    model = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "bind": "lan"}
    gateway = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": "all"}
    far = {"far": {**model, "api_key": {"env": "PATH"}}}
    lab = check_fleet(
        {"gpu1": [{"models": {"near": model}, "services": {"gateway": gateway}}], "gpu2": [{"models": far}]}
    )
    text = without_parts(script(questions(lab["gpu1"])), "upstreams").replace("/etc/gpurack/secrets", str(tmp_path))
    assert Snapshot().process(look(shell, text)).upstreams == {("", "gateway", 1): ""}
    assert (host.folder / "state" / "asked").read_text().split() == [sent]


@pytest.mark.parametrize(
    "shell", sample(SHELLS, "model_is_asked_with_the_key_of_its_generation"), ids=lambda shell: shell[0]
)
@pytest.mark.parametrize(
    ("name", "label", "sent"),
    [
        ("alpha", "alpha", "sk-alpha"), ("alpha", "alpha.2", "sk-alpha.2"), ("alpha", "", "sk-alpha"),
        ("alpha", "beta", "sk-alpha"), ("alpha", "alpha.x", "sk-alpha"), ("alpha", "alpha.2/../beta", "sk-alpha"),
        ("alpha.previous", "alpha", "sk-alpha"), ("alpha.previous", "alpha.2", "sk-alpha.2"),
        ("alpha.previous", "", None), ("alpha.previous", "beta", None), ("alpha.2", "alpha.2", None),
    ],
)  # fmt: skip
def test_model_is_asked_with_the_key_of_its_generation(
    shell: list[str], host: Fakes, tmp_path: Path, name: str, label: str, sent: str | None
) -> None:
    """Also the old container while its successor is prepared, but none that only has its name."""
    for key in ("alpha", "alpha.2", "beta"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "api_key").write_text(f"sk-{key}\n")
    host.state("published", f"/{name}|running|{label}|8080/tcp;127.0.0.1;8000 \n")
    host.add("curl", 'grep -o "sk-[a-z0-9.]*" >>"$STATE/asked"; printf \'{"data":[{"id":"alpha"}]}\\n200\'')
    text = without_parts(script(questions(models(alpha={}))), "Docker").replace("/etc/gpurack/secrets", str(tmp_path))
    seen = Snapshot().process(look(shell, text))
    asked = host.folder / "state" / "asked"
    assert (asked.read_text().split() if asked.exists() else [None]) == [sent]
    assert (("", "alpha") in seen.probes) is (sent is not None)


def test_probe_without_answer_has_reason(host: Fakes) -> None:
    host.add("curl", 'echo "curl: (28) Operation timed out" >&2; printf "\\n000"; exit 28')
    text = without_parts(script(questions(models(alpha={}))), "Docker")
    probe = Snapshot().process(look(["sh"], text)).probes["", "alpha"]
    assert (probe.status, probe.body.strip()) == (0, "curl: (28) Operation timed out")


def test_quotes_questions() -> None:
    text = script(questions(models(alpha={"weights": "/w/it's; $(reboot).gguf"})))
    assert "WEIGHTS='/w/it'\"'\"'s; $(reboot).gguf'\n" in text


@pytest.mark.parametrize("shell", sample(SHELLS, "flags_of_dockerd_with_variables"), ids=lambda shell: shell[0])
@pytest.mark.parametrize(
    ("starts", "more", "flags"),
    [
        ("/bin/dockerd -H fd:// $DOCKER_OPTS", "", "/bin/dockerd -H fd:// $DOCKER_OPTS --log-driver=local -D"),
        ("dockerd ${A} $B", 'Environment=X=1 "A=-D --label=a=b" B=--ip=::1', "dockerd ${A} $B -D --label=a=b --ip=::1"),
        ("/usr/local/bin/start.sh x", "MainPID=0", "/usr/local/bin/start.sh x"),
    ],
    ids=["file", "lines", "script"],
)  # fmt: skip
def test_flags_of_dockerd_with_variables(
    shell: list[str], fakes: Fakes, tmp_path: Path, starts: str, more: str, flags: str
) -> None:
    (tmp_path / "environment").write_text("# DOCKER_OPTS=no\nDOCKER_OPTS='--log-driver=local -D'\n")
    unit = f"ExecStart={{ path=/x ; argv[]={starts} ; ignore_errors=no }}\n{more}\n"
    fakes.state("unit", unit + f"EnvironmentFiles={tmp_path}/environment (ignore_errors=yes)\n")
    text = (FILES / "snapshot.sh").read_text().partition("\neval ")[0]
    function = text[text.index("dockerd_flags() {") :].partition("\n}\n")[0]
    function += f'\n}}\ndockerd_flags "$(cat {fakes.folder}/state/unit)"\n'
    assert " ".join(look(shell, function)[0].split()) == flags
