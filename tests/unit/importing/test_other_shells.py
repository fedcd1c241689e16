"""Texts of other programs than bash and Docker: PowerShell, cmd, fish, systemd, Podman, Swarm, Kubernetes."""

import pytest

from gpurack.importing.compose_file import NoCompose
from gpurack.importing.reader import read

IMAGE = "vllm/vllm-openai:v0.19.0"
POWERSHELL = f"""$env:HF_HOME = "C:\\hf"
$MODEL = "a/b"
docker run -d `
  --name one --gpus '"device=1"' `
  -p 8001:8000 -v C:\\chat\\t.jinja:/t.jinja `
  {IMAGE} --model $MODEL --chat-template /t.jinja
"""
CMD = f"""@echo off
set MODEL=a/b
set "PORT=8001"
docker run -d --name one ^
  --gpus device=1 -p %PORT%:8000 ^
  -v C:\\chat\\t.jinja:/t.jinja ^
  {IMAGE} --model %MODEL% --chat-template /t.jinja
"""
FISH = f"""set -x MODEL a/b
set -gx PORT 8001
set TEMPLATE '/mnt/c/chat/t.jinja'
docker run -d --name one --gpus device=1 -p $PORT:8000 -v $TEMPLATE:/t.jinja {IMAGE} --model $MODEL \\
  --chat-template /t.jinja
"""
SYSTEMD = f"""[Unit]
Description=vLLM
[Service]
Environment=MODEL=a/b
Environment="PORT=8001"
ExecStartPre=-/usr/bin/docker rm -f one
ExecStart=/usr/bin/docker run --rm --name one --gpus device=1 -p ${{PORT}}:8000 -v /mnt/c/chat/t.jinja:/t.jinja \\
  {IMAGE} --model ${{MODEL}} --chat-template /t.jinja
ExecStop=/usr/bin/docker stop one
"""
PODMAN = f"""podman run -d --replace --name one --device nvidia.com/gpu=1 --userns=keep-id --pod ai -p 8001:8000 \\
  -v /mnt/c/chat/t.jinja:/t.jinja:Z --tls-verify=false docker.io/{IMAGE} --model a/b --chat-template /t.jinja
"""
FUNCTION = f"""start() {{
  local gpu=$1 port=$2; shift 2
  docker run -d --name one --gpus "device=$gpu" -p "$port:8000" -v /mnt/c/chat/t.jinja:/t.jinja "$@"
}}
start 1 8001 {IMAGE} --model a/b --chat-template /t.jinja
"""
MAKE = f"""MODEL ?= a/b
PORT := 8001
IMAGE = {IMAGE}

up: pull
\t@docker run -d --name one --gpus device=1 -p $(PORT):8000 \\
\t  -v /mnt/c/chat/t.jinja:/t.jinja $(IMAGE) --model $(MODEL) --chat-template /t.jinja
"""


@pytest.mark.parametrize(
    "text",
    [POWERSHELL, CMD, FISH, SYSTEMD, PODMAN, FUNCTION, MAKE],
    ids=["powershell", "cmd", "fish", "systemd", "podman", "shift", "make"],
)
def test_command_means_what_it_means_in_its_own_shell(text: str) -> None:
    fields = read(text).models["one"]
    assert (fields["engine"], fields["weights"], fields["gpus"], fields["port"]) == ("vllm", {"hf": "a/b"}, [1], 8001)
    assert [one["source"] for one in fields["compose"]["volumes"]] == ["/mnt/c/chat/t.jinja"]
    assert fields["args"] == {"chat-template": "/t.jinja"}


@pytest.mark.parametrize("option", ["--pod ai", "--userns keep-id"])
def test_option_that_only_podman_has_is_said(option: str) -> None:
    assert f"line 1: {option} was not converted." in "\n".join(map(str, read(PODMAN).findings))
    assert "userns_mode" not in read(PODMAN).models["one"]["compose"]


@pytest.mark.parametrize(
    ("condition", "gpus"),
    [
        ("if command -v nvidia-smi; then A='--gpus all'; fi", "all"),
        ("A=\nif [ -e /dev/nvidia0 ]; then A='--gpus device=2'; fi", [2]),
        ("A='--gpus device=1'\nif [ -n \"$X\" ]; then A='--gpus all'; fi", [1]),
        ("A=\nif [ -n \"$X\" ]; then A='--gpus all'; else A='--gpus device=1'; fi", "all"),
    ],
)
def test_gpus_of_the_first_condition_are_taken_and_said(condition: str, gpus: object) -> None:
    result = read(f"{condition}\ndocker run -d $A --name one -p 80:80 lab/x:1")
    assert result.models["one"]["gpus"] == gpus
    assert "sets A under a condition" in "\n".join(map(str, result.findings))


@pytest.mark.parametrize(
    ("reservation", "gpus"),
    [
        ("generic_resources: [{discrete_resource_spec: {kind: NVIDIA-GPU, value: 2}}]", [0, 1]),
        ("devices: [{device_ids: ['0']}, {device_ids: ['3']}]", [0, 3]),
        ("devices: [{count: 1}, {count: 2}]", [0, 1, 2]),
        ("generic_resources: [{discrete_resource_spec: {kind: FPGA, value: 1}}]", []),
    ],
)
def test_every_reservation_of_gpus_is_counted(reservation: str, gpus: list[int]) -> None:
    deploy = f"deploy: {{resources: {{reservations: {{{reservation}}}}}}}"
    fields = read(f"services: {{one: {{image: 'lab/x:1', ports: ['80:80'], {deploy}}}}}").models["one"]
    assert fields["gpus"] == gpus
    assert ("compose" in fields) == (not gpus)


@pytest.mark.parametrize("begin", ["", "# vLLM\n---\n"])
def test_kubernetes_manifest_is_refused_with_one_sentence(begin: str) -> None:
    text = f"{begin}apiVersion: apps/v1\nkind: Deployment\nspec: {{containers: [{{image: {IMAGE}}}]}}\n"
    with pytest.raises(NoCompose, match="is a Kubernetes manifest, which is not imported"):
        read(text)


def test_script_that_writes_its_env_file_defines_the_variables_of_its_compose_file() -> None:
    service = f"services:\n  one: {{image: '{IMAGE}', command: '--model ${{MODEL}}', ports: ['${{PORT:-1}}:8000']}}\n"
    text = f"cat > .env <<EOF\nMODEL=a/b\nPORT=8001\nEOF\ncat > c.yml <<'EOF'\n{service}EOF\ndocker compose up -d\n"
    fields = read(text).models["one"]
    assert (fields["weights"], fields["port"]) == ({"hf": "a/b"}, 8001)
    assert read(text, {"PORT": "8002"}).models["one"]["port"] == 8002


@pytest.mark.parametrize("before", ["sudo -u bob", "env A=1", "timeout 30s", "sudo -E nohup", "A=1"])
def test_container_is_started_through_another_program(before: str) -> None:
    assert list(read(f"{before} docker run -d --name one -p 80:80 lab/x:1").models) == ["one"]


@pytest.mark.parametrize("command", ["ssh gpu1 {}", "ssh gpu1 '{}'", "su bob -c 'sudo {}'"])
def test_container_that_is_started_through_an_unknown_program_is_asked_about(command: str) -> None:
    result = read(command.format("docker run -d --name one -p 80:80 lab/x:1"))
    assert [finding.kind for finding in result.findings] == ["open"]
    assert "starts a container through another program" in str(result.findings[0])


@pytest.mark.parametrize("here", ["%cd%", "(pwd)", "$(pwd)", "%CD%\\", "${PWD}"])
def test_this_folder_is_a_path_in_every_shell(here: str) -> None:
    text = f"docker run -d --name one -p 80:80 -v {here}/m:/m lab/x:1".replace("\\/", "\\")
    [volume] = read(text).models["one"]["compose"]["volumes"]
    assert (volume["type"], volume["source"].replace("\\", "/")) == ("bind", "$PWD/m")


@pytest.mark.parametrize("setting", ["gpus: [{count: '${N}'}]", "ports: ['80:80', '82:${N}']"])
def test_variable_without_a_value_keeps_its_entry(setting: str) -> None:
    result = read(f"services:\n  one: {{image: 'lab/x:1', network_mode: host, {setting}}}\n")
    assert result.models["one"]["gpus"] == ("all" if "gpus" in setting else [])
    assert "service one: $N is not defined. Pass --set N=…." in map(str, result.findings)


def test_hidden_folder_of_a_windows_path_is_part_of_it() -> None:
    text = "docker run -d --name one -p 8000:8000 -v %USERPROFILE%\\.cache\\hub:/c lab/x:1 serve\n"
    fields = read(text).models["one"]
    assert (fields["image"], fields["compose"]["command"]) == ("lab/x:1", ["serve"])
    assert fields["compose"]["volumes"][0]["source"] == "$USERPROFILE\\.cache\\hub"
