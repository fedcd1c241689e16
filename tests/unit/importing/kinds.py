"""Own variations of each kind of public shape that once came out wrong: other engines, forms and places.

The kinds are named as the files of `public/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ABSENT = object()
"""The value of a field that an entry must not have."""
VLLM, SGLANG, TEI = (
    "vllm/vllm-openai:v0.19.0",
    "lmsysorg/sglang:v0.5.4",
    "ghcr.io/huggingface/text-embeddings-inference:1.8",
)
LLAMA, OLLAMA = "ghcr.io/ggml-org/llama.cpp:server-cuda-b8000", "ollama/ollama:0.20.2"
UI, GATEWAY = "ghcr.io/open-webui/open-webui:v0.12.4", "ghcr.io/berriai/litellm:v1.83.14-stable"
LAUNCH = "python3 -m sglang.launch_server --model-path a/b"
RUN = "docker run -d --name one -p 8000:8000"
AMD = "devices: [/dev/kfd, /dev/dri]"
GGUF = "-m /m/a.gguf"
ENV_FILE = {"env_file": ["/root/one.env"]}
"""`compose` of an entry with secrets of its own."""


@dataclass(frozen=True)
class Variation:
    """A text. entries: name → some of its fields. said: words of its findings. unsaid: what the result never shows."""

    text: str
    entries: Mapping[str, Mapping[str, Any]]
    said: Sequence[str] = ()
    unsaid: Sequence[str] = ()
    profiles: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def one(image: str, fields: str, *said: str, **expected: Any) -> Variation:
    """A compose file with one service on port 8000."""
    ports = "" if "ports:" in fields or "network_mode" in fields else ", ports: ['8000:8000']"
    return Variation(f"services:\n  one: {{image: '{image}', {fields}{ports}}}\n", {"one": expected}, said)


def run(command: str, *said: str, **expected: Any) -> Variation:
    """One `docker run`."""
    return Variation(f"{RUN} {command}\n", {"one": expected}, said)


HF: dict[str, Any] = {"weights": {"hf": "a/b"}}
FILE: dict[str, Any] = {"engine": "llama.cpp", "weights": "/srv/m/a.gguf"}
CUSTOM: dict[str, Any] = {"engine": "custom"}
M = "-v /srv/m:/m"
AS_M = "volumes: ['/srv/m:/m']"

KINDS: dict[str, list[Variation]] = {
    "gb10": [
        one(SGLANG, f"gpus: all, command: '{LAUNCH} --mem-fraction-static 0.8 --host 0.0.0.0'", gpus=[0],
            args={"mem-fraction-static": 0.8}),
        run(f"--gpus device=2 {VLLM} a/b --gpu-memory-utilization=.55", vram="55%", gpus=[2]),
        Variation(f"UTIL=0.35\n{RUN} --gpus all {VLLM} --model a/b -tp 2 --gpu-memory-utilization ${{UTIL}}\n",
                  {"one": {"vram": "35%", "gpus": [0, 1]}}),
    ],
    "entrypoint-bash-c": [
        one(SGLANG, f"gpus: all, entrypoint: [/bin/bash, -lc], command: ['exec {LAUNCH} --context-length 4096']",
            engine="sglang", context=4096, args=ABSENT, **HF),
        one(LLAMA, f"gpus: all, {AS_M}, entrypoint: /bin/sh, command: [-c, '/app/llama-server {GGUF} -c 2048']",
            context=2048, compose=ABSENT, **FILE),
        one(TEI, "gpus: all, entrypoint: [sh, -c], command: ['text-embeddings-router --model-id a/b --port 80']",
            engine="tei", **HF),
        run(f"--gpus all --entrypoint /bin/bash {VLLM} -c 'vllm serve a/b && sleep 9'", "not only a vllm command",
            weights=ABSENT, **CUSTOM),
    ],
    "entrypoint-sh-script": [
        one(LLAMA, "gpus: all, volumes: ['/srv/l:/opt'], entrypoint: [/bin/bash, -e, /opt/run.sh]",
            "--file /srv/l/run.sh=SCRIPT", weights=ABSENT, **CUSTOM),
        run(f"--gpus all -v /srv/go.sh:/app/go.sh:ro --entrypoint /app/go.sh {SGLANG} 8", "--file /srv/go.sh=SCRIPT",
            gpus="all", **CUSTOM),
        Variation(f"{RUN} --gpus all -v /srv/s:/s --entrypoint sh {TEI} /s/start.sh\n",
                  {"one": {"engine": "tei", "compose": ABSENT, **HF}},
                  files={"/srv/s/start.sh": "#!/bin/sh\nexec text-embeddings-router --model-id a/b\n"}),
    ],
    "entrypoint-usr-bin-python3": [
        one(SGLANG, "gpus: all, entrypoint: /usr/bin/python3.12 -m sglang.launch_server, "
            "command: --model-path a/b --context-length 2048 --tp-size 2", context=2048, gpus=[0, 1], args=ABSENT,
            **HF),
        run(f"--gpus all --entrypoint python {VLLM} -O -m vllm.entrypoints.openai.api_server --model a/b", args=ABSENT,
            engine="vllm", **HF),
        run(f"--gpus device=0 {M} --entrypoint /opt/venv/bin/python3 ghcr.io/abetlen/llama-cpp-python:v0.3.9 "
            "-m llama_cpp.server --model /m/a.gguf --n_ctx 2048", engine="llama-cpp-python", weights="/srv/m/a.gguf",
            context=2048),
    ],
    "entrypoint-bash-noslash": [
        one(VLLM, "gpus: all, entrypoint: [dash, -c], command: ['vllm serve a/b']", engine="vllm", **HF),
        one(TEI, "gpus: all, entrypoint: [zsh, -ec], command: ['text-embeddings-router --model-id a/b']", engine="tei"),
        run(f"--gpus all --entrypoint bash {OLLAMA} -c 'exec ollama serve'", engine="ollama", compose=ABSENT),
    ],
    "amd-devices-compose": [
        one("lmsysorg/sglang:v0.5.4-rocm630-mi30x", f"{AMD}, command: '{LAUNCH} --tp 4'", engine="sglang",
            gpus=[0, 1, 2, 3], compose=ABSENT),
        run("--device=/dev/kfd:/dev/kfd --device=/dev/dri:/dev/dri ollama/ollama:0.20.2-rocm", engine="ollama",
            gpus="all"),
        one("ghcr.io/ggml-org/llama.cpp:server-rocm-b8000", f"{AS_M}, command: {GGUF}, devices: [{{source: /dev/kfd, "
            "target: /dev/kfd}, {source: /dev/dri/, target: /dev/dri}]", gpus="all", **FILE),
    ],
    "amd-render-node": [
        one("vllm/vllm-openai-rocm:v0.19.0", "command: a/b, devices: [/dev/kfd, /dev/dri/card2, /dev/dri/renderD130]",
            "renderD130 is set to GPU 2", gpus=[2], compose=ABSENT),
        run("--device /dev/kfd --device /dev/dri/renderD128 --device /dev/dri/renderD131 ollama/ollama:0.20.2-rocm",
            gpus=[0, 3]),
        run("--device /dev/kfd --device=/dev/dri/renderD129:/dev/dri/renderD129:rw lab/asr:1", gpus=[1], **CUSTOM),
    ],
    "amd-run-exact": [
        Variation("podman run -d --name one -p 8000:30000 --device /dev/kfd --device /dev/dri --security-opt "
                  f"seccomp=unconfined lmsysorg/sglang:v0.5.4-rocm630-mi30x {LAUNCH} --tp 2\n",
                  {"one": {"engine": "sglang", "gpus": [0, 1], "port": 8000}}),
        run("--device /dev/kfd --device /dev/dri -e HIP_VISIBLE_DEVICES=1 vllm/vllm-openai-rocm:v0.19.0 a/b", gpus=[1],
            env=ABSENT),
        run("--device amd.com/gpu=all vllm/vllm-openai-rocm:v0.19.0 a/b", gpus=[0], compose=ABSENT),
    ],
    "vulkan-dri": [
        one("ghcr.io/ggml-org/llama.cpp:server-vulkan-b8000", f"{AS_M}, command: {GGUF}, devices: "
            "['/dev/dri:/dev/dri']",
            gpus="all", compose=ABSENT, **FILE),
        run(f"{M} --device /dev/dri/card0 ghcr.io/ggml-org/llama.cpp:server-intel-b8000 {GGUF}", gpus="all", **FILE),
        one(OLLAMA, "devices: [/dev/dri], environment: {OLLAMA_VULKAN: 1}", engine="ollama", gpus="all"),
    ],
    "helpers-as-models": [
        Variation(f"services:\n  llm: {{image: '{OLLAMA}', gpus: all}}\n  db: {{image: 'mariadb:11'}}\n"
                  "  memory: {image: 'memcached:1.6'}\n", {"llm": {"engine": "ollama"}},
                  ["service db, service memory: not imported"]),
        Variation(f"docker run -d --name db mongo:7\n{RUN} lab/app:1\n", {"one": {"port": 8000}}, ["(db): not "
            "imported"]),
        Variation(f"services:\n  llm: {{image: '{VLLM}', gpus: all, command: a/b}}\n  front: {{image: 'nginx:1.27', "
                  "ports: ['80:80']}\n  seen: {image: 'prom/prometheus:v3', expose: ['9090']}\n",
                  {"llm": {"port": 8000}, "front": {"port": 80, "gpus": []}}, ["service seen: not imported"]),
    ],
    "hf-token-custom": [
        Variation(f"{RUN} --gpus all -e HF_TOKEN=hf_zzzzzzzzzz lab/nemo:1\n",
                  {"one": {"env": ABSENT, "compose": ENV_FILE}}, ["HF_TOKEN is a secret"], ["zzz"]),
        one("lab/x:1", "gpus: all, environment: ['HUGGING_FACE_HUB_TOKEN=${HUGGING_FACE_HUB_TOKEN}', 'A=1']",
            env={"A": "1"}, compose=ENV_FILE),
        one("lab/x:1", "gpus: all, environment: [HF_TOKEN], env_file: /srv/a.env",
            compose={"env_file": ["/srv/a.env", "/root/one.env"]}),
    ],
    "empty-hf-token": [
        one(SGLANG, f"gpus: all, command: '{LAUNCH}', environment: ['HF_TOKEN=']", env=ABSENT, compose=ABSENT),
        run(f'--gpus all -e HF_TOKEN="" -e A=1 {TEI} --model-id a/b', env={"A": "1"}),
        one(TEI, "gpus: all, command: --model-id a/b, environment: {HUGGING_FACE_HUB_TOKEN: "
            "'${A:-${B:-}}'}", env=ABSENT),
    ],
    "cuda-visible-devices-one": [
        one(LLAMA, f"{AS_M}, command: {GGUF}, environment: {{CUDA_VISIBLE_DEVICES: '2,3'}}, "
            "gpus: [{driver: nvidia, count: all}]", gpus=[2, 3], env=ABSENT),
        run(f"--gpus '\"device=1,3\"' -e CUDA_VISIBLE_DEVICES=1 {SGLANG} {LAUNCH}", gpus=[3], env=ABSENT),
        run("--device /dev/kfd --device /dev/dri -e ROCR_VISIBLE_DEVICES=1 ollama/ollama:0.20.2-rocm", gpus=[1],
            env=ABSENT),
        run("--gpus all -e CUDA_VISIBLE_DEVICES=$G lab/asr:1", "its GPU is $G", gpus=[0], env=ABSENT),
        run("--gpus all -e CUDA_VISIBLE_DEVICES=MIG-1a2b lab/asr:1", gpus=["MIG-1a2b"], env=ABSENT),
        run("--gpus all -e CUDA_VISIBLE_DEVICES=0:1 lab/asr:1", "not applied to `gpus`", gpus="all", env=ABSENT),
    ],
    "yaml-on-yes": [
        one(OLLAMA, "environment: {OLLAMA_FLASH_ATTENTION: on, OLLAMA_DEBUG: no, OLLAMA_KEEP_ALIVE: -1}",
            env={"OLLAMA_FLASH_ATTENTION": "on", "OLLAMA_DEBUG": "no", "OLLAMA_KEEP_ALIVE": "-1"}),
        one(VLLM, "gpus: all, command: [a/b, --served-model-name, yes, --seed, 0o17]", served_name="yes",
            args={"seed": 15}),
        one("lab/x:1", "environment: {A: y, B: Off, C: 12:30, D: NO}, command: [--fast, on]",
            env={"A": "y", "B": "Off", "C": "12:30", "D": "NO"}, compose={"command": ["--fast", "on"]}),
    ],
    "nested-default": [
        one(VLLM, "gpus: all, command: '--model ${M:-${D:-org}/x}', ports: ['${P:-${Q:-9100}}:8000']", port=9100,
            weights={"hf": "org/x"}),
        one(TEI, "command: --model-id a/b, gpus: [{device_ids: ['${GPU-${G-2}}']}], environment: {A: '${X:+${Y}}b'}",
            gpus=[2], env={"A": "b"}),
        run(f'--gpus all -v "${{A:-${{B:-/srv}}}}/m:/m" {LLAMA} {GGUF}', **FILE),
    ],
    "positional-model": [
        Variation(f"docker run -d --name one --gpus all -p ${{2:-11435}}:11434 {OLLAMA}\n", {"one": {"port": 11435}}),
        Variation(f'MODEL=${{1:-a/b}}\nPORT=${{2:-30001}}\ndocker run -d --name one --gpus all -p "$PORT":30000 '
            f'{SGLANG} '
                  'python3 -m sglang.launch_server --model-path "$MODEL"\n', {"one": {"port": 30001, **HF}}),
        Variation(f'up() {{ local m="${{1:-a/b}}"; {RUN} --gpus all {TEI} --model-id "$m"; }}\nup\n', {"one": HF}),
        run(f'--gpus all {VLLM} --model "$1"', "$1 is not defined", engine="vllm"),
    ],
    "shell-array": [
        Variation(f"A=(-d --name one)\nA+=(--gpus device=1 -p 8080:80)\ndocker run \"${{A[@]}}\" {TEI} --model-id "
            "a/b\n",
                  {"one": {"gpus": [1], "port": 8080, **HF}}),
        Variation(f'OPTS=({M} --gpus all)\nFLAGS=({GGUF}\n  # long\n  -c 4096\n)\n{RUN} "${{OPTS[@]}}" {LLAMA} '
                  '"${FLAGS[@]}"\n', {"one": {"context": 4096, **FILE}}),
        Variation(f'declare -a E=(-e A=1 -e "B=x y")\n{RUN} ${{E[*]}} lab/x:1\n', {"one": {"port": 8000}}),
        Variation(f"{RUN} $OPTIONS --restart always --gpus all lab/x:1\n", {"one": {"image": "lab/x:1", "gpus": "all"}},
                  ["$OPTIONS is not defined. Pass --set OPTIONS"]),
        Variation(f"{RUN} $LLAMA_IMAGE -m /models/x.gguf -t 8 -c 4096\n",
                  {"one": {"image": "$LLAMA_IMAGE",
                           "compose": {"command": ["-m", "/models/x.gguf", "-t", "8", "-c", "4096"]}}}),
    ],
    "shell-loop": [
        Variation(f"for i in {{0..1}}; do docker run -d --name v$i --gpus device=$i -p 900$i:8000 {VLLM} a/b; done\n",
                  {"v0": {"gpus": [0], "port": 9000}, "v1": {"gpus": [1], "port": 9001}}),
        Variation("for i in $(seq 0 2); do docker run -d --name x$i --gpus device=$i -p $((9000 + i)):80 lab/x:1; "
            "done\n",
                  {f"x{i}": {"gpus": [i], "port": 9000 + i} for i in range(3)}),
        Variation(f"for m in org/aa org/bb; do\n  docker run -d --name ${{m##*/}} --gpus all -p 80:80 {TEI} "
                  "--model-id $m\ndone\n", {"aa": {"weights": {"hf": "org/aa"}}, "bb": {"weights": {"hf": "org/bb"}}}),
        Variation("for ((i=0; i<2; i++)); do docker run -d --name x$i --gpus device=$i -p 900$i:80 lab/x:1; done\n",
                  {"x0": {"gpus": [0]}, "x1": {"gpus": [1]}}),
    ],
    "reset-override": [
        Variation(f"services:\n  one: {{image: '{VLLM}', command: a/b, gpus: all, ports: ['8000:8000']}}\n---\n"
                  "services:\n  one:\n    gpus: !override [{device_ids: ['3']}]\n    ports: !override ['81:8000']\n",
                  {"one": {"gpus": [3], "port": 81}}),
        Variation("services:\n  one:\n    image: lab/x:1\n    ports: ['80:80']\n    command: !override [a, b]\n"
                  "    healthcheck: !reset {}\n", {"one": {"compose": {"command": ["a", "b"]}}}),
        Variation(f"services:\n  one:\n    image: {OLLAMA}\n    ports: ['1:11434']\n    volumes: !reset []\n"
                  "    environment: !override {A: '1'}\n", {"one": {"env": {"A": "1"}, "compose": ABSENT}}),
    ],
    "byte-order-mark": [
        Variation(f"\ufeff#!/bin/sh\n{RUN} --gpus all {VLLM} a/b\n", {"one": HF}),
        Variation(f"\ufeff{{\"services\": {{\"one\": {{\"image\": \"{OLLAMA}\", \"ports\": "
            f"[\"1:11434\"]}}}}}}", {"one": {}}),
        Variation(f"\ufeffservices:\r\n  one:\r\n    image: {TEI}\r\n    command: --model-id a/b\r\n    gpus: all\r\n",
                  {"one": HF}),
        Variation(f"{RUN} --gpus all \\\r\n  {VLLM} \\\r\n  --model a/b\r\n", {"one": {"args": ABSENT, **HF}}),
    ],
    "flow-services": [
        Variation(f'{{"services": {{"one": {{"image": "{SGLANG}", "gpus": "all", "command": "{LAUNCH}"}}}}}}\n',
                  {"one": HF}),
        Variation(f"services: {{\n  a1: {{image: '{OLLAMA}'}},\n  b1: {{image: '{TEI}', command: [--model-id, "
            f"a/b]}},\n}}\n",
                  {"a1": {"engine": "ollama"}, "b1": {"engine": "tei"}}),
        Variation(f"x-b: &b {{image: '{VLLM}', gpus: all}}\nservices: {{one: {{<<: *b, command: "
            f"a/b}}}}\n", {"one": HF}),
    ],
    "second-document": [
        Variation(f"x-note: 1\n---\nservices:\n  one: {{image: '{TEI}', command: --model-id a/b, gpus: "
            f"all}}\n", {"one": HF}),
        Variation("---\nservices: {aa: {image: 'lab/x:1', ports: ['1:1']}}\n---\nservices: {bb: {image: 'lab/y:1', "
                  "ports: ['2:2']}}\n---\nservices: {aa: {environment: [A=1]}}\n", {"aa": {"env": {"A": "1"}},
                  "bb": {}}),
        Variation(f"%YAML 1.2\n---\nservices:\n  one: {{image: '{OLLAMA}'}}\n...\n", {"one": {"engine": "ollama"}}),
    ],
    "quadlet": [
        Variation("# ollama\n[Unit]\nDescription=x\n\n[Container]\nImage=ollama/ollama\nPublishPort=1:11434\n", {},
                  ["Quadlet file of Podman"]),
        Variation("[Container]\nImage=ghcr.io/ggml-org/llama.cpp:server\nExec=-m /m/a.gguf\n", {}, ["Quadlet"]),
        Variation("apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {containers: [{image: x}]}}}\n", {},
                  ["Kubernetes manifest"]),
    ],
    "cdi-device-ids": [
        one(SGLANG, f"devices: ['nvidia.com/gpu=all'], command: '{LAUNCH} --tp 2'", gpus=[0, 1], compose=ABSENT),
        one("lab/x:1", "gpus: [{driver: cdi, device_ids: ['nvidia.com/gpu=0', 'nvidia.com/gpu=2']}]", gpus=[0, 2]),
        Variation(f"podman run -d --name one -p 80:8080 --device nvidia.com/gpu=1 {M} {LLAMA} {GGUF}\n",
                  {"one": {"gpus": [1], **FILE}}),
        run("--device nvidia.com/gpu=GPU-1a2b lab/x:1", gpus=["GPU-1a2b"]),
        one("lab/x:1", "devices: ['nvidia.com/gpu=0:1']", "no plan sees that it is used", gpus=ABSENT),
        one(VLLM, "command: a/b, deploy: {resources: {reservations: {devices: [{device_ids: ['MIG-7e1f-22']}]}}}",
            gpus=["MIG-7e1f-22"], engine="vllm"),
        one("lab/x:1", "devices: [/dev/nvidiactl, /dev/nvidia-caps/nvidia-cap21]", "kept in "
            "compose.devices", gpus=ABSENT),
        one("lab/x:1", "gpus: [{device_ids: ['${G}']}]", "$G is not defined", "set to gpus [0]", gpus=[0]),
    ],
    "inner-port": [
        Variation(f"services:\n  llm: {{image: '{VLLM}', gpus: all, command: 'a/b --port 9000', ports: ['9000:9000'], "
                  "healthcheck: {test: 'curl -f localhost:9000/health'}}\n  app: {image: 'lab/app:1', ports: ['3:3'], "
                  "command: [--llm, 'http://llm:9000/v1']}\n",
                  {"llm": {"port": 9000, "compose": {"healthcheck": {"test": "curl -f localhost:8000/health"}}},
                   "app": {"compose": {"command": ["--llm", "http://llm:8000/v1"]}}}),
        Variation(f"services:\n  box: {{image: '{OLLAMA}', environment: {{OLLAMA_HOST: '0.0.0.0:8080'}}, "
                  "ports: ['8080:8080']}\n  app: {image: 'lab/app:1', ports: ['3:3'], environment: {URL: "
                  "'http://box:8080'}}\n",
                  {"box": {"port": 8080}, "app": {"env": {"URL": "http://box:11434"}}}),
        Variation(f"services:\n  emb: {{image: '{TEI}', gpus: all, command: '--model-id a/b --port 3000', "
                  "ports: ['81:3000']}\n  app: {image: 'lab/app:1', ports: ['3:3'], environment: ['EMB=emb:3000']}\n",
                  {"emb": {"port": 81}, "app": {"env": {"EMB": "emb:80"}}}),
    ],
    "aliases": [
        Variation(f"docker run -d --name qwen --network n --network-alias llm --gpus all -p 8000:8000 {VLLM} a/b\n"
                  "docker run -d --name app --network n -p 3:3 -e LLM=http://llm:8000/v1 lab/app:1\n",
                  {"qwen": {}, "app": {"env": {"LLM": "http://qwen:8000/v1"}}}),
        Variation(f"services:\n  emb: {{image: '{TEI}', container_name: bge, command: --model-id a/b, networks: {{a: "
                  "{aliases: [x1]}, b: {aliases: [y1]}}}\n  app: {image: 'lab/app:1', ports: ['3:3'], environment: "
                  "{A: 'http://x1/embed', B: 'http://y1:80', C: 'http://emb'}}\n",
                  {"bge": {}, "app": {"env": {"A": "http://bge/embed", "B": "http://bge:80", "C": "http://bge"}}}),
        Variation(f"services:\n  o1: {{image: '{OLLAMA}', container_name: box}}\n  ui: {{image: '{UI}', ports: "
            "['3:8080'], "
                  "environment: {OLLAMA_BASE_URLS: 'http://o1:11434'}}\n", {"box": {}, "ui": {"connects_to": ["box"]}}),
    ],
    "puller": [
        Variation(f"docker run -d --name box -p 1:11434 {OLLAMA}\ndocker exec box ollama pull a:1\n"
                  "docker exec -it box ollama run b:2\n", {"box": {"pull": ["a:1", "b:2"]}}),
        Variation(f"services:\n  box: {{image: '{OLLAMA}', ports: ['1:11434']}}\n  get: {{image: '{OLLAMA}', "
            "command: pull "
                  "a:1, environment: [OLLAMA_HOST=box]}\n", {"box": {"pull": ["a:1"]}}),
        Variation(f"services:\n  box: {{image: '{OLLAMA}', ports: ['1:11434']}}\n  get: {{image: 'alpine:3', "
            "entrypoint: sh, "
                  "command: [-c, 'wget -qO- --post-data ''{\"model\":\"a:1\"}'' http://box:11434/api/pull']}\n",
                  {"box": {"pull": ["a:1"]}}),
    ],
    "unknown-image-model-flag": [
        run("lab/tts:1 --model xtts --port 8000", gpus=[], **CUSTOM),
        run("--gpus all lab/own:1 text-embeddings-router --model-id a/b --port 8000", engine="tei", **HF),
        run(f"--gpus all {M} lab/own:2 /app/llama-server {GGUF}", **FILE),
        one("lab/box:1", "gpus: all, command: [box, --model, a/b, --tensor-parallel, '2']", weights=ABSENT, **CUSTOM),
    ],
    "offline-names": [
        run(f"--gpus all {SGLANG} {LAUNCH} --tokenizer-path org/tok --speculative-draft-model-path org/draft",
            "names org/tok of the hub", "names org/draft of the hub"),
        run(f"--gpus all {M} {LLAMA} {GGUF} -hfd org/draft-GGUF", "org/draft-GGUF"),
        one(VLLM, "gpus: all, command: [a/b, --generation-config, org/gen, --lora-modules, l=/l/x]", "org/gen"),
    ],
    "cache-file-dropped": [
        run(f"--gpus all -v /srv/hf:/root/.cache/huggingface {SGLANG} {LAUNCH} "
            "--chat-template /root/.cache/huggingface/t.jinja", compose={"volumes": [
                {"type": "bind", "target": "/root/.cache/huggingface", "source": "/srv/hf"}]}),
        one(VLLM, "gpus: all, command: a/b, volumes: ['/srv/hf:/root/.cache/huggingface'], environment: "
            "{VLLM_CONFIG_ROOT: "
            "/root/.cache/huggingface/cfg}", compose={"volumes": [
                {"type": "bind", "target": "/root/.cache/huggingface", "source": "/srv/hf"}]}),
        run(f"--gpus all -v tei:/data {TEI} --model-id a/b --otlp-service-name /data/x", compose={"volumes": [
            {"type": "volume", "target": "/data", "source": "tei"}]}),
    ],
    "numbers": [
        run(f"--gpus all {SGLANG} {LAUNCH} --context-length $CTX --tp $N", "--context-length is `$CTX`", "--tp",
            engine="sglang", gpus="all", context=ABSENT),
        one(VLLM, "gpus: all, command: a/b --max-model-len 16K --max-num-seqs $$(nproc)", context=16384),
        run(f"{M} --gpus all {LLAMA} {GGUF} -c 0 -ngl all", context=ABSENT, **FILE),
        run(f"--gpus all {TEI} --model-id a/b --max-batch-tokens $(nproc)", engine="tei", **HF),
    ],
    "router-config-hf": [
        run(f"--gpus all {LLAMA} --hf-repo a/b --hf-file b-q4.gguf", weights={"hf": "a/b", "file": "b-q4.gguf"}),
        run(f"--gpus all -v /srv/c:/c {SGLANG} python3 -m sglang.launch_server --config /c/s.yaml", weights=ABSENT,
            gpus="all", **CUSTOM),
        one(OLLAMA, "environment: {OLLAMA_NUM_PARALLEL: '${N:-}', OLLAMA_CONTEXT_LENGTH: ''}", context=ABSENT),
    ],
    "open-webui-cuda": [
        one(UI, "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1}]}}}", "`gpus` is left out",
            engine="open-webui", gpus=ABSENT),
        run(f"--gpus all {GATEWAY} --port 4000", "`gpus` is left out", engine="litellm", gpus=ABSENT),
        one(UI, AMD, "`gpus` is left out", gpus=ABSENT, compose=ABSENT),
    ],
    "nvidia-visible-devices": [
        run(f"--runtime nvidia {UI}", "`gpus` is left out", gpus=ABSENT),
        one(GATEWAY, "environment: {NVIDIA_VISIBLE_DEVICES: all, NVIDIA_DRIVER_CAPABILITIES: compute}",
            "`gpus` is left out", gpus=ABSENT, env=ABSENT),
        one("lab/x:1", "runtime: nvidia, environment: [NVIDIA_VISIBLE_DEVICES=none]", gpus=[], env=ABSENT),
        one("lab/x:1", "runtime: nvidia, environment: ['NVIDIA_VISIBLE_DEVICES=0,2']", gpus=[0, 2], env=ABSENT),
    ],
    "localhost-backend": [
        Variation(f"docker run -d --net host --name ui -e OPENAI_API_BASE_URL=http://localhost:8000/v1 {UI}\n"
                  f"{RUN} --gpus all {VLLM} a/b\n", {"ui": {"connects_to": ["one"]}, "one": {}}),
        Variation(f"services:\n  ui: {{image: '{UI}', network_mode: host, environment: {{OLLAMA_BASE_URL: "
                  f"'http://127.0.0.1:11434'}}}}\n  box: {{image: '{OLLAMA}', network_mode: host}}\n",
                  {"ui": {"connects_to": ["box"]}, "box": {"port": 11434}}),
        Variation(f"services:\n  ui: {{image: '{UI}', ports: ['3:8080'], extra_hosts: "
            "['host.docker.internal:host-gateway'], "
                  "environment: [OPENAI_API_BASE_URL=http://host.docker.internal:8081/v1]}\n"
                  f"  emb: {{image: '{TEI}', command: --model-id a/b, ports: ['8081:80']}}\n",
                  {"ui": {"connects_to": ["emb"]}, "emb": {}}),
    ],
    "profiles": [
        Variation(f"services:\n  aa: {{image: '{VLLM}', command: a/b, gpus: all, profiles: [big, all]}}\n"
                  f"  bb: {{image: '{OLLAMA}', profiles: [small]}}\n", {"aa": {}}, ["profile small"], profiles=["all"]),
        Variation(f"services:\n  aa: {{image: '{TEI}', command: --model-id a/b}}\n  db: {{image: 'postgres:16', "
            "profiles: "
                  "[tools]}\n", {"aa": {}}, ["service db: not imported: it belongs to profile tools"]),
        Variation(f"services:\n  aa: {{image: '{SGLANG}', command: '{LAUNCH}', profiles: [x]}}\n", {}, ["--profile x"]),
    ],
    "undefined-port": [
        Variation(f"docker run -d --name one --gpus all -p $PORT:80 {TEI} --model-id a/b\n", {"one": {"port": 80}},
                  ["its port is $PORT"]),
        one(OLLAMA, "ports: ['${PORT:?set it}:11434']", "its port is $PORT; set to 11434", port=11434),
        one(VLLM, "gpus: all, command: a/b, ports: [{target: 8000, published: '${P}', host_ip: 127.0.0.1}]",
            "its port is $P", port=8000, bind="loopback"),
        one("lab/x:1", "ports: ['${BIND}:8000:80']", "its address is $BIND; set to loopback", port=8000,
            bind="loopback"),
        Variation(f"docker run -d --name one -p $IP:8006:8000 --gpus all {VLLM} a/b\n",
                  {"one": {"port": 8006, "bind": "loopback"}}, ["its address is $IP; set to loopback"]),
    ],
    "sglang-two-nodes": [
        one(VLLM, "gpus: all, entrypoint: [bash, -c], command: ['vllm serve a/b -tp 8 -pp 2 --nnodes 2 --node-rank "
            "0']"),
        Variation(f"{RUN} --gpus all {SGLANG} {LAUNCH} --tp 32 --nnodes=4 --node-rank=1\n", {}, ["runs over 4 hosts"]),
        Variation(f"N=2\n{RUN} --gpus all {VLLM} a/b --nnodes $N\n", {}, ["runs over 2 hosts"]),
        Variation(f"{RUN} --gpus all --entrypoint bash {VLLM} -c 'ray start --block --head'\n", {"one": CUSTOM}),
    ],
    "nameless-one-image": [
        Variation(f"docker run -d --gpus device=0 -p 8000:8000 {VLLM} a/b\ndocker run -d --gpus device=1 -p 8001:8000 "
                  f"{VLLM} a/b --seed 1\n", {"vllm-b": {}, "vllm-b-2": {}}),
        Variation("".join(f"docker run -d -p 800{n}:80 lab/x:{n}\n" for n in range(3)),
                  {"custom-x": {"port": 8000}, "custom-x-2": {"port": 8001}, "custom-x-3": {"port": 8002}}),
        Variation(f"docker run -d --net=host -p 1234:1234 --gpus all {OLLAMA}\n", {"ollama": {"port": 11434}},
                  ["Docker ignores it"]),
    ],
    "nargs": [
        run(f"--gpus all {SGLANG} {LAUNCH} --lora-paths a=/l/a b=/l/b", args={"lora-paths": ["a=/l/a", "b=/l/b"]}),
        run(f"--gpus all {M} {LLAMA} {GGUF} --lora /l/a --lora /l/b", args={"lora": ["/l/a", "/l/b"]}),
        one(VLLM, "gpus: all, command: [a/b, --served-model-name, q1, q2, q3, --middleware, x.y]", served_name="q1",
            args={"served-model-name": ["q2", "q3"], "middleware": "x.y"}),
    ],
    "health-start-period": [
        one(TEI, "command: --model-id a/b, healthcheck: {test: [CMD, x], start_period: 5m, start_interval: 2s}",
            compose={"healthcheck": {"test": ["CMD", "x"], "start_period": "5m", "start_interval": "2s"}}),
        run("--no-healthcheck lab/x:1", compose={"healthcheck": {"disable": True}}),
        run(f"--gpus all --health-start-period=90s --health-timeout 5s {SGLANG} {LAUNCH}",
            compose={"healthcheck": {"start_period": "90s", "timeout": "5s"}}),
    ],
    "secret-in-env": [
        one("lab/x:1", "environment: {OPENAI_API_KEY: '${OPENAI_API_KEY:?}'}", compose=ENV_FILE,
            env=ABSENT),
        Variation(f"{RUN} -e DB_PASSWORD=hunter2 lab/x:1\n", {"one": {"compose": ENV_FILE}},
                  ["DB_PASSWORD is a secret"], ["hunter2"]),
        one(OLLAMA, "environment: ['API_TOKEN=${TOKEN}', A=1]", env={"A": "1"}, compose=ENV_FILE),
    ],
    "passed-secret": [
        one("lab/x:1", "environment: [NGC_API_KEY]", "NGC_API_KEY is a secret", compose=ENV_FILE),
        run(f"--gpus all -e WANDB_API_KEY {VLLM} a/b", "WANDB_API_KEY is a secret",
            compose=ENV_FILE),
        run("--env SECRET_KEY --env MODE lab/x:1", "the value of MODE is not in the text",
            compose=ENV_FILE),
    ],
}  # fmt: skip
"""Kind → its own variations."""
KINDS["sglang-two-nodes"][0] = Variation(KINDS["sglang-two-nodes"][0].text, {}, ["runs over 2 hosts"])
KINDS["secret-in-env"].append(Variation(
    f"{RUN} --gpus all {VLLM} a/b --api-key $LLM\n", {"one": {"api_key": {"env": "LLM"}}}, unsaid=["--set LLM"],
))  # fmt: skip
KINDS["inner-port"].append(Variation(
    f"services:\n  llm: {{image: '{VLLM}', container_name: qq, gpus: all, command: a/b --port 9000}}\n  app: {{image: "
    "'lab/app:1', ports: ['3:3'], environment: {LLM_HOST: llm, LLM_PORT: 9000, OTHER_PORT: 9000}}\n",
    {"qq": {}, "app": {"env": {"LLM_HOST": "qq", "LLM_PORT": "8000", "OTHER_PORT": "9000"}}},
    ["LLM_PORT=9000 became 8000"],
))  # fmt: skip
KINDS["positional-model"].append(Variation(
    f"up() {{\n  local m=$1\n\n    {RUN} --gpus all {TEI} --model-id \"$m\"\n}}\nup a/b\n", {"one": HF},
))  # fmt: skip
KINDS["nested-default"] += [
    Variation("PORT=8123\ncat > .env <<EOF\nM=a/b\nEOF\ncat > c.yml <<EOF\nservices:\n  one:\n    image: "
              f"{VLLM}\n    command: --model \\${{M:-c/d}}\n    ports: ['${{PORT}}:8000']\n    gpus: all\nEOF\n",
              {"one": {"port": 8123, **HF}}),
    Variation(f'C="{RUN} --gpus all {VLLM} --model ${{M:-a/b}}"\neval $C\n', {"one": HF}),
]  # fmt: skip
KINDS["shell-loop"] += [
    Variation("P=(8000 8001)\nfor i in 0 1; do docker run -d --name x$i --gpus device=$i -p ${P[$i]}:80 lab/x:1; "
              "done\n", {"x0": {"port": 8000}, "x1": {"port": 8001}}),
    Variation(f"while read m; do {RUN} --gpus all {TEI} --model-id $m; done < models\n", {"one": {}}, ["read once"]),
    Variation(f"if nvidia-smi; then\n  {RUN} --gpus all {OLLAMA}\nelse\n  {RUN} {OLLAMA}\nfi\n",
    {"one": {"gpus": "all"}},
              ["the first one is used"]),
    Variation(f"if nvidia-smi; then\n  docker run -d --gpus all -p 8000:8000 {VLLM} a/b\nelse\n  docker run -d "
              f"-p 8000:11434 {OLLAMA}\nfi\n", {"vllm-b": {"gpus": [0]}},
              [f"vllm-b is used. This one had image {OLLAMA}"]),
    Variation(f"if nvidia-smi; then G='--gpus all'; else G=; fi\n{RUN} $G lab/x:1\n", {"one": {"gpus": "all"}},
              ["sets G under a condition"]),
    Variation(f"case $1 in\n  cuda) G='--gpus device=1';;\n  amd) G='--device /dev/kfd';;\nesac\n{RUN} $G {OLLAMA}\n",
              {"one": {"gpus": [1]}}, ["sets G under a condition"]),
]  # fmt: skip
ENTRY: dict[str, Any] = {"engine": "custom", "image": "lab/x:1", "port": 9000}
INVENTORIES: dict[str, list[tuple[dict[str, Any], list[str]]]] = {
    "compose-keys-unchecked": [
        ({"models": {"one": {**ENTRY, "compose": {"enviroment": {"A": "1"}}}}}, ["unknown-compose-key"]),
        ({"services": {"one": {**ENTRY, "compose": {"restrat": "no", "x-a": 1}}}}, ["unknown-compose-key"]),
        ({"defaults": {"compose": {"volums": []}}, "models": {"one": ENTRY}}, ["unknown-compose-key"]),
        ({"jobs": {"one": {"engine": "llama.cpp", "image": "ghcr.io/ggml-org/llama.cpp:full-b8000", "folder": "/m",
                           "command": ["--quantize", "/models/a.gguf", "/models/b.gguf", "Q4_0"],
                           "compose": {"memlimit": "1g"}}}}, ["unknown-compose-key"]),
    ],
    "expose-two": [
        ({"models": {"one": {**ENTRY, "compose": {"expose": [9000, 9100, "9200-9201"]}}}}, []),
        ({"services": {"one": {**ENTRY, "compose": {"expose": ["80", "443"]}}}}, []),
        ({"models": {"one": {**ENTRY, "gpus": [0], "compose": {"expose": ["9000/tcp"]}}}}, []),
    ],
}  # fmt: skip
"""Kind → inventories, and the codes of their errors. The public shapes of these are inventories, too."""
KINDS["undefined-port"].append(
    one(VLLM, "gpus: all, command: a/b, ports: ['81${GPU}:8000']", "its port is 81$GPU; set to 8000", port=8000)
)
KINDS["shell-array"].append(Variation(
    "declare -A P=([one]=8001 [two]=8002)\nfor n in one two; do\n  docker run -d --name $n --gpus all -p ${P[$n]}:8000 "
    f"{VLLM} a/b\ndone\n",
    {"one": {"port": 8001}, "two": {"port": 8002}},
))  # fmt: skip
KINDS["entrypoint-bash-noslash"].append(
    one(VLLM, "gpus: all, entrypoint: [/usr/bin/env, bash, -c], command: ['export A=1; exec vllm serve a/b']",
        engine="vllm", env={"A": "1"}, compose=ABSENT, **HF)
)  # fmt: skip
SCRIPT = "cat > s/run.sh <<'E'\n#!/bin/sh\n{}\nE\n"
STARTED = f"{RUN} --gpus all -v $PWD/s:/s --entrypoint /s/run.sh {VLLM} --max-model-len 2048\n"
KINDS["entrypoint-sh-script"] += [
    Variation(SCRIPT.format('B=2 exec vllm serve a/b "$@"') + STARTED,
              {"one": {"engine": "vllm", "context": 2048, "env": {"B": "2"}, "compose": ABSENT, **HF}}),
    Variation(SCRIPT.format('export PATH=$PATH:/opt\nexec vllm serve a/b "$@"') + STARTED,
              {"one": {"weights": ABSENT, "env": ABSENT, **CUSTOM}}, ["runs `PATH=$PATH:/opt` before it starts vllm"]),
    Variation(SCRIPT.format("vllm serve a/b --revision $REV") + STARTED, {"one": {"engine": "vllm"}},
              ["$REV in /s/run.sh is not defined"]),
    Variation(SCRIPT.format("pip install x\nvllm serve a/b") + STARTED, {"one": CUSTOM}, ["runs `pip install x`"]),
]  # fmt: skip
KINDS["passed-secret"].append(Variation(
    f"up:\n\t@docker run -d --name one --gpus all -p 8000:8000 -e HF_TOKEN=$$HF_TOKEN -v $$HOME/c:/c {VLLM} a/b\n",
    {"one": {"compose": {"volumes": [{"type": "bind", "target": "/c", "source": "$HOME/c"}]}, **HF}},
    unsaid=["plain text"],
))  # fmt: skip
KINDS["quadlet"].append(Variation(
    '{\n  "image": "lab/x:1",\n  "runArgs": ["--gpus", "all"]\n}\n', {}, ["is a devcontainer.json"]
))  # fmt: skip
KINDS["inner-port"].append(
    one(VLLM, "gpus: all, command: a/b --port 9000, expose: ['9000'], ports: ['9000:9000']", port=9000, compose=ABSENT)
)
KINDS["shell-array"] += [
    Variation(f'v() {{ docker run -d --name "$1" --gpus device=$2 -p $3:8000 {VLLM} --served-model-name '
              f'"$1" "${{@:4}}"; }}\n'
              "v chat 0 8000 --model a/b --max-model-len 4096\nv code 1 8001 --model c/d\n",
              {"chat": {"gpus": [0], "context": 4096, "args": ABSENT, **HF}, "code": {"port": 8001, "args": ABSENT}}),
    Variation(f'A=(x y --model-id a/b)\nN=tei-long\n{RUN} --hostname "${{N:0:3}}" {TEI} "${{A[@]:2}}"\n',
              {"one": {"compose": {"hostname": "tei"}, **HF}}),
    Variation(f'M=("chat|a/b|8000" "code|c/d|8001")\nfor m in "${{M[@]}}"; do\n  IFS=\'|\' read -r n m p <<< "$m"\n'
              f"  docker run -d --name $n --gpus all -p $p:8000 {VLLM} --model $m\ndone\n",
              {"chat": {"port": 8000, **HF}, "code": {"port": 8001, "weights": {"hf": "c/d"}}}),
    Variation(f'IFS=, read -ra G <<< "2,3"\nread -r first rest <<< "a/b c d"\n'
              f'{RUN} --gpus device=${{G[1]}} --hostname "$rest" {TEI} --model-id $first\n',
              {"one": {"gpus": [3], "compose": {"hostname": "c d"}, **HF}}),
]  # fmt: skip
KINDS["shell-loop"] += [
    Variation(f"ID=$({RUN} --gpus all {VLLM} a/b)\ndocker logs -f $ID\n", {"one": HF}),
    Variation(f'up() {{ local id; id="$({RUN} {OLLAMA})"; echo "$id"; }}\nup\n', {"one": {"engine": "ollama"}}),
    Variation(f"export ID=`docker create --name one --gpus device=1 -p 8000:80 {TEI} --model-id a/b`\n",
              {"one": {"gpus": [1], **HF}}),
]  # fmt: skip
KINDS["positional-model"] += [
    Variation("docker run\n  -d\n  --name='one'\n  --pids-limit 2048\n  -e TZ=\"Europe/Berlin\"\n  -p '8:11434/tcp'\n"
              f"  --runtime=nvidia '{OLLAMA}'\n", {"one": {"gpus": "all", "env": {"TZ": "Europe/Berlin"}}}),
    Variation(f"docker run -d\n--name=one\n--gpus=all\n-p 8000:8000\n{VLLM}\n--model=a/b\n--max-model-len=4096\n",
              {"one": {"context": 4096, **HF}}),
    Variation(f"docker run -d --name one\n  --gpus=device=1 --restart=always\n  -p 8000:80\n  {TEI} --model-id=a/b\n",
              {"one": {"gpus": [1], "compose": {"restart": "always"}, **HF}}),
]  # fmt: skip
KINDS["nargs"] += [
    run(f"--gpus all {VLLM} a/b --served-model-name chat $EXTRA", "arguments not converted: $EXTRA",
        served_name="chat", args=ABSENT),
    one(VLLM, "gpus: all, command: 'a/b --lora-modules x=/l/x ${MORE}'", "arguments not converted: $MORE",
        args={"lora-modules": "x=/l/x"}),
    run(f'--gpus all {SGLANG} {LAUNCH} --lora-paths x=/l/x "${{MORE[@]}}"', "arguments not converted: ${MORE[@]}",
        args={"lora-paths": "x=/l/x"}),
]  # fmt: skip
KINDS["nameless-one-image"] += [
    Variation(f"services:\n  a: {{image: '{VLLM}', command: a/b, gpus: [{{device_ids: ['0']}}], ports: "
              f"['8000:8000']}}\n"
              f"  b: {{image: '{VLLM}', command: a/b, gpus: [{{device_ids: ['1']}}], ports: ['8001:8000']}}\n"
              "  app: {image: 'lab/app:1', ports: ['3:3'], environment: {A: 'http://a:8000', B: 'http://b:8000'}}\n",
              {"vllm-b": {"gpus": [0]}, "vllm-b-2": {"gpus": [1]},
               "app": {"env": {"A": "http://vllm-b:8000", "B": "http://vllm-b-2:8000"}}}),
    Variation("".join(f"docker run -d --name {name} -p 800{n}:80 lab/x:1\n" for n, name in enumerate("xyz")),
              {"custom-x": {"port": 8000}, "custom-x-2": {"port": 8001}, "custom-x-3": {"port": 8002}}),
    Variation(f"docker run -d --name ä1 -p 8000:11434 {OLLAMA}\ndocker run -d --name ö1 -p 8001:11434 {OLLAMA}\n",
              {"ollama": {"port": 8000}, "ollama-2": {"port": 8001}}),
]  # fmt: skip
KINDS["amd-devices-compose"] += [
    one("ollama/ollama:0.20.2-rocm", "volumes: ['/dev/kfd:/dev/kfd', '/dev/dri:/dev/dri'], privileged: true",
        gpus="all", compose={"privileged": True}),
    run("--privileged -v /dev:/dev vllm/vllm-openai-rocm:v0.19.0 a/b", "is privileged", gpus=[0]),
    run("--runtime=amd -e AMD_VISIBLE_DEVICES=0,2 lab/x:1", gpus=[0, 2], env=ABSENT),
    one("lab/x:1", "runtime: amd, environment: {AMD_VISIBLE_DEVICES: all}", gpus="all", env=ABSENT),
    one("lab/x:1", "volumes: ['/dev/nvidia1:/dev/nvidia1', '/dev/nvidiactl:/dev/nvidiactl']", gpus=[1],
        compose=ABSENT),
]  # fmt: skip
KINDS["cdi-device-ids"].append(
    one(VLLM, "command: a/b -tp 2, gpus: [{driver: nvidia, device_ids: ['0,1']}]", gpus=[0, 1], compose=ABSENT, **HF)
)
KINDS["undefined-port"] += [
    one(TEI, "command: --model-id a/b, ports: ['0:80']", "Docker chose the port", port=80),
    run("--network host lab/x:1 serve --port=9997", "-p is left out", port=9997)
]  # fmt: skip
KINDS["helpers-as-models"] += [
    Variation(f"docker run -d --net host --name front nginx:1.27\ndocker run -d --net host --name one {TEI} "
              "--model-id a/b\n", {"one": {"port": 80}}, ["(front): not imported"]),
    Variation("docker run -d --network=host --name one --gpus all lab/x:1 --port 9997\n", {"one": {"port": 9997}}),
    Variation("docker run -d --network=host --name one --gpus all lab/x:1\n", {"one": {"port": 8000}},
              ["its port is not in the text; set to 8000"]),
    Variation(f"services:\n  one: {{image: '{VLLM}', gpus: all, command: a/b}}\n  get: {{image: '{VLLM}', entrypoint: "
              "huggingface-cli, command: download a/b}\n", {"one": HF}, ["service get: runs `huggingface-cli"]),
    Variation(f"services:\n  one: {{image: '{OLLAMA}', gpus: all}}\n  make: {{image: '{OLLAMA}', entrypoint: [sh, -c, "
              "'sleep 5; ollama create my -f /M']}\n", {"one": {}}, ["service make: runs `sh -c sleep 5"]),
    Variation(f"services:\n  one: {{image: '{SGLANG}', gpus: all, entrypoint: [bash, -c], command: ['hf "
              f"download a/b && "
              f"{LAUNCH}']}}\n", {"one": CUSTOM}),
]  # fmt: skip
KINDS["offline-names"] += [
    run(f"--gpus all {M} {LLAMA} {GGUF} -hfd org/draft-GGUF:Q4_0", "names org/draft-GGUF of the hub"),
    one(VLLM, "gpus: all, volumes: ['/srv/hf:/root/.cache/huggingface'], command: --model /root/.cache/huggingface/hub/"
        f"models--a--b/snapshots/{'0' * 40} --tokenizer a/b", "it names the weights themselves", args=ABSENT),
]  # fmt: skip
KINDS["numbers"].append(
    run(f"--gpus all -e LLAMA_ARG_HF_REPO=a/b -e LLAMA_ARG_HF_FILE=b.gguf -e LLAMA_ARG_CTX_SIZE=32768 "
        f"-e LLAMA_ARG_N_PARALLEL=4 {LLAMA}", weights={"hf": "a/b", "file": "b.gguf"}, context=8192,
        args={"parallel": 4}, env=ABSENT)
)  # fmt: skip
KINDS["inner-port"].append(
    one(UI, "environment: {PORT: 8088}, ports: ['3000:8088']", "PORT is left out", port=3000, env=ABSENT)
)
KINDS["shell-array"] += [
    Variation(f'N=(chat code); M=(a/b c/d)\nfor i in "${{!N[@]}}"; do docker run -d --name ${{N[$i]}} --gpus device=$i '
              f'-p $((8000+i)):8000 {VLLM} "${{M[i]}}"; done\n',
              {"chat": {"gpus": [0], "port": 8000, **HF}, "code": {"gpus": [1], "port": 8001}}),
    Variation(f'declare -A G=([chat]=2 [code]=3)\nfor n in "${{!G[@]}}"; do\n  docker run -d --name $n -p '
              f'80${{G[$n]}}:8000 '
              f"--gpus device=${{G[$n]}} {VLLM} a/b\ndone\n",
              {"chat": {"gpus": [2]}, "code": {"gpus": [3], "port": 803}}),
    Variation("for p in ${!NOT[@]}; do\n" f"  {RUN} {OLLAMA}\ndone\n", {"one": {}}, ["repeats for ${!NOT[@]}"]),
    Variation("for m in chat:a/b code:c/d; do docker run -d --name ${m%%:*} --gpus all -p 8000:8000 "
              f"{VLLM} ${{m#*:}}; done\n", {"chat": HF, "code": {"weights": {"hf": "c/d"}}}),
    Variation(f"M=Org/Big; N=${{M##*/}}\ndocker run -d --name ${{N,,}} --hostname ${{M//\\//-}} --gpus all "
              f"-p 80:80 {TEI} "
              "--model-id ${M/Org/a}\n", {"big": {"compose": {"hostname": "Org-Big"}, "weights": {"hf": "a/Big"}}}),
    Variation(f"up() {{ docker run -d --name ${{1##*/}} --gpus all -p 80:80 {TEI} --model-id ${{1%/}}; }}\nup a/bb\n",
              {"bb": {"weights": {"hf": "a/bb"}}}),
]  # fmt: skip
KINDS["positional-model"] += [
    Variation(f'CMD="{RUN}"\nCMD+=" --gpus all {VLLM}"\necho "Running: $CMD a/b"\neval "$CMD a/b"\n', {"one": HF},
              unsaid=["through another program"]),
    Variation(f"sudo bash -c '{RUN} --gpus all {TEI} --model-id a/b'\n", {"one": HF}),
    Variation(f'G=1\nsh -c "{RUN} --gpus device=$G {OLLAMA} $X"\n', {"one": {"gpus": [1]}}, ["$X is not defined"]),
    Variation(f"while getopts m: o; do case $o in m) M=$OPTARG;; esac; done\n{RUN} --gpus all {VLLM} ${{M:-a/b}}\n",
              {"one": HF}, ["sets M under a condition; ignored"]),
]  # fmt: skip
KINDS["undefined-port"] += [
    run("--gpus '\"device=$(nvidia-smi --format=csv,noheader | paste -sd,)\"' lab/x:1", "its GPU is $(nvidia-smi",
        gpus=[0]),
    Variation(f"docker run -d --name one --gpus all -p 80$(cut -d: -f1 x):8000 {VLLM} a/b\n", {"one": {"port": 8000}},
              ["its port is 80$(cut -d: -f1 x)"]),
    Variation(f"docker run -d --name one --gpus all -p $(hostname -i):${{P#*:}}:80 {TEI} --model-id a/b\n",
              {"one": {"bind": "loopback", "port": 80}}, ["its port is ${P#*:}"]),
]  # fmt: skip
KINDS["puller"] += [
    Variation(f"services:\n  one: {{image: '{VLLM}', gpus: all, command: a/b, depends_on: {{init: {{condition: "
              f"service_completed_successfully}}}}}}\n  init: {{image: '{VLLM}', entrypoint: python3, "
              f"command: /s/get.py}}\n",
              {"one": HF}, ["service init: runs `python3 /s/get.py` once and ends"]),
    Variation("services:\n  app: {image: 'lab/app:1', ports: ['3:3'], depends_on: {init: {condition: "
              "service_completed_successfully}}}\n  init: {image: 'lab/init:1', command: migrate, ports: ['4:4']}\n",
              {"app": {}}, ["service init: runs `migrate` once"]),
    Variation(f"services:\n  box: {{image: '{OLLAMA}', ports: ['1:11434']}}\n  app: {{image: 'lab/app:1', "
              f"ports: ['3:3'], "
              f"depends_on: {{get: {{condition: service_completed_successfully}}}}}}\n  get: {{image: '{OLLAMA}', "
              "command: pull a:1}\n", {"box": {"pull": ["a:1"]}, "app": {}}),
]  # fmt: skip
KINDS["router-config-hf"].append(Variation(
    f"services:\n  one: {{image: '{GATEWAY}', command: --config /c.yaml, ports: ['4000:4000'], configs: [{{source: c, "
    "target: /c.yaml}]}\nconfigs: {c: {content: 'model_list: []'}}\n",
    {"one": {"engine": "litellm"}}, ["/c.yaml is a file of configs, whose content is in this text"],
))  # fmt: skip
KINDS["inner-port"].append(Variation(
    f"services:\n  llm: {{image: '{LLAMA}', gpus: all, {AS_M}, command: '{GGUF} --port 9000'}}\n  app: {{image: "
    "'lab/app:1', ports: ['3:3'], command: [--llm-host, llm, --llm-port, '9000', --port, '9000']}\n",
    {"llm": FILE, "app": {"compose": {"command": ["--llm-host", "llm", "--llm-port", "8080", "--port", "9000"]}}},
    ["--llm-port 9000 became 8080"],
))  # fmt: skip
KINDS["puller"] += [
    Variation(f"docker run -d --name box -p 1:11434 {OLLAMA}\ndocker exec -it box sh -c 'ollama pull a:1 && "
              "ollama pull b:2'\ncurl http://localhost:1/api/pull -d '{\"name\": \"c:3\"}'\n",
              {"box": {"pull": ["a:1", "b:2", "c:3"]}}),
    Variation(f"docker run -d --name box -p 1:11434 {OLLAMA}\ndocker exec box sh -c 'ollama pull a:1; rm /x'\n",
              {"box": {"pull": ABSENT}}, ["changes inside a running container"]),
]  # fmt: skip
KINDS["undefined-port"].append(Variation(
    "[Service]\nExecStart=/usr/bin/docker run --rm --name %n \\\n  --gpus device=%i -p 1143%i:11434 \\\n  "
    f"{OLLAMA}\n", {"ollama": {"gpus": [0], "port": 11434}}, ["its GPU is $i", "its port is 1143$i"],
))  # fmt: skip
KINDS["helpers-as-models"].append(Variation(
    "services:\n  one: {image: 'lab/app:1', ports: ['3:3']}\n  ai: {provider: {type: model, options: {model: a/b}}}\n",
    {"one": {}}, ["service ai: not imported: it has neither image nor build"],
))  # fmt: skip
KINDS["hf-token-custom"].append(
    run(f'--gpus all -e HF_TOKEN="$(cat /run/hf)" {VLLM} a/b', "its Hugging Face token is in /run/hf", env=ABSENT, **HF)
)
KINDS["vulkan-dri"] += [
    one("ghcr.io/ggml-org/llama.cpp:server-vulkan-b8000", f"{AS_M}, command: {GGUF}, privileged: true, devices: "
        "[/dev/dri/renderD129]", gpus=[1], compose={"privileged": True}, **FILE),
    one("lab/intelligence:1", "privileged: true", gpus=[], compose={"privileged": True}),
]  # fmt: skip
KINDS["puller"] += [
    Variation(f"# Notes\n```yaml\nservices:\n  llm: {{image: '{OLLAMA}', container_name: box, ports: ['1:11434']}}\n"
              "```\n```sh\ndocker compose -f x.yml exec -T llm ollama pull a:1\n"
              "docker-compose exec llm ollama pull b:2\n```\n",
              {"box": {"pull": ["a:1", "b:2"]}}),
    Variation(f"docker run -d --name box -p 1:11434 {OLLAMA}\ndocker exec -u root -e A=b box ollama pull a:1\n"
              "docker container exec box sh -c 'sleep 5; ollama pull b:2'\n"
              f"docker run --rm -e OLLAMA_HOST=box {OLLAMA} pull c:3\n", {"box": {"pull": ["a:1", "b:2", "c:3"]}}),
    Variation(f"docker run -d --name one -p 1:11434 {OLLAMA}\ndocker run -d --name two -p 2:11434 {OLLAMA}\n"
              "ollama pull a:1\n", {"one": {"pull": ABSENT}, "two": {"pull": ABSENT}}, ["line 3: only pulls a:1."]),
    Variation(f"docker run -d -p 1:11434 {OLLAMA}\ndocker run -d --name two -p 2:11434 {OLLAMA}\n"
              "ollama pull a:1\n", {"ollama": {"pull": ABSENT}, "two": {"pull": ABSENT}}, ["line 3: only pulls a:1."]),
]  # fmt: skip
JOB = "-v /srv/m:/models ghcr.io/ggml-org/llama.cpp:full-cuda-b7000 --quantize /models/a.gguf /models/b.gguf q4_0\n"
KINDS["secret-in-env"] += [
    one("lab/app:1", "environment: {HEAD: 'Bearer ${LAB_TOKEN}', SECRETS: '${LAB_SECRET:?needed}', PORTS: '${P:-1}'}",
        "HEAD, SECRETS are secrets of the container", env={"PORTS": "1"}, compose=ENV_FILE),
    run("-e K=$LAB_KEY lab/app:1", "K is a secret of the container", env=ABSENT, compose=ENV_FILE),
    Variation(f"docker run --rm --gpus all --name make -e API_KEY=sk-0123456789abcdef {JOB}",
              {"make": {"result": "b.gguf", "compose": {"env_file": ["/root/make.env"]}}},
              ["API_KEY is a secret of the container"], ["sk-0123456789abcdef"]),
    Variation(f"docker run --rm --gpus all --name q --mount type=tmpfs,dst=/t -v cc:/c:z {JOB}",
              {"quantize": {"compose": {"volumes": [{"type": "volume", "source": "cc", "target": "/c",
                                                     "bind": {"selinux": "z"}}, {"type": "tmpfs", "target": "/t"}]}}},
              ['"q" is not a valid entry name', "volume cc on /c starts empty"]),
    Variation(f"docker run --rm --gpus device=0:1 --name make {JOB}", {"make": {"gpus": ABSENT}},
              ["GPU 0:1: `gpus` names MIG instances by UUID only"]),
]  # fmt: skip
KINDS["router-config-hf"].append(Variation(
    "```sh\ngit clone https://github.com/ggml-org/llama.cpp && cd llama.cpp\ndocker build -t mine -f "
    ".devops/cuda.Dockerfile .\n```\n```yaml\nservices:\n  one: {image: mine, gpus: all, command: -m /m/a.gguf, "
    "volumes: ['/srv/m:/m'], ports: ['8000:8080']}\n```\n", {"one": FILE}, unsaid=["is not started here"],
))  # fmt: skip
