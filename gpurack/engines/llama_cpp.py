"""llama.cpp's server: GGUF files on GPUs or the CPU.

Sources: the image `ghcr.io/ggml-org/llama.cpp` (moved from ggerganov), variants server and server-cuda. Its HEALTHCHECK
asks port 8080, while newer builds listen on 9931 by default, so the port is always passed. `--api-key-file` protects
all paths but /health. /metrics exists with --metrics. /v1/models answers 503 "Loading model" until the model is loaded.
Any model name is answered, under the alias (measured). --mlock needs IPC_LOCK and unlimited locked memory.

Memory (measured, build 11669): `--ctx-size` is the total of all slots, so with `--parallel` N each has one Nth of it,
unless the KV cache is unified (the default only without `--parallel`). The cache grows in steps of 256 tokens.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

from gpurack.engines.args import explicit_args, flags, numbers
from gpurack.engines.base import EMBEDDING, RERANK, Counter, Engine, Row
from gpurack.engines.builds import UNSAID, Builds
from gpurack.engines.compiled import CUDA, Compiled
from gpurack.engines.container import Accelerator, Container, Run
from gpurack.engines.dialect import HUB_CACHE, Dialect
from gpurack.engines.jobs import Jobs
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.engines.probes import LIST_DEVICES, LLAMA_SERVER
from gpurack.spec.image import BuildImage
from gpurack.spec.model import ArgValue, Job, Model
from gpurack.spec.problems import Problem

STEP = 256
KV_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32, "iq4_nl": 18 / 32,
    "q5_0": 22 / 32, "q5_1": 24 / 32,
}  # fmt: skip
"""`--cache-type-k`, `--cache-type-v` → bytes of a number (ggml's blocks of 32)."""
LAYERS = ("n-gpu-layers", "gpu-layers", "ngl")
UNFORESEEN = (
    "split-mode", "sm", "tensor-split", "ts", "main-gpu", "mg", "override-tensor",
    "ot", "cpu-moe", "cmoe", "n-cpu-moe", "ncmoe", "no-kv-offload", "nkvo", "mmproj", "model-draft", "md", "lora",
    "control-vector", "swa-full", "override-kv", "device", "dev", "kv-unified-per-slot",
)  # fmt: skip
"""Flags that put something else on the GPUs, or move a part of the model elsewhere, so nothing is estimated."""
ON_DEMAND = ("models-dir", "models-preset", "sleep-idle-seconds")
"""Flags of a server that loads models when they are asked for, or frees their memory."""
VARIANTS = {"cpu": "server", "nvidia": "server-cuda", "amd": "server-rocm"}
CHOSEN = re.compile(r"(cuda\d*|rocm|vulkan|intel|musa)-")
"""The beginning of a version that names one of upstream's variants."""
TOOLS = ("--run", "--run-legacy", "--convert", "--quantize", "--all-in-one", "--bench", "--perplexity")
"""The first word of a command for the image `full` (its entry point is .devops/tools.sh).

Other commands are for the image `light`, which is llama-cli.
"""
_ONE_DASH = """
Cb Cbd Cd Cr Crb Crd ag bs cb cd cl cmoe cmoed cms cpent cram ctk ctkd ctv ctvd ctxcp dev devd dr dt fa fit fitc fitt hf
hfd hff hfr hfrd hft jf kvo kvu lcd lcs lm lv lzm md mg mm mmdev mmu mu ncffn ncmoe ncmoed ngl ngld nkvo no-kvu nocb np
nr ot otd rea sm sp sps tb tbd td to ts ub
"""
FIVE_LEVELS = 7200
"""About the first build with five levels of --verbosity: from 1 (errors) to 4, later 5 (debug).

Before, they were 0 and 1 (debug). ggml-org/llama.cpp#17630.
"""
ONE_DASH = frozenset(_ONE_DASH.split())
"""From `llama-server --help` (0.7.0 and before). It accepts -ngl, and exits with "invalid argument" at --ngl."""

BACKENDS = "cuda|rocm|vulkan|intel|musa"
TODAY = re.compile(rf"(?:.*/)?(\.devops/({BACKENDS}|cpu)\.Dockerfile)")
FORMER = re.compile(rf"(?:.*/)?\.devops/(full|main|server|llama-cli|llama-server)(?:-({BACKENDS}))?\.Dockerfile")
STAGES = {"full": "full", "main": "light", "llama-cli": "light", "server": "server", "llama-server": "server"}
"""A former Dockerfile's name → the stage that builds the same today."""
BY_NAME = re.compile(rf"local/llama\.cpp:(full|light|server)(?:-({BACKENDS}))?")
"""Names of images that users build as upstream's documentation says."""
DIALECT = Dialect(
    images=r"llama\.cpp",
    moved={"ghcr.io/ggerganov/llama.cpp": "ghcr.io/ggml-org/llama.cpp"},
    programs=(("--server",), ("-s",), ("/app/llama-server",), ("llama-server",), ("./llama-server",), ("/server",)),
    short={
        "ngl": "n-gpu-layers", "gpu-layers": "n-gpu-layers", "fa": "flash-attn", "cb": "cont-batching",
        "np": "parallel", "ts": "tensor-split", "sm": "split-mode", "mg": "main-gpu", "tb": "threads-batch",
        "ub": "ubatch-size", "ctk": "cache-type-k", "ctv": "cache-type-v", "nkvo": "no-kv-offload",
        "hfr": "hf-repo", "hff": "hf-file", "mu": "model-url", "dev": "device", "sp": "special",
    },
    one_dash=ONE_DASH,
    repositories=("hf", "hf-repo"),
    repository_file="hf-file",
    default_file="by default Q4_K_M",
    url="model-url",
    variables={
        "LLAMA_ARG_MODEL": "model", "LLAMA_ARG_CTX_SIZE": "ctx-size", "LLAMA_ARG_PORT": "port",
        "LLAMA_ARG_HOST": "host", "LLAMA_ARG_N_GPU_LAYERS": "n-gpu-layers", "LLAMA_ARG_HF_REPO": "hf-repo",
        "LLAMA_ARG_HF_FILE": "hf-file", "LLAMA_ARG_MODEL_URL": "model-url", "LLAMA_ARG_N_PARALLEL": "parallel",
        "LLAMA_ARG_ALIAS": "alias", "LLAMA_API_KEY": "api-key",
    },
    hub=("hf-repo-draft", "hfrd", "hfd"),
    caches={"/root/.cache/llama.cpp": HUB_CACHE, "/root/.cache/huggingface": HUB_CACHE},
    assumed={"n-gpu-layers": "gpurack puts all layers on the GPUs"},
)  # fmt: skip


class LlamaCppBuilds(Builds):
    """`.devops` of its repository.

    It has one Dockerfile for each backend, with the stages full, light and server. Formerly each stage had a
    Dockerfile.
    """

    git = "https://github.com/ggml-org/llama.cpp"

    def like(self, build: Mapping[str, Any]) -> str:
        """Return the image of the same stage and backend."""
        found = TODAY.fullmatch(str(build.get("dockerfile", "")))
        variant = f"-{found[2]}" if found and found[2] != "cpu" else ""
        return f"ghcr.io/ggml-org/llama.cpp:{build.get('target', 'server')}{variant}"

    def dockerfile(self, path: str, file: str, names: Sequence[str]) -> str | None:
        """Recognize it by folder and name, which are unique to this repository."""
        mine = FORMER.fullmatch(file) or TODAY.fullmatch(file)
        return file[file.index(".devops/") :] if mine else None

    def by_name(self, image: str) -> Mapping[str, str] | None:
        """Recognize `local/llama.cpp:server-cuda`."""
        named = BY_NAME.fullmatch(image)
        return {"dockerfile": f".devops/{named[2] or 'cpu'}.Dockerfile", "target": named[1]} if named else None

    def renewed(self, build: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """Use the Dockerfile of the backend, if the revision is still to be chosen."""
        former = FORMER.fullmatch(str(build["dockerfile"]))
        if not former or build["revision"] != UNSAID:
            return None
        file, stage = f".devops/{former[2] or 'cpu'}.Dockerfile", STAGES[former[1]]
        what = (
            f"llama.cpp no longer has {build['dockerfile']}: the stage {stage} of {file} builds the same "
            "(for a revision that has the old file, restore it and remove `target`)."
        )
        today = {name: build[name] for name in ("git", "revision")} | {"dockerfile": file, "target": stage}
        return today | ({"args": build["args"]} if "args" in build else {}), what


class LlamaCppJobs(Jobs):
    """The images `light` (llama-cli) and `full` (tools.sh)."""

    def ends(self, tag: str, command: Sequence[str]) -> bool:
        """Both images end, except `full` with --server."""
        return tag.startswith("light") or (tag.startswith("full") and first_word(command) not in ("--server", "-s"))

    def version(self, tag: str) -> str | None:
        """Return the build number at the end of the tag."""
        last = tag.rpartition("-")[2]
        return last if re.fullmatch(r"b\d+", last) else None

    def result(self, command: Sequence[str]) -> str | None:
        """Return the path that the command names, or the fixed one that tools.sh uses."""
        if first_word(command) == "--quantize" and len(command) > 2:
            return command[2]
        if first_word(command) == "--all-in-one" and len(command) == 3:
            return f"{command[1].rstrip('/')}/{command[2].strip('/')}/ggml-model-q4_0.bin"
        return command[command.index("--outfile") + 1] if "--outfile" in command[:-1] else None

    def makes_a_file(self, command: Sequence[str]) -> bool:
        """Conversions do."""
        return first_word(command) in ("--all-in-one", "--convert")

    def name(self, command: Sequence[str]) -> str:
        """Return the tool's name; `prompt` for anything else."""
        tool = first_word(command)
        return tool.lstrip("-") if tool in TOOLS and tool != "--run" else "prompt"


def first_word(command: Sequence[str]) -> str:
    """Return the first word; "" if there is none."""
    return command[0] if command else ""


class LlamaCpp(Engine):
    """`llama-server` of the image's server variant."""

    name = "llama.cpp"
    title = "llama.cpp"
    row = Row(
        serves="GGUF: chat, embeddings",
        image="`ghcr.io/ggml-org/llama.cpp:server[-cuda]-b7000`",
        gpus="any number, or CPU",
        key="file",
        sets="name, address, key, context, all layers on the GPUs",
        limits="does not enforce vram",
        state="**real program** (CPU, also with Vulkan): chat, embeddings, jobs",
    )
    dialect = DIALECT
    builds = LlamaCppBuilds()
    jobs = LlamaCppJobs()
    port = 8080
    own_template = True
    compiled = Compiled("compiled-llama.cpp", "/var/cache/llama.cpp", {"nvidia": CUDA})
    cuda_probe = LIST_DEVICES
    dry_start = LLAMA_SERVER
    weights_suffixes = (".gguf",)
    any_name = True
    counter = Counter("/metrics", "llamacpp:tokens_predicted_total", "tokens")
    running = "llamacpp:requests_processing"
    sleeping = ("/props", "is_sleeping")
    underscores = True
    own_args: ClassVar = {
        "m": "weights", "model": "weights", "hf": "weights", "hfr": "weights", "hf-repo": "weights", "hff": "weights",
        "hf-file": "weights", "mu": "weights", "model-url": "weights", "hft": "hf_token", "hf-token": "hf_token",
        "port": "port", "host": "bind", "a": "served_name", "alias": "served_name",
        "c": "context", "ctx-size": "context", "api-key": "api_key", "api-key-file": "api_key",
    }  # fmt: skip

    def test_paths(self, model: Model) -> Sequence[str]:
        """Return embeddings or rerank alone for a server that its flags or variables restrict to them.

        A chat crashes such a server of many builds (ggml-org/llama.cpp#8076, #8243); later ones answer 501. Its own
        /embedding also works with a model without pooling, which /v1/embeddings refuses.
        """
        if is_set(model, ("rerank", "reranking"), "LLAMA_ARG_RERANKING"):
            return RERANK, EMBEDDING
        if is_set(model, ("embedding", "embeddings"), "LLAMA_ARG_EMBEDDINGS"):
            return EMBEDDING, RERANK, "/embedding"
        return super().test_paths(model)

    def prompt_logs(self, model: Model) -> list[str]:
        """Return flags and variables that log prompts.

        The debug log contains requests as they came; --log-prompts-dir stores prompts. LLAMA_LOG_VERBOSITY sets the
        level by a variable (tools/server/README.md), LLAMA_ARG_LOG_VERBOSITY from b9360 on.
        """
        args, variables = explicit_args(model), ("LLAMA_LOG_VERBOSITY", "LLAMA_ARG_LOG_VERBOSITY")
        build = numbers(model.version or "")[-1:]
        debug = 1 if build and build[0] < FIVE_LEVELS else 4
        levels = {f"args.{flag}": args.get(flag) for flag in ("lv", "verbosity", "log-verbosity")}
        levels |= {f"env.{name}": model.env.get(name) for name in variables}
        found = [f"args.{flag}" for flag in ("v", "verbose", "log-verbose", "log-prompts-dir") if flag in args]
        numbered = {where: str(level) for where, level in levels.items() if re.fullmatch(r"\d+", str(level))}
        return [*found, *(where for where, level in numbered.items() if int(level) >= debug)]

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is a build number as upstream tags it ("b7000").

        A variant in front replaces the one for the GPUs ("vulkan-b7000", "cuda13-b7000").
        """
        variant = "server" if CHOSEN.match(version) else VARIANTS[accelerator.vendor]
        return f"ghcr.io/ggml-org/llama.cpp:{variant}-{version}"

    def cuda(self, version: str) -> int | None:
        """Return 13 for the variant cuda13; that of others depends on the build."""
        return 13 if version.startswith("cuda13-") else None

    def check(self, model: Model) -> list[Problem]:
        """Also check that the build number has its letter, as in upstream's tags."""
        version = model.version or ""
        letter = [Problem.of("build-without-letter", path="version", version=version)] if version.isdigit() else []
        return super().check(model) + letter

    def job_image(self, version: str, accelerator: Accelerator, command: Sequence[str]) -> str:
        """Return `full` for the commands of its tools.sh, else `light`."""
        if command[0] in ("--server", "-s"):
            raise LookupError("a server does not end. Move it to `models`.")
        kind = "full" if command[0] in TOOLS else "light"
        return self.image(version, accelerator).replace(":server", f":{kind}")

    def container(self, model: Model, run: Run) -> Container:
        """Return the server on port 8080, with all layers on the GPUs if it has any."""
        command = ["--model", str(run.weights), "--alias", run.served_name]
        command += ["--host", "0.0.0.0", "--port", str(self.port)]
        command += [] if "metrics" in explicit_args(model) else ["--metrics"]
        if run.api_key_file:
            command += ["--api-key-file", run.api_key_file]
        if model.context:
            command += ["--ctx-size", str(model.context * slots(model))]
        # Without this flag, newer builds decide themselves and may silently leave layers on the CPU.
        if run.gpus and not {"ngl", "n-gpu-layers", "gpu-layers"} & set(model.args):
            command += ["--n-gpu-layers", "999"]
        locked = {"cap_add": ["IPC_LOCK"], "ulimits": {"memlock": -1}} if model.args.get("mlock") is True else {}
        return Container(command + flags(model.args, ONE_DASH), compose=locked)

    def context_parts(self, given: Mapping[str, Sequence[ArgValue]]) -> int:
        """Return the number of its slots, unless they share one cache."""
        unified = {"kv-unified", "kvu"} & set(given)
        slots = str(given.get("parallel", ["1"])[-1])
        return int(slots) if slots.isdecimal() and int(slots) and not unified else 1

    def uses_graphics_driver(self, model: Model | Job) -> bool:
        """True for Vulkan: upstream's variant in `version` or image name, or its Dockerfile."""
        image = model.image.build.dockerfile if isinstance(model.image, BuildImage) else model.image
        return "vulkan" in str(model.version if image is None else image)

    def holds_gpus(self, model: Model) -> bool:
        """Return False for Vulkan, for models that are loaded on demand, and without layers on the GPUs."""
        args, names = explicit_args(model), (*LAYERS, "device", "dev")
        variables = ("LLAMA_ARG_N_GPU_LAYERS", "LLAMA_ARG_DEVICE")
        chosen = [str(args[name]) for name in names if name in args]
        chosen += [model.env[name] for name in variables if name in model.env]
        on_demand = any(name in args for name in ON_DEMAND)
        return not (self.uses_graphics_driver(model) or on_demand or {"0", "none"} & set(chosen))

    def log_shows(self, model: Model) -> Literal["", "layers"]:
        """Return "layers" where it puts layers on its GPUs."""
        return "layers" if self.holds_gpus(model) else ""

    def needs(self, model: Model, facts: Facts) -> Needs:
        """Return a KV cache for its whole context, for each slot. The default is the weights' context."""
        args = explicit_args(model)
        elsewhere = [flag for flag in LAYERS if flag in args and not all_layers(str(args[flag]), facts.layers)]
        if unforeseen := [*elsewhere, *(flag for flag in UNFORESEEN if flag in args)]:
            raise NotEstimated(f"args.{unforeseen[0]} changes what is on the GPUs")
        total = model.context * slots(model) if model.context else facts.context
        if total is None:
            raise NotEstimated("the weights do not state their context: set `context`")
        types = [str(args.get(f"cache-type-{part}", args.get(f"ct{part}", "f16"))) for part in "kv"]
        if unknown := [name for name in types if name not in KV_BYTES]:
            raise NotEstimated(f"gpurack does not know the KV cache's type {unknown[0]}")
        batch = str(args.get("ubatch-size", args.get("ub", 512)))
        if not batch.isdecimal():
            raise NotEstimated(f"ubatch-size {batch} is not a number")
        # CUDA's own memory (estimated), and the scores of one batch for the whole vocabulary
        scores = int(batch) * facts.vocabulary * 4 / 2**30 if model.gpus else 0.0
        least, usual = (0.3, 0.5) if model.gpus else (0.0, 0.1)
        cells = kv_cells(total, slots(model))
        return Needs(cells, (KV_BYTES[types[0]], KV_BYTES[types[1]]), (least, usual + scores))


def is_set(model: Model, names: Collection[str], variable: str) -> bool:
    """Is a switch on, by one of its flags or by its variable (common/arg.cpp: is_truthy)?"""
    return bool(set(names) & set(explicit_args(model))) or model.env.get(variable) in ("on", "enabled", "true", "1")


def all_layers(value: str, layers: int) -> bool:
    """Does --n-gpu-layers put all layers on the GPUs? The output counts as one more layer.

    >>> all_layers("999", 32), all_layers("32", 32), all_layers("all", 32)
    (True, False, True)
    """
    return value == "all" or (value.isdecimal() and int(value) > layers)


def slots(model: Model) -> int:
    """Return the number of requests that have a KV cache of their own."""
    args = explicit_args(model)
    number = args.get("parallel", args.get("np", 1))
    unified = {"kv-unified", "kvu"} & set(args)
    return max(int(str(number)), 1) if re.fullmatch(r"-?\d+", str(number)) and not unified else 1


def kv_cells(size: int, parallel: int) -> int:
    """Return the tokens of KV cache that llama-server allocates for `--ctx-size` and `--parallel`.

    >>> kv_cells(1000, 1), kv_cells(1000, 3), kv_cells(600, 2)
    (1024, 1536, 1024)
    """
    return padded(padded(size) // parallel) * parallel


def padded(tokens: int) -> int:
    """Round up to a multiple of STEP."""
    return -(-tokens // STEP) * STEP
