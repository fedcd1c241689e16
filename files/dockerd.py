"""The Docker daemons of this host, each with one Compose project of gpurack: its containers and their files.

The host's own daemon has the user ""; the others are users' rootless daemons. A part of models.py, which runs as root,
on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import json
import os
import re

import record
from docker_commands import ANSWER, Commands, why_not_started
from json_data import parsed
from messages import Failure
from paths import COMPOSE, CONFIG, JOB_LABEL, JOBS_PROJECT, MODEL_LABEL, PROJECT, USERS
from ports import published
from writing import write  # (beside this file)

DETAILS = (
    '{"status":{{json .State.Status}},"policy":{{json .HostConfig.RestartPolicy.Name}},'
    '"retries":{{.HostConfig.RestartPolicy.MaximumRetryCount}},"vanishes":{{.HostConfig.AutoRemove}},'
    '"image":{{json .Config.Image}},"ports":{{json .HostConfig.PortBindings}}}'
)
MOST_VOLUMES = 20  # anonymous ones of one container that are recorded
MOST_LEFT = 10  # containers with a label that are removed; a user's Docker may list any number
IMAGE = r"\w[\w.:/@-]{0,299}\Z"  # a reference or an id; never an option
POLICIES = ("", "no", "always", "unless-stopped", "on-failure")
LABELS = {PROJECT: (MODEL_LABEL, "model"), JOBS_PROJECT: (JOB_LABEL, "job")}
OF_PROJECT, OF_SERVICE = COMPOSE + "project", COMPOSE + "service"
OF_IMAGE = COMPOSE + "image"  # the image id from which Compose created the container
LONGEST_SECRET = 1 << 20  # characters of a key, or of configuration beside it


class ImageGone(Failure):
    """A container cannot be created again as it was, since its image no longer exists on the host."""

    code = "previous-image-missing"


class Dockerd(Commands):
    """One daemon, and gpurack's Compose project in it.

    gpurack's containers are identified by id (`ids`: name → id, from the host's record), never by name or label: a name
    may move to another container, and `docker commit` and `docker run` copy labels.
    """

    def __init__(self, user="", project=PROJECT):
        super().__init__(user)
        self.project = project
        self.folder = folder_of(user)
        self.compose_file = os.path.join(self.folder, "compose.yaml")
        # Compose validates it and pulls from it while compose_file describes the running containers
        self.next = self.compose_file + ".next"
        self.secrets = os.path.join(self.folder, "secrets")
        self.ids, self.keys = {}, {}  # keys: name → key in Compose, where it is another one

    def inspect(self, container):
        """id, name, image and labels of a container, given its name or id; None where none exists. Raises Failure."""
        form = '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"labels":{{json .Config.Labels}}}'
        code, output = self.run("container", "inspect", "--format", form, container)
        if code and "no such container" in output.lower():
            return None
        found = parsed(next((line for line in output.splitlines() if line.startswith("{")), "")) if not code else None
        if not (isinstance(found, dict) and record.is_id(found.get("id")) and isinstance(found.get("name"), str)):
            raise Failure(
                "{} container inspect {} failed: {}".format(self.by_hand, container, output[:300]),
                "docker-command-failed",
            )
        labels = found["labels"] if isinstance(found.get("labels"), dict) else {}
        image = found.get("image")
        image = image if isinstance(image, str) and re.match(IMAGE, image) else ""
        return {"id": found["id"], "name": found["name"].lstrip("/"), "image": image, "labels": labels}

    def details(self, container):
        """What a change needs to know of a container; None where none exists. Raises Failure.

        Status, restart policy, reference of its image, published ports [(address, port)], and whether Docker removes it
        when it ends.
        """
        code, output = self.run("container", "inspect", "--format", DETAILS, container)
        if code and "no such container" in output.lower():
            return None
        found = parsed(next((line for line in output.splitlines() if line.startswith("{")), "")) if not code else None
        found = found if isinstance(found, dict) else {}
        policy, retries, ports = found.get("policy"), found.get("retries"), found.get("ports") or {}
        forms = {"status": str, "image": str, "vanishes": bool}
        if any(not isinstance(found.get(word), form) for word, form in forms.items()) or policy not in POLICIES:
            raise Failure(
                "{} container inspect {} failed: {}".format(self.by_hand, container[:12], output[:300]),
                "docker-command-failed",
            )
        if policy == "on-failure" and type(retries) is int and retries > 0:
            policy += ":{}".format(retries)
        image = found["image"] if re.match(IMAGE, found["image"]) else ""
        return dict(found, policy=policy, ports=published(ports), image=image)

    def discard(self, name, container):
        """Remove a container of an entry at once. Its anonymous volumes stay, and are recorded for `gpurack prune`."""
        form = '{{range .Mounts}}{{if eq .Type "volume"}}{{println .Name}}{{end}}{{end}}'
        code, output = self.run("container", "inspect", "--format", form, container)
        anonymous = [volume for volume in output.split() if record.is_id(volume)] if not code else []
        record.note_volumes(self.user, name, anonymous[:MOST_VOLUMES])
        self.limited("rm", "--force", container)

    def remove_labelled(self, label, value):
        """Remove the containers with a label of ours: a run that was killed, or did not wait longer, left them running.

        Raises Failure where one stays."""
        words = ("ps", "--all", "--quiet", "--no-trunc", "--filter", "label={}={}".format(label, value))
        for container in [one for one in self.limited(*words).split() if record.is_id(one)][:MOST_LEFT]:
            self.limited("rm", "--force", "--volumes", container)

    def repo_digest(self, image):
        """The digest by which a registry has an image, given its id; "" where it was built or loaded here."""
        code, output = self.run("image", "inspect", "--format", "{{json .RepoDigests}}", str(image))
        found = parsed(output) if code == 0 and record.is_id(str(image)[len("sha256:") :]) else None
        first = found[0] if isinstance(found, list) and found else ""
        return first if isinstance(first, str) and re.match(r"[\w.:/-]{1,300}@sha256:[0-9a-f]{64}\Z", first) else ""

    def key(self, name):
        """The key of an entry in Compose."""
        return self.keys.get(name, name)

    def has_our_labels(self, found, name, key=None):
        """Does a container have this entry's name and the labels of Compose and gpurack? key: its key in Compose."""
        return found["name"] == name and self.is_of(found, key or self.key(name))

    def is_of(self, found, key):
        """Does a container have the labels of gpurack, and of Compose for this key?"""
        labels = found["labels"]
        ours = LABELS[self.project][0] in labels and labels.get(OF_PROJECT) == self.project
        return ours and labels.get(OF_SERVICE) == key

    def id_of(self, name):
        """The id of our existing container of this name, or None. Raises Failure where it was renamed or relabelled."""
        found = self.inspect(self.ids[name]) if name in self.ids else None
        if found and not self.has_our_labels(found, name):
            what = "its container ({1}) is now named {0} or has other labels, so it was not changed. Rename it: "
            what += "{2} rename {1} {3}, or remove it: {2} rm --force {1}"
            raise Failure(what.format(found["name"], found["id"][:12], self.by_hand, name), "container-renamed")
        return found["id"] if found else None

    def of_key(self, key):
        """The ids of all containers with the labels of Compose for this key."""
        words = ("--filter", "label={}={}".format(OF_PROJECT, self.project), "--filter")
        alike = self.must("ps", "--all", "--quiet", "--no-trunc", *words, "label={}={}".format(OF_SERVICE, key))
        return [container for container in alike.split() if record.is_id(container)]

    def refuse_foreign(self, name, expected=None, key=None):
        """Raise Failure where creating this container would affect one that is not ours.

        Compose stops and removes any container with its labels. expected: the id of a container made by hand that is
        renamed first. key: the key that it is created with."""
        ours = self.id_of(name)
        for other in self.of_key(key or self.key(name)):
            if other != ours:
                what = "container {0} has gpurack's labels for {1}, but gpurack did not create it (a copy?). Compose "
                what += "would stop it, so nothing was changed. Remove it: {2} rm --force {0}, or run it with "
                what += "--label {3}="
                raise Failure(what.format(other[:12], name, self.by_hand, OF_PROJECT), "container-foreign")
        named = self.inspect(name)
        if named and named["name"] == name and named["id"] not in (ours, expected):
            what = "a container named {0} already exists and is not managed by gpurack ({1}). Rename it: "
            what += "{2} rename {1} {0}-old"
            raise Failure(what.format(name, named["id"][:12], self.by_hand), "container-foreign")

    def remove(self, name):
        """Remove our container, running or not; a missing one is not an error."""
        container = self.id_of(name)
        if container:
            self.must("rm", "--force", container)
        self.forget(name)

    def forget(self, name):
        record.removed(self.user, name)
        self.ids.pop(name, None)

    def start(self, name, definition="", image=("", "")):
        """Create, record and start the container of an entry.

        definition: for the record. image: reference and id of the one that it must have, "" if unknown. Raises Failure.
        """
        self.refuse_foreign(name)
        moved = self.moved(*image)
        record.about_to_create(self.user, name, LABELS[self.project][1], definition, self.key(name))
        try:
            self.up(name, moved)
        except Failure:
            with contextlib.suppress(Failure):
                self.note(name)
            raise
        if not self.note(name):
            raise Failure("Docker started the container, but lists none of this name", "container-not-started")

    def note(self, name):
        """Record the container that Compose created; False where it created none."""
        found = self.inspect(name)
        if not (found and self.has_our_labels(found, name)):
            self.forget(name)
            return False
        record.created(self.user, name, found["id"])
        self.ids[name] = found["id"]
        return True

    def compose(self, *words, **options):
        """The arguments of a `docker compose` command on the project."""
        return ["compose", "--progress", "plain", "--file", options.get("file", self.compose_file), *words]

    def keep(self, path, text):
        """Write a Compose file for root alone; the file of a user's project is readable by that user."""
        write(path, text, 0o600, reader=self.uid if self.user else None)

    def refusal(self, text):
        """Compose's error about a project, "" when it accepts it. Writes `text` to `next`."""
        self.keep(self.next, text)
        if '"services": {}' in text:  # an empty project is valid, but `config` exits with 1
            return ""
        code, output = self.run(*self.compose("config", "--quiet", file=self.next))
        return (output.replace("validating {}: ".format(self.next), "") or "exit code {}".format(code)) if code else ""

    def moved(self, reference, image):
        """The id of an image that a container had, where its reference means another one by now, else "".

        Compose would create the container from that. image: its id, "" if unknown. Raises ImageGone.
        """
        if not image or (reference and not reference.startswith("sha256:") and self.image_id(reference) == image):
            return ""
        if self.image_id(image) is None:
            named = "{} ({})".format(reference, image[:19]) if reference else image[:19]
            raise ImageGone("its container was removed, and its image {} is no longer on the host".format(named))
        return image

    def image_id(self, image):
        """The id of an image; None where the daemon does not have it. Raises Failure where it does not say."""
        code, output = self.run("image", "inspect", "--format", "{{.Id}}", image)
        if code and "no such image" not in output.lower():
            self.checked(("image", "inspect"), code, output)
        return None if code else output

    @contextlib.contextmanager
    def pinned(self, name, image):
        """Options for Compose by which the container of an entry is created from the image with this id.

        It does not matter what the reference in compose.yaml means by now. There are none for "".
        """
        if not image:
            yield ()
            return
        path = "{}-{}.image".format(self.next, self.key(name))
        self.keep(path, json.dumps({"services": {self.key(name): {"image": image}}}))
        try:
            yield "--file", path
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def up(self, name, image=""):
        """Start a container by Compose.

        image: the id of its image, where the reference in compose.yaml means another one. Raises Failure.

        runc loses a race with its own child once in thousands of starts ("waiting for init preliminary setup: …
        connection reset"), so a failed creation is tried once more."""
        with self.pinned(name, image) as options:
            words = self.compose(*options, "up", "--detach", "--no-deps", "--pull", "never", self.key(name))
            self.bring_up(name, words)

    def bring_up(self, name, words):
        """Run Compose's command that starts a container. Raises Failure."""
        code, output = self.within(words)
        if code and "paused container" in output and name in self.ids:  # Compose does not unpause it
            self.must("unpause", self.ids[name])
        if code and ("OCI runtime create failed" in output or "paused container" in output):
            code, output = self.within(words)
        if code:
            raise Failure(why_not_started(code, output), "container-not-started")

    def state_of(self, name, limit=ANSWER):
        """status, restarts, exit code and Docker's error of our container. limit: as for `run`."""
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
            raise Failure(
                "{} container inspect printed no valid answer: {}".format(self.by_hand, output[:300]),
                "docker-command-failed",
            )
        return found

    def last_exit(self, name, seconds):
        """The last exit code of our container within the last `seconds`, from Docker's events; None where unknown.

        A container that Docker has already restarted reports 0 itself."""
        only = "container=" + self.ids.get(name, name)
        events = ("events", "--since", "{}s".format(seconds), "--until", "0s", "--filter", only)
        code, output = self.run(*events, "--filter", "event=die", "--format", '{{index .Actor.Attributes "exitCode"}}')
        codes = re.findall(r"(?m)^\d{1,3}$", output) if code == 0 else []
        return int(codes[-1]) if codes else None

    def said(self, name, lines):
        """The last lines of our container's log, without known secrets."""
        if name not in self.ids:
            return ""
        return self.without_secrets(self.run("logs", "--tail", str(lines), self.ids[name])[1])

    def logs(self, name):
        """The command that shows a container's log, and its last lines."""
        text = self.said(name, 12)
        lines = "".join("\n    | " + line[:300] for line in text.splitlines()[-12:])
        return "See {} logs {}{}".format(self.by_hand, name, lines)

    def api_key(self, name):
        """A model's API key, None when it has none."""
        with contextlib.suppress(OSError):
            return secret_text(os.path.join(self.secrets, self.key(name), "api_key")).strip()
        return None

    def without_secrets(self, text):
        """A text with the secrets of this project masked. No mask is masked again, or it would grow without end."""
        text = text.replace("\0", "")
        for folder, _, names in os.walk(self.secrets):
            for name in names:
                with contextlib.suppress(OSError):
                    secret = secret_text(os.path.join(folder, name)).replace("\0", "").strip()
                    text = text.replace(secret, "\0") if secret else text
        return text.replace("\0", "•••")

    def write_files(self, containers, kept):
        """Write keys and configuration of containers (name → file → text), except those in `kept`."""
        # a user's daemon must reach its files by name, not list them; each file is readable by its owner only
        os.makedirs(self.secrets, mode=0o711 if self.user else 0o700, exist_ok=True)
        for name, files in containers.items():
            for file, text in files.items() if name not in kept else ():
                write(os.path.join(self.secrets, name, file), text, 0o400, self.uid)

    def keys_with_files(self):
        """The keys in Compose that have files on the host."""
        return sorted(os.listdir(self.secrets)) if os.path.isdir(self.secrets) else []

    def remove_old_files(self, containers, used=()):
        """Remove files that no entry needs any more and that none of our containers mounts.

        containers: key in Compose → file → text. used: keys whose files all stay, unless `containers` has them."""
        by_key = {self.key(name): container for name, container in self.ids.items()}
        for key in self.keys_with_files():
            if key in used and key not in containers:
                continue
            folder = os.path.join(self.secrets, key)
            words = ("container", "inspect", "--format", "{{json .Mounts}}")
            mounts = self.run(*words, by_key[key])[1] if key in by_key else ""
            for file in os.listdir(folder):
                path = os.path.join(folder, file)
                if file not in containers.get(key, ()) and json.dumps(path) not in mounts:
                    with contextlib.suppress(OSError):  # the next run tries again
                        os.unlink(path)
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)


def folder_of(user):
    """The folder of the Compose project in a user's Docker, "" for the host's own."""
    return os.path.join(USERS, user) if user else CONFIG


def secret_text(path):
    """The text of a key or of configuration, as far as it may be one.

    It belongs to the user of its Docker, who can write anything into it, of any size.
    """
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(LONGEST_SECRET)


def recorded(user):
    """A user's daemon with the recorded ids, for inspection only: its lock is not held."""
    dockerd = Dockerd(user)
    dockerd.ids, dockerd.keys = record.ids(user), record.keys(user)
    return dockerd
