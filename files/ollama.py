"""The models of an ollama's own library: pulled, loaded, and removed where that was asked for. A part of models.py.

Speaks ollama's API (docs/api.md of ollama 0.33) over the published port. Runs on the host's own python3 (3.6 or newer,
standard library only).
"""

import http.client
import json
from urllib.parse import urlsplit

from common import Failure, Progress, clock, say, size, telling  # (beside this file)
from remedies import remedy

SILENCE = 600  # seconds without a word from it; a model of hundreds of GB takes minutes to load
TINY = {"stream": False, "options": {"num_predict": 1}}


def settle(model, prune):
    """Until each listed model is there and has answered. model: an entry of the job with `pull` (made by
    gpurack/plan/pulls.py). prune: are models removed that are not listed?"""
    name, server = model["name"], Ollama(model["url"])
    there = server.models()
    for wanted in model["pull"]:
        if wanted["name"] not in there:
            pull(name, server, wanted)
    if prune:
        for left in sorted(there - {wanted["name"] for wanted in model["pull"]}):
            server.call("DELETE", "/api/delete", {"model": left})
            say(name, "removed {}".format(left))
    found = server.digests()
    for pulled, digest in sorted(model.get("ollama", {}).items()):  # the lock's
        if found.get(pulled, digest) != digest:
            what = (
                "{} is not what the lock says: its digest is {}, not {}. Pull it from where the old one still is, or "
            )
            what += "take the new one: gpurack lock INVENTORY {} --upgrade."
            raise Failure(what.format(pulled, found[pulled], digest, name))
    for wanted in model["pull"]:
        load(name, server, wanted["name"])


def pull(name, server, wanted):
    """With progress; ollama itself resumes what was interrupted. A mirror's model gets the name that people use."""
    shown, source, progress, layers = wanted["name"], wanted["from"], Progress(name), {}
    for line in server.stream("/api/pull", {"model": source, "insecure": wanted["insecure"], "stream": True}):
        if "error" in line:
            raise Failure(refusal(shown, source, line["error"]))
        if line.get("total"):
            layers[line.get("digest")] = (line.get("completed") or 0, line["total"])
        have, total = (sum(layer[i] for layer in layers.values()) for i in (0, 1))
        of = "{} of {}".format(size(have), size(total)) if total else line.get("status", "")
        progress.tell("pulling {}, {}".format(shown, of))
    if source != shown:
        server.call("POST", "/api/copy", {"source": source, "destination": shown})
        server.call("DELETE", "/api/delete", {"model": source})
    if shown not in server.models():
        raise Failure("{} is not there after it was pulled; see docker logs {}".format(shown, name))
    say(name, "pulled {} in {}".format(shown, clock(progress.elapsed())))


def refusal(shown, source, error):
    """Why a model cannot be pulled, and what helps."""
    if "file does not exist" in error:
        remedy = "Correct pull: the name and tag as ollama's library has them"
    else:
        remedy = 'Where the host reaches no library, name a mirror: mirrors: {"registry.ollama.ai": …}'
    by = "" if shown == source else " (as {})".format(source)
    return "{} cannot be pulled{}: {}. {}".format(shown, by, error.rstrip("."), remedy)


def load(name, server, model):
    """Until it has answered: one token, or for what cannot write, one embedding."""
    with telling(Progress(name), "loading " + model):
        status, said = server.ask("/api/generate", dict(TINY, model=model, prompt="1"))
        if status == 400 and "does not support generate" in said.get("error", ""):
            status, said = server.ask("/api/embed", {"model": model, "input": "1"})
    if status != 200:
        why = said.get("error", "HTTP {}".format(status)).rstrip(".")
        raise Failure("{} does not answer: {}.{}".format(model, why, remedy(0, why)))


class Ollama:
    """Its API at the address of a URL."""

    def __init__(self, url):
        self.address = urlsplit(url)

    def request(self, method, path, data=None):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=SILENCE)
        body = json.dumps(data) if data is not None else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse()

    def models(self):
        """The names of what was pulled."""
        return set(self.digests())

    def digests(self):
        """What was pulled → the sha256 of its manifest."""
        return {model["name"]: model.get("digest") for model in self.call("GET", "/api/tags").get("models") or ()}

    def call(self, method, path, data=None):
        """The answer as data; Failure for any other than 200."""
        try:
            answer = self.request(method, path, data)
            text = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise Failure("ollama does not answer {} {}: {}".format(method, path, error)) from None
        said = parsed(text)
        if answer.status != 200:
            raise Failure("ollama refuses {} {}: {}".format(method, path, said.get("error", text[:200])))
        return said

    def ask(self, path, data):
        """(status, answer as data)"""
        try:
            answer = self.request("POST", path, data)
            return answer.status, parsed(answer.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            raise Failure("{} does not answer: {}".format(data["model"], error)) from None

    def stream(self, path, data):
        """The lines of an answer that comes bit by bit."""
        try:
            answer = self.request("POST", path, data)
            for line in answer:
                if line.strip():
                    yield parsed(line.decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            raise Failure("ollama broke off in {}: {}; the next run resumes".format(path, error)) from None


def parsed(text):
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"error": text[:200]}
    return found if isinstance(found, dict) else {}
