"""Pulls, loads or builds the images of models on this host. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import base64
import collections
import contextlib
import glob
import hashlib
import json
import os
import re
import tempfile
import threading

import base_images
import probing
import record
import room
from docker_commands import LONG
from dockerd import IMAGE
from download import lock_place, locked
from image_ref import registry_of, split
from json_data import parsed
from messages import Failure, clock, say, size
from phases import PULL, phase
from programs import follow, run
from progress import EVERY, Progress, Speed, show_progress
from safe_paths import leftover, make_folder, read_file, remove, require_roots
from writing import write  # (beside this file)

LOGINS = "/run/gpurack-logins"  # in memory; users' clients get through it, as they do not through /run/gpurack
BUILDS = "/var/lib/gpurack/builds"
DOCKER_HUB = "https://index.docker.io/v1/"  # docker.io's name in Docker's own files
REFUSED = re.compile(r"unauthorized|denied|authentication required|no basic auth credentials|\b40[13]\b")
KINDS = (  # what a registry's error is about, and what to do; the first that applies
    (
        re.compile(r"toomanyrequests|too many requests|rate limit|\b429\b", re.IGNORECASE),
        "the registry limits how often it is asked. Set a login in `registries` or a mirror in `mirrors`, or run later",
    ),
    (
        re.compile(r"error getting credentials|credential helper|docker-credential-", re.IGNORECASE),
        "the credential helper that Docker's configuration names does not work. Correct `credsStore` or `credHelpers` "
        "in ~/.docker/config.json of this Docker's user",
    ),
    (
        re.compile(r"no such host|connection refused|timeout|timed out|unreachable|x509|EOF|reset by peer"),
        "the registry is not reachable from this host. Check its network, `proxy`, `ca` and `mirrors`",
    ),
    (
        re.compile(r"\b50[0234]\b|internal server error|bad gateway|unavailable", re.IGNORECASE),
        "the registry has an error of its own. Run again later",
    ),
    (
        re.compile(r"not found|manifest unknown|no matching manifest|\b404\b", re.IGNORECASE),
        "the registry has no such image. Correct `version` or `image`",
    ),
)
AWAY = re.compile("Cannot connect to the Docker daemon|error during connect|unexpected EOF|context canceled")
"""What a pull ends with when another run restarts Docker, from which no lock keeps it."""
MOST_IMAGES = 2000  # of one daemon, that are known before a pull: a user's Docker may list any number
AWAY_LIMIT = 60  # seconds in which Docker must answer again
PROVIDING = collections.defaultdict(threading.Lock)


def provide(dockerd, model, logins, ahead=False):
    """Make sure that a daemon has the image of a model. Raises Failure.

    logins: registry → user and password. ahead: the name of a locked image still means the one that serves."""
    name, image, exact = model["name"], model["image"], exact_name(model)
    with PROVIDING[dockerd.user, image]:
        there = image_id(dockerd, exact)
        if there is None or record.before_pull(dockerd.user, exact) is not None:
            with locked(name, place_of(dockerd.user, image), "image " + image) as waited:
                end_pull(dockerd, exact)  # of a killed run
                if (image_id(dockerd, exact) if waited else there) is None:
                    with phase(PULL):
                        bring(dockerd, model, exact, logins)
        if "digest" in model and "@" not in image and not ahead:
            tag_locked(dockerd, image, exact)


def exact_name(model):
    """The name of a model's image, with the locked digest where there is one."""
    return "{}@{}".format(split(model["image"])[0], model["digest"]) if "digest" in model else model["image"]


def lacks_image(dockerd, model):
    """Does a daemon lack the image of a model? Raises Failure."""
    return image_id(dockerd, exact_name(model)) is None


def bring(dockerd, model, exact, logins):
    """Pull, load or build the image of a model. exact: its name with the locked digest. Raises Failure."""
    name, image = model["name"], model["image"]
    if not {"load", "build"} & set(model):
        with logged_in(dockerd, login_for(exact, logins)) as options:
            room.refuse_pull(dockerd, name, exact, options)
            if "driver" in model:
                probing.refuse_image(dockerd, model, exact, options)
    if "digest" in model:
        pull_locked(dockerd, name, exact, logins)
    elif "load" in model:
        load(dockerd, name, image, model["load"])
    elif "build" in model:
        build(dockerd, name, image, model["build"], logins)
    else:
        pull(dockerd, name, image, logins, key=model.get("key"))


def place_of(user, image):
    """The path beside which the lock of an image is, while it is pulled, loaded or built."""
    return lock_place("image", user, image)


def image_id(dockerd, reference):
    """An image's id; None where the daemon does not have it, or names no valid one."""
    code, output = dockerd.run("image", "inspect", "--format", "{{.Id}}", reference)
    return output if code == 0 and record.is_image_id(output) else None


@contextlib.contextmanager
def noted(dockerd, image):
    """Record the image that the block pulls, loads or builds under this name, so that `gpurack prune` may remove it.

    One that the daemon had already, under whatever name, is not gpurack's. What was there is recorded before the block:
    if the run is killed in it, the next one knows what it brought."""
    before = ids(dockerd)
    if before is not None:
        record.begin_pull(dockerd.user, image, before)
    yield
    end_pull(dockerd, image)


def end_pull(dockerd, image):
    """Record what a pull that was begun has brought; nothing where none was."""
    before = record.before_pull(dockerd.user, image)
    if before is not None:
        found = image_id(dockerd, image)
        record.end_pull(dockerd.user, image, found if found not in before else None)


def ids(dockerd):
    """The ids of all images that a daemon has; None where it does not say, or lists more than MOST_IMAGES."""
    code, output = dockerd.run("image", "ls", "--all", "--quiet", "--no-trunc")
    found = {image for image in output.split() if record.is_image_id(image)}
    return None if code or len(found) > MOST_IMAGES else found


@contextlib.contextmanager
def logged_in(dockerd, logins):
    """Options for docker that add these logins to those of the daemon's user.

    They are in a file in memory that only this user can read, and that is removed afterwards: so a user's Docker gets
    those that are needed (`login_for`, `logins_of_build`)."""
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


def login_for(image, logins):
    """Those of logins that a pull of this image needs: its user could read the others, which are of other models."""
    registry = registry_of(image)
    return {registry: logins[registry]} if registry in logins else {}


def logins_of_build(dockerd, dockerfile, args, logins):
    """Those of logins that a build needs. In the host's own Docker all of them: root alone can read them."""
    if not dockerd.user:
        return logins
    text = read_file(dockerfile, base_images.LONGEST).decode("utf-8", "replace")
    registries = {registry_of(image) for image in base_images.base_images(text, args)}
    return {registry: logins[registry] for registry in logins.keys() & registries}


def discard(folder):
    """Remove a folder that belongs to a user. A folder that cannot be removed stays, without an error."""
    with contextlib.suppress(OSError):
        remove(folder)


# --- pulled ----------------------------------------------------------------------------------------------------------


def pull_locked(dockerd, name, exact, logins):
    """Pull the locked digest of an image."""
    try:
        pull_alone(dockerd, name, exact, logins)
    except Failure as failure:
        what = "{} To accept what the tag points to now: gpurack lock INVENTORY {} --upgrade"
        raise Failure(what.format(failure, name), failure.code) from None


def tag_locked(dockerd, image, exact):
    """Give the locked image its usual name."""
    dockerd.must("tag", exact, image)
    found = image_id(dockerd, image)
    if found in (record.load() or record.whole({}))["images"].get(dockerd.user, {}):
        record.note_image(dockerd.user, found, image)


def pull_alone(dockerd, name, image, logins):
    """Pull what the registry has under this name now, also where the daemon has an older image."""
    project = dockerd.next + "-" + name
    dockerd.keep(project, json.dumps({"services": {name: {"image": image}}}))
    try:
        pull(dockerd, name, image, logins, project)
    finally:
        os.unlink(project)


def pull(dockerd, name, image, logins, project=None, key=None):
    """Pull by Compose, with progress.

    project: a Compose file with the image, by default that of all models, where the model has this key.
    """
    progress, layers = Progress(name), Layers()

    def seen(line):
        layers.add(line)
        progress.tell(layers.text(image))

    with noted(dockerd, image), logged_in(dockerd, login_for(image, logins)) as words:
        argv = [*words, *dockerd.compose("pull", key or name, file=project or dockerd.next)]
        code, tail = dockerd.follow(argv, seen, resumed=True)
        if code and AWAY.search("\n".join(tail)) and dockerd.answers_within(AWAY_LIMIT):
            say(name, "Docker was restarted during the pull; it is continued")
            code, tail = dockerd.follow(argv, seen, resumed=True)
    if code:
        reason = next((line.strip() for line in reversed(tail) if "rror" in line), tail[-1] if tail else "no output")
        hint = kind_of(reason)
        if not hint and REFUSED.search(reason):
            raise Failure(refusal(image, reason, logins), "image-not-pulled")
        by_hand = "Try it on the host: {} pull {}".format(dockerd.by_hand, image)
        raise Failure(
            "cannot pull image {}: {}. {}".format(image, reason, ". ".join(filter(None, (hint, by_hand)))),
            "image-not-pulled",
        )
    if progress.elapsed() > EVERY:
        say(name, "pulled {} in {}".format(image, clock(progress.elapsed())))


UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def in_bytes(text):
    """12.5MB as a number."""
    unit = next(unit for unit in UNITS if text.endswith(unit))
    return float(text[: -len(unit)]) * UNITS[unit]


class Layers:
    """The layers of an image, from the lines that Compose prints of them while it pulls."""

    STATES = ("Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete", "Extracting",
              "Pull complete")  # fmt: skip
    WHOLE = STATES[4:]
    LINE = re.compile(
        r"\s*(\w{{1,64}}) ({})(?: .*?({size})/({size}))?".format("|".join(STATES), size=r"\d{1,9}(?:\.\d{1,9})?[kMG]?B")
    )
    LONGEST, MOST = 300, 1000  # characters of a line, layers: a user's Docker may print anything

    def __init__(self):
        self.states, self.bytes, self.speed = {}, {}, Speed()

    def add(self, line):
        found = self.LINE.match(line[: self.LONGEST])
        if not found or (found[1] not in self.states and len(self.states) >= self.MOST):
            return
        layer, state = found[1], found[2]
        self.states[layer] = state
        if state == "Downloading" and found[3]:
            self.bytes[layer] = in_bytes(found[3]), in_bytes(found[4])
        elif state in self.WHOLE and layer in self.bytes:
            self.bytes[layer] = (self.bytes[layer][1],) * 2

    def text(self, image):
        """`pulling IMAGE, 6.1 GB of 9.8 GB, 84 MB/s`, then `extracting IMAGE, 5 of 7 layers`."""
        have, total = (sum(layer[i] for layer in self.bytes.values()) for i in (0, 1))
        speed = self.speed.at(have)
        if self.states and all(state in self.WHOLE for state in self.states.values()):
            done = sum(state == "Pull complete" for state in self.states.values())
            return "extracting {}, {} of {} layers".format(image, done, len(self.states))
        of = ", {} of {}, {}/s".format(size(have), size(total), size(speed)) if total else ""
        return "pulling {}{}".format(image, of)


def kind_of(reason):
    """What kind of error a registry's is, with a hint; "" for a denial and for unknown ones.

    A registry that denies says "not found" or "does not exist" as well."""
    for pattern, hint in KINDS[:-1] if REFUSED.search(reason) else KINDS:
        if pattern.search(reason):
            return hint[0].upper() + hint[1:]
    return ""


def refusal(image, reason, logins):
    """The message for a registry that denies access, with the account used."""
    registry = registry_of(image)
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
    file = leftover(wanted["path"])
    if file is None:
        raise Failure(wanted.get("problem") or "{} was not copied; run again".format(wanted["tar"]), "file-not-copied")
    before, others = {tag: image_id(dockerd, tag) for tag in wanted["names"] if is_name(tag)}, named_images(dockerd)
    with show_progress(Progress(name), "loading {}, {}".format(image, size(file.st_size))), noted(dockerd, image):
        code, output = dockerd.run("load", "--input", wanted["path"], limit=LONG)
        found = re.findall(r"(?m)^Loaded image(?: ID)?: (\S+)", output) if not code else []
        found = [loaded for loaded in found if is_name(loaded)]
        if found:
            dockerd.must("tag", found[-1], image)
    if not found:
        raise Failure(
            "cannot load {}: {}".format(wanted["tar"], (output.splitlines() or ["no output"])[-1]), "image-not-loaded"
        )
    for tag in found:  # the file may have more names than those that were read from it
        if not tag.startswith("sha256:"):
            before.setdefault(tag, others.get(tag))
    for tag, old in before.items():
        dockerd.run(*(("tag", old, tag) if old else ("rmi", tag)))
    os.unlink(wanted["path"])


def is_name(text):
    """Is it the name or id of an image, and no option? A tar file may name anything."""
    return isinstance(text, str) and re.match(IMAGE, text) is not None


def named_images(dockerd):
    """name → id of all images that a daemon has. Raises Failure."""
    output = dockerd.must("image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    lines = [line.split(" ") for line in output.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2 and record.is_image_id(words[1])}


# --- built -----------------------------------------------------------------------------------------------------------


def build(dockerd, name, image, wanted, logins):
    """Build from a revision of a git repository. A failed build leaves no image; Docker caches its finished steps."""
    folder = os.path.join(BUILDS, hashlib.sha256((dockerd.user + image).encode()).hexdigest()[:12])
    progress = Progress(name)
    say(name, "building {} from {} at {}".format(image, wanted["git"], wanted["revision"]))
    make_folder(BUILDS, 0o711)
    make_folder(folder, 0o700)  # the source may not be public
    if dockerd.user:
        open_to(dockerd.uid, folder)
    checkout(folder, wanted["git"], wanted["revision"], lambda line: progress.tell("fetching the source, " + line[:80]))
    dockerfile = os.path.realpath(os.path.join(folder, wanted["dockerfile"]))
    if not os.path.isfile(dockerfile) or not dockerfile.startswith(os.path.realpath(folder) + "/"):
        what = "{} at {} has no {}; correct image.build.dockerfile"
        raise Failure(what.format(wanted["git"], wanted["revision"], wanted["dockerfile"]), "image-not-built")
    argv = ["build", "--tag", image, "--file", os.path.join(folder, wanted["dockerfile"])]
    argv += ["--target", wanted["target"]] if wanted["target"] else []
    for key, value in sorted(wanted["args"].items()):
        argv += ["--build-arg", "{}={}".format(key, value)]
    for key in ("http_proxy", "https_proxy", "no_proxy"):  # by name: a value may hold a password
        argv += ["--build-arg", key] if key in os.environ else []
    needed = logins_of_build(dockerd, dockerfile, wanted["args"], logins)
    with noted(dockerd, image), logged_in(dockerd, needed) as words:
        tell = lambda line: progress.tell("building, " + line[:100])  # noqa: E731
        code, tail = dockerd.follow([*words, *argv, folder], tell, resumed=True)
    if code:
        lines = "".join("\n    | " + line[:300] for line in tail)
        raise Failure(
            "cannot build image {} (exit code {}); nothing was changed{}".format(image, code, lines), "image-not-built"
        )
    with contextlib.suppress(OSError):  # the next build, or prune
        remove(folder)
    say(name, "built {} in {}".format(image, clock(progress.elapsed())))


def open_to(uid, folder):
    """Let one user read a folder of root's; all of them where its file system has no ACLs."""
    code = 1
    with contextlib.suppress(Failure):
        code, _ = run("setfacl", "-m", "u:{}:rx".format(uid), folder)
    if code:
        os.chmod(folder, 0o755)


def checkout(folder, repository, revision, seen):
    """Check out a revision with submodules. A commit that the server does not serve alone is fetched with all refs."""
    for path in glob.glob(os.path.join(folder, ".git", "**", "*.lock"), recursive=True):
        os.unlink(path)  # of a git that was killed; no other one works here
    environment = dict(os.environ, GIT_TERMINAL_PROMPT="0", GIT_SSH_COMMAND="ssh -o BatchMode=yes")

    def git(*words):
        argv = ["git", "-C", folder, *words]
        return follow(argv, seen, environment, limit=LONG, what="git " + words[0], resumed=True)

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
        raise Failure(
            what.format(revision, repository, next(wrong, (tail or ["git failed"])[-1]), repository), "image-not-built"
        )
