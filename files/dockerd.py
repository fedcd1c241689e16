"""The Docker daemons of this host, each with one Compose project of gpurack's. A part of models.py.

The host's own daemon has the user ""; the others are rootless ones, each of the user of its name. Runs as root, on the
host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import json
import os
import pwd
import re

from common import Failure, run, say, write  # (beside this file)

CONFIG = "/etc/gpurack"
USERS = "/var/lib/gpurack/users"  # as in gpurack/paths.py
REPLACED = "/var/lib/gpurack/replaced"
BROKE_OFF = (
    "Docker's daemon broke off while it started it; journalctl -u docker says why. Where that names fsnotify, the host "
    "has too few inotify instances, without which it cannot read CDI specs: sysctl fs.inotify.max_user_instances=1024"
)
SET_ASIDE = "-replaced"  # as in gpurack/plan/drift.py


def as_user(user):
    """(uid, the words before a command that make it this user's own). What root asks of a user's daemon it asks as that
    user, with an empty environment: a Docker client runs programs that the user's configuration names."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Failure("the user {} does not exist".format(user)) from None
    runtime = "/run/user/{}".format(account.pw_uid)
    environment = {
        "HOME": account.pw_dir,
        "USER": user,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_RUNTIME_DIR": runtime,
        "DOCKER_HOST": "unix://{}/docker.sock".format(runtime),
    }
    words = ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--init-groups", "env", "-i"]
    return account.pw_uid, words + ["{}={}".format(*pair) for pair in sorted(environment.items())]


class Dockerd:
    """One daemon, and gpurack's project in it."""

    def __init__(self, user=""):
        self.user = user
        self.folder = os.path.join(USERS, user) if user else CONFIG
        self.compose_file = os.path.join(self.folder, "compose.yaml")
        # what Compose checks and pulls from, while compose_file still describes what runs
        self.next = self.compose_file + ".next"
        self.secrets = os.path.join(self.folder, "secrets")
        self.by_hand = "sudo -iu {} docker".format(user) if user else "docker"
        self.uid, self.become = 0, []
        if user:
            self.uid, self.become = as_user(user)

    def docker(self, *words):
        """The argv of a docker command."""
        return [*self.become, "docker", *words]

    def run(self, *words):
        """(exit code, output with errors) of a docker command."""
        return run(*self.docker(*words))

    def must(self, *words):
        """A docker command's output; Failure when it fails."""
        code, output = self.run(*words)
        if code:
            words = " ".join(words[:2])
            raise Failure("{} {} failed: {}".format(self.by_hand, words, output or "exit code {}".format(code)))
        return output

    def compose(self, *words, **options):
        """The words of a docker command on the project."""
        return ["compose", "--progress", "plain", "--file", options.get("file", self.compose_file), *words]

    def refusal(self, text):
        """What Compose says against a project; "" when it accepts it. `text` is then in `next`."""
        write(self.next, text, 0o644)
        if '"services": {}' in text:  # an empty project is right, but `config` exits with 1
            return ""
        code, output = self.run(*self.compose("config", "--quiet", file=self.next))
        return (output.replace("validating {}: ".format(self.next), "") or "exit code {}".format(code)) if code else ""

    def pids_of(self, name):
        """The process ids of a container; none when it does not run."""
        code, output = self.run("top", name, "-eo", "pid")
        return set(re.findall(r"\d+", output)) if code == 0 else set()

    def stop(self, name):
        """Stops and removes a container of ours; returns the process ids it had."""
        pids = self.pids_of(name)
        if self.run("container", "inspect", name)[0] == 0:
            self.must("stop", "--time", "30", name)
            self.must("rm", "--force", name)
        return pids

    def start(self, name):
        """Creates and starts a model's container. runc loses a race with its own child once in thousands of starts
        ("waiting for init preliminary setup: … connection reset"), so what it fails to create is tried once more."""
        words = self.compose("up", "--detach", "--no-deps", "--pull", "never", name)
        code, output = self.run(*words)
        if code and "paused container" in output:  # which Compose does not wake
            self.must("unpause", name)
        if code and ("OCI runtime create failed" in output or "paused container" in output):
            code, output = self.run(*words)
        if code and "error during connect" in output:
            raise Failure(BROKE_OFF)
        if code:
            lines = output.splitlines() or ["exit code {}".format(code)]
            why = next((line for line in reversed(lines) if "rror" in line), lines[-1])
            raise Failure("Docker cannot start it: {}".format(why))

    def set_aside(self, name, old):
        """Stops a container made by hand and renames it; it is kept, with its restart policy noted, so that it can be
        put back. Returns the process ids it had. Nothing to do when an earlier run did it."""
        form = (
            "{{.HostConfig.AutoRemove}} {{.HostConfig.RestartPolicy.Name}} "
            "{{.HostConfig.RestartPolicy.MaximumRetryCount}}"
        )
        code, output = self.run("container", "inspect", "--format", form, old)
        if code:
            return set()
        vanishes, policy, retries = output.split()
        if vanishes == "true":
            raise Failure("{} was started with --rm, so it could not be put back; stop it yourself".format(old))
        write(self.policy_of(old), policy + (":" + retries if policy == "on-failure" else "") + "\n", 0o644)
        pids = self.pids_of(old)
        self.must("stop", "--time", "30", old)
        self.must("update", "--restart", "no", old)
        self.must("rename", old, old + SET_ASIDE)
        say(name, "{} is stopped and set aside as {}".format(old, old + SET_ASIDE))
        return pids

    def put_back(self, name, old):
        """The container made by hand serves again, because the model that was to replace it did not."""
        self.must("rename", old + SET_ASIDE, old)
        with open(self.policy_of(old)) as policy:
            self.must("update", "--restart", policy.read().strip(), old)
        self.must("start", old)
        say(name, "{} is back in its place".format(old))

    def policy_of(self, old):
        """The file that notes a set aside container's restart policy."""
        return os.path.join(REPLACED, self.user, old)

    def state_of(self, name):
        """status, restarts, exit code and Docker's error of a container."""
        form = (
            '{"status":{{json .State.Status}},"restarts":{{.RestartCount}},'
            '"code":{{.State.ExitCode}},"error":{{json .State.Error}}}'
        )
        code, output = self.run("container", "inspect", "--format", form, name)
        return json.loads(output) if code == 0 else {"status": "gone", "restarts": 0, "code": 0, "error": ""}

    def last_exit(self, name, seconds):
        """The exit code with which a container ended last, within the last `seconds`; None when Docker does not
        remember. One that Docker has already started again says 0 of itself."""
        events = ("events", "--since", "{}s".format(seconds), "--until", "0s", "--filter", "container=" + name)
        code, output = self.run(*events, "--filter", "event=die", "--format", '{{index .Actor.Attributes "exitCode"}}')
        codes = output.split() if code == 0 else []
        return int(codes[-1]) if codes else None

    def said(self, name, lines):
        """What a container logged last; known secrets are cut out."""
        return self.without_secrets(self.run("logs", "--tail", str(lines), name)[1])

    def logs(self, name):
        """Where to look, and what a container logged last."""
        text = self.said(name, 12)
        lines = "".join("\n    | " + line[:300] for line in text.splitlines()[-12:])
        return "Look: {} logs {}{}".format(self.by_hand, name, lines)

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
        """Those that are not wanted any more, and not mounted by a container that stayed."""
        for name in os.listdir(self.secrets):
            folder = os.path.join(self.secrets, name)
            mounts = self.run("container", "inspect", "--format", "{{json .Mounts}}", name)[1]
            for file in os.listdir(folder):
                path = os.path.join(folder, file)
                if file not in containers.get(name, ()) and json.dumps(path) not in mounts:
                    with contextlib.suppress(OSError):  # the next run tries again
                        os.unlink(path)
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)
