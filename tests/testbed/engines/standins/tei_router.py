#!/usr/bin/python3
"""Stand-in for `text-embeddings-router` of TEI 1.9: exactly its options (tei_knows.json, from the help in its README),
each also as a variable. It requires a GPU of the compute capability of its image, and is silent until it is warm.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from typing import Any, ClassVar

from common import Handler, Refusal, Server, cards, die, vector
from options import Options, Wrong, knows
from weights import read

OF_TAG = {"turing": "7.5", "86": "8.6", "89": "8.9", "hopper": "9.0", "100": "10.0", "120": "12.0"}
KNOWS = knows("tei")
# other variables that it reads or its image sets; proxies; those of Docker, the driver's CDI and the exporting shell
OTHERS = re.compile(
    r"LOG_LEVEL|LOG_FORMAT|HF_HOME|USE_FLASH_ATTENTION|CUDA_VISIBLE_DEVICES|NVIDIA_\w+|(?i:(http|https|no|all)_proxy)|"
    r"PATH|HOME|PWD|OLDPWD|SHLVL|_|TERM|LC_CTYPE|PYTHONUNBUFFERED|STANDIN_\w+"
)


def arguments() -> dict[str, str]:
    """Option (without dashes) → value, from the command line, else from the environment."""
    try:
        options = Options(
            KNOWS["flags"],
            once=True,
            at_once=True,
            unknown="unexpected argument '{}' found",
            wrong_value="invalid value '{value}' for '{flag} <{name}>': invalid digit found in string",
            wrong_choice="invalid value '{value}' for '{flag} <{name}>'\n  [possible values: {choices}]",
        )
        found = options.parse(["--port" if word == "-p" else word for word in sys.argv[1:]])
        for name, value in os.environ.items():
            flag = f"--{name.lower().replace('_', '-')}"
            if name not in KNOWS["variables"]:
                if not OTHERS.fullmatch(name):
                    raise Wrong(f"stand-in: TEI knows no variable {name}")
                continue
            known = KNOWS["flags"][flag]
            options.check(flag, ["text", "true", "false"] if known == "flag" else known, value)
            found.setdefault(flag, value)
        for one, other in (("--default-prompt", "--default-prompt-name"), ("--hf-token", "--hf-api-token")):
            if {one, other} <= set(found):
                raise Wrong(f"the argument '{one}' cannot be used with '{other}'")
        if "--model-id" not in found:
            raise Wrong("the following required arguments were not provided:\n  --model-id <MODEL_ID>")
    except Wrong as wrong:
        die(f"error: {wrong}\n\nUsage: text-embeddings-router [OPTIONS] --model-id <MODEL_ID>", 2)
        raise
    return {flag.lstrip("-"): str(value) for flag, value in found.items()}


def check_card(size: int) -> None:
    """The image is built for one compute capability, and the weights must fit on the GPU."""
    prefix = os.environ["STANDIN_TAG"].removesuffix(os.environ["STANDIN_VERSION"]).rstrip("-")
    if prefix == "cpu":
        return
    have = cards()
    line = "2026-11-20T02:11:09.123456Z {:>5} text_embeddings_backend_candle: backends/candle/src/lib.rs:292: "
    if not have:
        print(line.format("WARN") + "Could not find a compatible CUDA device on host: CUDA is not available\n\n"
              'Caused by:\n    DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")\n'
              f"{line.format('WARN')}Using CPU instead\n{line.format('INFO')}Starting Bert model on Cpu",
              flush=True)  # fmt: skip
        return
    runtime, wanted = have[0][2], OF_TAG.get(prefix, "8.0")
    if prefix != "cuda" and runtime != wanted:
        of_runtime, compiled = runtime.replace(".", ""), wanted.replace(".", "")
        die(f"Error: Could not create backend\n\nCaused by:\n    Runtime compute cap {of_runtime} is not compatible "
            f"with compile time compute cap {compiled}")  # fmt: skip
    if size > have[0][1] * 2**20:
        die('Error: Could not create backend\n\nCaused by:\n    Could not start backend: DriverError('
            'CUDA_ERROR_OUT_OF_MEMORY, "out of memory")')  # fmt: skip


class Tei(Handler):
    """The routes of TEI. A key protects everything but health, metrics and ping."""

    name: ClassVar[str]
    rerank: ClassVar[bool]
    key: ClassVar[str | None]
    clients: ClassVar[int]

    def answer(self, method: str, path: str, body: Any) -> Any:
        if path not in ("/health", "/", "/ping", "/metrics") and self.key and self.bearer() != self.key:
            raise Refusal(401, "")
        routes = {
            ("GET", "/health"): lambda: "",
            ("GET", "/ping"): lambda: "",
            ("GET", "/metrics"): lambda: "# TYPE te_request_count counter\nte_request_count 0\n",
            ("GET", "/info"): lambda: {"model_id": self.name},
            ("POST", "/embed"): lambda: self.embed(self.texts(body, "inputs")),
            ("POST", "/v1/embeddings"): lambda: self.openai(body),
            ("POST", "/rerank"): lambda: self.ranked(body),
        }  # fmt: skip
        found = routes.get((method, path))
        if found is None:
            raise Refusal(404, "")
        return found()

    def texts(self, body: Any, field: str) -> list[str]:
        if field not in body:
            raise Refusal(422, f"Failed to deserialize the JSON body into the target type: missing field `{field}`")
        texts = [body[field]] if isinstance(body[field], str) else body[field]
        if len(texts) > self.clients:
            text = f"batch size {len(texts)} > maximum allowed batch size {self.clients}"
            raise Refusal(422, {"error": text, "error_type": "Validation"})
        return list(texts)

    def embed(self, texts: list[str]) -> list[list[float]]:
        if self.rerank:
            raise Refusal(424, {"error": "Model is not an embedding model", "error_type": "Backend"})
        return [vector(text) for text in texts]

    def openai(self, body: Any) -> Any:
        vectors = self.embed(self.texts(body, "input"))
        data = [{"object": "embedding", "index": i, "embedding": found} for i, found in enumerate(vectors)]
        return {"object": "list", "data": data, "model": self.name, "usage": {"prompt_tokens": 1, "total_tokens": 1}}

    def ranked(self, body: Any) -> Any:
        if not self.rerank:
            raise Refusal(424, {"error": "Model is not a re-ranker model", "error_type": "Backend"})
        words = set(body["query"].lower().split())
        found = [
            {"index": index, "score": len(words & set(text.lower().split())) / max(len(words), 1)}
            for index, text in enumerate(self.texts(body, "texts"))
        ]
        return sorted(found, key=lambda one: -float(one["score"]))


def main() -> None:
    found = arguments()
    path = found["model-id"]
    try:
        folder = read(path)
    except OSError:
        die(f"Error: `config.json` not found\n\nCaused by:\n    request error: could not reach the Hub for "
            f"{path}")  # fmt: skip
        raise
    if folder.kind == "chat":
        die("Error: Could not create backend\n\nCaused by:\n    Model is not supported: causal language models have no "
            "pooling")  # fmt: skip
    check_card(folder.size)
    key = found.get("api-key") or None
    masked = re.sub(r"[^-]", "*", key) if key else None
    print(f"INFO Args {{ model_id: {found['model-id']!r}, api_key: {masked!r} }}", flush=True)
    print("INFO Warming up model", flush=True)
    time.sleep(2)
    Tei.name, Tei.rerank = found.get("served-model-name", path), folder.kind == "rerank"
    Tei.key, Tei.clients = key, int(found.get("max-client-batch-size", 32))
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    print("INFO Ready", flush=True)
    address = found.get("hostname", "0.0.0.0")
    Server((address, int(found.get("port", 3000))), Tei).serve_forever()


main()
