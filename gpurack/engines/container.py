"""A model's container: the input of an engine (Run), and what the engine decides about it (Container)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gpurack.shell import NOTHING, joined, sh

SHARED_MEMORY = "32gb"
"""The limit of /dev/shm for the processes of a server on several GPUs; unused memory is not taken.
PyTorch and NCCL use it, and Docker's default of 64 MB is too small. vLLM's guide ("Using Docker") names `--ipc=host`
or `--shm-size`, SGLang's ("Install SGLang") `--shm-size 32g`; with a size of its own a container sees nothing of other
processes' shared memory, nor they of its. Measured with vLLM 0.32.0 on the CPU, two tensor parallel processes in an IPC
namespace of their own: with 64 MiB it ends ("160 MiB required, 64 MiB free"), with 32 GiB it answers, 144 KiB taken."""
READY_TIMEOUT = 1800
"""Seconds until a model must be ready; the largest engines need 30 minutes to load (engines.md)."""


Api = Literal["openai", "vllm", "tei", "ollama", "unknown"]
"""The API of a server: OpenAI's; OpenAI's with vLLM's rerank; OpenAI's with TEI's rerank; ollama's."""


@dataclass(frozen=True)
class Accelerator:
    """The kind of GPU, or CPU, of a model. compute: NVIDIA's compute capability ("8.0"), None if unknown."""

    vendor: Literal["nvidia", "amd", "cpu"]
    compute: str | None = None


CPU = Accelerator("cpu")


@dataclass(frozen=True)
class Upstream:
    """A model that a service connects to.

    serves: the names it answers to. url: as its container reaches it, up to /v1. key_file: the path of its API key
    inside the service's container, None for an open one. api: how it is spoken to.
    """

    name: str
    serves: tuple[str, ...]
    url: str
    key_file: str | None
    api: Api = "openai"


@dataclass(frozen=True)
class Run:
    """What an engine is told about the container it describes.

    served_name: the name clients use. name: its key in the inventory. weights: the path inside the container, None
    without weights; more_weights: those of `Engine.more_weights`, in its order. accelerator: what it computes on.
    cores, memory: the host's processors and GiB, None before Docker is there. gpus: how many GPUs it gets.
    memory_fraction: its share of each GPU (0 to 1), None for the whole GPU.
    api_key_file: where the key lies inside the container, None without a key. keys_file: where those of `keys` lie, as
    JSON (name → sha256 of the key; the key itself where the engine has no use for sums), None without any. upstreams:
    of a service.
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
    """The engine's own part of a container; GPUs, port, weights and key are the same for all engines.

    command: after the image's entry point; None: the image's own. entrypoint: replaces it. environment: no secrets.
    volumes: name → path inside, for caches that should survive the container. files: path inside → content, for
    configuration without secrets. compose: anything else in Compose's words (ipc, shm_size, cap_add).
    """

    command: list[str] | None = None
    entrypoint: list[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    compose: Mapping[str, Any] = field(default_factory=dict)


def with_secrets(exports: Mapping[str, str | Sequence[str | None]], argv: list[str]) -> tuple[list[str], list[str]]:
    """(entrypoint, command) of a container that reads secrets from files into its environment and then becomes argv.

    For engines that take keys only by environment: a value given by Compose would show in `docker inspect`, one that
    the shell exports does not (facts about secrets, measured). exports: variable → path of the secret's file, or
    several paths, whose secrets are joined by ";" (None: an empty one). A file that cannot be read or is empty ends
    the container: a server without its key would be open to all.
    """
    lines = [sh("set -eu")]
    for name, paths in exports.items():
        files = [paths] if isinstance(paths, str) else list(paths)
        for index, path in enumerate(files):
            lines += [sh('k{}="$(cat {})"; [ -n "$k{}" ]', index, path, index)] if path else []
        keys = joined(";", [sh("$k{}", index) if path else NOTHING for index, path in enumerate(files)])
        lines.append(sh('export {}="{}"', name, keys))
    return ["sh", "-c"], [str(joined("; ", [*lines, sh('exec "$@"')])), "sh", *argv]
