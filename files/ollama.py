"""Pulls, loads and removes models of an ollama server. A part of models.py.

Speaks ollama's API (docs/api.md of ollama 0.33) over the published port. Runs on the host's own python3 (3.6 or newer,
standard library only).
"""

import asking
from download import lock_place, locked
from error_hints import error_hint
from json_data import parsed
from messages import Failure, clock, say, size
from programs import LARGEST
from progress import Progress, Speed, show_progress  # (beside this file)

SILENCE = 600  # seconds without output; a model of hundreds of GB takes minutes to load
LONG = 24 * 3600  # seconds for one pull
USERS_LONG = 4 * 3600  # the same through the server of a user, who could keep the lock by answering slowly
TINY = {"stream": False, "options": {"num_predict": 1}}


def settle(dockerd, model, prune):
    """Pull the listed models and load each once. Raises Failure.

    model: an entry of the job with `pull` (made by gpurack/plan/models/pulls.py). prune: remove models that are not
    listed?"""
    name, server = model["name"], pull_missing(dockerd, model, heard=False)  # the previous container has stopped
    if prune:
        for left in sorted(server.models() - {wanted["name"] for wanted in model["pull"]}):
            server.call("DELETE", "/api/delete", {"model": left})
            say(name, "removed {}".format(left))
    found = server.digests()
    for pulled, digest in sorted(model.get("ollama", {}).items()):  # the lock's
        if found.get(pulled, digest) != digest:
            what = "{} does not match the lock: its digest is {}, not {}. Pull the old one from a source that still "
            what += "has it, or accept the new one: gpurack lock INVENTORY {} --upgrade."
            raise Failure(what.format(pulled, found[pulled], digest, name), "weights-do-not-match")
    for wanted in model["pull"]:
        load(name, server, wanted["name"], model.get("hints", ()))


def pull_missing(dockerd, model, heard=True):
    """Pull the listed models that a server lacks, each unless another run does so; returns the server.

    heard: as for download.locked. Raises Failure.
    """
    name, server = model["name"], Ollama(dockerd, model["url"])
    there = server.models()
    for wanted in model["pull"]:
        if wanted["name"] not in there:
            place = lock_place("ollama", dockerd.user, name, wanted["name"])
            with locked(name, place, wanted["name"], heard) as waited:
                if not waited or wanted["name"] not in server.models():
                    pull(name, server, wanted)
    return server


def pull(name, server, wanted):
    """Pull with progress; ollama resumes an interrupted pull. A mirror's model is renamed to the listed name."""
    shown, source, progress, layers = wanted["name"], wanted["from"], Progress(name), {}
    speed = None
    for line in server.stream("/api/pull", {"model": source, "insecure": wanted["insecure"], "stream": True}):
        if "error" in line:
            raise Failure(refusal(shown, source, str(line["error"])), "ollama-failed")
        layer = (line.get("completed") or 0, line.get("total"))
        if layer[1] and all(isinstance(count, int) for count in layer):
            layers[str(line.get("digest"))] = layer
        have, total = (sum(layer[i] for layer in layers.values()) for i in (0, 1))
        speed = speed or (Speed(have) if total else None)  # what is there already took no time
        status = line.get("status", "")
        of = "{} of {}, {}/s".format(size(have), size(total), size(speed.at(have))) if have < total else status
        progress.tell("pulling {}, {}".format(shown, of))
    if source != shown:
        server.call("POST", "/api/copy", {"source": source, "destination": shown})
        server.call("DELETE", "/api/delete", {"model": source})
    if shown not in server.models():
        raise Failure("{} is missing after the pull. See docker logs {}".format(shown, name), "ollama-failed")
    say(name, "pulled {} in {}".format(shown, clock(progress.elapsed())))


def refusal(shown, source, error):
    """The message for a failed pull, with a hint."""
    if "file does not exist" in error:
        hint = "Correct `pull`: use a name and tag of ollama's library"
    else:
        hint = 'If the host cannot reach the library, set a mirror: mirrors: {"registry.ollama.ai": …}'
    by = "" if shown == source else " (as {})".format(source)
    return "cannot pull {}{}: {}. {}".format(shown, by, error.rstrip("."), hint)


def load(name, server, model, hints=()):
    """Load a model by requesting one token, or one embedding. hints: for files/error_hints.py. Raises Failure."""
    with show_progress(Progress(name), "loading " + model):
        status, said = server.ask("/api/generate", dict(TINY, model=model, prompt="1"))
        if status == 400 and "does not support generate" in str(said.get("error")):
            status, said = server.ask("/api/embed", {"model": model, "input": "1"})
    if status != 200:
        why = said.get("error", "HTTP {}".format(status)).rstrip(".")
        raise Failure("{} does not answer: {}.{}".format(model, why, error_hint(0, why, hints)), "ollama-failed")


class Ollama:
    """ollama's API. One in a user's Docker is asked as that user."""

    def __init__(self, dockerd, url):
        self.dockerd, self.url = dockerd, url

    def request(self, method, path, data, limit=SILENCE):
        """The status of an answer, then pieces of its body."""
        return asking.open_request(self.dockerd, self.url, path, data, None, SILENCE, limit, method)

    def answer(self, method, path, data):
        """(status, answer as data)"""
        pieces, said = self.request(method, path, data), b""
        status = next(pieces)
        for piece in pieces:
            said += piece
            if len(said) > LARGEST:
                raise OSError("the answer is larger than {} bytes".format(LARGEST))
        return status, as_data(said)

    def models(self):
        """The names of what was pulled."""
        return set(self.digests())

    def digests(self):
        """What was pulled → the sha256 of its manifest."""
        found = self.call("GET", "/api/tags").get("models") or ()
        models = [model for model in found if isinstance(model, dict) and isinstance(model.get("name"), str)]
        return {model["name"]: model.get("digest") for model in models}

    def call(self, method, path, data=None):
        """The answer as data. Raises Failure for any status but 200."""
        try:
            status, said = self.answer(method, path, data)
        except OSError as error:
            raise Failure("ollama does not answer {} {}: {}".format(method, path, error), "ollama-failed") from None
        if status != 200:
            raise Failure(
                "ollama refuses {} {}: {}".format(method, path, said.get("error", str(said)[:200])), "ollama-failed"
            )
        return said

    def ask(self, path, data):
        """(status, answer as data)"""
        try:
            return self.answer("POST", path, data)
        except OSError as error:
            raise Failure("{} does not answer: {}".format(data["model"], error), "ollama-failed") from None

    def stream(self, path, data):
        """Yield the lines of a streamed answer. Raises Failure."""
        pieces, rest = self.request("POST", path, data, USERS_LONG if self.dockerd.become else LONG), b""
        try:
            next(pieces)
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > LARGEST:
                    raise OSError("a line of the answer is larger than {} bytes".format(LARGEST))
                for line in lines:
                    if line.strip():
                        yield as_data(line)
            if rest.strip():
                yield as_data(rest)
        except OSError as error:
            raise Failure(
                "ollama failed during {}: {}. The next run resumes.".format(path, error), "ollama-failed"
            ) from None


def as_data(answer):
    """An answer, or a line of one, as data; invalid JSON becomes its `error`."""
    text = answer.decode("utf-8", "replace")
    found = parsed(text or "{}")
    return found if isinstance(found, dict) else {"error": text[:200]}
