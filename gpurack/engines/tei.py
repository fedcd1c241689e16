"""Text Embeddings Inference: embedding and rerank models, one GPU each, or the CPU.

Sources (TEI 1.9): there is one image for each compute capability ("" is 8.0: A100, A30). The wrong one refuses to
start. `cuda-` contains several and asks nvidia-smi. There is none below 7.5. All are for amd64 (.github/workflows:
matrix.json) except `121-` and `cpu-arm64-`, which came after 1.9.3 (#840). Nothing listens until the model is warm;
then /health is 200. API_KEY is the key; /metrics stays public. The longest text's length comes from the model. It
ignores the `model` of a request, and the `model` of an answer is the served name (router/src/http: OpenAICompatRequest,
openai_embed). Where CUDA does not start, it serves on the CPU (backends/candle/src/lib.rs).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gpurack.engines.args import flags, numbers
from gpurack.engines.base import EMBEDDING, Counter, Engine, Request, Row
from gpurack.engines.container import Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import HUB_CACHE, Dialect
from gpurack.engines.hints import WRONG_GPU, Hint
from gpurack.engines.probes import CLAP
from gpurack.spec.model import Model

PREFIXES = {
    "7.5": "turing-", "8.0": "", "8.6": "86-", "8.9": "89-", "9.0": "hopper-", "10.0": "100-", "12.0": "120-",
}  # fmt: skip
"""Compute capability → the beginning of the image's tag."""
ARM64_PREFIXES = {"12.1": "121-", "cpu": "cpu-arm64-"}
"""The same for arm64: GB10, and the CPU of any such host."""
ARM64_AFTER = (1, 9, 3)
"""The last version without them. Upstream's README names them for 1.9, whose tag follows the newest 1.9.x."""


class Tei(Engine):
    """`text-embeddings-router` of the image for the GPU."""

    name = "tei"
    title = "Text Embeddings Inference"
    row = Row(
        serves="Hugging Face folders: embeddings, rerank",
        image="`…/text-embeddings-inference:{86-,89-,…}1.9` by GPU",
        gpus="one, or CPU; ≥ 7.5",
        key="exported at the start",
        sets="name, address, key, image by compute capability",
        limits="no `context`; does not enforce vram",
        state="stand-in",
    )
    dialect = Dialect(
        images="text-embeddings-inference",
        programs=(("text-embeddings-router",), ("./entrypoint.sh",)),
        short={"p": "port"},
        variables={
            "MODEL_ID": "model-id", "REVISION": "revision", "API_KEY": "api-key", "PORT": "port",
            "HOSTNAME": "hostname",
        },
        caches={"/data": HUB_CACHE},
    )  # fmt: skip
    hints = (Hint(r"Runtime compute cap", WRONG_GPU),)
    api = "tei"
    chats = False
    one_gpu = True
    dry_start = CLAP
    port = 80
    ready_path = "/health"
    ready_names_model = False
    weights_folders = True
    any_name = True
    counter = Counter("/metrics", "te_request_success", "requests")
    min_compute = "7.5"
    unused: ClassVar = {
        "context": "The model sets the length; in args, auto-truncate cuts longer texts and max-batch-tokens limits "
        "memory.",
    }
    own_args: ClassVar = {
        "model-id": "weights", "revision": "weights", "served-model-name": "served_name", "port": "port",
        "hostname": "bind", "api-key": "api_key", "hf-token": "hf_token", "hf-api-token": "hf_token",
    }  # fmt: skip

    def holds_gpus(self, model: Model) -> bool:
        """Return True: it loads its weights before it is ready."""
        return True

    def log_shows(self, model: Model) -> Literal["devices"]:
        """Return "devices": without CUDA it serves on the CPU, and says so."""
        return "devices"

    def lacks_arm64(self, version: str, accelerator: Accelerator) -> str:
        """Only GB10 and the CPU have images for arm64, from 1.9.4 on."""
        if not arm64_prefix(accelerator):
            return "For arm64 it has images for GB10 and the CPU (`gpus: []`). Or name an `image` that you built."
        old = numbers(version) <= ARM64_AFTER if len(numbers(version)) > 2 else numbers(version) < ARM64_AFTER[:2]
        return "Its images for arm64 came after 1.9.3. Set a newer `version`." if old else ""

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's; two numbers are enough ("1.9")."""
        name = "ghcr.io/huggingface/text-embeddings-inference"
        if prefix := arm64_prefix(accelerator):
            return f"{name}:{prefix}{version}"
        if accelerator.vendor == "cpu":
            return f"{name}:cpu-{version}"
        if accelerator.vendor == "amd":
            raise LookupError("TEI publishes no image for AMD's GPUs. Run it on the CPU (gpus: []).")
        if accelerator.compute is None:
            return f"{name}:cuda-{version}"
        if accelerator.compute not in PREFIXES:
            raise LookupError(
                f"TEI publishes no image for compute capability {accelerator.compute} (there are "
                f"{', '.join(PREFIXES)}). Choose another GPU, the CPU (gpus: []), or name an `image`."
            )
        return f"{name}:{PREFIXES[accelerator.compute]}{version}"

    def variants(self, version: str) -> list[str]:
        """Return all references, because the GPUs decide."""
        nvidia = [Accelerator("nvidia", compute) for compute in (*PREFIXES, None)]
        arm64 = [Accelerator("nvidia", "12.1", arm64=True), Accelerator("cpu", arm64=True)]
        return sorted(self.image(version, accelerator) for accelerator in (Accelerator("cpu"), *nvidia, *arm64))

    def container(self, model: Model, run: Run) -> Container:
        """Return the router on port 80, which loads the local folder."""
        argv = ["--model-id", str(run.weights), "--served-model-name", run.served_name, "--port", str(self.port)]
        argv += flags(model.args)
        if not run.api_key_file:
            return Container(argv)
        chooses = run.accelerator.vendor == "nvidia" and run.accelerator.compute is None and model.version is not None
        program = "./entrypoint.sh" if chooses else "text-embeddings-router"
        entrypoint, command = with_secrets({"API_KEY": run.api_key_file}, [program, *argv])
        return Container(command, entrypoint)

    def cuda(self, version: str) -> int | None:
        """Return 12 from 1.7 on (Dockerfile-cuda at each tag)."""
        return 12 if numbers(version) >= (1, 7) else None

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return requests for an embedding, a reranking and a classification."""
        return [
            (EMBEDDING, {"input": "Hello", "model": names[0]}),
            ("/rerank", {"query": "Hello", "texts": ["Hello"]}),
            ("/predict", {"inputs": "Hello"}),
        ]


def arm64_prefix(accelerator: Accelerator) -> str:
    """Return the beginning of the tag of the image for arm64; "" on other hosts, and where there is none.

    >>> arm64_prefix(Accelerator("nvidia", "12.1", arm64=True)), arm64_prefix(Accelerator("nvidia", "9.0", arm64=True))
    ('121-', '')
    """
    kind = "cpu" if accelerator.vendor == "cpu" else accelerator.compute
    return ARM64_PREFIXES.get(kind or "", "") if accelerator.arm64 else ""
