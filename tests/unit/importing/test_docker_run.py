"""Options of docker run, in every spelling."""

import shlex
from typing import Any

import pytest

from gpurack.importing import docker_run
from gpurack.importing.container import ContainerRun, Mount, Port


def parsed(options: str) -> ContainerRun:
    return docker_run.parse(shlex.split(options), "line 1")[0]


def said(options: str) -> list[str]:
    return [str(finding) for finding in docker_run.parse(shlex.split(options), "line 1")[1]]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ("--name=x a", "name", "x"),
        ("-itd a -it b", "command", ("-it", "b")),
        ("-dp 80:8000 a", "ports", (Port("", 80, 8000),)),
        ("-p8000:80 -p 127.0.0.1:1:2/udp a", "ports", (Port("", 8000, 80), Port("127.0.0.1", 1, 2, "udp"))),
        ("-p 80 a", "ports", (Port("", None, 80),)),
        ("-p 8000-8001:80-81 a", "ports", (Port("", 8000, 80), Port("", 8001, 81))),
        ("-p 8000-8001:80 a", "ports", (Port("", 8000, 80),)),
        ("-p [::1]:80:81 a", "ports", (Port("::1", 80, 81),)),
        ("--gpus all a", "gpus", "all"),
        ("--gpus=2 a", "gpus", 2),
        ("--gpus '\"device=0,1\"' a", "gpus", ("0", "1")),
        ("--gpus device=GPU-1a a", "gpus", ("GPU-1a",)),
        ("--gpus '\"device=0,1\",capabilities=utility' a", "gpus", ("0", "1")),
        ("--gpus count=3 a", "gpus", 3),
        ("--device nvidia.com/gpu=0 --device nvidia.com/gpu=GPU-1a a", "gpus", ("0", "GPU-1a")),
        ("--device nvidia.com/gpu=all --device /dev/fuse a", "gpus", "all"),
        ("--device nvidia.com/gpu=all --device /dev/fuse a", "compose", {"devices": ["/dev/fuse"]}),
        ("--runtime nvidia a", "gpus", "all"),
        ("--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=1,2 a", "gpus", ("1", "2")),
        ("-e NVIDIA_VISIBLE_DEVICES=none --runtime nvidia a", "gpus", None),
        ("-v /a:/b:ro a", "mounts", (Mount("bind", "/a", "/b", True),)),
        ("-v vol:/b -v /c a", "mounts", (Mount("volume", "vol", "/b"), Mount("volume", "", "/c"))),
        ("-v 'C:\\models:/m' a", "mounts", (Mount("bind", "C:\\models", "/m"),)),
        ("--mount type=bind,src=/a,dst=/b,readonly a", "mounts", (Mount("bind", "/a", "/b", True),)),
        ("--mount source=v,target=/b a", "mounts", (Mount("volume", "v", "/b"),)),
        ("-e A=-1 --env B= --env=C=d=e a", "environment", {"A": "-1", "B": "", "C": "d=e"}),
        ("--entrypoint python3 a -m x", "entrypoint", ("python3",)),
        ("--net=host a", "host_network", True),
        ("--rm=true -d=false --init a", "detached", False),
        ("--shm-size 8g --ipc=host --restart always a", "compose",
         {"ipc": "host", "restart": "always", "shm_size": "8g"}),
        ("--ulimit memlock=-1 --ulimit stack=1:2 a", "compose",
         {"ulimits": {"memlock": -1, "stack": {"soft": 1, "hard": 2}}}),
        ("--cap-add A --cap-add B -l x=y --log-opt max-size=1m a", "compose",
         {"cap_add": ["A", "B"], "labels": {"x": "y"},
          "logging": {"driver": "json-file", "options": {"max-size": "1m"}}}),
        ("--health-cmd 'curl x' --health-retries 3 a", "compose",
         {"healthcheck": {"test": ["CMD-SHELL", "curl x"], "retries": "3"}}),
        ("a -ngl 1 --port 80 -p 'x y'", "command", ("-ngl", "1", "--port", "80", "-p", "x y")),
    ],
)  # fmt: skip
def test_parses_every_spelling_of_options(options: str, field: str, value: Any) -> None:
    assert getattr(parsed(options), field) == value


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        ("--rm a", ["--rm is left out: gpurack removes its containers itself."]),
        (
            "--pull always a",
            ["--pull always is left out: gpurack pulls an image when the inventory changes it."],
        ),
        (
            "--network lab a",
            ["--network lab is left out: gpurack's containers share one network and reach each other by name."],
        ),
        ("--volumes-from x a", ["--volumes-from ['x'] was not converted. Set it in compose: {…}."]),
        ("-it a", []),
    ],
)
def test_reports_unconverted_options(options: str, sentences: list[str]) -> None:
    assert said(options) == [f"line 1: {sentence}" for sentence in sentences]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("-p 80:80", "it has no image"),
        ("--no-such a", "unrecognized arguments: --no-such"),
        ("-p x:y a", "x:y is not a valid port."),
        ("-p 8000-8001:80-82 a", "8000-8001:80-82 is not a valid port."),
        ("-p 8001-8000:81-80 a", "8001-8000:81-80 is not a valid port."),
        ("--mount type=npipe,dst=/x a", "a mount of type npipe is not supported."),
    ],
)
def test_refuses_what_docker_refuses(options: str, why: str) -> None:
    with pytest.raises(docker_run.Unreadable, match=why):
        parsed(options)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("sudo docker run a", ["a"]),
        ("sudo -E docker container run a", ["a"]),
        ("podman create a", ["a"]),
        ("/usr/bin/docker --context lab run a", ["a"]),
        ("docker ps", None),
        ("curl docker run", None),
    ],
)
def test_recognises_docker_run(line: str, options: list[str] | None) -> None:
    assert docker_run.run_words(line.split()) == options
