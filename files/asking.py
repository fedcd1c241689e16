"""One real request to a model that says it is ready. A part of models.py.

Being ready proves that a server listens and what it calls itself; an answer proves that it serves. Runs on the host's
own python3 (3.6 or newer, standard library only).
"""

import http.client
import json
from urllib.parse import urlsplit

from common import Failure, Progress, say, telling  # (beside this file)

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
NAMED = {"/v1/chat/completions": True, "/v1/completions": True, "/v1/embeddings": True, "/v1/rerank": False}
"""Path → must its answer name the model? Where it need not (vLLM and llama.cpp do, a gateway does not), a name that it
has must be that of the model all the same. TEI's own answers are lists, and name nobody."""
THROUGH = {"/rerank": "/v1/rerank", "/api/generate": "/v1/chat/completions", "/api/embed": "/v1/embeddings"}
"""Where an engine is asked in its own way → where a gateway is asked for the same."""
UP = 5  # seconds in which a model that is up says that it is ready


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
    if path in NAMED and (NAMED[path] or "model" in answer) and answer.get("model") != model:
        what = 'its answer to POST {} comes from "{}", not from "{}"'
        raise Failure(what.format(path, answer.get("model"), model))


def ask_gateway(dockerd, name, url, gateway):
    """A gateway lists the models behind it and no others, and what one of them answers by itself it answers through
    the gateway. One that is away, or ill itself, is no failure of the gateway's. Raises Failure with a sentence.

    gateway: key, the file in its container with the key for its host; requests, in a gateway's words (path, body);
    behind, what it stands before: names that it serves, the url where it is ready, the file of its key, its requests.
    """
    key, behind = dockerd.must("exec", name, "cat", gateway["key"]).strip(), gateway["behind"]
    status, said = send(url, "/v1/models", None, key)
    try:
        listed = {one["id"] for one in json.loads(said)["data"]}
    except (ValueError, LookupError, TypeError):
        what = "it is ready, but lists no models at GET /v1/models: {} {}. {}"
        raise Failure(what.format(status, said.strip()[:300], dockerd.logs(name))) from None
    wanted = {served for other in behind for served in other["serves"]}
    if listed != wanted:
        what = "it lists {}, but what connects_to means is {}. {}"
        shown = [", ".join(sorted(names)) or "nothing" for names in (listed, wanted)]
        raise Failure(what.format(*(shown + [dockerd.logs(name)])))
    up = [
        other for other in behind if send(other["url"], urlsplit(other["url"]).path, None, key_of(other), UP)[0] == 200
    ]
    away = {served for other in behind if other not in up for served in other["serves"]}
    with telling(Progress(name), "asking it"):
        for other in up:
            path = answered(other)
            through, served = THROUGH.get(path, path), other["serves"][0]
            if through not in dict(gateway["requests"]) or served in away:  # a replica that is away may cost minutes
                continue
            status, said = send(url, through, dict(dict(gateway["requests"])[through], model=served), key)
            if status != 200:
                what = "{} answers, but not through it. POST {}: {} {}. {}"
                why = what.format(served, through, status, said.strip()[:300], dockerd.logs(name))
                raise Failure(dockerd.without_secrets(why))
            check(through, served, said)
            return
    say(name, "none of the models behind it answers yet")


def answered(other):
    """The path of the first request that a model behind a gateway answers by itself; None for one that answers none."""
    for path, body in other["requests"]:
        status, said = send(other["url"], path, body, key_of(other))
        if status in (0, 200):
            try:
                check(path, body.get("model"), said)
            except Failure:
                return None
            return path
    return None


def key_of(other):
    """The key by which a gateway asks what is behind it; None for an open one."""
    if other["key"] is None:
        return None
    with open(other["key"]) as file:
        return file.read().strip()


def send(url, path, body, key, patience=SILENCE):
    """(HTTP status, answer) of a POST, or of a GET without a body; status 0 and why, when nothing comes in so many
    seconds."""
    place = urlsplit(url)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key is not None:
        headers["Authorization"] = "Bearer " + key
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=patience)
    try:
        connection.request(
            "GET" if body is None else "POST", path, json.dumps(body) if body is not None else None, headers
        )
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error) or type(error).__name__
    finally:
        connection.close()
