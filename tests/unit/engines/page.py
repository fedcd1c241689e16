"""docs/from-docker-run.md, from the cases that come from commands people typed (`make docs`)."""

import json
from pathlib import Path
from typing import Any

import yaml

from gpurack.engines import ENGINES

HERE = Path(__file__).parent
HEAD = """\
<!-- Made by `make docs` from tests/unit/engines/*/seed-*.json; change them there. -->
# From docker run to the inventory

How people start models by hand, and what they write instead. For each pair a test reads the command and compares it
with the service that gpurack makes of the entry: image, port, cards, mounts, flags and variables. What differs on
purpose is said below the entry. Versions and `bind: any` (what `-p 8000:8000` does) are written out; in an inventory
the first stands once in `engines`, the second is better `lan` or `loopback`. Folders are mounted read-only at
`/weights/<name>`.

"""
JOBS = """\
## Not yet

| by hand | why there is no entry |
|---|---|
| `docker run -v /path/to/models:/models ghcr.io/ggerganov/llama.cpp:full --all-in-one "/models/" 7B` | a job that ends; gpurack runs servers. Run it by hand and give the result as `weights` (today's llama.cpp writes GGUF). |
| `docker run … llama.cpp:full --run -m … -p "Building a website …" -n 512`, also with `--gpus all` and `local/llama.cpp:full-cuda` | a prompt that ends. Ask the server: `curl …/v1/completions`. |
| `docker run … llama.cpp:light -m … -p "Building a website …" -n 512`, also with `--gpus all` and `local/llama.cpp:light-cuda` | the same |
| `docker build -t local/llama.cpp:server-cuda -f .devops/llama-server-cuda.Dockerfile .` (and full, light) | `image: {"build": {"git": …, "revision": …, "dockerfile": …, "args": {"CUDA_VERSION": …, "CUDA_DOCKER_ARCH": …}}}` is understood, but not carried out. Build by hand and name the image, as above. |
| `docker build -t cuda_simple .` (llama-cpp-python), `docker tag cuda_simple llama-cpp-python-cuda:latest` | the same |
| `docker commit 6abf105faa89 qwen2.5-7b-instruct` | not needed: the inventory is the package. Such an image holds neither the model, which is mounted, nor the options it was started with. |
| `docker exec -it … ollama pull llama2:13b`, `ollama run llama2:13b` | `pull: ["llama2:13b"]` is understood, but not carried out yet; until then leave it out and pull as shown in [engines.md](engines.md#ollama). |
"""  # noqa: E501


def page() -> str:
    """The whole page."""
    text = HEAD
    for engine in ENGINES:
        cases = [json.loads(path.read_text()) for path in sorted((HERE / engine).glob("seed-*.json"))]
        if cases:
            text += f"## {engine}\n\n" + "".join(map(section, cases))
    return text + JOBS


def section(case: dict[str, Any]) -> str:
    """One command, its entry, and what differs."""
    command = f"```sh\n{case['docker_run']}\n```\n\n" if "docker_run" in case else ""
    about = f"{case['about'][0].upper()}{case['about'][1:]}.\n\n" if "about" in case else ""
    kind = "services" if ENGINES[case["model"]["engine"]].service else "models"
    entry = yaml.safe_dump({kind: {case["name"]: case["model"]}}, sort_keys=False, width=110, default_flow_style=None)
    differs = "".join(f"- `{what}`: {why}\n" for what, why in case.get("differs", {}).items())
    return f"{command}{about}```yaml\n{entry}```\n\n{differs}" + ("\n" if differs else "")


if __name__ == "__main__":
    print(page(), end="")
