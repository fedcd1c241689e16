"""files/evidence.py, which runs on hosts: what its functions read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.verify.evidence import nvidia_of
from tests.unit.host_programs import Whole


@pytest.fixture
def script() -> Any:
    """The script with its parts."""
    return Whole("evidence")


def says(script: Any, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, tuple[int, str]]) -> None:
    """Programs of the host, by name; all others are missing."""
    monkeypatch.setattr(script, "run", lambda program, *words: outputs.get(program, (127, "")))


def test_reads_dpkg_packages(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "hold installed docker-ce 5:28.5.2-1",
        "install half-configured curl 8.1-2",
        "deinstall config-files old 1-1",
    ]
    says(script, monkeypatch, {"dpkg-query": (0, "\n".join(lines))})
    assert script.packages() == {
        "docker-ce": {"version": "5:28.5.2-1", "held": True, "whole": True},
        "curl": {"version": "8.1-2", "held": False, "whole": False},
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/dnf/plugins/versionlock.list", "docker-ce-3:28.5.2-1.el9.*\n"),
        ("/etc/dnf/plugins/versionlock.list", "!docker-ce-cli-1:28.5.2-1.el9.*\ndocker-ce-3:28.5.2-1.el9.*\n"),
        ("/etc/yum/pluginconf.d/versionlock.list", "3:docker-ce-28.5.2-1.el9.*\n0:docker-1.13-1.*\n"),
        ("/etc/dnf/versionlock.toml", 'version = "1.0"\n[[packages]]\nname = "docker-ce"\n'),
    ],
)
def test_reads_rpm_packages(script: Any, monkeypatch: pytest.MonkeyPatch, path: str, text: str) -> None:
    says(script, monkeypatch, {"rpm": (0, "docker-ce 3:28.5.2-1.el9\ndocker-ce-cli 1:28.5.2-1.el9\ncurl 0:8.3-1")})
    monkeypatch.setattr(script, "content", {path: text}.get)
    assert script.packages() == {
        "docker-ce": {"version": "3:28.5.2-1.el9", "held": True, "whole": True},
        "docker-ce-cli": {"version": "1:28.5.2-1.el9", "held": False, "whole": True},
        "curl": {"version": "8.3-1", "held": False, "whole": True},
    }


def test_reads_architecture_and_memory_as_the_snapshot_does(script: Any) -> None:
    """Images and shares of GPUs depend on them."""
    found = script.system()
    kib = int(re.findall(r"(?m)^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[0])
    assert (found["arch"], found["memory"]) == (os.uname().machine, kib // 1024)


def test_reads_units_by_name(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start = "{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd -H fd:// --live-restore ; ignore_errors=no ; pid=7 }"
    one = f"ExecStart={start}\nUnitFileState=enabled\nId=docker.service\nLoadState=loaded\nActiveState=active"
    out = f"{one}\n\nId=no.service\nLoadState=not-found"
    script.ASKED["units"] = ["docker.service", "no.service"]
    says(script, monkeypatch, {"systemctl": (0, out)})
    assert script.units() == {
        "docker.service": {
            "loaded": "loaded", "active": "active", "enabled": "enabled",
            "starts": "/usr/bin/dockerd -H fd:// --live-restore",
        },
        "no.service": {"loaded": "not-found", "active": "", "enabled": "", "starts": ""},
    }  # fmt: skip


def test_reads_account_and_home_of_user(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "said").write_text("{}\n\n")
    script.ASKED["homes"] = ["none", "empty", "said"]
    says(script, monkeypatch, {"systemctl": (0, "ActiveState=active\nUnitFileState=enabled")})
    anna = SimpleNamespace(pw_uid=1001, pw_gid=1002, pw_dir=str(tmp_path))
    monkeypatch.setattr(script.pwd, "getpwnam", {"anna": anna}.__getitem__)
    assert script.account("anna") == {
        "linger": False, "active": "active", "enabled": "enabled", "uid": 1001, "gid": 1002, "home": str(tmp_path),
        "files": {str(tmp_path / "empty"): "", str(tmp_path / "said"): "{}\n\n"},
    }  # fmt: skip


def test_reads_listeners(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "LISTEN 0 4096 127.0.0.1:8000 0.0.0.0:* ino:4711 sk:106f cgroup:/ <->",
        "LISTEN 0 128 [fe80::1%eth0]:22 [::]:* uid:1000 ino:4712 sk:1070 cgroup:/ v6only:1 <->",
    ]
    says(script, monkeypatch, {"ss": (0, "\n".join(lines))})
    links = {"/proc/7/fd/3": "socket:[4711]", "/proc/8/fd/3": "socket:[9]", "/proc/8/fd/4": "/dev/null"}
    monkeypatch.setattr(script.glob, "iglob", lambda pattern: iter(links))
    monkeypatch.setattr(script.os, "readlink", links.__getitem__)
    monkeypatch.setattr(script, "content", lambda path: "docker-proxy\n" if path == "/proc/7/comm" else None)
    assert script.listeners() == [["127.0.0.1", 8000, "docker-proxy (pid 7)"], ["fe80::1", 22, ""]]


@pytest.mark.skipif(shutil.which("ss") is None, reason="the program ss (iproute2) is not installed here")
def test_process_name_cannot_add_listener(script: Any, tmp_path: Path) -> None:
    """Its second line looks like one of `ss`. Uses a real socket, the real `ss` and /proc."""
    name = "\nLISTEN 0 0 *:1"
    server = (
        "import ctypes, socket, time\n"
        f"ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0)\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        found = {number: who for _, number, who in script.listeners()}
        process.kill()
    assert found[port] == f"LISTEN 0 0 *:1 (pid {process.pid})"
    assert 1 not in found


def row(index: int | str = 0, uuid: str = "GPU-a", name: str = "NVIDIA A30", memory: str = "24576", **more: str) -> str:
    """A row of `cards`. more: mig, pci, compute."""
    told = {"mig": "Disabled", "pci": "00000000:17:00.0", "compute": ", 8.0", **more}
    return f"{index}, {uuid}, {name}, {memory}, 12, 580.1, {told['mig']}, {told['pci']}{told['compute']}"


def on_host(script: Any, monkeypatch: pytest.MonkeyPatch, smi: Any, **known: str) -> None:
    """A host with these GPUs (PCI address → UUID, as the kernel writes it), and what its nvidia-smi answers."""
    files = {f"/proc/driver/nvidia/gpus/{place}/information": f"Model: A\nGPU UUID: \t {uuid}\nIRQ: 7"
             for place, uuid in known.items()}  # fmt: skip
    places = [*files]
    monkeypatch.setattr(script.glob, "glob", lambda pattern: places if "driver" in pattern else [])
    files["/proc/driver/nvidia/version"] = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1  Release Build"
    monkeypatch.setattr(script, "content", files.get)
    monkeypatch.setattr(script, "run", lambda program, *words: smi(*words) if program == "nvidia-smi" else (127, ""))


def test_lost_gpu_does_not_hide_others(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi then fails as a whole (exit code 15), but answers for single GPUs."""

    def smi(*words: str) -> tuple[int, str]:
        return (0, row(1, "GPU-b")) if words[:2] == ("-i", "b") else (15, "GPU is lost")

    on_host(script, monkeypatch, smi, a="GPU-a", b="GPU-b")
    found = script.cards()
    assert (found["exit_code"], found["message"]) == (15, "GPU is lost")
    assert found["known"] == {"a": "GPU-a", "b": "GPU-b"}
    assert found["rows"] == [row(1, "GPU-b")]


def test_error_beside_rows_is_quoted_without_them(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged infoROM (exit code 14) hides no GPU."""
    said = f"WARNING: infoROM is corrupted at gpu 0000:17:00.0\n{row()}"
    on_host(script, monkeypatch, lambda *words: (14, said), a="GPU-a")
    found = script.cards()
    assert (found["exit_code"], found["message"]) == (14, "WARNING: infoROM is corrupted at gpu 0000:17:00.0")
    assert found["rows"] == [row()]


def test_a_gpu_that_the_kernel_has_not_initialised_has_no_uuid(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "GPU-????????-????-????-????-????????????"
    excluded = "GPU-c\nGPU Excluded: \t Yes"  # by the module's option: nvidia-smi does not list it
    on_host(script, monkeypatch, lambda *words: (0, row()), a=unknown, b="GPU-b\nGPU Excluded: \t No", c=excluded)
    assert script.cards()["known"] == {"a": "", "b": "GPU-b"}


PLAIN = "a9485f58-1111-2222-3333-444444444444"
LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-e07a497d-1bb6)
  MIG 3g.20gb     Device  1: (UUID: MIG-77aa497d-1bb6)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
"""


@pytest.mark.parametrize(
    ("line", "gpu"),
    [
        (row(name="NVIDIA GB10", memory="[N/A]", compute=", 12.1"), (0, "NVIDIA GB10", None, "12.1", "")),
        (row("[Unknown Error]", compute=", 6.0"), (0, "NVIDIA A30", 24576, "6.0", "has no index")),
        (row(0, "[Unknown Error]"), (0, "NVIDIA A30", 24576, "8.0", "has no UUID")),
        (row(1, name="Odd, with a comma"), (1, "Odd, with a comma", 24576, "8.0", "")),
        (row(name="Tesla T4", compute=""), (0, "Tesla T4", 24576, "", "")),
        (row(uuid=PLAIN), (0, "NVIDIA A30", 24576, "8.0", "")),
        (row(memory="[GPU requires reset]"), (0, "NVIDIA A30", None, "8.0", "requires reset")),
        ("0, GPU-a, NVIDIA A30", (0, "NVIDIA A30", None, "", "has an incomplete row")),
    ],
    ids=["unified memory", "no index", "no UUID", "comma", "old driver", "UUID of a Jetson", "reset", "cut short"],
)
def test_values_that_are_no_numbers_are_unknown(
    script: Any, monkeypatch: pytest.MonkeyPatch, line: str, gpu: tuple[object, ...]
) -> None:
    """And what is a fault for a run is one for verification."""

    def smi(*words: str) -> tuple[int, str]:
        return (2, "is not a valid field") if "Tesla T4" in line and "compute_cap" in words[0] else (0, line)

    on_host(script, monkeypatch, smi)
    (found,) = nvidia_of(script.cards())
    fault = found.fault.partition(" (")[0].partition(" in ")[0]
    assert (found.index, found.name, found.memory_total, found.compute, fault) == gpu


def test_gpus_in_mig_mode_have_instances(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = f"{row(0, 'GPU-aaaa', mig='Enabled')}\n{row(1, 'GPU-bbbb')}"
    used = "MIG-e07a497d-1bb6, 7, [N/A]\nGPU-bbbb, 8, 900"
    says = {
        f"--query-gpu={script.FIELDS},compute_cap": (0, rows),
        "-L": (0, LISTED),
        "--query-compute-apps=gpu_uuid,pid,used_memory": (0, f"{used}\n{PLAIN}, 9, 5"),
    }
    on_host(script, monkeypatch, lambda *words: says.get(words[0], (2, "is not a valid field")))
    found = nvidia_of(script.cards())
    assert [(gpu.uuid, gpu.mig, gpu.parent) for gpu in found] == [
        ("GPU-aaaa", True, ""), ("MIG-e07a497d-1bb6", False, "GPU-aaaa"), ("MIG-77aa497d-1bb6", False, "GPU-aaaa"),
        ("GPU-bbbb", False, ""),
    ]  # fmt: skip
    assert [(uuid, used) for uuid, *_, used in script.processes()] == [
        ("MIG-e07a497d-1bb6", None), ("GPU-bbbb", 900), (PLAIN, 5),
    ]  # fmt: skip
    monkeypatch.setattr(script, "inside", lambda *words: (f"{LISTED}GPU 2: NVIDIA Thor (UUID: {PLAIN})\n", ""))
    assert script.cards_inside("", "c0")["found"] == ["MIG-e07a497d-1bb6", "MIG-77aa497d-1bb6", "GPU-bbbb", PLAIN]


def test_program_that_hangs_in_a_container_is_named(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(path: str, container: str, argv: list[str]) -> tuple[str, list[int]]:
        assert (container, argv) == ("c0", ["/app/llama-server", "--list-devices"])
        return "x" * 30000, left

    monkeypatch.setattr(script, "inside", inside)
    part = SimpleNamespace(leave=lambda left: None, result=lambda: {"late": part.late}, late=None)
    left: list[int] = []
    found = script.cuda_inside("", "c0", "/app/llama-server", ["--list-devices"])
    assert script.seen_inside(part, found, script.INSIDE["cuda"]) == "x" * script.CUDA_SIZE
    left = [7]
    found = script.cuda_inside("", "c0", "/app/llama-server", ["--list-devices"])
    late = {"late": "CUDA in the container did not end in 60 s"}
    assert script.seen_inside(part, found, script.INSIDE["cuda"]) == late


@pytest.mark.parametrize(
    "text",
    [
        "kind: nvidia.com/gpu\ndevices:\n- name: GPU-1\n  path: /dev/null\n- path: /dev/no7\n"
        "containerEdits:\n  mounts:\n  - hostPath: /usr/bin/env\n  - hostPath: /usr/lib/libcuda.so.570.1\n",
        '{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-1", "path": "/dev/no7"}], "containerEdits": '
        '{"mounts": [{"hostPath": "/usr/lib/libcuda.so.570.1", "containerPath": "/x"}]}}',
        # a node may have another path on the host, in any order
        "# a, path: /gone\nkind: nvidia.com/gpu # all\ncontainerEdits:\n  deviceNodes:\n  - path: /dev/no1\n"
        "    hostPath: /dev/null\n"
        "  - hostPath: /dev/no7\n    path: /dev/null\n    major: 195\n  # - path: /dev/no2\n  hooks:\n"
        "  - path: /usr/bin/env # a hook\n    args:\n    - nvidia-cdi-hook\n    - --link\n    - a::/gone\n"
        "  mounts:\n  - containerPath: /gone\n    hostPath: /usr/bin/env\n"
        "  - {hostPath: /usr/lib/libcuda.so.570.1, containerPath: /x}\ndevices:\n- name: 'GPU-1'\n",
        '{"devices":[{"name":"GPU-1","containerEdits":{"env":["A= #"],"deviceNodes":['
        '{"path":"\\/dev\\/no1","hostPath":"/dev/null"},'
        '{"hostPath":"/dev/no7","path":"/dev/zero"}]}}],"kind":"nvidia.com/gpu","containerEdits":{"hooks":'
        '[{"path":"/usr/lib/libcuda.so.570.1","args":["x","/gone"]}]}}',
    ],
)
def test_reads_cdi_specs_in_yaml_and_json(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "nvidia.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("kind: amd.com/gpu\ndevices:\n- name: x\n")
    (tmp_path / "nvidia.yaml.bak").write_text("kind: nvidia.com/gpu\ndevices:\n- name: y\n  path: /gone\n")
    found = [str(path) for path in tmp_path.iterdir()]
    monkeypatch.setattr(script.glob, "glob", lambda pattern: found if "etc" in pattern else [])
    assert script.cdi() == {
        "devices": ["GPU-1"], "missing": ["/dev/no7"], "gone": ["/usr/lib/libcuda.so.570.1"],
    }  # fmt: skip


def test_describes_weights_file_and_folder(script: Any, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.gguf", tmp_path / "hf" / "a--b@main"
    file.write_bytes(b"12345")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.json").write_text("{}")
    Path(f"{folder}.json").write_text('{"commit": "c0ffee", "files": {}}')
    script.REMEMBERED = str(tmp_path / "sha256")
    Path(script.REMEMBERED).write_text(f"4 17.5 abc {file}\n")
    found = script.weights(str(file), True, script.hashed_before())
    assert found["files"]["a.gguf"] == {
        "size": 5, "mtime": file.stat().st_mtime, "then": ["4", "17.5", "abc"],
        "sha256": hashlib.sha256(b"12345").hexdigest(),
    }  # fmt: skip
    found = script.weights(str(folder), False, {})
    assert found["hub"] == {"commit": "c0ffee", "files": {}}
    assert found["files"]["sub/x.json"]["size"] == 2
    one = folder / "m.gguf"
    one.write_bytes(b"1")
    for beside, hub in {'{"commit": "c0ffee", "files": {}}': True, '{"mine": 1}': False, "[1, 2": False}.items():
        Path(f"{one}.json").write_text(beside)
        assert bool(script.weights(str(one), False, {})["hub"]) is hub
    assert script.weights(str(tmp_path / "none"), False, {}) is None


def test_describes_all_parts_of_split_model(script: Any, tmp_path: Path) -> None:
    for part in ("00001", "00002"):
        (tmp_path / f"m-{part}-of-00002.gguf").write_text("x")
    assert len(script.weights(str(tmp_path / "m-00001-of-00002.gguf"), False, {})["files"]) == 2


def test_lists_secrets_without_values(script: Any, tmp_path: Path) -> None:
    closed, compose = tmp_path / "secrets", tmp_path / "compose.yaml"
    (closed / "alpha").mkdir(parents=True)
    (closed / "alpha" / "api_key").write_text("sk-very-secret\n")
    (closed / "alpha" / "api_key").chmod(0o644)  # its own mode is reported; it is not a second copy
    compose.write_text("# sk-very-secret")
    script.ASKED.update(
        salt="5a", closed=[str(closed)], public=[str(tmp_path)], secrets={"alpha api_key": "sk-very-secret"}
    )
    inspected = {"": {"containers": {"mine": {"Config": {"Env": ["KEY=sk-very-secret"]}}}}}
    found = script.secrets(inspected)
    assert sorted(found["leaks"]) == [["alpha api_key", str(compose)], ["alpha api_key", "docker inspect mine"]]
    command = ["sh", "-c", "echo begun; read line # sk-very-secret"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # the kernel shows the arguments only once the program has begun
        leaks = script.arguments([process.pid, os.getpid()])
        process.kill()
    assert leaks == [["alpha api_key", f"the arguments of process {process.pid}"]]
    assert found["files"][str(closed / "alpha" / "api_key")]["mode"] == "644"
    assert "sk-very-secret" not in json.dumps(found)


class Model(BaseHTTPRequestHandler):
    """Serves embeddings, with a key."""

    def do_GET(self) -> None:
        self.answer(200, '{"data": [{"id": "bge"}]}')

    def do_POST(self) -> None:
        if self.headers["Authorization"] != "Bearer sk-1":
            self.answer(401, "{}")
        elif self.path == "/v1/embeddings":
            self.answer(200, '{"model": "bge"}')
        else:
            self.answer(400, "this model does not support Chat Completions API")

    def answer(self, status: int, text: str) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_first_answered_request_counts(script: Any, port: int) -> None:
    requests = [["/v1/chat/completions", {"model": "bge"}], ["/v1/embeddings", {"model": "bge"}]]
    one = {"ready": "/v1/models", "lists": None, "key": "sk-1", "requests": requests}
    found = script.answers(one, partial(script.http_answer, "127.0.0.1", port))
    assert found == {
        "ready": [200, '{"data": [{"id": "bge"}]}'],
        "path": "/v1/embeddings",
        "answer": [200, '{"model": "bge"}'],
        "wrong key": 401,
        "no key": 401,
    }


@pytest.mark.parametrize(
    ("said", "asleep"),
    [('{"is_sleeping": true}', True), ('{"is_sleeping": false}', False), ('{"is_sleeping": 1}', False), ("[", False)],
)
def test_sleeping_model_gets_no_request(script: Any, said: str, asleep: bool) -> None:
    answers, asked = {"/v1/models": [200, "alpha"], "/is_sleeping": [200, said]}, []

    def ask(path: str, body: Any = None, key: str | None = None, timeout: float = 1) -> list[Any]:
        asked.append(path)
        return answers.get(path, [200, "{}"])

    one = {"ready": "/v1/models", "lists": None, "key": "sk-1", "requests": [["/v1/completions", {}]]}
    found = script.answers({**one, "sleeping": ["/is_sleeping", "is_sleeping"]}, ask)
    assert (found.get("sleeps", False), "/v1/completions" in asked) == (asleep, not asleep)


def test_accepts_readiness_path_without_key(script: Any, port: int) -> None:
    one = {"ready": "/ready", "lists": "/v1/models", "key": "sk-1", "requests": []}
    found = script.answers(one, partial(script.http_answer, "127.0.0.1", port))
    said = [200, '{"data": [{"id": "bge"}]}']
    assert found == {"ready": said, "listed": said}


def test_distinguishes_closed_port_from_no_answer(script: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert script.http_answer("127.0.0.1", port, "/", timeout=0.2) == [0, "nothing in 0.2 s"]
    assert script.http_answer("127.0.0.1", port, "/")[0] == 0


def test_decodes_docker_exec_output(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker sends frames: number of the stream, length, bytes."""
    frames = b"".join(struct.pack(">BxxxI", stream, len(text)) + text for stream, text in ((1, b"GPU"), (2, b" 0")))
    said = {"/exec/7/start": frames, "/exec/7/json": b'{"Running": false, "Pid": 1}'}
    monkeypatch.setattr(script, "api", lambda path, where, *_: said.get(where, b'{"Id": "7"}'))
    assert script.inside("/run/docker.sock", "c", ["nvidia-smi", "-L"]) == ("GPU 0", [])
    monkeypatch.setattr(script, "api", lambda *_: None)
    assert script.inside("/run/docker.sock", "c", ["nvidia-smi", "-L"]) == ("", [])


def test_log_of_cuda_has_no_line_of_users(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = b"a prompt of a user\nggml_cuda_init: failed to initialize CUDA: unknown error\n[GIN] 200\n"
    asked: list[str] = []

    def api(path: str, where: str) -> bytes:
        asked.append(where)
        return struct.pack(">BxxxI", 2, len(told)) + told

    monkeypatch.setattr(script, "api", api)
    container = {"Id": "c0", "State": {"StartedAt": "2026-11-20T07:00:00.5Z"}, "Config": {"Tty": False}}
    found = script.cuda_log("", container)
    assert found == "ggml_cuda_init: failed to initialize CUDA: unknown error"
    assert asked == ["/containers/c0/logs?stdout=1&stderr=1&since=1795158000&until=1795158600"]
    for odd in ({"State": {"StartedAt": ""}}, {"Config": {"Tty": True}}):
        assert script.cuda_log("", {**container, **odd}) == ""


def test_failed_part_keeps_others(script: Any) -> None:
    assert script.attempt(int, "x")["broken"].startswith("ValueError: ")
