"""A model's container: what an engine is given (Run), and what it decides (Container)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gpurack.shell import NOTHING, joined, sh

SHARED_MEMORY = "32gb"
"""The limit of /dev/shm for a server on several GPUs. Unused memory is not allocated.

PyTorch and NCCL use it, and Docker's default of 64 MB is too small. vLLM's guide ("Using Docker") names `--ipc=host` or
`--shm-size`, SGLang's guide ("Install SGLang") names `--shm-size 32g`. With shm_size a container cannot see shared
memory of other processes, nor they its. Measured with vLLM 0.32.0 on the CPU, two tensor parallel processes in an IPC
namespace of their own: with 64 MiB it ends ("160 MiB required, 64 MiB free"); with 32 GiB it answers and allocates 144
KiB.
"""
READY_TIMEOUT = 1800
"""Seconds until a model must be ready. The largest models need 30 minutes to load (docs/engines.md)."""


Api = Literal["openai", "vllm", "tei", "ollama", "unknown"]
"""The API of a server: OpenAI's; OpenAI's with vLLM's rerank; OpenAI's with TEI's rerank; ollama's."""


@dataclass(frozen=True)
class Accelerator:
    """What a model computes on: a kind of GPU, or the CPU.

    compute: NVIDIA's compute capability ("8.0"), None if unknown. arm64: is it in a host of this architecture?
    consumer: are all of these GPUs GeForce or TITAN (spec/gpus.py: is_consumer)?
    """

    vendor: Literal["nvidia", "amd", "cpu"]
    compute: str | None = None
    arm64: bool = False
    consumer: bool = False


CPU = Accelerator("cpu")


@dataclass(frozen=True)
class Upstream:
    """A model that a service connects to.

    serves: the names it answers to. url: its address as seen from the service's container, up to /v1. key_file: the
    path of its API key inside the service's container, None without a key. api: the API that it has.
    """

    name: str
    serves: tuple[str, ...]
    url: str
    key_file: str | None
    api: Api = "openai"


@dataclass(frozen=True)
class Run:
    """What an engine is told about the container that it describes.

    served_name: the name that clients use. name: its key in the inventory. weights: the path inside the container, None
    without weights. more_weights: the paths of `Engine.more_weights`, in the same order. accelerator: what it computes
    on. cores, memory: the host's processors and GiB, None if no Docker is installed yet. gpus: how many GPUs it gets.
    memory_fraction: its share of each GPU (0 to 1), None for the whole GPU.

    api_key_file: the path of the key inside the container, None without a key. keys_file: the path of the JSON file
    with `keys`, None without any; it maps a name to the sha256 of the key, or to the key itself if the engine cannot
    use digests. upstreams: what a service connects to.
    """

    served_name: str
    name: str = ""
    weights: str | None = None
    more_weights: tuple[str, ...] = ()
    accelerator: Accelerator = CPU
    cores: int | None = None
    memory: float | None = None
    gpus: int = 0
    memory_fraction: float | None = None
    api_key_file: str | None = None
    keys_file: str | None = None
    upstreams: tuple[Upstream, ...] = ()


@dataclass(frozen=True)
class Container:
    """The engine's part of a container. GPUs, port, weights and key are the same for all engines.

    command: arguments of the image's entry point; None for the image's own. entrypoint: replaces the image's.
    environment: no secrets. volumes: name → path inside, for caches that must survive the container. files: path inside
    → content, for configuration without secrets. compose: other keys of the Compose service (ipc, shm_size, cap_add).
    """

    command: list[str] | None = None
    entrypoint: list[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    compose: Mapping[str, Any] = field(default_factory=dict)


def with_secrets(exports: Mapping[str, str | Sequence[str | None]], argv: list[str]) -> tuple[list[str], list[str]]:
    """Return (entrypoint, command) that export secrets from files and then execute argv.

    For engines that take keys only by environment: a value given by Compose would show in `docker inspect`; one that
    the shell exports does not (measured). exports: variable → path of the secret's file, or several paths, whose
    secrets are joined by ";" (None: an empty one). A file that is empty or cannot be read ends the container, because a
    server without its key would be open to everyone.
    """
    lines = [sh("set -eu")]
    for name, paths in exports.items():
        files = [paths] if isinstance(paths, str) else list(paths)
        for index, path in enumerate(files):
            lines += [sh('k{}="$(cat {})"; [ -n "$k{}" ]', index, path, index)] if path else []
        keys = joined(";", [sh("$k{}", index) if path else NOTHING for index, path in enumerate(files)])
        lines.append(sh('export {}="{}"', name, keys))
    return ["sh", "-c"], [str(joined("; ", [*lines, sh('exec "$@"')])), "sh", *argv]
