"""Running containers from `docker inspect`, in the format of Docker 28."""

import json
from typing import Any

from gpurack.importing import inspect
from gpurack.importing.reader import read

IMAGE: dict[str, Any] = {
    "Id": "sha256:1",
    "Config": {"Env": ["PATH=/bin"], "Cmd": None, "Entrypoint": ["vllm", "serve"], "WorkingDir": "/w"},
}


def container(name: str = "qwen-old", **host: Any) -> dict[str, Any]:
    """A vLLM on GPUs 0 and 1, started by hand."""
    return {
        "Name": f"/{name}",
        "Image": "sha256:1",
        "Config": {
            "Image": "vllm/vllm-openai:v0.33.0",
            "Env": ["HF_HUB_OFFLINE=1", "VLLM_API_KEY=sk-live-1", "PATH=/bin"],
            "Cmd": ["--model", "/models/q", "--tensor-parallel-size", "2", "--served-model-name", "qwen"],
            "Entrypoint": ["vllm", "serve"],
            "WorkingDir": "/w",
            "Labels": host.pop("Labels", {}),
        },
        "HostConfig": {
            "IpcMode": "host",
            "NetworkMode": "bridge",
            "ShmSize": 67108864,
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
            "PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": "8000"}]},
            "DeviceRequests": [{"Driver": "", "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}],
            "Runtime": "nvidia",
            **host,
        },
        "Mounts": [{"Type": "bind", "Source": "/data/models", "Destination": "/models", "RW": True}],
    }


def printed(*items: dict[str, Any]) -> str:
    """The output of the remote command: a list of containers, then one of images."""
    return json.dumps(list(items), indent=4) + "\n" + json.dumps([IMAGE], indent=4) + "\n"


def test_names_of_running_containers_are_followed() -> None:
    app = container("app", Links=["/qwen-old:/app/big"], DeviceRequests=None, Runtime="runc")
    app["Config"] |= {"Image": "lab/app:1", "Env": ["A=http://big:8000", "B=http://llm:8000"], "Cmd": None}
    old = container()
    old["Id"] = "0123456789abcdef"
    old["NetworkSettings"] = {"Networks": {"lab": {"Aliases": ["qwen-old", "llm", "0123456789ab"]}}}
    app["HostConfig"]["PortBindings"] = {"80/tcp": [{"HostIp": "", "HostPort": "80"}]}
    app["HostConfig"]["DeviceRequests"] = [{"Count": 1}]
    assert read(printed(old, app)).models["app"]["env"] == {"A": "http://qwen-old:8000", "B": "http://qwen-old:8000"}


def test_running_container_becomes_entry_with_replaces() -> None:
    imported = read(printed(container()))
    assert imported.models == {
        "qwen-old": {
            "engine": "vllm",
            "version": "0.33.0",
            "weights": "/data/models/q",
            "gpus": [0, 1],
            "port": 8000,
            "bind": "any",
            "served_name": "qwen",
            "api_key": {"env": "QWEN_OLD_KEY"},
            "env": {"HF_HUB_OFFLINE": "1"},
            "replaces": "qwen-old",
            "compose": {"restart": "always"},
        }
    }
    assert "sk-live-1" not in "".join(map(str, imported.findings))


def test_omits_settings_of_image() -> None:
    [run], _ = inspect.read(printed(container()))
    assert run.entrypoint is None
    assert "PATH" not in run.environment
    assert "working_dir" not in run.compose


def test_omits_managed_containers_but_not_copies() -> None:
    compose = {"com.docker.compose.project": "gpurack", "com.docker.compose.service": "ours"}
    labels = {"gpurack.model": "{}", **compose}
    imported = read(printed(container("ours", Labels=labels), container("copy", Labels=labels)))
    assert list(imported.models) == ["copy"]
    later = {**labels, "com.docker.compose.service": "ours.2"}
    old = {**labels, "com.docker.compose.service": "ours"}
    assert not read(printed(container("ours", Labels=later), container("ours.previous", Labels=old))).models
    left_out = [str(finding) for finding in imported.findings if finding.kind == "left out"]
    assert left_out == ["container ours: is already managed by gpurack."]
    running_job = {**labels, "gpurack.job": "0f", "com.docker.compose.project": "gpurack-jobs"}
    assert not read(printed(container("ours", Labels=running_job))).models


def test_reads_gpus_of_every_option() -> None:
    def cards(**host: Any) -> Any:
        return inspect.read(printed(container(**{"Runtime": "runc", **host})))[0][0].gpus

    assert cards(DeviceRequests=[{"Count": -1}]) == "all"
    assert cards(DeviceRequests=[{"Count": 2}]) == 2
    assert cards(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1a"]}]) == ("GPU-1a",)
    assert cards(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]) == "all"
    assert cards(DeviceRequests=None) is None
    assert cards(DeviceRequests=None, Runtime="nvidia") == "all"


def test_converts_other_settings_to_compose_fields() -> None:
    host = {"IpcMode": "private", "ShmSize": 1 << 30, "CapAdd": ["IPC_LOCK"], "Memory": 1 << 34, "NanoCpus": 1500000000}
    [run], _ = inspect.read(printed(container(**host)))
    assert run.compose == {
        "cap_add": ["IPC_LOCK"],
        "mem_limit": 1 << 34,
        "shm_size": 1 << 30,
        "restart": "always",
        "cpus": "1.5",
    }


def test_keeps_settings_that_differ_from_the_image() -> None:
    one = container(
        IpcMode="private",
        Labels={"team": "nlp", "com.docker.compose.project": "old", "maintainer": "v"},
        Tmpfs={"/scratch": "size=1g", "/run": ""},
        UsernsMode="host",
        MemoryReservation=1 << 30,
    )
    one["Config"] |= {
        "Healthcheck": {
            "Test": ["CMD", "curl", "x"],
            "Interval": 30_000_000_000,
            "StartPeriod": 500_000_000,
            "Retries": 3,
        },
        "StopSignal": "SIGINT",
    }
    image = {**IMAGE, "Config": {**IMAGE["Config"], "Labels": {"maintainer": "v"}}}
    [run], _ = inspect.read(json.dumps([one]) + json.dumps([image]))
    assert run.compose == {
        "mem_reservation": 1 << 30,
        "userns_mode": "host",
        "restart": "always",
        "stop_signal": "SIGINT",
        "tmpfs": ["/scratch:size=1g", "/run"],
        "healthcheck": {"test": ["CMD", "curl", "x"], "interval": "30s", "start_period": "0.5s", "retries": 3},
        "labels": {"team": "nlp"},
    }


def test_omits_unrelated_containers() -> None:
    database = container("db", DeviceRequests=None, Runtime="runc")
    database["Config"] |= {"Image": "postgres:17", "Cmd": None}
    imported = read(printed(database))
    assert not imported.data
    assert [finding.what for finding in imported.findings] == ["postgres:17 is not a known engine and uses no GPU."]


def test_omits_interactive_shells() -> None:
    shell = container("busy", PortBindings={})
    shell["Config"] |= {"Cmd": ["1000"], "Entrypoint": ["sleep"]}
    imported = read(printed(shell))
    assert not imported.data
    assert [finding.what for finding in imported.findings] == ["not a service: runs `sleep 1000` without a port."]


def test_reads_output_without_containers() -> None:
    assert read("").data == {}
