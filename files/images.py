"""Pulls, loads or builds the images of models on this host. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import base64
import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading

from common import (  # (beside this file)
    EVERY,
    Failure,
    Progress,
    clock,
    follow,
    parsed,
    say,
    show_progress,
    size,
    write,
)
from dockerd import LONG
from safe_paths import leftover, make_folder, remove, require_roots

LOGINS = "/run/gpurack-logins"  # in memory; users' clients get through it, as they do not through /run/gpurack
BUILDS = "/var/lib/gpurack/builds"
DOCKER_HUB = "https://index.docker.io/v1/"  # docker.io's name in Docker's own files
REFUSED = re.compile(r"unauthorized|denied|authentication required|no basic auth credentials|\b40[13]\b")
PROVIDING = collections.defaultdict(threading.Lock)


def provide(dockerd, model, logins):
    """Make sure that a daemon has the image of a model. logins: registry → user and password. Raises Failure."""
    with PROVIDING[dockerd.user, model["image"]]:
        if "digest" in model:
            pull_locked(dockerd, model["name"], model["image"], model["digest"], logins)
            return
        if image_id(dockerd, model["image"]) is not None:
            return
        if "load" in model:
            load(dockerd, model["name"], model["image"], model["load"])
        elif "build" in model:
            build(dockerd, model["name"], model["image"], model["build"], logins)
        else:
            pull(dockerd, model["name"], model["image"], logins)


def image_id(dockerd, reference):
    """An image's id; None where the daemon does not have it."""
    code, output = dockerd.run("image", "inspect", "--format", "{{.Id}}", reference)
    return None if code else output


@contextlib.contextmanager
def logged_in(dockerd, logins):
    """Options for docker that add these logins to those of the daemon's user.

    They are in a file in memory that only this user can read, and that is removed afterwards."""
    for old in os.listdir(LOGINS) if os.path.isdir(LOGINS) else ():
        if old.startswith("login-") and not os.path.exists("/proc/" + old.split("-")[1]):  # of a killed run
            discard(os.path.join(LOGINS, old))
    if not logins:
        yield []
        return
    os.makedirs(LOGINS, exist_ok=True)
    os.chmod(LOGINS, 0o711)
    folder = tempfile.mkdtemp(prefix="login-{}-".format(os.getpid()), dir=LOGINS)
    try:
        found = parsed(dockerd.home_file(".docker/config.json"))
        config = found if isinstance(found, dict) else {}
        auths, helpers = config.get("auths"), config.get("credHelpers")
        config["auths"] = auths if isinstance(auths, dict) else {}
        for registry, login in logins.items():
            name = DOCKER_HUB if registry == "docker.io" else registry
            pair = "{}:{}".format(login["user"], login["password"])
            config["auths"][name] = {"auth": base64.b64encode(pair.encode()).decode()}
            if isinstance(helpers, dict):
                helpers.pop(registry, None)
        write(os.path.join(folder, "config.json"), json.dumps(config), 0o600, dockerd.uid)
        os.chown(folder, dockerd.uid, 0)
        yield ["--config", folder]
    finally:
        discard(folder)


def discard(folder):
    """Remove a folder that belongs to a user. A folder that cannot be removed stays; that is no error."""
    with contextlib.suppress(OSError):
        remove(folder)


# --- pulled ----------------------------------------------------------------------------------------------------------


def pull_locked(dockerd, name, image, digest, logins):
    """Pull the locked digest of an image and tag it with its usual name."""
    exact = "{}@{}".format(repository_of(image), digest)
    if image_id(dockerd, exact) is None:
        try:
            pull_alone(dockerd, name, exact, logins)
        except Failure as failure:
            what = "{} To accept what the tag points to now: gpurack lock INVENTORY {} --upgrade"
            raise Failure(what.format(failure, name)) from None
    if "@" not in image:
        dockerd.must("tag", exact, image)


def pull_alone(dockerd, name, image, logins):
    """Pull what the registry has under this name now, also where the daemon has an older image."""
    project = dockerd.next + "-" + name
    dockerd.keep(project, json.dumps({"services": {name: {"image": image}}}))
    try:
        pull(dockerd, name, image, logins, project)
    finally:
        os.unlink(project)


def repository_of(image):
    """An image's name without tag and digest."""
    named = image.partition("@")[0]
    repository, colon, tag = named.rpartition(":")
    return repository if colon and "/" not in tag else named


def pull(dockerd, name, image, logins, project=None):
    """Pull by Compose, with progress. project: a Compose file with the image, by default that of all models."""
    progress, layers = Progress(name), {}

    def seen(line):
        found = re.match(r"(\w+) Downloading .*?([\d.]+)([kMG]?B)/([\d.]+)([kMG]?B)", line)
        if found:
            factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
            layers[found[1]] = (float(found[2]) * factor[found[3]], float(found[4]) * factor[found[5]])
        have, total = (sum(layer[i] for layer in layers.values()) for i in (0, 1))
        progress.tell("pulling {}{}".format(image, ", {} of {}".format(size(have), size(total)) if total else ""))

    with logged_in(dockerd, logins) as words:
        code, tail = dockerd.follow([*words, *dockerd.compose("pull", name, file=project or dockerd.next)], seen)
    if code:
        reason = next((line.strip() for line in reversed(tail) if "rror" in line), tail[-1] if tail else "no output")
        if REFUSED.search(reason):
            raise Failure(refusal(image, reason, logins))
        hint = "Correct `version` or `image`, or try it on the host: {} pull {}"
        hint = hint.format(dockerd.by_hand, image)
        raise Failure("cannot pull image {}: {}. {}".format(image, reason, hint))
    if progress.elapsed() > EVERY:
        say(name, "pulled {} in {}".format(image, clock(progress.elapsed())))


def refusal(image, reason, logins):
    """The message for a registry that denies access, with the account used."""
    first, slash, _ = image.partition("/")
    registry = first if slash and (set(first) & {".", ":"} or first == "localhost") else "docker.io"
    reason = re.sub(r"^Error response from daemon: ", "", reason).rstrip(".")
    if registry in logins:
        what = "{} denies {} to the account {} ({}). Correct registries.{}, or give that account access"
        return what.format(registry, image, logins[registry]["user"], reason, registry)
    what = '{} denies {} without a login ({}). Correct the name, or set registries: {{"{}": {{"user": …, '
    return (what + '"password": {{"env": …}}}}}}').format(registry, image, reason, registry)


# --- loaded ----------------------------------------------------------------------------------------------------------


def load(dockerd, name, image, wanted):
    """Load a copied tar file. The image names inside it keep their meaning on this host: others may use them."""
    require_roots(os.path.dirname(wanted["path"]))  # or another user's file would become this image
    if leftover(wanted["path"]) is None:
        raise Failure(wanted.get("problem") or "{} was not copied; run again".format(wanted["tar"]))
    before = {tag: image_id(dockerd, tag) for tag in wanted["names"]}
    with show_progress(Progress(name), "loading " + image):
        code, output = dockerd.run("load", "--input", wanted["path"], limit=LONG)
    found = re.findall(r"(?m)^Loaded image(?: ID)?: (\S+)", output)
    if code or not found:
        raise Failure("cannot load {}: {}".format(wanted["tar"], (output.splitlines() or ["no output"])[-1]))
    dockerd.must("tag", found[-1], image)
    for tag, old in before.items():
        dockerd.run(*(("tag", old, tag) if old else ("rmi", tag)))
    os.unlink(wanted["path"])


# --- built -----------------------------------------------------------------------------------------------------------


def build(dockerd, name, image, wanted, logins):
    """Build from a revision of a git repository. A failed build leaves no image; Docker caches its finished steps."""
    folder = os.path.join(BUILDS, hashlib.sha256((dockerd.user + image).encode()).hexdigest()[:12])
    progress = Progress(name)
    say(name, "building {} from {} at {}".format(image, wanted["git"], wanted["revision"]))
    checkout(folder, wanted["git"], wanted["revision"], lambda line: progress.tell("fetching the source, " + line[:80]))
    dockerfile = os.path.realpath(os.path.join(folder, wanted["dockerfile"]))
    if not os.path.isfile(dockerfile) or not dockerfile.startswith(os.path.realpath(folder) + "/"):
        what = "{} at {} has no {}; correct image.build.dockerfile"
        raise Failure(what.format(wanted["git"], wanted["revision"], wanted["dockerfile"]))
    argv = ["build", "--tag", image, "--file", os.path.join(folder, wanted["dockerfile"])]
    argv += ["--target", wanted["target"]] if wanted["target"] else []
    for key, value in sorted(wanted["args"].items()):
        argv += ["--build-arg", "{}={}".format(key, value)]
    for key in ("http_proxy", "https_proxy", "no_proxy"):  # by name: a value may hold a password
        argv += ["--build-arg", key] if key in os.environ else []
    with logged_in(dockerd, logins) as words:
        code, tail = dockerd.follow([*words, *argv, folder], lambda line: progress.tell("building, " + line[:100]))
    if code:
        lines = "".join("\n    | " + line[:300] for line in tail)
        raise Failure("cannot build image {} (exit code {}); nothing was changed{}".format(image, code, lines))
    shutil.rmtree(folder, ignore_errors=True)
    say(name, "built {} in {}".format(image, clock(progress.elapsed())))


def checkout(folder, repository, revision, seen):
    """Check out a revision with submodules. A commit that the server does not serve alone is fetched with all refs."""
    make_folder(folder)
    environment = dict(os.environ, GIT_TERMINAL_PROMPT="0", GIT_SSH_COMMAND="ssh -o BatchMode=yes")

    def git(*words):
        return follow(["git", "-C", folder, *words], seen, environment)

    fetch = ("fetch", "--progress", "--force", "--update-head-ok")
    code, tail = git("init", "--quiet")
    target = "FETCH_HEAD"
    if not code and git(*fetch, "--depth", "1", repository, revision)[0]:
        code, tail = git(*fetch, repository, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        target = revision
    if not code:
        code, tail = git("checkout", "--quiet", "--force", "--detach", target)
    if not code and os.path.exists(os.path.join(folder, ".gitmodules")):
        git("config", "remote.origin.url", repository)  # to which the addresses of submodules may be relative
        code, tail = git("submodule", "update", "--init", "--recursive", "--depth", "1", "--force")
    if code:
        wrong = (line for line in reversed(tail) if re.match(r"(fatal|error): ", line))
        what = "cannot fetch revision {} of {}: {}. Correct `image.build`, or try it on the host: git ls-remote {}"
        raise Failure(what.format(revision, repository, next(wrong, (tail or ["git failed"])[-1]), repository))
