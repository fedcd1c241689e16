"""files/litellm_gateway.py inside LiteLLM: which keys and paths it accepts. With fakes of the image's modules;
tests/acceptance/engines/test_services.py uses the real ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.host_programs import FILES


class HttpException(Exception):
    """FastAPI's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def load(monkeypatch: pytest.MonkeyPatch, **environment: Path) -> Any:
    """The module as LiteLLM loads it, with these variables."""
    for name in ("GATEWAY_KEYS", "GATEWAY_API_KEY", "GATEWAY_HOST_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, path in environment.items():
        monkeypatch.setenv(name, str(path))
    fakes = {
        "fastapi": {"HTTPException": HttpException},
        "litellm": {},
        "litellm.integrations": {},
        "litellm.integrations.custom_logger": {"CustomLogger": object},
        "litellm.proxy": {},
        "litellm.proxy._types": {"UserAPIKeyAuth": SimpleNamespace},
    }
    for name, content in fakes.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("gateway", FILES / "litellm_gateway.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway with alice's key, a shared key, and one for its host."""
    (tmp_path / "keys").write_text(json.dumps({"alice": hashlib.sha256(b"sk-alice").hexdigest()}))
    (tmp_path / "api_key").write_text("sk-all\n")
    (tmp_path / "host").write_text("4f1a")
    paths = {"GATEWAY_KEYS": "keys", "GATEWAY_API_KEY": "api_key", "GATEWAY_HOST_KEY": "host"}
    return load(monkeypatch, **{variable: tmp_path / name for variable, name in paths.items()})


def came_in(check: Any, path: str, key: str | None) -> Any:
    """The name of the client, or the HTTP status of the error."""
    try:
        return asyncio.run(check(SimpleNamespace(url=SimpleNamespace(path=path)), key)).user_id
    except HttpException as refusal:
        return refusal.status


@pytest.mark.parametrize(
    ("key", "who"),
    [
        ("sk-alice", "alice"),
        ("sk-all", "api_key"),
        ("4f1a", "gpurack"),
        ("sk-bob", 401),
        ("", 401),
        (None, 401),
        ("alice", 401),
    ],
)
def test_accepts_known_keys_only(keyed: Any, key: str | None, who: Any) -> None:
    assert came_in(keyed.keyed, "/v1/chat/completions", key) == who


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/models/", "/v1/models/qwen", "/chat/completions", "/v1/completions", "/v1/embeddings",
     "/v1/rerank", "/rerank", "/v2/rerank", "/v1/responses", "/v1/messages", "/v1/audio/transcriptions"],
)  # fmt: skip
def test_accepts_paths_of_models_with_any_key(keyed: Any, path: str) -> None:
    assert came_in(keyed.keyed, path, "sk-alice") == "alice"
    assert came_in(keyed.open_to_all, path, None) == "anybody"


@pytest.mark.parametrize(
    "path",
    ["/vllm/pause", "/vllm/v1/models", "/hosted_vllm/tokenize", "/key/generate", "/v1/model/info", "/model/new",
     "/health", "/config/yaml", "/v1/files", "/", "/v1/chat/completions/../../vllm/pause", "//v1/models", "/metrics"],
)  # fmt: skip
def test_refuses_all_other_paths(keyed: Any, path: str) -> None:
    assert came_in(keyed.keyed, path, "sk-all") == 403
    assert came_in(keyed.open_to_all, path, None) == 403


def test_does_not_start_without_its_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        load(monkeypatch, GATEWAY_KEYS=tmp_path / "keys")


def test_logs_one_line_per_answer(keyed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "standard_logging_object": {
            "metadata": {"user_api_key_alias": "alice"}, "model_group": "qwen", "prompt_tokens": 18,
            "completion_tokens": 7,
        }
    }  # fmt: skip
    begun = datetime(2026, 11, 20)
    asyncio.run(keyed.usage.async_log_success_event(told, None, begun, begun + timedelta(seconds=0.84)))
    assert capsys.readouterr().out == "used by alice: qwen, 18 + 7 tokens, 0.8 s\n"


def test_text_is_that_of_earlier_versions() -> None:
    """Any change of this file, also of a comment, recreates gateways of a gpurack that labelled neither `config` nor
    `upstreams`: their label cannot tell it from a change of the inventory. So change it for a user's sake only."""
    text = (FILES / "litellm_gateway.py").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "2949f8cd492a9de22e8817268621f2e3496c3742b4d5d7c924e5b3a22e057479"
