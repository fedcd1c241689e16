"""The stand-ins for the NVIDIA Container Toolkit behave like the real programs, case by case.

golden.tsv was recorded by conformance.py with the real programs of 1.20.0.
"""

import compileall
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests import forked
from tests.testbed.gpu import LIBCUDA, files
from tests.testbed.toolkit.build import VERSIONS, build, lay_out

pytestmark = pytest.mark.sampled

CONFORMANCE = Path(__file__).resolve().parents[1] / "testbed/toolkit/conformance"
GOLDEN = {line.split("\t")[0]: line for line in (CONFORMANCE / "golden.tsv").read_text().splitlines()}


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    # Not in pytest's own folder, which other users cannot enter: some cases run the programs as nobody.
    with tempfile.TemporaryDirectory(prefix="gpurack-toolkit.") as folder:
        Path(folder).chmod(0o755)
        programs = lay_out(Path(folder), "1.20.0")
        compileall.compile_dir(programs.parent / "lib", quiet=1)  # once; the programs themselves keep no cache
        yield programs


@pytest.fixture
def ctk(programs: Path, tmp_path: Path):
    """Run nvidia-ctk in an empty folder: (arguments, environment) -> the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "TZ": "UTC", **environment}
        return forked.run_script(programs / "nvidia-ctk", *arguments, env=env, cwd=tmp_path)

    return run


def fork(
    argv: list[str], *, input: bytes, umask: int, cwd: str, env: dict[str, str], user: int | None = None, **_: Any
) -> subprocess.CompletedProcess[bytes]:
    """subprocess.run for conformance.py, without starting a new Python."""
    reader, writer = os.pipe()
    os.write(writer, input)
    os.close(writer)

    def prepare() -> None:
        os.dup2(reader, 0)
        os.umask(umask)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)

    done = forked.run_script(Path(argv[0]), *argv[1:], env=env, cwd=Path(cwd), prepare=prepare)
    os.close(reader)
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout.encode(), done.stderr.encode())


def recorded(programs: Path, *case: str, run: Callable[..., Any] = fork) -> list[str]:
    """The lines that conformance.py records with the stand-ins, of one case or of all."""
    script, output = CONFORMANCE / "conformance.py", io.StringIO()
    with patch("subprocess.run", run), patch("sys.argv", [str(script), str(programs), *case]), redirect_stdout(output):
        runpy.run_path(str(script))
    return output.getvalue().splitlines()


@pytest.mark.parametrize("case", GOLDEN)
def test_equals_real_programs(case: str, programs: Path) -> None:
    if case.startswith("rc.nonroot") and os.geteuid() != 0:
        pytest.skip("Only root can become another user, which this case needs.")
    assert recorded(programs, case) == [GOLDEN[case]]


def test_every_case_is_recorded() -> None:
    lines = recorded(Path("none"), run=lambda argv, **_: subprocess.CompletedProcess(argv, 0, b"", b""))
    assert [line.split("\t")[0] for line in lines] == list(GOLDEN)


CONFIGURE = ("runtime", "configure", "--runtime=docker", "--config=d.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xef\xbb\xbf{}", r"invalid character '\\ufeff' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', r"invalid character '\"' after object key:value pair"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\n"}', r"invalid character '\\n' in string literal"),
        (b'{"a":1e999}', "json: cannot unmarshal number 1e999 into Go value of type float64"),
        (b'"x"', "json: cannot unmarshal string into Go value of type docker.Config"),
    ],
)
def test_refuses_and_keeps_invalid_daemon_json(ctk, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "d.json").write_bytes(content)
    done = ctk(*CONFIGURE)
    assert done.returncode == 1
    assert f'msg="unable to load config for runtime docker: {reason}"' in done.stderr
    assert (tmp_path / "d.json").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ('{"z":1,"a":{"y":"<&>","b":"é\u2028"}}', ['"b": "é\\u2028"', '"y": "\\u003c\\u0026\\u003e"']),
        ('{"n":[0.1,1e21,1e-7,123456789012345680000,-0.0]}', ["0.1", "1e+21", "1e-7", "123456789012345680000", "-0"]),
        ('{"a":1} {"b":2} garbage', ['"a": 1']),
        ('{"a":1,"a":2}', ['"a": 2']),
        ('{"s":"\\ud83d\\ude00 \\ud83d"}', ['"s": "\U0001f600 \ufffd"']),
    ],
)
def test_formats_json_like_go(ctk, tmp_path: Path, content: str, kept: list[str]) -> None:
    (tmp_path / "d.json").write_text(content)
    assert ctk(*CONFIGURE).returncode == 0
    written = (tmp_path / "d.json").read_text()
    assert all(item in written for item in kept), written
    assert "garbage" not in written
    assert '"b": 2' not in written


@pytest.mark.parametrize("content", ['{"runtimes":null}', '{"runtimes":[]}'])
def test_panics_for_runtimes_of_other_type(ctk, tmp_path: Path, content: str) -> None:
    (tmp_path / "d.json").write_text(content)
    done = ctk(*CONFIGURE)
    assert done.returncode == 2
    assert "panic: interface conversion: interface {} is" in done.stderr
    assert (tmp_path / "d.json").read_text() == content


def test_replaces_whole_runtime_and_keeps_others(ctk, tmp_path: Path) -> None:
    old = {"runtimes": {"nvidia": {"path": "/x", "runtimeArgs": ["--debug"]}, "runsc": {"path": "/r"}}}
    (tmp_path / "d.json").write_text(json.dumps(old))
    assert ctk(*CONFIGURE).returncode == 0
    new = json.loads((tmp_path / "d.json").read_text())
    assert new == {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}, "runsc": {"path": "/r"}}}


def test_writes_through_link_and_refuses_folder(ctk, tmp_path: Path) -> None:
    (tmp_path / "d.json").symlink_to("real.json")
    assert ctk(*CONFIGURE).returncode == 0
    assert (tmp_path / "d.json").is_symlink()
    assert (tmp_path / "real.json").stat().st_size == 128
    (tmp_path / "folder").mkdir()
    done = ctk("runtime", "configure", "--config=folder")
    assert done.returncode == 1
    assert "unable to read config: read folder: is a directory" in done.stderr


def test_parses_flags_like_go(ctk) -> None:
    assert ctk("runtime", "configure", "-config", "x.json", "stray", "-dry-run").returncode == 0
    done = ctk("runtime", "configure", "--bogus")
    assert done.returncode == 1
    assert done.stderr.startswith("Incorrect Usage: flag provided but not defined: -bogus")
    assert "USAGE:" in done.stdout
    assert ctk("runtime").returncode == 0
    assert ctk("--version").stdout.startswith("NVIDIA Container Toolkit CLI version 1.20.0\ncommit: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("x = @", "(1, 5): no value can start with @"),
        ("[a[b]", "(1, 2): table key cannot contain ']'"),
        ('x = "open', "(1, 6): unclosed string"),
    ],
)
def test_refuses_invalid_toml(ctk, tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "c.toml").write_text(content)
    done = ctk("config", "--config-file=c.toml", "--in-place")
    assert done.returncode == 1
    assert f"failed to load specified config file: {reason}" in done.stderr.replace('\\"', '"')
    assert (tmp_path / "c.toml").read_text() == content


def test_empty_config_becomes_recorded_one(ctk, tmp_path: Path) -> None:
    (tmp_path / "c.toml").touch()
    assert ctk("config", "-c", "c.toml", "--set", "nvidia-container-cli.no-cgroups", "-i").returncode == 0
    expected = (CONFORMANCE / "fixtures/config.nocgroups-from-empty.toml").read_bytes()
    assert (tmp_path / "c.toml").read_bytes() == expected


def test_keeps_unknown_settings_and_drops_comments(ctk, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('# mine\nz = 1\n\n[mine]\nlist = ["a", "b"]\nf = 1.5\n\n[[many]]\nx = true\n')
    assert ctk("config", "-c", "c.toml", "-i").returncode == 0
    written = (tmp_path / "c.toml").read_text()
    assert "# mine" not in written
    for kept in ("z = 1", '[mine]\nf = 1.5\nlist = ["a", "b"]', "[[many]]\nx = true"):
        assert kept in written


@pytest.mark.parametrize(("version", "line"), [("1.19.1", "#no-cgroups = false"), ("1.20.1", "no-cgroups = false")])
def test_keeps_explicit_default_only_in_newer_releases(tmp_path: Path, version: str, line: str) -> None:
    program = lay_out(tmp_path / "root", version) / "nvidia-ctk"
    command = [program, "config", "-c", tmp_path / "c.toml", "-i"]
    subprocess.run([*command, "--set", "nvidia-container-cli.no-cgroups=false"], check=True)
    assert "\nno-cgroups = false\n" in (tmp_path / "c.toml").read_text()
    subprocess.run(command, check=True)
    assert f"\n{line}\n" in (tmp_path / "c.toml").read_text()


def test_ignores_global_config_flag(ctk, tmp_path: Path) -> None:
    done = ctk("--config", "g.toml", "config", "-i", XDG_CONFIG_HOME="xdg")
    assert done.returncode == 0
    assert not (tmp_path / "g.toml").exists()
    assert (tmp_path / "xdg/nvidia-container-runtime/config.toml").stat().st_size == 1187


def test_makes_no_spec_without_driver(ctk, tmp_path: Path) -> None:
    if Path("/usr/bin/nvidia-smi").exists():
        pytest.skip("This machine has a driver.")
    done = ctk("cdi", "generate", "--output=cdi/nvidia.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        'level=error msg="failed to generate CDI spec: failed to create device CDI specs: failed to construct device '
        'spec generators: failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND"'
    )
    assert list(tmp_path.iterdir()) == []


# --- the same programs with cards ---------------------------------------------------------------------------------


@pytest.fixture
def with_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The stand-ins' library in this process, with its own simulated driver; returns its modules."""
    root = tmp_path / "host"
    monkeypatch.setenv("GPUSIM_ROOT", str(root))
    monkeypatch.setenv("GPUSIM_HOST", "gpu1")
    sources = files()
    subprocess.run([sources["/usr/lib/gpusim/gpusim"][0], "load"], check=True)
    lay_out(tmp_path / "toolkit", "1.20.0")
    monkeypatch.syspath_prepend(str(tmp_path / "toolkit/usr/lib/nvidia-container-toolkit"))
    names = ("golang", "version", "tomlfile", "settings", "cdi", "launch", "runtime")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cdi
    import runtime

    monkeypatch.setattr(cdi, "NVIDIA_SMI", str(sources["/usr/bin/nvidia-smi"][0]))
    monkeypatch.setattr(cdi, "DEV", str(root / "dev"))
    yield cdi, runtime, root
    for name in names:
        sys.modules.pop(name, None)


def test_spec_names_gpus_by_index_uuid_and_all(with_cards, tmp_path: Path) -> None:
    cdi, _, root = with_cards
    uuids = [line.split()[0] for line in (root / "var/lib/gpusim/cards").read_text().splitlines()]
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/nvidia.yaml").write_text("---\n" + "\n".join(cdi.to_yaml(cdi.spec())) + "\n")
    (tmp_path / "specs/broken.yaml").write_text("kind: [\n")
    specs, errors = cdi.read_specs([str(tmp_path / "specs"), "/nonexistent"])
    assert list(errors) == [str(tmp_path / "specs/broken.yaml")]
    assert specs == [cdi.spec()]  # the written file loads as it was meant
    assert cdi.device_names(specs) == sorted(f"nvidia.com/gpu={name}" for name in [*"0123", "all", *uuids])
    nodes = {d["name"]: [n["path"] for n in d["containerEdits"]["deviceNodes"]] for d in specs[0]["devices"]}
    assert nodes["2"] == nodes[uuids[2]] == ["/dev/nvidia2"]
    assert nodes["all"] == [f"/dev/nvidia{i}" for i in range(4)]


def test_spec_lacks_nodes_that_do_not_exist_until_they_are_made(with_cards, monkeypatch) -> None:
    """As the real one's, which 1.19.1 and 1.20.0 make at boot before CUDA's nodes exist."""
    cdi, _, root = with_cards
    made: list[str] = []
    monkeypatch.setattr(cdi.os, "mknod", lambda path, mode, number: (made.append(path), Path(path).touch()))
    (root / "dev/nvidia-uvm").unlink()
    assert [node["path"] for node in cdi.common_edits()["deviceNodes"]] == ["/dev/nvidia-uvm-tools", "/dev/nvidiactl"]
    cdi.make_control_nodes()
    assert made == [f"{root}/dev/nvidia-uvm"]
    assert len(cdi.common_edits()["deviceNodes"]) == 3
    (root / "dev/nvidiactl").unlink()
    with pytest.raises(FileNotFoundError):
        cdi.make_control_nodes()


def test_makes_no_device_nodes_without_driver(ctk) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("This machine has a driver.")
    done = ctk("system", "create-device-nodes", "--control-devices", "--load-kernel-modules")
    assert (done.returncode, "failed to create control device nodes" in done.stderr) == (1, True)


@pytest.mark.parametrize(("asked", "cards"), [("1,2", [1, 2]), ("all", [0, 1, 2, 3]), ("nvidia.com/gpu=3", [3])])
def test_runtime_edits_bundle(with_cards, tmp_path: Path, asked: str, cards: list[int], monkeypatch) -> None:
    _, runtime, _ = with_cards
    monkeypatch.setattr(runtime, "_add_device", lambda linux, path, host: linux.setdefault("devices", []).append(path))
    bundle = {"process": {"env": ["A=b", f"NVIDIA_VISIBLE_DEVICES={asked}"]}, "mounts": []}
    (tmp_path / "config.json").write_text(json.dumps(bundle))
    runtime._modify(str(tmp_path), "auto", {})
    spec = json.loads((tmp_path / "config.json").read_text())
    assert spec["process"]["env"] == ["A=b", "NVIDIA_VISIBLE_DEVICES=void"]
    assert [p for p in spec["linux"]["devices"] if p[-1].isdigit()] == [f"/dev/nvidia{i}" for i in cards]
    assert {"/usr/share/gpusim", LIBCUDA} < {mount["destination"] for mount in spec["mounts"]}


@pytest.mark.parametrize("env", [[], ["NVIDIA_VISIBLE_DEVICES="], ["NVIDIA_VISIBLE_DEVICES=void"]])
def test_runtime_keeps_other_containers(with_cards, tmp_path: Path, env: list[str]) -> None:
    _, runtime, _ = with_cards
    text = json.dumps({"process": {"env": env}})
    (tmp_path / "config.json").write_text(text)
    runtime._modify(str(tmp_path), "auto", {})
    assert (tmp_path / "config.json").read_text() == text


def test_runtime_fails_for_unknown_gpu(with_cards, tmp_path: Path, capsys) -> None:
    _, runtime, _ = with_cards
    (tmp_path / "config.json").write_text(json.dumps({"process": {"env": ["NVIDIA_VISIBLE_DEVICES=9"]}}))
    log = tmp_path / "log.json"
    assert runtime.main(["--log", str(log), "create", "--bundle", str(tmp_path), "id"]) == 1
    assert json.loads(log.read_text())["msg"].endswith("failed to get device handle from index: Invalid Argument")


# --- the packages -------------------------------------------------------------------------------------------------


def field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def test_has_four_packages_in_each_version(tmp_path: Path) -> None:
    debs = {path.name: path for path in build(tmp_path / "debs")}
    assert len(debs) == 4 * len(VERSIONS) == 8
    for version in VERSIONS:
        toolkit = debs[f"nvidia-container-toolkit_{version}-1_amd64.deb"]
        needs = f"nvidia-container-toolkit-base (= {version}-1), libnvidia-container-tools (= {version}-1)"
        assert field(toolkit, "Depends") == needs
        tools = debs[f"libnvidia-container-tools_{version}-1_amd64.deb"]
        assert field(tools, "Depends") == f"libnvidia-container1 (>= {version}-1)"
        folder = tmp_path / version
        base = debs[f"nvidia-container-toolkit-base_{version}-1_amd64.deb"]
        subprocess.run(["dpkg-deb", "-x", base, folder], check=True)
        newest = version == "1.20.1"
        unit = folder / ("lib" if newest else "etc") / "systemd/system/nvidia-cdi-refresh.service"
        starts = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
        assert ["create-device-nodes" in line for line in starts] == ([False, True, False] if newest else [False] * 2)
        assert (folder / "lib/udev/rules.d/99-nvidia-cdi-refresh.rules").exists() == newest
