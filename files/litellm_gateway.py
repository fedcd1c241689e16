"""Who may use the gateway, and for what. Runs inside LiteLLM: `general_settings.custom_auth` and a callback.

LiteLLM keeps people's keys in a database, its one master key also opens its management, and its pass-through (/vllm/…)
hands on requests to routes of a worker that ask for no key. So no key here is LiteLLM's master key: each opens the
addresses by which people use models, and nothing opens any other. Keys are known by their sums alone (name → sha256).
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
SHARED = "api_key"  # who is named where a request came with the key that everybody shares
HOST = "gpurack"  # and where its own host asked, after each start


def read_keys():
    """sha256 → whose key it is. A file that is named and cannot be read ends the start: it would let nobody in."""
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
    """The one who sent a known key; everybody else is sent away."""
    key = hashlib.sha256((api_key or "").encode()).hexdigest()
    if key not in KEYS:
        raise HTTPException(401, "This key is not known here: send yours as `Authorization: Bearer KEY`.")
    return may_use(request, KEYS[key], key)


async def open_to_all(request, api_key):
    """For a gateway without keys."""
    return may_use(request, "anybody", None)


def may_use(request, name, key):
    """Models, and nothing else that LiteLLM can do."""
    if not USES.fullmatch(request.url.path.rstrip("/")):
        raise HTTPException(403, "The gateway serves models only; there is nothing for you at this address.")
    return UserAPIKeyAuth(api_key=key, user_id=name, key_alias=name)


class Usage(CustomLogger):
    """One line in the log for each answer: who used what."""

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        told = kwargs.get("standard_logging_object") or {}
        who = told.get("metadata", {}).get("user_api_key_alias")
        tokens = "{} + {} tokens".format(told.get("prompt_tokens"), told.get("completion_tokens"))
        seconds = (end_time - start_time).total_seconds()
        print("used by {}: {}, {}, {:.1f} s".format(who, told.get("model_group"), tokens, seconds), flush=True)


usage = Usage()
