"""The Docker daemons of this host, each with one Compose project of gpurack's. A part of models.py.

The host's own daemon has the user ""; the others are rootless ones, each of the user of its name. Runs as root, on the
host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import hashlib
import json
import os
import pwd
import re

import record
from common import Failure, TimeIsUp, clock, follow, parsed, run, say, write  # (beside this file)
from paths import CONFIG, JOBS_PROJECT, PROJECT, REPLACED, SET_ASIDE, USERS, words_of_user

BROKE_OFF = (
    "Docker closed the connection while starting the container; see journalctl -u docker. If that names fsnotify, the "
    "host has too few inotify instances to read CDI specs: sysctl fs.inotify.max_user_instances=1024"
)
LABELS = {PROJECT: ("gpurack.model", "model"), JOBS_PROJECT: ("gpurack.job", "job")}
OF_PROJECT, OF_SERVICE = "com.docker.compose.project", "com.docker.compose.service"
OF_IMAGE = "com.docker.compose.image"  # the id of the image that Compose made the container of

# Seconds that a command may take on a user's daemon, which may never answer, or for ever. The host's own is root's.
ANSWER = 30  # to a question; a healthy daemon takes less than one
CHANGE = 90  # `stop` gives a container 30 of them
START = 600  # Compose makes a container, and a network perhaps
LONG = 4 * 3600  # to pull, load or build
SILENCE = 900  # of these, without a word
QUESTIONS = ("container", "events", "image", "info", "logs", "ps", "top", "version")


def as_user(user):
    """(uid, the words before a command that make it this user's own). What root asks of a user's daemon it asks as that
    user."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Failure("the user {} does not exist".format(user)) from None
    return account.pw_uid, words_of_user(user, account.pw_uid, account.pw_gid, account.pw_dir)


class Dockerd:
    """One daemon, and gpurack's project in it.

    What is ours in it is known by id (`ids`: name → id, of the host's record), never by name or label alone: a name may
    be given to another container, and `docker commit` and `docker run` copy labels.
    """

    def __init__(self, user="", project=PROJECT):
        self.user, self.project = user, project
        self.folder = os.path.join(USERS, user) if user else CONFIG
        self.compose_file = os.path.join(self.folder, "compose.yaml")
        # what Compose checks and pulls from, while compose_file still describes what runs
        self.next = self.compose_file + ".next"
        self.secrets = os.path.join(self.folder, "secrets")
        self.by_hand = "sudo -iu {} docker".format(user) if user else "docker"
        self.ids, self.silent = {}, None
        self.uid, self.become = 0, []
        if user:
            self.uid, self.become = as_user(user)

    def docker(self, *words):
        """The argv of a docker command."""
        return [*self.become, "docker", *words]

    def run(self, *words, limit=None):
        """(exit code, output with errors) of a docker command. On a user's daemon it may take `limit` seconds (ANSWER
        or CHANGE by default); then, and for every later command on that daemon, Failure."""
        limit = limit or (ANSWER if words[0] in QUESTIONS else CHANGE)
        return self.bounded(words, limit, lambda options: run(*self.docker(*words), **options))

    def follow(self, words, seen, limit=LONG):
        """common.follow, of a docker command that takes long and says how far it is; bounded as `run` is."""
        return self.bounded(words, limit, lambda options: follow(self.docker(*words), seen, silence=SILENCE, **options))

    def bounded(self, words, limit, work):
        if not self.user:
            return work({})
        if self.silent:
            raise Failure(self.silent)
        try:
            return work({"limit": limit})
        except TimeIsUp:
            what = "the Docker of {} does not answer (docker {}: nothing within {}). See "
            what += "systemctl --user -M {}@ status docker"
            why = what.format(self.user, " ".join(words[:2]), clock(limit), self.user)
            self.silent = why if limit <= START else None  # LONG waits for a registry, not for the daemon alone
            raise Failure(why) from None

    def must(self, *words, **options):
        """A docker command's output; Failure when it fails."""
        code, output = self.run(*words, **options)
        if code:
            words = " ".join(words[:2])
            raise Failure("{} {} failed: {}".format(self.by_hand, words, output or "exit code {}".format(code)))
        return output

    # --- what is ours -------------------------------------------------------------------------------------------------

    def described(self, container):
        """id, name, image and labels of a container (its name or id); None where there is none."""
        form = '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"labels":{{json .Config.Labels}}}'
        code, output = self.run("container", "inspect", "--format", form, container)
        if code and "no such container" in output.lower():
            return None
        found = parsed(next((line for line in output.splitlines() if line.startswith("{")), "")) if not code else None
        if not (isinstance(found, dict) and record.is_id(found.get("id")) and isinstance(found.get("name"), str)):
            raise Failure("{} container inspect {} failed: {}".format(self.by_hand, container, output[:300]))
        labels = found["labels"] if isinstance(found.get("labels"), dict) else {}
        return {"id": found["id"], "name": found["name"].lstrip("/"), "image": found.get("image"), "labels": labels}

    def carries(self, found, name):
        """Has a container the name of this entry, and the labels that Compose and gpurack give it?"""
        labels = found["labels"]
        ours = LABELS[self.project][0] in labels and labels.get(OF_PROJECT) == self.project
        return ours and found["name"] == name == labels.get(OF_SERVICE)

    def id_of(self, name):
        """The id of our container of this name, which is there; None where there is none. Raises Failure where it is
        another by now: renamed by hand, it is left alone."""
        found = self.described(self.ids[name]) if name in self.ids else None
        if found and not self.carries(found, name):
            what = "its container ({1}) is now named {0} or has other labels, so it was not changed. Rename it: "
            what += "{2} rename {1} {3}, or remove it: {2} rm --force {1}"
            raise Failure(what.format(found["name"], found["id"][:12], self.by_hand, name))
        return found["id"] if found else None

    def refuse_strangers(self, name, expected=None):
        """Raises Failure where Compose could not make the container of this name without touching one that is not
        ours: it takes what carries its labels for its own, stops it and removes it. expected: the id of one made by
        hand, which is set aside first."""
        ours = self.id_of(name)
        words = ("--filter", "label={}={}".format(OF_PROJECT, self.project), "--filter")
        alike = self.must("ps", "--all", "--quiet", "--no-trunc", *words, "label={}={}".format(OF_SERVICE, name))
        for other in alike.split():
            if other != ours:
                what = "container {0} has gpurack's labels for {1}, but gpurack did not create it (a copy?). Compose "
                what += "would stop it, so nothing was changed. Remove it: {2} rm --force {0}, or run it with "
                what += "--label {3}="
                raise Failure(what.format(other[:12], name, self.by_hand, OF_PROJECT))
        named = self.described(name)
        if named and named["name"] == name and named["id"] not in (ours, expected):
            what = "a container named {0} already exists and is not managed by gpurack ({1}). Rename it: "
            what += "{2} rename {1} {0}-old"
            raise Failure(what.format(name, named["id"][:12], self.by_hand))

    def stop(self, name):
        """Stops and removes a container of ours; returns the process ids it had."""
        container, pids = self.id_of(name), set()
        if container:
            pids = self.pids_of(container)
            self.must("stop", "--time", "30", container)
            self.must("rm", "--force", container)
        self.strike_out(name)
        return pids

    def remove(self, name):
        """Removes a container of ours, whatever it does; one that is gone by now is nobody's failure."""
        container = self.id_of(name)
        if container:
            self.must("rm", "--force", container)
        self.strike_out(name)

    def strike_out(self, name):
        record.removed(self.user, name)
        self.ids.pop(name, None)

    def start(self, name, definition=""):
        """Creates and starts the container of an entry, and keeps the record of it. definition: for the record."""
        self.refuse_strangers(name)
        record.about_to_create(self.user, name, LABELS[self.project][1], definition)
        try:
            self.up(name)
        except Failure:
            with contextlib.suppress(Failure):
                self.note(name)
            raise
        if not self.note(name):
            raise Failure("Docker started the container, but lists none of this name")

    def note(self, name):
        """Writes down which container Compose has made; False where it made none."""
        found = self.described(name)
        if not (found and self.carries(found, name)):
            self.strike_out(name)
            return False
        record.created(self.user, name, found["id"])
        self.ids[name] = found["id"]
        return True

    def compose(self, *words, **options):
        """The words of a docker command on the project."""
        return ["compose", "--progress", "plain", "--file", options.get("file", self.compose_file), *words]

    def keep(self, path, text):
        """Writes a Compose file: root's, and of a user's project that user's to read, whose client wants it."""
        write(path, text, 0o600, reader=self.uid if self.user else None)

    def refusal(self, text):
        """What Compose says against a project; "" when it accepts it. `text` is then in `next`."""
        self.keep(self.next, text)
        if '"services": {}' in text:  # an empty project is right, but `config` exits with 1
            return ""
        code, output = self.run(*self.compose("config", "--quiet", file=self.next))
        return (output.replace("validating {}: ".format(self.next), "") or "exit code {}".format(code)) if code else ""

    def pids_of(self, container):
        """The process ids of a container; none when it does not run. Of a user's, those that really are the user's: a
        card's memory is waited for until they are gone."""
        code, output = self.run("top", container, "-eo", "pid")
        pids = set(re.findall(r"\d+", output)) if code == 0 else set()
        return {pid for pid in pids if self.user_runs(pid)} if self.user else pids

    def user_runs(self, pid):
        """Is a process in the user's part of the host's cgroups, where the user's daemon and all that it starts is?"""
        with contextlib.suppress(OSError), open("/proc/{}/cgroup".format(pid)) as cgroup:
            return "/user-{}.slice/".format(self.uid) in cgroup.read()
        return False

    def up(self, name):
        """By Compose. runc loses a race with its own child once in thousands of starts ("waiting for init preliminary
        setup: … connection reset"), so what it fails to create is tried once more."""
        words = self.compose("up", "--detach", "--no-deps", "--pull", "never", name)
        code, output = self.run(*words, limit=START)
        if code and "paused container" in output and name in self.ids:  # which Compose does not wake
            self.must("unpause", self.ids[name])
        if code and ("OCI runtime create failed" in output or "paused container" in output):
            code, output = self.run(*words, limit=START)
        if code and "error during connect" in output:
            raise Failure(BROKE_OFF)
        if code:
            lines = output.splitlines() or ["exit code {}".format(code)]
            why = next((line for line in reversed(lines) if "rror" in line), lines[-1])
            raise Failure("Docker cannot start the container: {}".format(why))

    def set_aside(self, name, old, container):
        """Stops a container made by hand (by its id) and renames it; it is kept, with its restart policy noted, so that
        it can be put back. Returns the process ids it had. Nothing to do when an earlier run did it."""
        found = self.described(container)
        if not found or found["name"] != old:
            return set()
        form = (
            "{{.HostConfig.AutoRemove}} {{.HostConfig.RestartPolicy.Name}} "
            "{{.HostConfig.RestartPolicy.MaximumRetryCount}}"
        )
        vanishes, policy, retries = self.must("container", "inspect", "--format", form, container).split()
        if vanishes == "true":
            raise Failure(
                "{} was started with --rm, so it could not be restored after a failure. Stop it yourself".format(old)
            )
        write(self.policy_of(old), policy + (":" + retries if policy == "on-failure" else "") + "\n", 0o600)
        pids = self.pids_of(container)
        self.must("stop", "--time", "30", container)
        self.must("update", "--restart", "no", container)
        self.must("rename", container, old + SET_ASIDE)
        say(name, "stopped {} and renamed it to {}".format(old, old + SET_ASIDE))
        return pids

    def put_back(self, name, old, container):
        """The container made by hand serves again, because the model that was to replace it did not."""
        self.must("rename", container, old)
        with open(self.policy_of(old)) as policy:
            self.must("update", "--restart", policy.read().strip(), container)
        self.must("start", container, limit=START)
        say(name, "restored the container {}".format(old))

    def policy_of(self, old):
        """The file that notes a set aside container's restart policy."""
        return os.path.join(REPLACED, self.user, old)

    def state_of(self, name, limit=ANSWER):
        """status, restarts, exit code and Docker's error of a container of ours; of a user's, in so many seconds."""
        gone = {"status": "gone", "restarts": 0, "code": 0, "error": ""}
        form = (
            '{"status":{{json .State.Status}},"restarts":{{.RestartCount}},'
            '"code":{{.State.ExitCode}},"error":{{json .State.Error}}}'
        )
        if name not in self.ids:
            return gone
        code, output = self.run("container", "inspect", "--format", form, self.ids[name], limit=limit)
        found = parsed(output) if code == 0 else gone
        if not isinstance(found, dict) or any(type(found.get(word)) is not type(gone[word]) for word in gone):
            raise Failure("{} container inspect printed no valid answer: {}".format(self.by_hand, output[:300]))
        return found

    def last_exit(self, name, seconds):
        """The exit code with which a container of ours ended last, within the last `seconds`; None when Docker does not
        remember. One that Docker has already started again says 0 of itself."""
        only = "container=" + self.ids.get(name, name)
        events = ("events", "--since", "{}s".format(seconds), "--until", "0s", "--filter", only)
        code, output = self.run(*events, "--filter", "event=die", "--format", '{{index .Actor.Attributes "exitCode"}}')
        codes = re.findall(r"(?m)^\d{1,3}$", output) if code == 0 else []
        return int(codes[-1]) if codes else None

    def said(self, name, lines):
        """What a container of ours logged last; known secrets are cut out."""
        if name not in self.ids:
            return ""
        return self.without_secrets(self.run("logs", "--tail", str(lines), self.ids[name])[1])

    def logs(self, name):
        """Where to look, and what a container logged last."""
        text = self.said(name, 12)
        lines = "".join("\n    | " + line[:300] for line in text.splitlines()[-12:])
        return "See {} logs {}{}".format(self.by_hand, name, lines)

    def home_file(self, path):
        """The text of a file in the home of the daemon's user, "" where it cannot be read. Read as that user: root
        follows no link out of a home, and waits for no pipe in it."""
        options = {"limit": ANSWER} if self.user else {}
        try:
            code, text = run(*self.become, "sh", "-c", 'cat ~/"$1"', "sh", path, **options)
        except TimeIsUp:
            return ""
        return "" if code else text

    def api_key(self, name):
        """A model's API key, None when it has none."""
        with contextlib.suppress(OSError), open(os.path.join(self.secrets, name, "api_key")) as key:
            return key.read().strip()
        return None

    def without_secrets(self, text):
        """A text in which no secret of this project can be read."""
        for folder, _, names in os.walk(self.secrets):
            for name in names:
                with contextlib.suppress(OSError), open(os.path.join(folder, name)) as secret:
                    text = text.replace(secret.read().strip() or "\0", "•••")
        return text

    def write_files(self, containers, kept):
        """Keys and configuration of containers (name → file → text), but for `kept` ones, whose stay as they are."""
        # a user's daemon has to get through, and finds what it was told the name of; each file is its reader's alone
        os.makedirs(self.secrets, mode=0o711 if self.user else 0o700, exist_ok=True)
        for name, files in containers.items():
            for file, text in files.items() if name not in kept else ():
                write(os.path.join(self.secrets, name, file), text, 0o400, self.uid)

    def remove_old_files(self, containers):
        """Those that are not wanted any more, and not mounted by a container of ours that stayed."""
        for name in os.listdir(self.secrets):
            folder = os.path.join(self.secrets, name)
            words = ("container", "inspect", "--format", "{{json .Mounts}}")
            mounts = self.run(*words, self.ids[name])[1] if name in self.ids else ""
            for file in os.listdir(folder):
                path = os.path.join(folder, file)
                if file not in containers.get(name, ()) and json.dumps(path) not in mounts:
                    with contextlib.suppress(OSError):  # the next run tries again
                        os.unlink(path)
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)


def recorded(user):
    """A user's daemon with what the record says is ours in it, to be looked at: its lock is not held."""
    dockerd = Dockerd(user)
    dockerd.ids = record.ids(user)
    return dockerd


def begin(ours):
    """Makes the host's record for the users of whom it has none (the first run after an upgrade, a restored disk),
    once: of what the plan has found to be ours by Compose's labels. What Compose has made anew by an admin's hand gets
    its new id. ours: user → name → id. Only root's own Docker is asked for more."""
    record.prune(exists)
    known, vouched = (record.load() or {"containers": {}})["containers"], []
    for name, container in ours.get("", {}).items():
        old = known.get("", {}).get(name, {}).get("id")
        if old and old != container and record.is_id(container) and took_its_place(old, container):
            record.created("", name, container)
    for user in ours.keys() - known.keys():
        for name, container in ours[user].items():
            labels = {}
            with contextlib.suppress(Failure):
                labels = {} if user else (Dockerd().described(container) or {}).get("labels", {})
            kind = "job" if "gpurack.job" in labels else "model"
            definition = str(labels.get("gpurack.job", "")) or digest(labels.get("gpurack.model"))
            vouched.append((user, name, container, kind, definition))
    if vouched:
        record.rebuild(vouched)


def exists(user):
    """Is there an account of a user, or is it the host's own Docker?"""
    with contextlib.suppress(Failure):
        return not user or bool(as_user(user))
    return False


def took_its_place(old, container):
    """Did Compose itself make this container when the old one was gone (as gpurack/state/record.py: is_ours)?"""
    dockerd = Dockerd()
    with contextlib.suppress(Failure):
        found = dockerd.described(container)
        made_of = found["labels"].get(OF_IMAGE) if found else None
        return made_of is not None and made_of == found["image"] and dockerd.described(old) is None
    return False


def digest(label):
    """What the record calls a model's definition (gpurack/plan/job.py does the same)."""
    return hashlib.sha256(label.encode("utf-8")).hexdigest() if isinstance(label, str) else ""
