"""Checks the keys and paths of requests to the gateway. Runs inside LiteLLM, as its `custom_auth` and callback.

LiteLLM itself would need a database for clients' keys. Its master key also allows management, and its pass-through
(/vllm/…) forwards requests to routes of a worker that require no key. So there is no master key: each key gives access
to the paths of models only, and no key to any other path. The gateway has only the keys' sha256, by name.
"""

import hashlib
import json
import os
import re

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

USES = re.compile(
    r"(/v1)?/(models(/.+)?|chat/completions|completions|embeddings|rerank|responses|messages|audio/\w+)|/v2/rerank"
)
SHARED = "api_key"  # the name in the log for the key that all clients share
HOST = "gpurack"  # the same for requests of its own host, which tests the gateway after each start


def read_keys():
    """sha256 of a key → its name. Raises OSError for an unreadable file, so that the gateway does not start."""
    known = {}
    if os.environ.get("GATEWAY_KEYS"):
        with open(os.environ["GATEWAY_KEYS"]) as file:
            known = {key: name for name, key in json.load(file).items()}
    for variable, name in (("GATEWAY_API_KEY", SHARED), ("GATEWAY_HOST_KEY", HOST)):
        if os.environ.get(variable):
            with open(os.environ[variable]) as file:
                known[hashlib.sha256(file.read().strip().encode()).hexdigest()] = name
    return known


KEYS = read_keys()


async def keyed(request, api_key):
    """The client with this key. Raises HTTPException (401) for an unknown key."""
    key = hashlib.sha256((api_key or "").encode()).hexdigest()
    if key not in KEYS:
        raise HTTPException(401, "Unknown key. Send your key as `Authorization: Bearer KEY`.")
    return may_use(request, KEYS[key], key)


async def open_to_all(request, api_key):
    """Any client, for a gateway without keys."""
    return may_use(request, "anybody", None)


def may_use(request, name, key):
    """The client, for a path of models. Raises HTTPException (403) for any other path."""
    if not USES.fullmatch(request.url.path.rstrip("/")):
        raise HTTPException(403, "This gateway serves models only, not this path.")
    return UserAPIKeyAuth(api_key=key, user_id=name, key_alias=name)


class Usage(CustomLogger):
    """Writes a line to the log for each answer: client, model, tokens, duration."""

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        told = kwargs.get("standard_logging_object") or {}
        who = told.get("metadata", {}).get("user_api_key_alias")
        tokens = "{} + {} tokens".format(told.get("prompt_tokens"), told.get("completion_tokens"))
        seconds = (end_time - start_time).total_seconds()
        print("used by {}: {}, {}, {:.1f} s".format(who, told.get("model_group"), tokens, seconds), flush=True)


usage = Usage()
