"""Smoke test: one real request to a model that reports ready. A part of models.py.

A ready server listens and names its model; only an answer proves that it serves. Runs on the host's
own python3 (3.6 or newer, standard library only).
"""

import json
import os
import re
import time
from urllib.parse import urlsplit

import kept_logs
import request
from dockerd import recorded, secret_text
from json_data import parsed
from messages import Failure, TimeIsUp, say
from programs import LARGEST, Child
from progress import Progress, show_progress  # (beside this file)

SILENCE = 600  # seconds; a large model on a CPU takes minutes to its first token
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "request.py")
ANSWERS = {
    "/v1/chat/completions": ("choices", 0, "message", "role"),
    "/v1/completions": ("choices", 0, "text"),
    "/v1/embeddings": ("data", 0, "embedding", 0),
    "/v1/rerank": ("results", 0, "relevance_score"),
    "/rerank": (0, "score"),
    "/predict": (0,),
    "/classify": ("data", 0, "probs", 0),
    "/pooling": ("data", 0, "data"),
}
"""Path of a request → keys that its answer must have, from the outside to the inside. llama.cpp's /embedding is not
here: its answer differs between builds."""
NAMED = {"/v1/chat/completions": True, "/v1/completions": True, "/v1/embeddings": True, "/v1/rerank": False}
"""Path → must its answer name the model? Where not (vLLM and llama.cpp do, a gateway does not), a name that is given
must still match. TEI's own answers are lists without a name."""
THROUGH = {"/rerank": "/v1/rerank", "/api/generate": "/v1/chat/completions", "/api/embed": "/v1/embeddings"}
"""An engine's own path → the gateway's path for the same request."""
PIPE = 65536  # bytes that a pipe holds unread
OTHERS = 60  # seconds for a model behind a gateway in another Docker: its owner may let this run wait
UP = 5  # seconds for a readiness request to a running model
LATE = re.compile("timed out|no complete answer within")
"""In the reason of a request that took too long (request.py), not of one whose server has ended."""
BUSY = (429, 503)  # HTTP statuses of a server that has enough requests, or of one that does not work
DRAIN = 30  # seconds that running requests get before a stop
WORKS = 15  # seconds in which a busy server finishes something for somebody


class Asleep(Exception):
    """It sleeps, so it is not tested: a request would wake it, or end it (vLLM). Nothing is known of it meanwhile."""


class Busy(Failure):
    """It refuses a test request, or takes too long for it, because it works for others: it serves."""

    code = "test-request-failed"


def smoke_test(dockerd, name, url, requests, key=None, container_id=None, counter=None, runs=lambda: True):
    """Send `requests` (path, body) until the model answers one of them. Raises Failure for a wrong or missing answer.

    A server that knows none of the paths is of another kind and passes. One that knows a path but not the model also
    answers 404, with the model's name.

    key: its key in Compose, by default its name; the folder of its secrets. container_id: whose log ends the message,
    by default that of the container in the record. counter: (path, name) of the engine's count of finished work. Where
    that rises while this request is refused as too many or takes too long, Busy is raised. runs: does its container?
    Asked before each request: another process on its port would receive its key. Where its Docker does not say, the
    Failure names the Docker: that is no failure of the model."""
    refused, api_key = [], dockerd.api_key(key or name)
    before = count(dockerd, url, counter, api_key) if known_to_run(runs) else None
    for path, body in requests:
        if not runs():
            what = "its container ended before its test request."
            raise Failure(what + log_of(dockerd, name, container_id), "exited")
        with show_progress(Progress(name), "sending a test request"):
            status, said = send(dockerd, url, path, body, api_key)
        if status == 200:
            check(path, body.get("model"), said)
            return
        if status in (401, 403):
            why = key_error(api_key, status, "POST " + path)
            raise Failure(dockerd.without_secrets(why + log_of(dockerd, name, container_id)), "key-rejected")
        what = "POST {}: {} {}".format(path, status or "no answer,", said.strip()[:300])
        if (status in BUSY or (status == 0 and LATE.search(said))) and rises(
            dockerd, url, counter, api_key, before, runs
        ):
            raise Busy("busy with other requests ({})".format(dockerd.without_secrets(what)))
        if status == 0:
            what = "started, but the test request failed (POST {}: {}).".format(path, said)
            raise Failure(dockerd.without_secrets(what + log_of(dockerd, name, container_id)), "test-request-failed")
        unknown_model = status == 404 and str(body.get("model") or "\0") in said
        if status not in (404, 405) or unknown_model:
            refused.append(what)
    if refused:
        what = "started, but every test request failed ({}).".format("; ".join(refused))
        raise Failure(dockerd.without_secrets(what + log_of(dockerd, name, container_id)), "test-request-failed")


def known_to_run(runs):
    """Does a container run? False where its Docker does not say: then it is not asked for counts."""
    try:
        return runs()
    except Failure:
        return False


def log_of(dockerd, name, container_id):
    """The end of a message: the last lines of a container's log."""
    return kept_logs.quoted(dockerd, container_id) if container_id else " " + dockerd.logs(name)


def drain(dockerd, name, url, running, key=None, runs=lambda: True):
    """Wait until a model that is going to be stopped works on no request, at most DRAIN seconds.

    Returns how many are left. running: (path, name) of the engine's count of running requests, None if it has none.
    runs: as for smoke_test.

    New requests still come, so this helps where they are few."""
    progress, api_key = Progress(name), dockerd.api_key(key or name)
    while running and known_to_run(runs):
        left = count(dockerd, url, running, api_key) or 0
        if left <= 0 or progress.elapsed() >= DRAIN:
            return int(left)
        progress.tell("waiting for {:.0f} running requests".format(left))
        time.sleep(0.5)
    return 0


def count(dockerd, url, counter, key):
    """A number in Prometheus' text format, over all its labels; None where the server does not say."""
    if not counter:
        return None
    status, said = send(dockerd, url, counter[0], None, key, UP)
    number = r"(?m)^{}(?:\{{[^\n]*\}})? +([0-9.eE+-]{{1,40}})(?: |$)".format(re.escape(counter[1]))
    try:
        values = [float(value) for value in re.findall(number, said)] if status == 200 else []
    except ValueError:
        return None
    return min(sum(values), 1e18) if values else None


def sleeps(told, ask):
    """Does a model sleep? told: (path, key of the answer), or None. ask: sends a GET to a path of it, as `send`."""
    status, said = ask(told[0]) if told else (0, "")
    found = parsed(said) if status == 200 else None
    return isinstance(found, dict) and found.get(told[1]) is True


def rises(dockerd, url, counter, key, before, runs):
    """Does the counter rise above `before`, now or within WORKS seconds? runs: as for smoke_test."""
    begun = time.monotonic()
    while known_to_run(runs):
        now = count(dockerd, url, counter, key)
        if now is None:
            return False
        if before is not None and now > before:
            return True
        before = now if before is None else before
        if time.monotonic() - begun >= WORKS:
            return False
        time.sleep(0.5)
    return False


def key_error(key, status, where):
    """The message for a server whose key differs from the inventory. key: the inventory's, or None."""
    what = "rejects the key in `api_key`" if key is not None else "requires a key, but the inventory has none"
    hint = "Set the key in `api_key` only, not in env, args or the image."
    return "the server {} (HTTP {} at {}). {}".format(what, status, where, hint)


def check(path, model, said):
    """Raise Failure where an answer lacks the keys of its kind, or names another model."""
    answer = found = parsed(said)
    try:
        for step in ANSWERS.get(path, ()):
            found = found[step]
    except (LookupError, TypeError):
        where = ".".join(str(step) for step in ANSWERS[path])
        raise Failure(
            "the answer to POST {} has no `{}`: {}".format(path, where, said[:200]), "test-request-failed"
        ) from None
    if path in NAMED and (NAMED[path] or "model" in answer) and answer.get("model") != model:
        what = "POST {} was answered by model `{}` instead of `{}`"
        raise Failure(what.format(path, answer.get("model"), model), "test-request-failed")


def smoke_test_gateway(dockerd, name, url, gateway, container_id=None, runs=lambda: True):
    """Check that a gateway lists exactly the models behind it and forwards a request that one of them answers.

    A model that is down, sleeps or fails on its own does not fail the gateway. Raises Failure. container_id: by default
    that of its container in the record. runs: as for smoke_test.

    gateway: `key`, the file in its container with the key for its host; `requests`, (path, body) in the gateway's API;
    `behind`, its models, each with its names, the URL of its readiness, the file of its key, its requests and how it
    says that it sleeps, and on this host also with the user and name of its container (see `send_behind`).
    """
    key = dockerd.must("exec", container_id or dockerd.id_of(name) or name, "cat", gateway["key"]).strip()
    behind = gateway["behind"]
    status, said = send(dockerd, url, "/v1/models", None, key)
    try:
        listed = {str(one["id"]) for one in parsed(said)["data"]}
    except (LookupError, TypeError):
        what = "started, but GET /v1/models lists no models: {} {}.".format(status, said.strip()[:300])
        raise Failure(what + log_of(dockerd, name, container_id), "gateway-test-failed") from None
    wanted = {served for other in behind for served in other["serves"]}
    if listed != wanted:
        what = "GET /v1/models lists {}, but `connects_to` selects {}."
        shown = [", ".join(sorted(names)) or "nothing" for names in (listed, wanted)]
        raise Failure(what.format(*shown) + log_of(dockerd, name, container_id), "gateway-test-failed")
    up = [other for other in behind if awake(dockerd, other)]
    up.sort(key=lambda other: other.get("user") != dockerd.user)  # the gateway's own Docker first
    failure = None
    away = {served for other in behind if other not in up for served in other["serves"]}
    with show_progress(Progress(name), "sending a test request"):
        for other in up:
            path = answered(dockerd, other)
            through, served = THROUGH.get(path, path), other["serves"][0]
            if through not in dict(gateway["requests"]) or served in away:  # a replica that is down may cost minutes
                continue
            body = dict(dict(gateway["requests"])[through], model=served)
            if not runs():
                what = "its container ended before its test request."
                raise Failure(what + log_of(dockerd, name, container_id), "exited")
            status, said = send(dockerd, url, through, body, key, patience_for(dockerd, other))
            if status == 200:
                check(through, served, said)
                return
            if failure is None:
                what = "{} answers, but not through this gateway (POST {}: {} {})."
                why = what.format(served, through, status, said.strip()[:300]) + log_of(dockerd, name, container_id)
                failure = Failure(dockerd.without_secrets(why), "gateway-test-failed")
            if other.get("user") == dockerd.user:
                break
    if failure:
        raise failure
    say(name, "none of the models behind this gateway answers yet")


def patience_for(dockerd, other):
    """Seconds that a model behind a gateway of this daemon may take for its answer."""
    return SILENCE if other.get("user") == dockerd.user else OTHERS


def awake(dockerd, other):
    """Is a model behind a gateway ready, and does it not sleep?"""
    ask = lambda path: send_behind(dockerd, other, path, None, UP)  # noqa: E731
    return ask(urlsplit(other["url"]).path)[0] == 200 and not sleeps(other.get("sleeping"), ask)


def answered(dockerd, other):
    """The path of the first request that a model behind a gateway answers directly, or None."""
    for path, body in other["requests"]:
        status, said = send_behind(dockerd, other, path, body, patience_for(dockerd, other))
        if status in (0, 200):
            try:
                check(path, body.get("model"), said)
            except Failure:
                return None
            return path
    return None


def send_behind(dockerd, other, path, body, patience=SILENCE):
    """Like `send`, to a model behind a gateway of this daemon.

    A model on this host is asked as the user of its Docker, and only while its container in the record runs. Otherwise
    the key would go to whatever process has its port by then. A model on another host is asked as the user of the
    gateway, so by root for a gateway in the host's own Docker. Root does not trust that server: request.py reads no
    configuration, follows no redirect and limits the answer. Whether its container runs is unknown here; the gateway
    itself sends the same key there with each request."""
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
    """The key that a gateway sends to a model behind it, or None."""
    if other["key"] is None:
        return None
    return secret_text(other["key"]).strip()


def send(dockerd, url, path, body, key, patience=SILENCE):
    """Send a POST, or a GET without a body; returns (HTTP status, answer), or (0, reason) without a complete answer.

    patience: seconds. A user's model is asked as that user."""
    pieces, answer, length = open_request(dockerd, url, path, body, key, patience, patience), [], 0
    try:
        status = next(pieces)
        for piece in pieces:
            answer.append(piece)
            length += len(piece)
            if length > LARGEST:
                return 0, "the answer is larger than {} bytes".format(LARGEST)
        return status, b"".join(answer).decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)
    finally:
        pieces.close()


def open_request(dockerd, url, path, body, key, silence, limit, method=None):
    """Yield the status of an answer, then pieces of its body.

    Raises OSError, and Failure where no time is left to wait for a user's Docker (Dockerd.allowed).
    """
    query = {"url": url, "path": path, "body": body, "key": key, "silence": silence, "limit": limit}
    query["method"] = method or ("GET" if body is None else "POST")
    if not dockerd.become:
        return request.ask(query)
    return request_as_user(dockerd, dict(query, limit=round(dockerd.allowed(limit), 1)))


def request_as_user(dockerd, query):
    """Like request.ask, run as the model's user, whose program listens there. The key goes by standard input.

    Its output is parsed as data. Raises OSError."""
    text = json.dumps(query)
    if len(text) > PIPE:  # more would wait for its reader, whom its user may stop
        raise OSError("the request is longer than {} bytes".format(PIPE))
    child = Child(
        [*dockerd.become, "python3", "-I", PROGRAM],
        limit=query["limit"] + 10,
        silence=query["silence"] + 10,  # the user may stop it
        text=text,
        what="the answer of " + query["url"],
    )
    head, begun, late = b"", False, "no complete answer within {} s".format(query["limit"])
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
                    raise OSError(str(said.get("why", "request.py, run as the model's user, printed no valid answer")))
                begun = True
                yield said["status"]
            if piece:
                yield piece
    except TimeIsUp:
        raise OSError(late) from None
    if not begun:
        raise OSError("request.py, run as the model's user, ended with exit code {}".format(child.code))
    if child.code:
        raise OSError(late if child.code == 2 else "the answer was cut off")
