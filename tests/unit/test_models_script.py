"""files/models.py on a host: payloads carried out with a fake Docker."""

import json
import os
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gpurack import paths
from gpurack.paths import SET_ASIDE
from gpurack.plan.models import compose
from tests.unit.host_programs import CONTAINERS, Fakes, container_id, load

import applying  # isort: skip
import dockerd as daemon  # isort: skip

pytestmark = pytest.mark.sampled


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("models")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    monkeypatch.setattr("boot.USERS", str(tmp_path / "users"))
    for part in ("starting", "boot"):
        monkeypatch.setattr(f"{part}.clock", lambda seconds: "0:00")  # a busy machine changes no message
    monkeypatch.setattr("kept_logs.LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr("databases.DATABASES", str(tmp_path / "databases"))
    monkeypatch.setattr("loading.STEADY", 0)
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    return module


# --- words ----------------------------------------------------------------------------------------------------------


def test_removes_secrets_from_logs(runner: Any) -> None:
    for name, key in (("alpha", "sk-one\n"), ("beta", "\n")):
        folder = Path(daemon.Dockerd().secrets) / name
        folder.mkdir(parents=True)
        (folder / "api_key").write_text(key)
    assert daemon.Dockerd().without_secrets("key sk-one, again sk-one; sk-two") == "key •••, again •••; sk-two"


def test_file_appears_complete_and_private(runner: Any, tmp_path: Path) -> None:
    sys.modules["writing"].write(str(tmp_path / "a/b/key"), "größe\n", 0o400)
    (written,) = (tmp_path / "a/b").iterdir()
    assert (written.read_text(), stat.S_IMODE(written.stat().st_mode)) == ("größe\n", 0o400)


# --- jobs ------------------------------------------------------------------------------------------------------------

NAMES = ("alpha", "beta", "gamma", "old", "model", "gateway", "page", "tei", "webui", "stays", "gone", "has-none-now")
DOCKER = (
    CONTAINERS
    + """
case "$*" in
"image inspect"*) [ -e "$STATE/images" ] && echo sha256:$(printf %064d 1); exit;;
*" config "*) grep -q REFUSED "$5" && { echo "validating $5: services.alpha bad"; exit 15; }; exit 0;;
*" pull "*) cat "$STATE/pull" 2>/dev/null; ! [ -e "$STATE/pull" ]; exit;;
*" up "* | *" create "*) for name; do :; done; touch "$STATE/runs.$name"; exit;;
*"PortBindings"*)
    echo '{"status":"created","policy":"no","retries":0,"vanishes":false,"image":"i:1","ports":{}}';;
"container inspect --format {{json .Mounts}}"*) cat "$STATE/mounts.$5" 2>/dev/null;;
"container inspect --format"*)
    for name; do :; done
    [ -e "$STATE/runs.$name" ] || { echo "No such container"; exit 1; }
    cat "$STATE/state.$name" 2>/dev/null ||
        echo '{"status":"running","restarts":0,"code":0,"error":"","pid":0,"started":""}';;
"container inspect"*) [ -e "$STATE/runs.$3" ]; exit;;
"rm --force"*) rm -f "$STATE/runs.$3";;
"logs"*) echo "loading with sk-one"; echo "cuda error";;
esac
"""
)


@pytest.fixture
def docker(fakes: Fakes) -> Fakes:
    fakes.add("docker", DOCKER)
    fakes.known(*NAMES)
    fakes.state("images", "x")
    return fakes


@pytest.fixture
def answers(runner: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Model → the answer of its API; no answer for a model that is missing."""
    said: dict[str, str] = {}

    def ready(dockerd: Any, name: str, container: str, *arguments: Any) -> float:
        if name not in said:
            raise sys.modules["messages"].Failure("exited while loading (exit code 1).\n    | its last line")
        return 0

    monkeypatch.setattr("loading.wait_until_ready", ready)
    return said


def entry(name: str, action: str = "create", **over: Any) -> dict[str, Any]:
    return {
        "name": name, "action": action, "user": "", "from": "", "image": "i:1", "uuids": [], "url": "http://127.0.0.1:1/v1/models",
        "served_name": name, "timeout": 5, **over,
    }  # fmt: skip


OLD = {"alpha": {"image": "i:0"}}


def carry_out(
    runner: Any, *groups: list[dict[str, Any]], secrets: Any = None, services: Any = None, ours: tuple[str, ...] = ()
) -> Any:
    new = services or {one["name"]: {"image": "i:1"} for group in groups for one in group if one["action"] != "remove"}
    project = {
        "head": compose.head(), "services": compose.blocks(new), "before": compose.blocks(OLD),
        "files": secrets or {},
    }  # fmt: skip
    there = [*ours, *(one["name"] for group in groups for one in group if one["action"] != "create")]
    known = {"": {name: container_id(name) for name in there}}
    job = runner.Job({"ours": known, "projects": {"": project}, "batches": list(groups)})
    job.apply()
    return job


def services_written(runner: Any) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(daemon.Dockerd().compose_file).read_text())["services"])


def test_removes_files_of_downloads_that_were_killed(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    answers["alpha"] = '"alpha"'
    folder = Path(daemon.Dockerd().compose_file).parent
    folder.mkdir(parents=True)
    (folder / "compose.yaml.prepare-4194305-alpha").touch()
    carry_out(runner, [entry("alpha")])
    assert not list(folder.glob("*prepare*"))


def test_starts_model_and_waits_until_ready(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["alpha"] = '{"data":[{"id":"alpha"}]}'
    job = carry_out(runner, [entry("alpha")], secrets={"alpha": {"api_key": "sk-one\n"}})
    assert (job.failures, capsys.readouterr().out) == (0, "alpha: ready after 0:00\n")
    assert services_written(runner) == {"alpha": {"image": "i:1"}}
    key = Path(daemon.Dockerd().secrets) / "alpha/api_key"
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("sk-one\n", 0o400)
    assert not Path(daemon.Dockerd().next).exists()
    assert "sk-one" not in docker.log.read_text()


def test_tags_locked_image_whatever_tag_means_at_registry(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    answers["alpha"] = '"alpha"'
    (docker.folder / "state/images").unlink()
    docker.add("docker", 'case "$*" in *" pull "*) cat "$5"; exit;; esac' + DOCKER)
    job = carry_out(runner, [entry("alpha", image="r:5000/i:1", digest="sha256:12")])
    assert job.failures == 0
    assert "docker tag r:5000/i@sha256:12 r:5000/i:1" in docker.calls
    pulled = next(call for call in docker.calls if " pull " in call)
    assert pulled.endswith(f"compose.yaml.prepare-{os.getpid()}-alpha-alpha pull alpha")
    assert [path.name for path in Path(daemon.Dockerd().compose_file).parent.iterdir() if "next" in path.name] == []


def test_weights_that_differ_from_lock_fail_only_their_model(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers |= {"alpha": '"alpha"', "beta": '"beta"'}
    (tmp_path / "w.gguf").write_bytes(b"changed")
    wrong = entry("alpha", "recreate", sha256={str(tmp_path / "w.gguf"): "0" * 64}, again="put it back")
    assert carry_out(runner, [wrong], [entry("beta")]).failures == 1
    out = capsys.readouterr().out
    assert f"error alpha: {tmp_path}/w.gguf does not match the lock: its sha256 is " in out
    assert "beta: ready after" in out
    assert not any(call.endswith((" up alpha", "rm --force alpha")) for call in docker.calls)


def started(docker: Fakes) -> list[str]:
    """The started containers, in order."""
    return [call.split()[-1] for call in docker.calls if call.startswith("docker start ")]


def test_service_waits_for_its_connections(runner: Any, docker: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of their own, which run in parallel: the page after the gateway, the gateway after its model."""
    order: list[str] = []

    def ready(dockerd: Any, name: str, *arguments: Any) -> float:
        if name == "model":
            time.sleep(0.3)
        order.append(name)
        return 0

    monkeypatch.setattr("loading.wait_until_ready", ready)
    groups = [entry("page", after=["gateway"])], [entry("gateway", after=["model", "elsewhere"])], [entry("model")]
    assert carry_out(runner, *groups).failures == 0
    assert started(docker) == order == ["model", "gateway", "page"]


@pytest.mark.parametrize("broken", ["config", "pull", "end"])
def test_service_starts_although_its_model_failed(
    runner: Any, docker: Fakes, answers: dict[str, str], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by Compose, without an image, or ended while loading."""
    answers["gateway"] = '"gateway"'
    model = {"image": "REFUSED" if broken == "config" else "i:1"}
    provide = applying.provide

    def provided(dockerd: Any, told: dict[str, Any], logins: Any) -> None:
        if broken == "pull" and told["name"] == "model":
            raise runner.Failure("no image")
        provide(dockerd, told, logins)

    monkeypatch.setattr(applying, "provide", provided)
    job = carry_out(
        runner,
        [entry("model")],
        [entry("gateway", after=["model"])],
        services={"model": model, "gateway": {"image": "i:1"}},
    )
    assert job.failures == 1
    assert started(docker)[-1] == "gateway"


def test_compose_yaml_equals_that_of_plan(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    answers |= {"alpha": '"alpha"', "beta": '"beta"'}
    services = {
        "beta": {"image": "i:1", "secrets": [{"source": "beta_api_key", "target": "api_key"}]},
        "alpha": {"image": "$x", "volumes": [{"type": "volume", "source": "cache", "target": "/c"}]},
    }
    carry_out(runner, [entry("alpha")], [entry("beta")], services=services)
    assert Path(daemon.Dockerd().compose_file).read_text() == compose.document(services)


def test_failed_pull_keeps_its_group_and_others_continue(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers |= {"alpha": '"alpha"', "beta": '"beta"', "gamma": '"gamma"'}
    (docker.folder / "state/images").unlink()
    docker.state("pull", "Error manifest for i:1 not found\n")
    docker.add("docker", 'case "$*" in *"image inspect"*i:2*) echo sha256:$(printf %064d 1); exit 0;; esac' + DOCKER)
    job = carry_out(runner, [entry("alpha", "recreate"), entry("beta")], [entry("gamma", image="i:2")])
    assert job.failures == 2
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines[0].startswith("error alpha: cannot pull image i:1: Error manifest for i:1 not found.")
    assert lines[1] == "error beta: not changed: it shares a GPU or port with alpha, which failed"
    assert lines[2] == "gamma: ready after 0:00"
    assert services_written(runner) == {"alpha": {"image": "i:0"}, "gamma": {"image": "i:1"}}
    assert not [call for call in docker.calls if call.startswith("docker stop")]


def test_uncreatable_folder_is_a_failure(
    runner: Any, docker: Fakes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    fetch = {"url": "http://127.0.0.1:1/a", "sha256": "0" * 64, "path": str(tmp_path / "file/weights/a.gguf")}
    assert carry_out(runner, [entry("alpha", fetch=[fetch])]).failures == 1
    assert capsys.readouterr().out.startswith(f"error alpha: {tmp_path}/file/weights: Not a directory")


def test_keeps_model_that_compose_refuses(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["beta"] = '"beta"'
    services = {"alpha": {"image": "REFUSED"}, "beta": {"image": "i:1"}}
    job = carry_out(runner, [entry("alpha", "recreate")], [entry("beta")], services=services)
    assert job.failures == 1
    assert (
        "error alpha: Compose rejects it, so it was not changed. Correct its `compose` field. services.alpha bad"
        in (capsys.readouterr().out)
    )
    assert services_written(runner) == {"alpha": {"image": "i:0"}, "beta": {"image": "i:1"}}


def test_removes_keys_of_removed_models(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    for name in ("gone", "stays", "has-none-now"):
        (Path(daemon.Dockerd().secrets) / name).mkdir(parents=True)
        (Path(daemon.Dockerd().secrets) / name / "api_key").write_text("sk-one")
        (Path(daemon.Dockerd().secrets) / name / "keys").write_text("{}")
        docker.state(f"mounts.{name}", "[]")
    secrets = Path(daemon.Dockerd().secrets)
    docker.state("mounts.stays", f'[{{"Source":"{secrets}/stays/api_key"}}]')
    service = {"kept": {"image": "i:1"}}
    files = {"kept": {"config.json": "{}"}, "failed.2": {"config.json": "{}"}}
    carry_out(runner, services=service, secrets=files, ours=("stays", "gone", "has-none-now"))
    left = {str(path.relative_to(secrets)) for path in secrets.rglob("*") if path.is_file()}
    assert left == {"stays/api_key", "kept/config.json"}
    assert {path.name for path in secrets.iterdir()} == {"stays", "kept"}


def test_second_run_waits_and_names_first(runner: Any) -> None:
    locks = sys.modules["locks"]
    assert locks.holder() == "unknown"
    with runner.locked("models"):
        assert locks.holder().startswith("models since ")
        assert str(os.getpid()) in locks.holder()
    assert not Path(locks.BUSY).exists()


def test_plan_and_host_agree_on_names(runner: Any) -> None:
    dockerd, members = load("dockerd"), load("members")
    assert (members.SET_ASIDE, dockerd.USERS, dockerd.CONFIG) == (SET_ASIDE, paths.USERS, paths.CONFIG)


# --- boot ------------------------------------------------------------------------------------------------------------


def there(fakes: Fakes, name: str, definition: Any) -> None:
    """A container of gpurack with its label."""
    fakes.known(name)
    fakes.state(f"runs.{name}", "")
    label = definition if isinstance(definition, str) else json.dumps(definition)
    compose_labels = {"com.docker.compose.project": "gpurack", "com.docker.compose.service": name}
    fakes.state(f"labels.{name}", {"gpurack.model": label, **compose_labels})


def test_boot_starts_stopped_models_and_waits_for_gpus(
    runner: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cpu", "gpu", "up", "bad"):
        there(fakes, name, {"uuids": ["GPU-a"]} if name == "gpu" else {})
    fakes.add(
        "docker",
        CONTAINERS + 'case "$*" in *inspect*up) echo \'{"status":"running","restarts":0,"code":0,"error":""}\';; '
        '*inspect*) echo \'{"status":"exited","restarts":0,"code":0,"error":""}\';; '
        '"start bad") echo "no such network"; exit 1;; esac',
    )
    fakes.add("nvidia-smi", 'echo "GPU 0: NVIDIA A30 (UUID: GPU-a)"')
    fakes.add("nvidia-ctk", 'echo "nvidia.com/gpu=GPU-a"')
    assert runner.boot.boot() == 1
    starts = [call for call in fakes.calls if call.startswith("docker start")]
    assert starts == ["docker start bad", "docker start cpu", "docker start gpu"]
    assert capsys.readouterr().out == "bad: no such network\nerror bad: did not start; see docker logs bad\n"


def test_boot_waits_for_mig_instances_not_for_their_gpu(runner: Any, fakes: Fakes) -> None:
    """A GPU in MIG mode has no CDI name of its own."""
    fakes.add(
        "nvidia-smi",
        "printf '%s\\n' 'GPU 0: NVIDIA A100 (UUID: GPU-a)' '  MIG 3g.20gb     Device  0: (UUID: MIG-a1)' "
        "'  MIG 3g.20gb     Device  1: (UUID: MIG-a2)' 'GPU 1: NVIDIA A100 (UUID: GPU-b)'; exit 14",
    )
    fakes.add("nvidia-ctk", "printf 'nvidia.com/gpu=%s\\n' MIG-a1 MIG-a2 GPU-b")
    assert runner.boot.wait_for_driver(True, {"MIG-a1", "GPU-b"})
    assert not [call for call in fakes.calls if call.startswith("systemctl")]


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        # a GPU in MIG mode whose instances a reboot removed has no name in specs
        (["GPU 0: NVIDIA A100 (UUID: GPU-a)", "GPU 1: NVIDIA A100 (UUID: GPU-b)"], ["GPU-b", "all"]),
        # the needed MIG instance is gone, another one is not in the spec
        (["GPU 0: NVIDIA A100 (UUID: GPU-a)", "  MIG 1g.5gb     Device  0: (UUID: MIG-new)"], ["all"]),
        (["GPU 1: NVIDIA A100 (UUID: GPU-b)"], ["1", "GPU-b"]),  # a GPU fell off the bus
    ],
)
def test_boot_waits_only_for_gpus_that_are_needed(
    runner: Any, fakes: Fakes, listed: list[str], names: list[str]
) -> None:
    fakes.add("nvidia-smi", "printf '%s\\n' " + " ".join(f"'{line}'" for line in listed))
    fakes.add("nvidia-ctk", "printf 'nvidia.com/gpu=%s\\n' " + " ".join(names))
    assert runner.boot.wait_for_driver(True, {"MIG-old", "GPU-b"})
    assert not [call for call in fakes.calls if call.startswith("systemctl")]


def test_boot_waits_for_one_name_of_all_gpus_in_wsl(
    runner: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dxg").touch()
    monkeypatch.setattr("boot.WSL", str(tmp_path / "dxg"))
    fakes.add("nvidia-smi", 'echo "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-a)"')
    fakes.add("nvidia-ctk", 'echo "nvidia.com/gpu=all"')
    assert runner.boot.wait_for_driver(True, {"GPU-a"})
    assert not [call for call in fakes.calls if call.startswith("systemctl")]


NODE = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  deviceNodes:\n  - path: /dev/nvidiactl\n"
JSON = '{"containerEdits": {"deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm", "major": 510}]}}'


@pytest.mark.parametrize(
    ("refreshed", "lasting", "stale"),
    [
        (
            f"{NODE}  - major: 509\n    path: /dev/nvidia-uvm\n  - major: 1\n    path: /dev/nvidia-uvm-tools\n",
            "",
            False,
        ),
        (f"{NODE}  - major: 510\n    minor: 0\n    path: /dev/nvidia-uvm\n", "", True),
        (f"{NODE}  - path: /dev/nvidia-uvm\n    major: 510\n", "", True),
        (f"{NODE}  - path: /dev/nvidia-uvm\n", "", False),
        (f"{NODE}  - path: /dev/nvidia-uvm-tools\n", "", True),
        (f"{NODE}  - path: /dev/nvidia-uvm\n  - path: /dev/dri/card77\n", "", True),  # numbered anew
        (f"{NODE}  - path: /dev/nvidia-uvm\n  - hostPath: /x\n    path: /dev/dri/card77\n", "", False),
        ("", JSON.replace('"/dev/nvidia-uvm", "major": 510', '"/dev/nvidia-uvm"}, {"path": "/dev/dri/card77"'), True),
        ("", JSON, True),
        ("", JSON.replace("510", "509"), False),
        (JSON.replace("510", "509"), JSON, False),  # the first comes before the second
        ("", "", False),
        ("no spec", "", False),
    ],
)
def test_boot_makes_a_spec_of_an_earlier_boot_anew(
    runner: Any,
    fakes: Fakes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refreshed: str,
    lasting: str,
    stale: bool,
) -> None:
    """The unit is skipped on this host, so the spec is made directly, and in the folder that a boot empties."""
    for name, text in (("CDI_REFRESHED", refreshed), ("CDI_LASTING", lasting)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(f"boot.{name}", f"{tmp_path}/{name}")
    (tmp_path / "devices").write_text("Character devices:\n195 nvidia\n509 nvidia-uvm\n240 nvidia-caps\n")
    monkeypatch.setattr("boot.DEVICES", f"{tmp_path}/devices")
    monkeypatch.setattr(runner.boot, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic))
    fakes.add("nvidia-smi", 'echo "GPU 0: NVIDIA A30 (UUID: GPU-a)"')
    fakes.add("nvidia-ctk", 'echo "nvidia.com/gpu=GPU-a"')
    for name in ("nvidia-modprobe", "systemctl"):
        fakes.add(name, "exit 0")
    assert runner.boot.wait_for_driver(True, {"GPU-a"})
    made = [call for call in fakes.calls if "generate" in call]
    assert made == ([f"nvidia-ctk --quiet cdi generate --output={tmp_path}/CDI_REFRESHED"] if stale else [])


@pytest.mark.parametrize("made", ["with", "without"])
def test_boot_makes_a_spec_anew_that_lacks_the_node_of_cuda(
    runner: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """Once: a driver without that node must not keep models from starting."""
    spec = tmp_path / "nvidia.yaml"
    spec.write_text("- path: /dev/nvidia0\n- path: /dev/nvidiactl\n")
    monkeypatch.setattr("boot.CDI_REFRESHED", str(spec))
    monkeypatch.setattr(runner.boot, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic))
    fakes.add("nvidia-smi", 'echo "GPU 0: NVIDIA A30 (UUID: GPU-a)"')
    fakes.add("nvidia-ctk", 'echo "nvidia.com/gpu=GPU-a"')
    fakes.add("nvidia-modprobe", "exit 0")
    fakes.add("systemctl", f"[ $1 = restart ] && [ {made} = with ] && echo '- path: /dev/nvidia-uvm' >>{spec}")
    assert runner.boot.wait_for_driver(True, {"GPU-a"})
    changes = [call for call in fakes.calls if call.startswith(("systemctl restart", "nvidia-modprobe"))]
    assert changes == ["nvidia-modprobe -u -c 0", "systemctl restart nvidia-cdi-refresh.service"]
    fakes.log.write_text("")
    assert runner.boot.wait_for_driver(False, {"GPU-a"})
    assert not [call for call in fakes.calls if call.startswith("systemctl")]


def test_boot_waits_for_amd_devices(
    runner: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One exists, one appears, one does not: each model waits for its own. Nothing of NVIDIA is queried."""
    nodes = {name: str(tmp_path / name) for name in ("there", "comes", "lost")}
    monkeypatch.setattr("boot.NODE", r"/\S+")
    for name, node in nodes.items():
        there(fakes, name, {"uuids": [f"GPU-{name}"], "render_nodes": [node]})
    fakes.add(
        "docker",
        CONTAINERS + 'case "$*" in *inspect*) echo \'{"status":"exited","restarts":0,"code":0,"error":""}\';; esac',
    )
    fakes.add("nvidia-smi", "exit 9")
    Path(nodes["there"]).touch()
    looks = []

    def sleep(seconds: float) -> None:
        Path(nodes["comes"]).touch()
        looks.append(seconds)
        if len(looks) == 3:
            monkeypatch.setattr("boot.DRIVER_TIMEOUT", 0)  # the time limit has passed

    monkeypatch.setattr(time, "sleep", sleep)
    assert runner.boot.boot() == 1
    assert [call for call in fakes.calls if call.startswith("docker start")] == [
        "docker start there",
        "docker start comes",
    ]
    assert not [call for call in fakes.calls if call.startswith("nvidia")]
    said = capsys.readouterr().out
    assert f"lost: waiting for {nodes['lost']}, at most 0:00" in said
    assert f"lost: {nodes['lost']} did not appear within 0:00" in said


def test_boot_starts_no_second_nvidia_smi_when_one_hangs(
    runner: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("boot.SMI_TIMEOUT", 0.2)
    there(fakes, "gpu", {"uuids": ["GPU-a"]})
    fakes.add("docker", CONTAINERS)
    fakes.add("nvidia-smi", "exec sleep 60")
    assert runner.boot.boot() == 1
    assert [call for call in fakes.calls if call.startswith("nvidia-smi")] == ["nvidia-smi -L"]
    assert "boot: nvidia-smi did not answer within 0:00" in capsys.readouterr().out


def test_a_device_that_never_appears_keeps_no_other_model(
    runner: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of AMD's: neither one on another device, nor those of NVIDIA's."""
    monkeypatch.setattr("boot.NODE", r"/\S+")
    (tmp_path / "there").touch()
    for name in ("lost", "there"):
        there(fakes, name, {"uuids": [f"GPU-{name}"], "render_nodes": [str(tmp_path / name)]})
    there(fakes, "nvidia", {"uuids": ["GPU-a"]})
    fakes.add(
        "docker",
        CONTAINERS + 'case "$*" in *inspect*) echo \'{"status":"exited","restarts":0,"code":0,"error":""}\';; esac',
    )
    fakes.add("nvidia-smi", 'echo "GPU 0: NVIDIA A30 (UUID: GPU-a)"')
    fakes.add("nvidia-ctk", 'echo "nvidia.com/gpu=GPU-a"')
    end, pause = time.monotonic() + 60, time.sleep

    def sleep(seconds: float) -> None:
        pause(0.02)
        if "docker start nvidia" in fakes.calls or time.monotonic() > end:
            monkeypatch.setattr("boot.DRIVER_TIMEOUT", 0)  # only now the time is over

    monkeypatch.setattr(runner.boot, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    assert runner.boot.boot() == 1
    assert sorted(call for call in fakes.calls if call.startswith("docker start")) == [
        "docker start nvidia",
        "docker start there",
    ]
    assert time.monotonic() < end


def test_unknown_verb_prints_usage(runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(runner.sys, "argv", ["models.py", "deploy"])
    monkeypatch.setattr(runner.signal, "signal", lambda *arguments: None)
    assert runner.main() == 64
    assert "models.py apply" in capsys.readouterr().err


LOST = "error during connect: Post http://%2Fvar%2Frun%2Fdocker.sock/v1.45/containers/25e9/start: EOF"
RUNC = "Error response from daemon: failed to create task: OCI runtime create failed: read init-p: connection reset"


@pytest.mark.parametrize(
    ("script", "calls", "sentence"),
    [
        (f'[ -e "$STATE/again" ] || {{ : >"$STATE/again"; echo "{RUNC}"; exit 1; }}', 2, None),
        (f'echo "{RUNC}"; exit 1', 2, f"Docker cannot start the container: {RUNC}"),
        (f'echo "{LOST}"; exit 1', 1, "sysctl fs.inotify.max_user_instances=1024"),
        ('echo " Container alpha  Creating"; echo "Error: no such network"; exit 1', 1, "Error: no such network"),
    ],
    ids=["runc lost a race once", "runc fails always", "dockerd broke off", "another reason"],
)
def test_retries_once_after_runc_error(
    runner: Any, fakes: Fakes, script: str, calls: int, sentence: str | None
) -> None:
    fakes.known("alpha")
    fakes.state("runs.alpha", "")
    fakes.add("docker", CONTAINERS + script)
    dockerd = daemon.Dockerd()
    dockerd.ids["alpha"] = container_id("alpha")
    if sentence is None:
        dockerd.start("alpha")
    else:
        with pytest.raises(runner.Failure) as failure:
            dockerd.start("alpha")
        assert str(failure.value).endswith(sentence)
    assert len([call for call in fakes.calls if " up " in call]) == calls
