"""One real request to a model that says it is ready. A part of models.py.

Being ready proves that a server listens and what it calls itself; an answer proves that it serves. Runs on the host's
own python3 (3.6 or newer, standard library only).
"""

import json
import os
from urllib.parse import urlsplit

import request
from common import LARGEST, Child, Failure, Progress, TimeIsUp, parsed, say, telling  # (beside this file)
from dockerd import recorded

SILENCE = 600  # seconds; a large model on a CPU takes minutes to its first token
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "request.py")
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
PIPE = 65536  # bytes that a pipe takes unread
UP = 5  # seconds in which a model that is up says that it is ready


def ask(dockerd, name, url, requests):
    """Ask for what its kind of model gives: the first of `requests` (path, body) that it answers at all. Raises Failure
    with a sentence when the answer is none. A server that knows none of the paths is of another kind, and not asked;
    one that knows a path and not the model says 404 as well, and the model's name."""
    refused = []
    for path, body in requests:
        with telling(Progress(name), "asking it"):
            status, said = send(dockerd, url, path, body, dockerd.api_key(name))
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
    answer = found = parsed(said)
    try:
        for step in ANSWERS.get(path, ()):
            found = found[step]
    except (LookupError, TypeError):
        where = ".".join(str(step) for step in ANSWERS[path])
        raise Failure("its answer to POST {} has no {}: {}".format(path, where, said[:200])) from None
    if path in NAMED and (NAMED[path] or "model" in answer) and answer.get("model") != model:
        what = 'its answer to POST {} comes from "{}", not from "{}"'
        raise Failure(what.format(path, answer.get("model"), model))


def ask_gateway(dockerd, name, url, gateway):
    """A gateway lists the models behind it and no others, and what one of them answers by itself it answers through
    the gateway. One that is away, or ill itself, is no failure of the gateway's. Raises Failure with a sentence.

    gateway: key, the file in its container with the key for its host; requests, in a gateway's words (path, body);
    behind, what it stands before: names that it serves, the url where it is ready, the file of its key, its requests;
    where it is on this host also user and name, those of its container (see `send_behind`).
    """
    key = dockerd.must("exec", dockerd.id_of(name) or name, "cat", gateway["key"]).strip()
    behind = gateway["behind"]
    status, said = send(dockerd, url, "/v1/models", None, key)
    try:
        listed = {str(one["id"]) for one in parsed(said)["data"]}
    except (LookupError, TypeError):
        what = "it is ready, but lists no models at GET /v1/models: {} {}. {}"
        raise Failure(what.format(status, said.strip()[:300], dockerd.logs(name))) from None
    wanted = {served for other in behind for served in other["serves"]}
    if listed != wanted:
        what = "it lists {}, but what connects_to means is {}. {}"
        shown = [", ".join(sorted(names)) or "nothing" for names in (listed, wanted)]
        raise Failure(what.format(*(shown + [dockerd.logs(name)])))
    up = [other for other in behind if send_behind(dockerd, other, urlsplit(other["url"]).path, None, UP)[0] == 200]
    away = {served for other in behind if other not in up for served in other["serves"]}
    with telling(Progress(name), "asking it"):
        for other in up:
            path = answered(dockerd, other)
            through, served = THROUGH.get(path, path), other["serves"][0]
            if through not in dict(gateway["requests"]) or served in away:  # a replica that is away may cost minutes
                continue
            status, said = send(dockerd, url, through, dict(dict(gateway["requests"])[through], model=served), key)
            if status != 200:
                what = "{} answers, but not through it. POST {}: {} {}. {}"
                why = what.format(served, through, status, said.strip()[:300], dockerd.logs(name))
                raise Failure(dockerd.without_secrets(why))
            check(through, served, said)
            return
    say(name, "none of the models behind it answers yet")


def answered(dockerd, other):
    """The path of the first request that a model behind a gateway answers by itself; None for one that answers none."""
    for path, body in other["requests"]:
        status, said = send_behind(dockerd, other, path, body)
        if status in (0, 200):
            try:
                check(path, body.get("model"), said)
            except Failure:
                return None
            return path
    return None


def send_behind(dockerd, other, path, body, patience=SILENCE):
    """As `send`, to what is behind a gateway of this daemon.

    What is on this host is asked as the user whose Docker it is in, and only while its container, which the record has,
    runs: else the key would go to whoever has its port by then. What is on another host is asked as the user of the
    gateway: by root for one in the host's own Docker, as root asks the models there. Both are programs that root does
    not trust: request.py reads no configuration, follows no redirect and keeps a bounded answer. Whether that container
    runs is not known here; the gateway itself sends the same key there at each request."""
    asker = dockerd
    if "user" in other:
        try:
            asker = recorded(other["user"])
            status = asker.state_of(other["name"], UP)["status"]
        except Failure as failure:
            return 0, str(failure)
        if status != "running":
            return 0, "its container is {}".format(status)
    return send(asker, other["url"], path, body, key_of(other), patience)


def key_of(other):
    """The key by which a gateway asks what is behind it; None for an open one."""
    if other["key"] is None:
        return None
    with open(other["key"]) as file:
        return file.read().strip()


def send(dockerd, url, path, body, key, patience=SILENCE):
    """(HTTP status, answer) of a POST, or of a GET without a body; status 0 and why, when nothing comes in so many
    seconds. Of a model of a user's, as that user."""
    pieces, answer, length = opened(dockerd, url, path, body, key, patience, patience), [], 0
    try:
        status = next(pieces)
        for piece in pieces:
            answer.append(piece)
            length += len(piece)
            if length > LARGEST:
                return 0, "its answer is larger than {} bytes".format(LARGEST)
        return status, b"".join(answer).decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)
    finally:
        pieces.close()


def opened(dockerd, url, path, body, key, silence, limit, method=None):
    """The status of an answer, then pieces of its body. Raises OSError with a sentence."""
    told = {"url": url, "path": path, "body": body, "key": key, "silence": silence, "limit": limit}
    told["method"] = method or ("GET" if body is None else "POST")
    return by_user(dockerd, told) if dockerd.become else request.ask(told)


def by_user(dockerd, told):
    """As request.ask, by a program of the model's user: who listens there is that user's program, and what it says is
    read as data here. The key goes by standard input."""
    text = json.dumps(told)
    if len(text) > PIPE:  # more would wait for its reader, whom its user may stop
        raise OSError("the request is longer than {} bytes".format(PIPE))
    child = Child(
        [*dockerd.become, "python3", "-I", PROGRAM],
        limit=told["limit"] + 10,
        silence=told["silence"] + 10,  # the user may stop it
        text=text,
    )
    head, begun, late = b"", False, "no whole answer in {} s".format(told["limit"])
    try:
        for piece in child.output():
            if not begun:
                head += piece
                line, end, piece = head.partition(b"\n")
                if not end and len(head) < 65536:
                    continue
                said = parsed(line.decode("utf-8", "replace"))
                said = said if isinstance(said, dict) else {}
                if type(said.get("status")) is not int:
                    raise OSError(str(said.get("why", "what asks it as its user says nothing that can be read")))
                begun = True
                yield said["status"]
            if piece:
                yield piece
    except TimeIsUp:
        raise OSError(late) from None
    if not begun:
        raise OSError("what asks it as its user ended with exit code {}".format(child.code))
    if child.code:
        raise OSError(late if child.code == 2 else "its answer broke off")
