"""The routes that vLLM and SGLang share: OpenAI's, rerank, and those that need no key."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from common import Handler, Refusal, vector


class OpenAi(Handler):
    """A server of one model. kind: chat, embed or rerank. sentence: its answer. key: None for an open server."""

    name: ClassVar[str]
    kind: ClassVar[str]
    sentence: ClassVar[str]
    key: ClassVar[str | None] = None
    version: ClassVar[str]
    longest: ClassVar[int]

    def answer(self, method: str, path: str, body: Any) -> Any:
        if self.key is not None and self.guarded(path) and self.bearer() != self.key:
            raise Refusal(401, {"error": "Unauthorized"})
        found = self.routes().get((method, path))
        if found is None:
            raise Refusal(404, {"detail": "Not Found"})
        return found(body)

    def guarded(self, path: str) -> bool:
        """Does this path require the key?"""
        return path.startswith("/v1/")

    def routes(self) -> dict[tuple[str, str], Any]:
        """(method, path) → handler. A model has the routes of its kind."""
        own: dict[str, dict[tuple[str, str], Any]] = {
            "chat": {
                ("POST", "/v1/chat/completions"): self.chat,
                ("POST", "/v1/completions"): self.completion,
            },
            "embed": {("POST", "/v1/embeddings"): self.embeddings},
            "rerank": {("POST", path): self.rerank for path in ("/v1/rerank", "/rerank", "/v2/rerank")},
        }
        return {
            ("GET", "/health"): lambda body: "",
            ("GET", "/v1/models"): lambda body: {"object": "list", "data": [self.entry()]},
            ("GET", "/version"): lambda body: {"version": self.version},
            **own[self.kind],
        }

    def entry(self) -> dict[str, Any]:
        """The model as in /v1/models."""
        return {"id": self.name, "object": "model", "created": int(time.time()), "max_model_len": self.longest}

    def named(self, body: Any) -> str:
        """The model name of the answer. Refuses other names."""
        name = str(body.get("model") or self.name)
        if name != self.name:
            error = {"message": f"The model `{name}` does not exist.", "type": "NotFoundError", "param": "model"}
            raise Refusal(404, {"error": {**error, "code": 404}})
        return name

    def chat(self, body: Any) -> Any:
        name = self.named(body)
        if not body.get("messages"):
            raise Refusal(400, {"error": {"message": "messages: Field required", "type": "BadRequestError"}})
        choice = {"index": 0, "message": {"role": "assistant", "content": self.sentence}, "finish_reason": "stop"}
        return self.done("chat.completion", name, {"choices": [choice]})

    def completion(self, body: Any) -> Any:
        name = self.named(body)
        choice = {"index": 0, "text": self.sentence, "finish_reason": "stop"}
        return self.done("text_completion", name, {"choices": [choice]})

    def embeddings(self, body: Any) -> Any:
        name = self.named(body)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
        return self.done("list", name, {"data": data})

    def rerank(self, body: Any) -> Any:
        name = self.named(body)
        words = set(body["query"].lower().split())
        found = []
        for index, document in enumerate(body["documents"]):
            score = len(words & set(document.lower().split())) / max(len(words), 1)
            found.append({"index": index, "document": {"text": document}, "relevance_score": score})
        found.sort(key=lambda one: -one["relevance_score"])
        return self.done("list", name, {"results": found})

    def done(self, kind: str, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """The fields around an answer."""
        usage = {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
        return {"id": "standin-1", "object": kind, "created": int(time.time()), "model": name, "usage": usage,
                **content}  # fmt: skip
