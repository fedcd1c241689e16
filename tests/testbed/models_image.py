"""The llama.cpp images of the testbed's registry: Debian's real programs, laid out as upstream's images are.

They are pushed over the registry's own API, so that no other Docker than the hosts' ever sees them: one base layer
for all tags, and a configuration per tag, which makes each its own image id.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed import cache

REPOSITORY = "ghcr/ggml-org/llama.cpp"
BUILDS = ("b7000", "b7001")
VARIANTS = ("server", "server-cuda", "server-rocm", "light", "light-cuda", "full", "full-cuda")
_ENTRY = {"server": "/app/llama-server", "light": "/app/llama-cli", "full": "/app/tools.sh"}
_PROGRAMS = ("llama-server", "llama-cli", "llama-completion", "llama-quantize", "llama-bench")
# Does what upstream's .devops/tools.sh does, to the status that it ends with: --all-in-one says that there is no file
# to begin with, and ends well. Converting needs Python, which only the image of full_image.py has.
_TOOLS_SH = """\
#!/bin/sh
set -e
verb=$1
[ $# = 0 ] || shift
case $verb in
--convert | -c) exec python3 ./convert_hf_to_gguf.py "$@" ;;
--quantize | -q) exec ./llama-quantize "$@" ;;
--run | -r) exec ./llama-cli "$@" ;;
--run-legacy | -l) exec ./llama-completion "$@" ;;
--bench | -b) exec ./llama-bench "$@" ;;
--perplexity | -p) exec ./llama-perplexity "$@" ;;
--all-in-one | -a)
	echo "Converting PTH to GGML..."
	for file in $(ls "$1/$2"/ggml-model-f16.bin*); do
		small=$(echo "$file" | sed s/f16/q4_0/)
		if [ -f "$small" ]; then
			echo "Skip model quantization, it already exists: $small"
		else
			echo "Converting PTH to GGML: $file into $small..."
			exec ./llama-quantize "$file" "$small" q4_0
		fi
	done
	;;
--server | -s) exec ./llama-server "$@" ;;
*)
	echo "Unknown command: $verb"
	echo "Available commands:"
	echo "  --run (-r) --run-legacy (-l) --bench (-b) --perplexity (-p)"
	echo "  --convert (-c) --quantize (-q) --all-in-one (-a) --server (-s)"
	;;
esac
"""
_WARNING, _INSTEAD = b"warning: no usable GPU found, ", b"notice: gpusim computes here, "  # of one length
_RECIPE = cache.recipe(__file__)
_CREATED = "2026-01-01T00:00:00Z"
_TOOLS = ("sh", "cat", "cp", "date", "df", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "nc")
_TOOLS += ("mkdir", "mknod", "mv", "ps", "rm", "sed", "sleep", "stat", "tail", "test", "touch", "true", "uname", "wget")


@dataclass(frozen=True)
class Layer:
    """A layer of an image, compressed."""

    path: Path
    digest: str
    diff_id: str


def layers(models: Path) -> list[Layer]:
    """Return the layers of the llama.cpp images, made of the sid folder of suites.made()."""

    def make(folder: Path) -> None:
        (folder / "base.tar").write_bytes(as_with_cuda((models / "image.tar").read_bytes()))
        compress(folder / "base.tar", folder / "base.tar.gz")
        (folder / "app.tar").write_bytes(_app())
        compress(folder / "app.tar", folder / "app.tar.gz")

    folder = cache.entry("models-layers", (_RECIPE, models), make, "llama.cpp image")
    return [
        layer_of(folder / "base.tar", folder / "base.tar.gz"),
        layer_of(folder / "app.tar", folder / "app.tar.gz"),
    ]


def as_with_cuda(image: bytes) -> bytes:
    """Return a tar of llama.cpp in which it does not warn that it finds no GPU: with CUDA it would find the simulated
    one. gpurack takes that warning for a model that computes on the CPU."""
    if _WARNING not in image:
        raise ValueError("llama.cpp's image has another warning than `no usable GPU found`")
    return image.replace(_WARNING, _INSTEAD)


def compress(source: Path, target: Path) -> None:
    """Write a file packed, the same bytes for the same content."""
    # No name and no time in the header: the same content has the same digest.
    with source.open("rb") as plain, target.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def layer_of(plain: Path, packed: Path) -> Layer:
    """Return the layer that a tar and its packed form are."""
    with plain.open("rb") as one, packed.open("rb") as two:
        return Layer(
            packed,
            f"sha256:{hashlib.file_digest(two, 'sha256').hexdigest()}",
            f"sha256:{hashlib.file_digest(one, 'sha256').hexdigest()}",
        )


def _app() -> bytes:
    """Return a layer with /app/llama-server, a shell and its tools, as upstream's image has them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = kind, target, mode
            tar.addfile(entry)

        # Debian's merged /usr, which base-files would bring
        for name in ("bin", "sbin", "lib", "lib64"):
            add(name, tarfile.SYMTYPE, f"usr/{name}")
        add("app", tarfile.DIRTYPE)
        for program in _PROGRAMS:
            add(f"app/{program}", tarfile.SYMTYPE, f"/usr/bin/{program}")
        script = tarfile.TarInfo("app/tools.sh")
        script.size, script.mode = len(_TOOLS_SH), 0o755
        tar.addfile(script, io.BytesIO(_TOOLS_SH.encode()))
        add("tmp", tarfile.DIRTYPE, mode=0o1777)
        add("root", tarfile.DIRTYPE, mode=0o700)
        for tool in _TOOLS:
            add(f"usr/bin/{tool}", tarfile.SYMTYPE, "busybox")
    return buffer.getvalue()


def _configuration(stack: list[Layer], build: str, variant: str) -> dict[str, Any]:
    """Return an image's configuration, with what upstream's Dockerfile sets (.devops/cpu.Dockerfile, stage server)."""
    second = 1_000_000_000
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    kind = variant.partition("-")[0]
    server: dict[str, Any] = {}
    if kind == "server":
        environment.append("LLAMA_ARG_HOST=0.0.0.0")
        test = ["CMD", "curl", "-f", "http://localhost:8080/health"]
        seconds = {"Interval": 30 * second, "Timeout": 30 * second, "StartPeriod": 0}
        server["Healthcheck"] = {"Test": test, **seconds, "Retries": 3}
    if variant.endswith("-cuda"):
        # As in NVIDIA's base images: what the nvidia runtime reads when no device is given by CDI.
        environment += ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Env": environment,
            "Entrypoint": [_ENTRY[kind]],
            "WorkingDir": "/app",
            **server,
            "Labels": {"org.opencontainers.image.version": build, "testbed.variant": variant},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stack]},
        "history": [{"created": _CREATED, "created_by": "gpurack testbed"} for _ in stack],
    }


def push(registry: str, stack: list[Layer], variants: Sequence[str] = VARIANTS, builds: Sequence[str] = BUILDS) -> None:
    """Push these variants of some builds to a registry (its URL); what it has already is not sent again."""
    for build in builds:
        for variant in variants:
            push_image(registry, REPOSITORY, f"{variant}-{build}", stack, _configuration(stack, build, variant))


def push_image(registry: str, repository: str, tag: str, stack: list[Layer], configuration: dict[str, Any]) -> str:
    """Push one image over the registry's API and return its digest."""
    base = f"{registry}/v2/{repository}"
    kind = "application/vnd.docker.{}"
    described = []
    for layer in stack:
        _blob(base, layer.path.read_bytes, layer.digest)
        size = layer.path.stat().st_size
        described.append({"mediaType": kind.format("image.rootfs.diff.tar.gzip"), "size": size, "digest": layer.digest})
    config = json.dumps(configuration, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    _blob(base, lambda: config, digest)
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind.format("distribution.manifest.v2+json"),
        "config": {
            "mediaType": kind.format("container.image.v1+json"),
            "size": len(config),
            "digest": digest,
        },
        "layers": described,
    }
    headers = {"Content-Type": kind.format("distribution.manifest.v2+json")}
    answer = _call("PUT", f"{base}/manifests/{tag}", json.dumps(manifest).encode(), headers)
    return answer["Docker-Content-Digest"]


def _blob(base: str, content: Callable[[], bytes], digest: str) -> None:
    try:
        _call("HEAD", f"{base}/blobs/{digest}")
    except urllib.error.HTTPError:
        place = _call("POST", f"{base}/blobs/uploads/", b"")["Location"]
        mark = "&" if "?" in place else "?"
        headers = {"Content-Type": "application/octet-stream"}
        _call("PUT", f"{place}{mark}digest={digest}", content(), headers)


def _call(method: str, url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, data, headers or {}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers
