#!/usr/bin/python3
"""Stands in for `ollama` 0.33: the server with its library of models, and the commands list, ps, pull and rm.

Models of its own library come from a catalogue below, with the sizes that they say and blobs that take no room;
those of another registry (host:port/namespace/model:tag) are really fetched from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common import Handler, Refusal, Server, cards, die, vector

VERSION = os.environ["STANDIN_VERSION"]
LIBRARY = "registry.ollama.ai"
CATALOGUE = {
    "tiny:1b": 637_699_456,
    "other:1b": 815_310_432,
    "slow:1b": 1_321_082_688,
    "qwen2.5:7b": 4_683_073_184,
    "llama2:13b": 7_365_834_624,
    "llama3.1:405b": 243_000_000_000,
    "all-minilm:latest": 45_949_216,
    "nomic-embed-text:latest": 274_290_656,
}
"""What its library has: name → bytes."""
SECONDS = {"slow": 12.0}
"""What a pull takes for names that begin so; 1 for others."""
NUMBER, FLAG, DURATION = r"\d+", "1|t|true|0|f|false", r"-?\d+|-?(\d+(\.\d+)?(ms|s|m|h))+"
VARIABLES = {
    **dict.fromkeys(("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_ORIGINS", "OLLAMA_LLM_LIBRARY"), ".*"),
    **dict.fromkeys(("OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE"), NUMBER),
    **dict.fromkeys(("OLLAMA_CONTEXT_LENGTH", "OLLAMA_GPU_OVERHEAD"), NUMBER),
    **dict.fromkeys(("OLLAMA_DEBUG", "OLLAMA_FLASH_ATTENTION", "OLLAMA_SCHED_SPREAD"), FLAG),
    **dict.fromkeys(("OLLAMA_NOPRUNE", "OLLAMA_NOHISTORY", "OLLAMA_MULTIUSER_CACHE", "OLLAMA_NEW_ENGINE"), FLAG),
    **dict.fromkeys(("OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT"), DURATION),
    "OLLAMA_KV_CACHE_TYPE": "f16|q8_0|q4_0",
}
"""Its settings → their form. (The real one ignores a wrong one, with a line in its log, and names it does not know.)"""


def check_environment() -> None:
    """Refuse settings that it does not know, and values that are not of their form."""
    for name, value in os.environ.items():
        if name.startswith("OLLAMA_") and name not in VARIABLES:
            die(f"stand-in: ollama knows no {name}")
        if name in VARIABLES and value and not re.fullmatch(VARIABLES[name], value.lower()):
            die(f'level=ERROR source=config.go msg="invalid setting" {name}={value!r}')


def address() -> tuple[str, int]:
    """Where OLLAMA_HOST says; an address without a port has 11434."""
    host = os.environ.get("OLLAMA_HOST", "").strip().removeprefix("http://").rstrip("/")
    name, _, port = host.rpartition(":") if ":" in host else (host, "", "11434")
    if not port.isdecimal() or int(port) > 65535:
        die(f"Error: invalid port specified in OLLAMA_HOST: {host}")
    return name or "127.0.0.1", int(port)


def keep_alive() -> float:
    """Seconds that a model stays loaded; infinite for a negative number."""
    text = os.environ.get("OLLAMA_KEEP_ALIVE") or "5m"
    if text.startswith("-"):
        return float("inf")
    if text.isdecimal():
        return float(text)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


class Name:
    """[registry/][namespace/]model[:tag]"""

    def __init__(self, text: str) -> None:
        path, _, tag = text.rpartition(":") if re.search(r":[^/]*$", text) else (text, "", "latest")
        parts = path.split("/")
        self.registry = parts.pop(0) if len(parts) > 2 else LIBRARY
        self.namespace = "/".join(parts[:-1]) or "library"
        self.model, self.tag = parts[-1], tag
        if not all(re.fullmatch(r"[\w.:-]+", part) for part in (self.registry, *parts, tag)):
            raise Refusal(400, {"error": "invalid model name"})

    @property
    def shown(self) -> str:
        """As `ollama list` shows it: without what is understood."""
        place = [] if self.registry == LIBRARY else [self.registry]
        place += [] if (self.registry, self.namespace) == (LIBRARY, "library") else [self.namespace]
        return "/".join([*place, f"{self.model}:{self.tag}"])

    @property
    def manifest(self) -> Path:
        """Where its manifest lies."""
        return models() / "manifests" / self.registry / self.namespace / self.model / self.tag


def models() -> Path:
    """Where what was pulled is kept."""
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")


def blob(digest: str) -> Path:
    """Where a layer lies."""
    return models() / "blobs" / digest.replace(":", "-")


def pulled() -> dict[str, tuple[Path, dict[str, Any]]]:
    """Everything that is there: shown name → (manifest's path, manifest)."""
    root = models() / "manifests"
    found = {}
    for path in sorted(root.glob("*/**/*")):
        if path.is_file():
            registry, *namespace, model, tag = path.relative_to(root).parts
            name = Name(f"{registry}/{'/'.join(namespace)}/{model}:{tag}")
            found[name.shown] = (path, json.loads(path.read_text()))
    return found


# --- pull ------------------------------------------------------------------------------------------------------------


def pull(name: Name, insecure: bool) -> Iterator[dict[str, Any]]:
    """The lines of /api/pull. Errors come in a line, with status 200, as the real one streams them."""
    yield {"status": "pulling manifest"}
    try:
        manifest, fetch = of_library(name) if name.registry == LIBRARY else of_registry(name, insecure)
        for layer in [*manifest["layers"], manifest["config"]]:
            yield from fetch(layer)
    except Refusal as refusal:
        yield {"error": refusal.body}
        return
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    name.manifest.parent.mkdir(parents=True, exist_ok=True)
    name.manifest.write_text(json.dumps(manifest))
    yield {"status": "success"}


def of_library(name: Name) -> tuple[dict[str, Any], Any]:
    """From the catalogue: blobs of the right size that hold nothing."""
    size = CATALOGUE.get(f"{name.model}:{name.tag}") if name.namespace == "library" else None
    if size is None:
        raise Refusal(500, "pull model manifest: file does not exist")
    seconds = next((SECONDS[start] for start in SECONDS if name.model.startswith(start)), 1.0)

    def fetch(layer: dict[str, Any]) -> Iterator[dict[str, Any]]:
        target = blob(layer["digest"])
        partial = target.with_name(target.name + "-partial")
        target.parent.mkdir(parents=True, exist_ok=True)
        short = layer["digest"].removeprefix("sha256:")[:12]
        state = {"status": f"pulling {short}", "digest": layer["digest"], "total": layer["size"]}
        if not target.exists():
            done = partial.stat().st_size if partial.exists() else 0
            step = int(layer["size"] / seconds / 10) + 500
            while done < layer["size"]:
                yield {**state, "completed": done} if done else state
                time.sleep(0.1)
                done = min(done + step, layer["size"])
                with partial.open("ab") as file:
                    file.truncate(done)
            partial.rename(target)
        yield {**state, "completed": layer["size"]}

    def described(kind: str, size: int) -> dict[str, Any]:
        digest = hashlib.sha256(f"{name.shown} {kind}".encode()).hexdigest()
        return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": size}

    config = {**described("config", 491), "mediaType": "application/vnd.docker.container.image.v1+json"}
    return {"schemaVersion": 2, "config": config, "layers": [described("model", size)]}, fetch


def of_registry(name: Name, insecure: bool) -> tuple[dict[str, Any], Any]:
    """From a registry that is really asked."""
    base = f"{'http' if insecure else 'https'}://{name.registry}/v2/{name.namespace}/{name.model}"

    def get(url: str) -> Any:
        try:
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": kind}), timeout=30)
        except urllib.error.HTTPError as error:
            raise Refusal(
                500, f"pull model manifest: {'file does not exist' if error.code == 404 else error}"
            ) from None
        except OSError as error:
            why = str(getattr(error, "reason", error))
            if "WRONG_VERSION_NUMBER" in why or "record layer" in why:
                why = "http: server gave HTTP response to HTTPS client"
            elif "Name or service" in why or "name resolution" in why or "No address" in why:
                why = f"dial tcp: lookup {name.registry.partition(':')[0]}: no such host"
            raise Refusal(500, f'pull model manifest: Get "{url}": {why}') from None

    with get(f"{base}/manifests/{name.tag}") as answer:
        manifest = json.loads(answer.read())

    def fetch(layer: dict[str, Any]) -> Iterator[dict[str, Any]]:
        target = blob(layer["digest"])
        target.parent.mkdir(parents=True, exist_ok=True)
        short = layer["digest"].removeprefix("sha256:")[:12]
        state = {"status": f"pulling {short}", "digest": layer["digest"], "total": layer["size"]}
        yield state
        if not target.exists():
            with get(f"{base}/blobs/{layer['digest']}") as answer:
                data = answer.read()
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != layer["digest"]:
                raise Refusal(500, "digest mismatch, file must be downloaded again")
            target.write_bytes(data)
        yield {**state, "completed": layer["size"]}

    return manifest, fetch


# --- serve -----------------------------------------------------------------------------------------------------------


class Loaded:
    """The models in memory: name → until when (seconds since 1970, infinite for ever)."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.mutex = threading.Lock()

    def load(self, name: str, size: int) -> None:
        """Take the time that loading takes; refuse what is too large for this machine."""
        with self.mutex:
            if self.until.get(name, 0) < time.time():
                memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
                if size > memory:
                    need, have = (f"{value / 2**30:.1f} GiB" for value in (size, memory))
                    text = f"model requires more system memory ({need}) than is available ({have})"
                    raise Refusal(500, {"error": text})
                time.sleep(2)
            self.until[name] = time.time() + keep_alive()


LOADED = Loaded()


def moment(seconds: float) -> str:
    """A time as Go writes it; for ever is a few hundred years ahead, as in the real one."""
    if seconds == float("inf"):
        return (datetime.now(UTC) + timedelta(days=292 * 365)).isoformat()
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def entry(shown: str, path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """A model as /api/tags and /api/ps list it."""
    details = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
               "parameter_size": shown.rpartition(":")[2].upper(), "quantization_level": "Q4_0"}  # fmt: skip
    return {
        "name": shown,
        "model": shown,
        "modified_at": moment(path.stat().st_mtime),
        "size": sum(layer["size"] for layer in manifest["layers"]),
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "details": details,
    }


def embeds(name: str) -> bool:
    """Is it an embedding model?"""
    return "embed" in name or "minilm" in name


class Ollama(Handler):
    """The server's routes."""

    def answer(self, method: str, path: str, body: Any) -> Any:
        found = self.routes().get((method, path))
        if found is None:
            raise Refusal(404, "404 page not found")
        return found(body)

    def routes(self) -> dict[tuple[str, str], Any]:
        """(method, path) → what answers."""
        return {
            ("GET", "/"): lambda body: "Ollama is running",
            ("HEAD", "/"): lambda body: "",
            ("GET", "/api/version"): lambda body: {"version": VERSION},
            ("GET", "/api/tags"): lambda body: {"models": [entry(name, *one) for name, one in pulled().items()]},
            ("GET", "/api/ps"): lambda body: {"models": self.running()},
            ("GET", "/v1/models"): lambda body: {
                "object": "list",
                "data": [{"id": name, "object": "model", "owned_by": "library"} for name in pulled()],
            },
            ("POST", "/api/pull"): self.pull,
            ("POST", "/api/show"): lambda body: {"details": entry(*self.of(body))["details"]},
            ("POST", "/api/generate"): self.generate,
            ("POST", "/api/chat"): self.chat,
            ("POST", "/api/embed"): self.embed,
            ("POST", "/v1/chat/completions"): self.completions,
            ("POST", "/v1/embeddings"): self.embeddings,
            ("POST", "/api/copy"): self.copy,
            ("DELETE", "/api/delete"): self.delete,
        }

    def of(self, body: Any, field: str = "model") -> tuple[str, Path, dict[str, Any]]:
        """(shown name, manifest's path, manifest) of the model that a request names."""
        text = body.get(field) or body.get("name") or ""
        if not text:
            raise Refusal(400, {"error": "model is required"})
        shown = Name(text).shown
        if shown not in pulled():
            raise Refusal(404, {"error": f"model '{text}' not found"})
        return shown, *pulled()[shown]

    def running(self) -> list[dict[str, Any]]:
        """What is in memory, and how much of it on cards."""
        there, listed = pulled(), []
        for name, until in LOADED.until.items():
            if name in there and until > time.time():
                one = entry(name, *there[name])
                context = int(os.environ.get("OLLAMA_CONTEXT_LENGTH") or 4096)
                on_cards = one["size"] if cards() else 0
                listed.append({**one, "expires_at": moment(until), "size_vram": on_cards, "context_length": context})
        return listed

    def pull(self, body: Any) -> Any:
        lines = pull(Name(body.get("model") or body.get("name") or ""), body.get("insecure", False))
        if body.get("stream", True):
            return lines
        last = list(lines)[-1]
        if "error" in last:
            raise Refusal(500, last)
        return last

    def load(self, body: Any, what: str) -> str:
        """Load the model of a request that generates or embeds; return its name."""
        name, _, manifest = self.of(body)
        if embeds(name) != (what == "embed"):
            does_not = "generate" if what == "generate" else "chat" if what == "chat" else "embeddings"
            raise Refusal(400, {"error": f'"{body.get("model")}" does not support {does_not}'})
        LOADED.load(name, sum(layer["size"] for layer in manifest["layers"]))
        return name

    def generate(self, body: Any) -> Any:
        name = self.load(body, "generate")
        common = {"model": name, "created_at": moment(time.time()), "done": True}
        if not body.get("prompt"):
            return {**common, "response": "", "done_reason": "load"}
        return {**common, "response": f"I am {name}.", "done_reason": "length" if body.get("options") else "stop"}

    def chat(self, body: Any) -> Any:
        name = self.load(body, "chat")
        message = {"role": "assistant", "content": f"I am {name}."}
        return {
            "model": name,
            "created_at": moment(time.time()),
            "message": message,
            "done": True,
            "done_reason": "stop",
        }

    def embed(self, body: Any) -> Any:
        name = self.load(body, "embed")
        texts = body.get("input", "")
        return {"model": name, "embeddings": [vector(text) for text in ([texts] if isinstance(texts, str) else texts)]}

    def completions(self, body: Any) -> Any:
        name = self.load(body, "chat")
        choice = {"index": 0, "message": {"role": "assistant", "content": f"I am {name}."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": name,
                "choices": [choice], "usage": usage}  # fmt: skip

    def embeddings(self, body: Any) -> Any:
        found = self.embed(body)
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(found["embeddings"])]
        return {
            "object": "list",
            "data": data,
            "model": found["model"],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    def copy(self, body: Any) -> Any:
        _, path, _ = self.of(body, "source")
        target = Name(body.get("destination", "")).manifest
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        return ""

    def delete(self, body: Any) -> Any:
        name, path, manifest = self.of(body)
        path.unlink()
        LOADED.until.pop(name, None)
        used = {layer["digest"] for _, other in pulled().values() for layer in [*other["layers"], other["config"]]}
        for layer in [*manifest["layers"], manifest["config"]]:
            if layer["digest"] not in used:
                blob(layer["digest"]).unlink(missing_ok=True)
        return ""


def serve() -> None:
    check_environment()
    models().mkdir(parents=True, exist_ok=True)
    server = Server(address(), Ollama)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    print(f'level=INFO source=routes.go msg="Listening on {address()[0]}:{address()[1]} (version {VERSION})"')
    found = cards()
    for uuid, memory, compute in found:
        print(f'level=INFO source=types.go msg="inference compute" id={uuid} library=cuda compute={compute} '
              f'total="{memory / 1024:.1f} GiB"')  # fmt: skip
    if not found:
        print('level=INFO source=types.go msg="inference compute" id=0 library=cpu')
    sys.stdout.flush()
    server.serve_forever()


# --- the other commands ----------------------------------------------------------------------------------------------


def call(method: str, path: str, body: Any = None) -> Iterator[Any]:
    """What the server of this container answers, line by line."""
    host, port = address()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                yield json.loads(line)
    except urllib.error.HTTPError as error:
        die(f"Error: {json.loads(error.read()).get('error')}")
    except OSError:
        die("Error: could not connect to ollama server, run 'ollama serve' to start it")


def table(heads: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["--version" | "-v"]:
            print(f"ollama version is {VERSION}")
        case ["list" | "ls"]:
            (answer,) = call("GET", "/api/tags")
            rows = [[m["name"], m["digest"][:12], f"{m['size'] / 1e9:.1f} GB", "now"] for m in answer["models"]]
            table(["NAME", "ID", "SIZE", "MODIFIED"], rows)
        case ["ps"]:
            (answer,) = call("GET", "/api/ps")
            rows = [
                [m["name"], m["digest"][:12], "100% GPU" if m["size_vram"] else "100% CPU"] for m in answer["models"]
            ]
            table(["NAME", "ID", "PROCESSOR"], rows)
        case ["pull", name]:
            for line in call("POST", "/api/pull", {"model": name}):
                if "error" in line:
                    die(f"Error: {line['error']}")
                print(line["status"])
        case ["rm", name]:
            list(call("DELETE", "/api/delete", {"model": name}))
            print(f"deleted '{name}'")
        case [command, *_]:
            die(f'Error: unknown command "{command}" for "ollama"')
        case _:
            die("Usage:\n  ollama [flags]\n  ollama [command]", 0)


main()
