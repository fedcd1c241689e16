"""files/models.py on a host: payloads carried out with a fake Docker."""

import json
import os
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gpurack import paths
from gpurack.paths import SET_ASIDE
from gpurack.plan.models import compose
from tests.unit.host_programs import CONTAINERS, Fakes, container_id, load


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("models")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    monkeypatch.setattr("dockerd.REPLACED", str(tmp_path / "replaced"))
    monkeypatch.setattr("boot.USERS", str(tmp_path / "users"))
    for part in (module, module.boot):
        monkeypatch.setattr(part, "clock", lambda seconds: "0:00")  # a busy machine changes no message
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    return module


# --- words ----------------------------------------------------------------------------------------------------------


def test_removes_secrets_from_logs(runner: Any) -> None:
    for name, key in (("alpha", "sk-one\n"), ("beta", "\n")):
        folder = Path(runner.Dockerd().secrets) / name
        folder.mkdir(parents=True)
        (folder / "api_key").write_text(key)
    assert runner.Dockerd().without_secrets("key sk-one, again sk-one; sk-two") == "key •••, again •••; sk-two"


def test_file_appears_complete_and_private(runner: Any, tmp_path: Path) -> None:
    sys.modules["common"].write(str(tmp_path / "a/b/key"), "größe\n", 0o400)
    (written,) = (tmp_path / "a/b").iterdir()
    assert (written.read_text(), stat.S_IMODE(written.stat().st_mode)) == ("größe\n", 0o400)


# --- jobs ------------------------------------------------------------------------------------------------------------

NAMES = ("alpha", "beta", "gamma", "old", "model", "gateway", "page", "tei", "webui", "stays", "gone", "has-none-now")
DOCKER = (
    CONTAINERS
    + """
case "$*" in
"image inspect"*) [ -e "$STATE/images" ]; exit;;
*" config "*) grep -q REFUSED "$5" && { echo "validating $5: services.alpha bad"; exit 15; }; exit 0;;
*" pull "*) cat "$STATE/pull" 2>/dev/null; ! [ -e "$STATE/pull" ]; exit;;
*" up "*) for name; do :; done; touch "$STATE/runs.$name"; exit;;
"container inspect --format {{json .Mounts}}"*) cat "$STATE/mounts.$5" 2>/dev/null;;
"container inspect --format"*)
    for name; do :; done
    [ -e "$STATE/runs.$name" ] || exit 1
    cat "$STATE/state.$name" 2>/dev/null || echo '{"status":"running","restarts":0,"code":0,"error":""}';;
"container inspect"*) [ -e "$STATE/runs.$3" ]; exit;;
"top"*) printf 'PID\\n42\\n';;
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
    monkeypatch.setattr(runner, "probe", lambda dockerd, name, url: (200, said[name]) if name in said else (0, ""))
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
    job = runner.Job({"ours": known, "projects": {"": project}, "groups": list(groups)})
    job.apply()
    return job


def services_written(runner: Any) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(runner.Dockerd().compose_file).read_text())["services"])


def test_starts_model_and_waits_until_ready(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["alpha"] = '{"data":[{"id":"alpha"}]}'
    job = carry_out(runner, [entry("alpha")], secrets={"alpha": {"api_key": "sk-one\n"}})
    assert (job.failures, capsys.readouterr().out) == (0, "alpha: ready after 0:00\n")
    assert services_written(runner) == {"alpha": {"image": "i:1"}}
    key = Path(runner.Dockerd().secrets) / "alpha/api_key"
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("sk-one\n", 0o400)
    assert not Path(runner.Dockerd().next).exists()
    assert "sk-one" not in docker.log.read_text()


def test_tags_locked_image_whatever_tag_means_at_registry(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    answers["alpha"] = '"alpha"'
    (docker.folder / "state/images").unlink()
    docker.add("docker", 'case "$*" in *" pull "*) cat "$5"; exit;; esac' + DOCKER)
    job = carry_out(runner, [entry("alpha", image="r:5000/i:1", digest="sha256:12")])
    assert job.failures == 0
    assert "docker tag r:5000/i@sha256:12 r:5000/i:1" in docker.calls
    pulled = next(call for call in docker.calls if " pull " in call)
    assert pulled.endswith("compose.yaml.next-alpha pull alpha")
    assert [path.name for path in Path(runner.Dockerd().compose_file).parent.iterdir() if "next" in path.name] == []


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
    return [call.split()[-1] for call in docker.calls if " up " in call]


def test_service_waits_for_its_connections(runner: Any, docker: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of their own, which run in parallel: the page after the gateway, the gateway after its model."""
    order: list[str] = []

    def probe(dockerd: Any, name: str, url: str) -> tuple[int, str]:
        if name == "model":
            time.sleep(0.3)
        order.append(name)
        return 200, f'"{name}"'

    monkeypatch.setattr(runner, "probe", probe)
    groups = [entry("page", after=["gateway"])], [entry("gateway", after=["model", "elsewhere"])], [entry("model")]
    assert carry_out(runner, *groups).failures == 0
    assert started(docker) == order == ["model", "gateway", "page"]


@pytest.mark.parametrize("broken", ["config", "pull", "end"])
def test_service_starts_although_its_model_failed(
    runner: Any, docker: Fakes, answers: dict[str, str], broken: str
) -> None:
    """Refused by Compose, without an image, or ended while loading."""
    answers["gateway"] = '"gateway"'
    model = {"image": "REFUSED" if broken == "config" else "i:1"}
    provide = runner.provide

    def provided(dockerd: Any, told: dict[str, Any], logins: Any) -> None:
        if broken == "pull" and told["name"] == "model":
            raise runner.Failure("no image")
        provide(dockerd, told, logins)

    runner.provide = provided
    if broken == "end":
        docker.state("state.model", '{"status":"exited","restarts":0,"code":1,"error":""}')
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
    assert Path(runner.Dockerd().compose_file).read_text() == compose.document(services)


def test_exited_container_ends_wait_with_last_lines(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    docker.state("state.alpha", '{"status":"exited","restarts":0,"code":139,"error":""}')
    job = carry_out(runner, [entry("alpha")], secrets={"alpha": {"api_key": "sk-one\n"}})
    assert job.failures == 1
    out = capsys.readouterr().out
    assert out.startswith("error alpha: exited while loading (exit code 139). See docker logs alpha\n")
    assert out.endswith("    | loading with •••\n    | cuda error\n")
    assert "docker stop --time 5 alpha" in docker.calls


@pytest.mark.parametrize(("remembered", "said"), [("137\n3\n", "exit code 3"), ("", "crashed and was restarted")])
def test_reports_last_exit_of_restarted_container(
    runner: Any,
    docker: Fakes,
    answers: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    remembered: str,
    said: str,
) -> None:
    """Its own exit code is 0 again as soon as it runs."""
    docker.state("ends", remembered)
    state = '{\\"status\\":\\"running\\",\\"restarts\\":$n,\\"code\\":0,\\"error\\":\\"\\"}'
    asked = f'echo >>"$STATE/asked"; n=$(wc -l <"$STATE/asked"); echo "{state}"; exit'
    again = f'case "$*" in "events"*) cat "$STATE/ends"; exit;; *".RestartCount"*) {asked};; esac'
    docker.add("docker", again + DOCKER)
    assert carry_out(runner, [entry("alpha")]).failures == 1
    assert capsys.readouterr().out.startswith(f"error alpha: exited while loading ({said}). See docker logs")
    order = [call.split()[1] for call in docker.calls]
    assert order.index("events") < order.index("stop")  # a stop is an exit as well


def test_gives_up_on_silent_model(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["alpha"] = '{"data":[{"id":"another"}]}'
    assert carry_out(runner, [entry("alpha", timeout=0.1)]).failures == 1
    assert "not ready after 0:00: http://127.0.0.1:1/v1/models does not name" in capsys.readouterr().out


def test_accepts_any_answer_of_engine_without_names(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["tei"] = ""
    assert carry_out(runner, [entry("tei", served_name=None)]).failures == 0
    assert carry_out(runner, [entry("page", served_name=None, timeout=0.1)]).failures == 1
    assert (
        "not ready after 0:00: http://127.0.0.1:1/v1/models did not answer. See docker logs" in capsys.readouterr().out
    )


def test_reports_missing_readiness_path(
    runner: Any, docker: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The `x-ready` of a custom image may be wrong."""
    monkeypatch.setattr(runner, "probe", lambda dockerd, name, url: (404, "not found"))
    assert carry_out(runner, [entry("webui", served_name=None, timeout=0.1)]).failures == 1
    what = "http://127.0.0.1:1/v1/models returned HTTP 404 instead of 200. See"
    assert f"not ready after 0:00: {what}" in capsys.readouterr().out


def test_failed_pull_keeps_its_group_and_others_continue(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers |= {"alpha": '"alpha"', "beta": '"beta"', "gamma": '"gamma"'}
    (docker.folder / "state/images").unlink()
    docker.state("pull", "Error manifest for i:1 not found\n")
    docker.add("docker", 'case "$*" in *"image inspect"*i:2*) exit 0;; esac' + DOCKER)
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
    assert capsys.readouterr().out.startswith("error alpha: [Errno 20] Not a directory")


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


def test_stops_first_then_waits_for_memory_and_starts(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers |= {"alpha": '"alpha"', "beta": '"beta"'}
    for name in ("alpha", "beta", "old"):
        docker.state(f"runs.{name}", "")
    docker.add("nvidia-smi", 'echo 42 >>"$STATE/asked"; [ "$(wc -l <"$STATE/asked")" -gt 2 ] && echo 7 || echo 42')
    group = [entry("old", "remove"), entry("alpha", "recreate", uuids=["GPU-a"]), entry("beta", "recreate")]
    assert carry_out(runner, group).failures == 0
    acts = [call for call in docker.calls if " up " in call or call.startswith(("docker stop", "nvidia-smi"))]
    assert [act.split()[-1] for act in acts if "docker" in act] == ["old", "alpha", "beta", "alpha", "beta"]
    assert len([act for act in acts if "nvidia-smi" in act]) == 3
    assert "old: removed" in capsys.readouterr().out


def test_waits_for_memory_of_amd_gpus(
    runner: Any, docker: Fakes, answers: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.state("runs.alpha", "")
    (tmp_path / "42").mkdir()
    runner.KFD_PROCESSES, runner.GPU_MEMORY_TIMEOUT = str(tmp_path), 0.3
    assert carry_out(runner, [entry("alpha", "recreate", uuids=["GPU-a"])]).failures == 1
    assert "GPU memory was not freed within 0.3 s" in capsys.readouterr().out
    (tmp_path / "42").rmdir()
    answers["alpha"] = '"alpha"'
    assert carry_out(runner, [entry("alpha", "create", uuids=["GPU-a"])]).failures == 0


def test_reports_memory_that_is_not_freed(
    runner: Any, docker: Fakes, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    docker.state("runs.alpha", "")
    docker.add("nvidia-smi", "echo 42")
    runner.GPU_MEMORY_TIMEOUT = 0.3
    assert carry_out(runner, [entry("alpha", "recreate", uuids=["GPU-a"])]).failures == 1
    assert "GPU memory was not freed within 0.3 s. See nvidia-smi" in capsys.readouterr().out


def test_removes_keys_of_removed_models(runner: Any, docker: Fakes, answers: dict[str, str]) -> None:
    for name in ("gone", "stays", "has-none-now"):
        (Path(runner.Dockerd().secrets) / name).mkdir(parents=True)
        (Path(runner.Dockerd().secrets) / name / "api_key").write_text("sk-one")
        (Path(runner.Dockerd().secrets) / name / "keys").write_text("{}")
        docker.state(f"mounts.{name}", "[]")
    secrets = Path(runner.Dockerd().secrets)
    docker.state("mounts.stays", f'[{{"Source":"{secrets}/stays/api_key"}}]')
    carry_out(runner, secrets={"kept": {"config.json": "{}"}}, ours=("stays", "gone", "has-none-now"))
    left = {str(path.relative_to(secrets)) for path in secrets.rglob("*") if path.is_file()}
    assert left == {"stays/api_key", "kept/config.json"}
    assert {path.name for path in secrets.iterdir()} == {"stays", "kept"}


def test_second_run_waits_and_names_first(runner: Any) -> None:
    common = sys.modules["common"]
    assert common.holder() == "unknown"
    with runner.locked("models"):
        assert common.holder().startswith("models since ")
        assert str(os.getpid()) in common.holder()
    assert not Path(common.BUSY).exists()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (None, "the server requires a key, but the inventory has none (HTTP 401 at http://127.0.0.1:"),
        ("sk-other", "the server rejects the key in `api_key` (HTTP 401 at http://127.0.0.1:"),
    ],
)
def test_server_that_rejects_key_fails_early(
    runner: Any, docker: Fakes, key: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first refusal it may still be starting; if it keeps refusing, it does not become ready."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            if len(seen) > 1:
                runner.KEY_TIMEOUT = 0  # the time limit has passed
            self.send_response(503 if len(seen) == 1 else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    docker.state("runs.alpha", "x")
    dockerd = runner.Dockerd()
    dockerd.ids["alpha"] = container_id("alpha")
    monkeypatch.setattr(dockerd, "api_key", lambda name: key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/models"
        with pytest.raises(runner.Failure) as failure:
            runner.wait_until_ready(dockerd, "alpha", url, "alpha", 60)
        server.shutdown()
    assert str(failure.value).startswith(sentence)
    assert "Set the key in `api_key` only, not in env, args or the image. See docker logs" in str(failure.value)
    assert seen == [f"Bearer {key}" if key else None] * 2


def test_plan_and_host_agree_on_names(runner: Any) -> None:
    dockerd = load("dockerd")
    assert (dockerd.SET_ASIDE, dockerd.USERS, dockerd.CONFIG) == (SET_ASIDE, paths.USERS, paths.CONFIG)


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

    monkeypatch.setattr(runner.time, "sleep", sleep)
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
    dockerd = runner.Dockerd()
    dockerd.ids["alpha"] = container_id("alpha")
    if sentence is None:
        dockerd.start("alpha")
    else:
        with pytest.raises(runner.Failure) as failure:
            dockerd.start("alpha")
        assert str(failure.value).endswith(sentence)
    assert len([call for call in fakes.calls if " up " in call]) == calls


def test_writes_shared_module_first() -> None:
    """A run may be killed between two files, and the host then starts its models with what it has."""
    assert paths.RUNNER_PARTS[0] == f"{paths.LIB}/paths.py"
