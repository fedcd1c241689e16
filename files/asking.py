"""One real request to a model that says it is ready. A part of models.py.

Being ready proves that a server listens and what it calls itself; an answer proves that it serves. Runs on the host's
own python3 (3.6 or newer, standard library only).
"""

import http.client
import json
from urllib.parse import urlsplit

from common import Failure, Progress, telling  # (beside this file)

SILENCE = 600  # seconds; a large model on a CPU takes minutes to its first token
ANSWERS = {
    "/v1/chat/completions": ("choices", 0, "message", "role"),
    "/v1/completions": ("choices", 0, "text"),
    "/v1/embeddings": ("data", 0, "embedding", 0),
    "/v1/rerank": ("results", 0, "relevance_score"),
    "/rerank": (0, "score"),
    "/predict": (0,),
}
"""Path → what must be in its answer, from the outside to the inside."""
NAMED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""The paths whose answers must name the model that was asked for."""


def ask(dockerd, name, url, requests):
    """Ask for what its kind of model gives: the first of `requests` (path, body) that it answers at all. Raises Failure
    with a sentence when the answer is none. A server that knows none of the paths is of another kind, and not asked;
    one that knows a path and not the model says 404 as well, and the model's name."""
    refused = []
    for path, body in requests:
        with telling(Progress(name), "asking it"):
            status, said = send(url, path, body, dockerd.api_key(name))
        if status == 200:
            check(path, body.get("model"), said)
            return
        if status in (401, 403):
            why = another_key(dockerd.api_key(name), status, "POST " + path)
            raise Failure(dockerd.without_secrets("{} {}".format(why, dockerd.logs(name))))
        if status == 0:
            raise Failure("it is ready, but gave no answer to POST {}: {}. {}".format(path, said, dockerd.logs(name)))
        unknown_model = status == 404 and str(body.get("model") or "\0") in said
        if status not in (404, 405) or unknown_model:
            refused.append("POST {}: {} {}".format(path, status, said.strip()[:300]))
    if refused:
        what = "it is ready, but answers no request. {}. {}"
        raise Failure(dockerd.without_secrets(what.format("; ".join(refused), dockerd.logs(name))))


def another_key(key, status, where):
    """The sentence for a server that has another key than the inventory. key: the inventory's, None without."""
    what = "refuses the key of api_key" if key is not None else "asks for a key, and the inventory has none"
    mend = "give the key in api_key, and nowhere else (env, args, the image)"
    return "it {} (HTTP {} at {}): {}.".format(what, status, where, mend)


def check(path, model, said):
    """Has the answer the shape of its kind, and is it the model's?"""
    try:
        answer = found = json.loads(said)
        for step in ANSWERS.get(path, ()):
            found = found[step]
    except (ValueError, LookupError, TypeError):
        where = ".".join(str(step) for step in ANSWERS[path])
        raise Failure("its answer to POST {} has no {}: {}".format(path, where, said[:200])) from None
    if path in NAMED and answer.get("model") != model:
        what = 'its answer to POST {} comes from "{}", not from "{}"'
        raise Failure(what.format(path, answer.get("model"), model))


def send(url, path, body, key):
    """(HTTP status, body); status 0 and why, when nothing comes."""
    place = urlsplit(url)
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = "Bearer " + key
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=SILENCE)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error) or type(error).__name__
    finally:
        connection.close()
