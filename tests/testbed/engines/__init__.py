"""Images of the serving engines, in the testbed's registry under the names that the engines use.

Real programs where they can be had, stand-ins where not; docs/testing.md says which is which. None is made before
somebody asks for it: `Testbed.serve_engines("litellm", "ollama")`, `python -m tests.testbed engines litellm ollama`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbed import cache, full_image, suites, vulkan_image
from tests.testbed.engine import Engine
from tests.testbed.engines import environments
from tests.testbed.models_image import Layer, compress, layer_of, push_image
from tests.testbed.shell import TestbedError

STANDINS = Path(__file__).with_name("standins")
STANDINS_PLACE = "/opt/standins"
SITE = "/opt/site"
_RECIPE = cache.recipe(__file__)


@dataclass(frozen=True)
class Image:
    """An engine's image.

    name: below the registry. tags: tag → the version it says it is. site: the environment (environments.py) that it
    needs; mounted: it is too large to lie in the image, and comes by a mount from where hosts have it (`place`).
    programs: path → content, of what a real image has and this one gets. links: path → where it leads.
    The rest is as in the configuration of the real one.
    """

    name: str
    tags: Mapping[str, str]
    site: str = ""
    mounted: bool = False
    programs: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    workdir: str = "/"


CUDA = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
TEI = {f"{card}1.9": "1.9" for card in ("cpu-", "turing-", "", "86-", "89-", "hopper-", "100-", "120-", "cuda-")}
# What Open WebUI's own start.sh does for a plain start.
START_WEBUI = """\
#!/usr/bin/env bash
set -eu
file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
if [ -z "${WEBUI_SECRET_KEY:-}" ]; then
    [ -e "$file" ] || head -c 12 /dev/random | base64 > "$file"
    WEBUI_SECRET_KEY=$(cat "$file")
    export WEBUI_SECRET_KEY
fi
exec python3 -m uvicorn open_webui.main:app --host 0.0.0.0 --port "${PORT:-8080}" --forwarded-allow-ips '*'
"""
IMAGES: dict[str, Image] = {
    "litellm": Image(
        "litellm/berriai/litellm",
        {"main-v1.109.1": "1.109.1"},
        site="litellm",
        programs={
            "/usr/local/bin/litellm": "#!/usr/bin/python3\nfrom litellm import run_server\n\nrun_server()\n",
            "/app/docker/prod_entrypoint.sh": '#!/bin/sh\nexec litellm "$@"\n',
        },
        entrypoint=("docker/prod_entrypoint.sh",),
        command=("--port", "4000"),
        workdir="/app",
    ),
    "open-webui": Image(
        "ghcr/open-webui/open-webui",
        {"v0.12.4": "0.12.4"},
        site="open-webui",
        programs={"/app/backend/start.sh": START_WEBUI, "/app/backend/data/.keep": ""},
        environment=("FROM_INIT_PY=true", "DATA_DIR=/app/backend/data", "PORT=8080", "ENV=prod"),
        command=("bash", "start.sh"),
        workdir="/app/backend",
    ),
    "open-webui-versions": Image(  # of which a newer one changes the database of an older one
        "ghcr/open-webui/open-webui",
        {"v0.11.1": "0.11.1", "v0.11.2": "0.11.2", "v0.11.3": "0.11.3"},
        programs={"/app/backend/data/.keep": ""},
        links={"/app/backend/start.sh": f"{STANDINS_PLACE}/web_ui.py"},
        environment=("DATA_DIR=/app/backend/data",),
        command=("/app/backend/start.sh",),
        workdir="/app/backend",
    ),
    "llama-cpp-python": Image(
        "ghcr/abetlen/llama-cpp-python",
        {"v0.3.36": "0.3.36"},
        site="llama-cpp-python",
        environment=(f"LLAMA_CPP_LIB_PATH={SITE}/lib", "HOST=0.0.0.0", "PORT=8000"),
        # The real one's compiles the library first; nobody should start it so.
        command=("/bin/sh", "-c", "echo 'stand-in: this would compile for minutes' >&2; exit 1"),
        workdir="/app",
    ),
    "vllm-cpu": Image(
        "hub/vllm/vllm-openai-cpu",
        {"v0.32.0": "0.32.0"},
        site="vllm",
        mounted=True,
        programs={
            # Its workers are processes that import this file again.
            "/usr/local/bin/vllm": "#!/usr/bin/python3\nimport sys\n\nfrom vllm.entrypoints.cli.main import main\n\n"
            'if __name__ == "__main__":\n    sys.exit(main())\n'
        },
        environment=("VLLM_CPU_KVCACHE_SPACE=1",),
        entrypoint=("vllm", "serve"),
    ),
    "vllm": Image(
        "hub/vllm/vllm-openai",
        {"v0.33.0": "0.33.0", "v0.32.0": "0.32.0"},
        links={"/usr/local/bin/vllm": f"{STANDINS_PLACE}/vllm_server.py"},
        environment=CUDA,
        entrypoint=("vllm", "serve"),
    ),
    "sglang": Image(
        "hub/lmsysorg/sglang",
        {"v0.5.23": "0.5.23"},
        programs={
            f"{SITE}/sglang/launch_server.py": f"import runpy\nimport sys\n\nsys.path.insert(0, '{STANDINS_PLACE}')\n"
            f"runpy.run_path('{STANDINS_PLACE}/sglang_server.py')\n"
        },
        environment=(*CUDA, f"PYTHONPATH={SITE}"),
    ),
    "tei": Image(
        "ghcr/huggingface/text-embeddings-inference",
        TEI,
        links={
            "/usr/local/bin/text-embeddings-router": f"{STANDINS_PLACE}/tei_router.py",
            "/entrypoint.sh": f"{STANDINS_PLACE}/tei_router.py",
        },
        environment=("HUGGINGFACE_HUB_CACHE=/data", "PORT=80", *CUDA),
        entrypoint=("text-embeddings-router",),
        command=("--json-output",),
    ),
    "llama-gpt": Image(
        "hub/getumbrel/llama-gpt-ui",
        {"latest": "latest"},
        links=dict.fromkeys(("/wait", "/usr/bin/node", "/usr/bin/npm"), f"{STANDINS_PLACE}/llama_gpt.py"),
        command=("/bin/sh", "-c", "/wait && node ping-api-to-load-model.js && npm start"),
        workdir="/app",
    ),
    "ollama": Image(
        "hub/ollama/ollama",
        {"0.33.0": "0.33.0", "0.33.0-rocm": "0.33.0"},
        links={"/usr/bin/ollama": f"{STANDINS_PLACE}/ollama.py"},
        environment=("OLLAMA_HOST=0.0.0.0:11434", *CUDA),
        entrypoint=("/bin/ollama",),
        command=("serve",),
    ),
}
"""Word of the inventory (vllm-cpu: the real vLLM) → image."""
OF_LLAMA_CPP = {vulkan_image.NAME: vulkan_image.serve, full_image.NAME: full_image.serve}
"""Its images that are made only when somebody asks for them."""
NAMES = (*IMAGES, *OF_LLAMA_CPP)


def serve(engine: Engine, registry: str, names: Sequence[str]) -> None:
    """Make what is not cached of these engines' images, three at a time, and push it to a registry (its URL)."""
    if unknown := sorted(set(names) - set(NAMES)):
        raise TestbedError(f"No image for {', '.join(unknown)}: there are {', '.join(NAMES)}.")

    def one(name: str) -> None:
        if name in OF_LLAMA_CPP:
            OF_LLAMA_CPP[name](engine, registry)
        else:
            _serve(engine, registry, IMAGES[name])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, names))


def _serve(engine: Engine, registry: str, image: Image) -> None:
    stack = [_base(_suite(engine, image))]
    if image.site:
        site = _site(engine, image)
        stack += [] if image.mounted else [environments.layer(site, SITE)]
    stack.append(_programs(image))
    for tag, version in image.tags.items():
        push_image(registry, image.name, tag, stack, _configuration(image, tag, version, stack))


def place(engine: Engine, name: str) -> str:
    """Return where hosts have the environment of an engine whose image does not hold it; to be mounted at SITE."""
    return f"{environments.MOUNT}/{_site(engine, IMAGES[name]).name}/site"


def _suite(engine: Engine, image: Image) -> Path:
    suite = environments.ENVIRONMENTS[image.site].suite if image.site else suites.PYTHON
    return suites.made(engine, f"engines-{suite.name}", suite)


def _site(engine: Engine, image: Image) -> Path:
    folder = _suite(engine, image)
    return environments.site(engine, image.site, folder, _imported(engine, folder))


def _imported(engine: Engine, folder: Path) -> str:
    """Return the image of the base in this Docker, where the environments are compiled."""
    image = f"gpurack-testbed/base:{folder.name}"
    if not engine.output("image", "inspect", "--format", "{{.Id}}", image, check=False):
        engine.docker("import", str(folder / "image.tar"), image, timeout=300)
    return image


def _base(folder: Path) -> Layer:
    def make(target: Path) -> None:
        compress(folder / "image.tar", target / "base.tar.gz")

    kind = folder.name.rpartition("-")[0]
    packed = cache.entry(f"{kind}-layer", (folder,), make, f"base layer of {kind}") / "base.tar.gz"
    return layer_of(folder / "image.tar", packed)


def _programs(image: Image) -> Layer:
    """Return the layer with the stand-ins and what is an image's own."""

    def make(target: Path) -> None:
        (target / "app.tar").write_bytes(_tar(image))
        compress(target / "app.tar", target / "app.tar.gz")

    parts = (_RECIPE, image.name, dict(image.programs), dict(image.links), image.workdir, *_standins())
    kind = f"engine-programs-{image.name.rpartition('/')[2]}"
    folder = cache.entry(kind, parts, make, f"programs of {image.name}")
    return layer_of(folder / "app.tar", folder / "app.tar.gz")


def _standins() -> list[Path]:
    return sorted(path for path in STANDINS.iterdir() if path.is_file())


def _tar(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(path: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname, entry.mode, entry.size = kind, link, 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))

        for source in _standins():
            add(f"{STANDINS_PLACE}/{source.name}", source.read_bytes())
        if image.workdir != "/":
            add(image.workdir, kind=tarfile.DIRTYPE)
        for path, content in image.programs.items():
            add(path, content.encode())
        for path, target in image.links.items():
            add(path, b"", tarfile.SYMTYPE, target)
    return buffer.getvalue()


def _configuration(image: Image, tag: str, version: str, stack: list[Layer]) -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"STANDIN_VERSION={version}"]
    environment += [f"STANDIN_TAG={tag}"]
    environment += [f"PYTHONPATH={SITE}"] if image.site else []
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "Env": [*environment, "PYTHONUNBUFFERED=1", *image.environment],
            "Entrypoint": list(image.entrypoint) or None,
            "Cmd": list(image.command) or None,
            "WorkingDir": image.workdir,
            "Labels": {"org.opencontainers.image.version": version},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stack]},
        "history": [{"created": created, "created_by": "gpurack testbed"} for _ in stack],
    }
