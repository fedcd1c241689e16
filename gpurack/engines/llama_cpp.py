"""llama.cpp's server: GGUF files on cards or the CPU.

Sources: the image `ghcr.io/ggml-org/llama.cpp` (moved from ggerganov), variants server and server-cuda: its HEALTHCHECK
is fixed to :8080 while newer builds listen on 9931 by default, so the port is always passed; `--api-key-file` guards
all but /health; 503 "Loading model" until /v1/models answers; --mlock wants IPC_LOCK and unlimited locked memory.
"""

from typing import ClassVar

from gpurack.engines.base import Accelerator, Container, Engine, Run, flags
from gpurack.spec.model import Model

# `llama-server --help`: it knows -ngl, and ends with "invalid argument" at --ngl.
ONE_DASH = frozenset(
    {
        "bs", "cd", "cmoe", "cpent", "cram", "ctk", "ctkd", "ctv", "ctvd", "ctxcp", "dev", "devd", "dt", "fa", "fit",
        "fitc", "fitt", "jf", "kvu", "lv", "md", "mg", "mm", "ncmoe", "ncmoed", "ngl", "ngld", "nkvo", "no-kvu", "nocb",
        "np", "nr", "ot", "otd", "rea", "sm", "sp", "sps", "tb", "tbd", "td", "to", "ts", "ub",
    }
)  # fmt: skip
VARIANTS = {"cpu": "server", "nvidia": "server-cuda", "amd": "server-rocm"}


class LlamaCpp(Engine):
    """`llama-server` of the image's server variant."""

    name = "llama.cpp"
    port = 8080
    weights_suffixes = (".gguf",)
    own_args: ClassVar = {
        "m": "weights", "model": "weights", "mu": "weights", "hf": "weights", "hfr": "weights",
        "hf-repo": "weights", "model-url": "weights",
        "port": "port", "host": "bind", "a": "served_name", "alias": "served_name",
        "c": "context", "ctx-size": "context", "api-key": "api_key", "api-key-file": "api_key",
    }  # fmt: skip

    def image(self, version: str, accelerator: Accelerator) -> str:
        """`version` is a build number as upstream tags it ("b7000")."""
        return f"ghcr.io/ggml-org/llama.cpp:{VARIANTS[accelerator.vendor]}-{version}"

    def container(self, model: Model, run: Run) -> Container:
        """The server on port 8080, all layers on the cards if it has any."""
        command = ["--model", str(run.weights), "--alias", run.served_name]
        command += ["--host", "0.0.0.0", "--port", str(self.port)]
        if run.api_key_file:
            command += ["--api-key-file", run.api_key_file]
        if model.context:
            command += ["--ctx-size", str(model.context)]
        # All layers on the cards: without it newer builds fit silently and may leave layers on the CPU.
        if run.gpus and not {"ngl", "n-gpu-layers", "gpu-layers"} & set(model.args):
            command += ["--n-gpu-layers", "999"]
        locked = {"cap_add": ["IPC_LOCK"], "ulimits": {"memlock": -1}} if model.args.get("mlock") is True else {}
        return Container(command + flags(model.args, ONE_DASH), compose=locked)
