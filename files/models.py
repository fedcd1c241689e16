#!/usr/bin/env python3
"""Carries out what gpurack planned for the models of this host. It decides nothing about what they should be.

    models.py apply    the job comes as JSON on standard input (made by gpurack/plan/job.py)
    models.py boot     starts what compose.yaml holds, when Docker and the GPU driver are both there

Runs on the host's own python3 (3.6 or newer, standard library only), as root, under a lock. Prints progress for people;
a line that begins with "error NAME: " says what failed, and the exit code is the number of failures.
"""

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

sys.dont_write_bytecode = True
from fetch import EVERY, Failure, Progress, clock, obtain, run, say, size  # noqa: E402 (beside this file)

CONFIG = "/etc/gpurack"
COMPOSE_FILE = CONFIG + "/compose.yaml"
SECRETS = CONFIG + "/secrets"
NEXT = COMPOSE_FILE + ".next"  # what Compose checks and pulls from, while COMPOSE_FILE still describes what runs
REPLACED = "/var/lib/gpurack/replaced"
SET_ASIDE = "-replaced"  # as in gpurack/plan/drift.py
LOCK = "/run/gpurack/lock"
BUSY = "/run/gpurack/busy"
GPU_MEMORY_TIMEOUT = 60  # seconds that a stopped model's memory may take to come back
DRIVER_TIMEOUT = 3300  # seconds that boot waits for the driver; the unit's TimeoutStartSec is a little more


def must(*argv):
    """A command's output; Failure when it fails."""
    code, output = run(*argv)
    if code:
        raise Failure("{} failed: {}".format(" ".join(argv[:3]), output or "exit code {}".format(code)))
    return output


def compose(*words, **options):
    return ["docker", "compose", "--progress", "plain", "--file", options.get("file", COMPOSE_FILE), *words]


def write(path, content, mode, uid=0):
    """Beside its place first, then renamed: never half a file, and never readable by others in between."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # half a file takes room that a full disk does not have
        raise OSError(error.errno, error.strerror, path) from None
    os.chmod(beside, mode)
    os.chown(beside, uid, 0)
    os.rename(beside, path)


@contextlib.contextmanager
def locked(what):
    """One run at a time on a host; who holds it is written down for the others."""
    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    with open(LOCK, "w") as lock:
        progress = Progress("")
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                progress.tell("waiting for another gpurack run on this host ({})".format(holder()))
                time.sleep(0.2)
        with open(BUSY, "w") as busy:
            busy.write("{} since {}, pid {}".format(what, time.strftime("%H:%M"), os.getpid()))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(BUSY)


def holder():
    with contextlib.suppress(OSError), open(BUSY) as busy:
        return busy.read()
    return "it does not say which"


# --- one model, step by step -----------------------------------------------------------------------------------------


def pull(name, image, file):
    """Pulls an image that is not there; one that is there is never pulled again."""
    if run("docker", "image", "inspect", "--format", "{{.Id}}", image)[0] == 0:
        return
    process = subprocess.Popen(
        compose("pull", name, file=file), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    progress, layers, tail = Progress(name), {}, []
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").strip()
        tail = (tail + [line])[-5:]
        found = re.match(r"(\w+) Downloading .*?([\d.]+)([kMG]?B)/([\d.]+)([kMG]?B)", line)
        if found:
            factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
            layers[found[1]] = (float(found[2]) * factor[found[3]], float(found[4]) * factor[found[5]])
        have, total = (sum(layer[i] for layer in layers.values()) for i in (0, 1))
        progress.tell("pulling {}{}".format(image, ", {} of {}".format(size(have), size(total)) if total else ""))
    if process.wait():
        reason = next((line for line in reversed(tail) if "rror" in line), tail[-1] if tail else "no output")
        remedy = "Correct version or image, or see why the host cannot get it: docker pull " + image
        raise Failure("image {} cannot be pulled: {}. {}".format(image, reason, remedy))
    if progress.elapsed() > EVERY:
        say(name, "pulled {} in {}".format(image, clock(progress.elapsed())))


def pids_of(name):
    code, output = run("docker", "top", name, "-eo", "pid")
    return set(re.findall(r"\d+", output)) if code == 0 else set()


def stop(name):
    """Stops and removes a container of ours; returns the process ids it had."""
    pids = pids_of(name)
    if run("docker", "container", "inspect", name)[0] == 0:
        must("docker", "stop", "--time", "30", name)
        must("docker", "rm", "--force", name)
    return pids


def set_aside(name, old):
    """Stops a container made by hand and renames it; it is kept, with its restart policy noted, so that it can be put
    back. Returns the process ids it had. Nothing to do when an earlier run did it."""
    form = (
        "{{.HostConfig.AutoRemove}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}"
    )
    code, output = run("docker", "container", "inspect", "--format", form, old)
    if code:
        return set()
    vanishes, policy, retries = output.split()
    if vanishes == "true":
        raise Failure("{} was started with --rm, so it could not be put back; stop it yourself".format(old))
    write(os.path.join(REPLACED, old), policy + (":" + retries if policy == "on-failure" else "") + "\n", 0o644)
    pids = pids_of(old)
    must("docker", "stop", "--time", "30", old)
    must("docker", "update", "--restart", "no", old)
    must("docker", "rename", old, old + SET_ASIDE)
    say(name, "{} is stopped and set aside as {}".format(old, old + SET_ASIDE))
    return pids


def wait_for_memory(name, pids):
    """A card's memory comes back a moment after the process that held it is gone."""
    if not pids or not shutil.which("nvidia-smi"):
        return
    progress = Progress(name)
    while progress.elapsed() < GPU_MEMORY_TIMEOUT:
        code, output = run("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader")
        if code or not pids & set(output.split()):
            return
        progress.tell("waiting for the memory of the card")
        time.sleep(0.2)
    raise Failure("the memory of its card did not come back within {} s; see nvidia-smi".format(GPU_MEMORY_TIMEOUT))


def start(name):
    """Creates and starts a model's container. runc loses a race with its own child once in thousands of starts
    ("waiting for init preliminary setup: … connection reset"), so what it fails to create is tried once more."""
    argv = compose("up", "--detach", "--no-deps", "--pull", "never", name)
    code, output = run(*argv)
    if code and "OCI runtime create failed" in output:
        code, output = run(*argv)
    if code:
        lines = output.splitlines() or ["exit code {}".format(code)]
        raise Failure("Docker cannot start it: {}".format(next((x for x in reversed(lines) if "rror" in x), lines[-1])))


def wait_until_ready(name, url, served_name, timeout):
    """Until the model's own API answers 200 and names the model (served_name; None: its answer names none).
    Ends at once when the container exits or restarts."""
    progress, delay = Progress(name), 0.1
    restarts = container_state(name)["restarts"]
    while True:
        answer = ask(name, url)
        if answer is not None and (served_name is None or json.dumps(served_name) in answer):
            return progress.elapsed()
        state = container_state(name)
        if state["status"] != "running" or state["restarts"] > restarts:
            run("docker", "stop", "--time", "5", name)  # or it would go on restarting
            raise Failure(died(name, state))
        if progress.elapsed() > timeout:
            raise Failure(
                "not ready after {}: {} did not {}. Look: docker logs {}{}".format(
                    clock(timeout),
                    url,
                    'name "{}"'.format(served_name) if served_name else "answer",
                    name,
                    last_lines(name),
                )
            )
        progress.tell("loading")
        time.sleep(delay)
        delay = min(delay * 1.5, 1)


def ask(name, url):
    """The body of a 200 answer, None for anything else."""
    parts = urlsplit(url)
    headers = {}
    with contextlib.suppress(OSError), open("{}/{}/api_key".format(SECRETS, name)) as key:
        headers["Authorization"] = "Bearer " + key.read().strip()
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    try:
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        body = response.read(100000).decode("utf-8", "replace")
        return body if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def container_state(name):
    form = (
        '{"status":{{json .State.Status}},"restarts":{{.RestartCount}},'
        '"code":{{.State.ExitCode}},"error":{{json .State.Error}}}'
    )
    code, output = run("docker", "container", "inspect", "--format", form, name)
    return json.loads(output) if code == 0 else {"status": "gone", "restarts": 0, "code": 0, "error": ""}


def died(name, state):
    """Why a container ended, with its last lines."""
    reason = state["error"] or "exit code {}".format(state["code"])
    return "it ended while loading ({}). Look: docker logs {}{}".format(reason, name, last_lines(name))


def last_lines(name):
    """What a container logged last; known secrets are cut out."""
    logs = without_secrets(run("docker", "logs", "--tail", "12", name)[1])
    return "".join("\n    | " + line[:300] for line in logs.splitlines()[-12:])


def without_secrets(text):
    for folder, _, names in os.walk(SECRETS):
        for name in names:
            with contextlib.suppress(OSError), open(os.path.join(folder, name)) as secret:
                text = text.replace(secret.read().strip() or "\0", "•••")
    return text


# --- the job ---------------------------------------------------------------------------------------------------------


class Job:
    """All that one run has to do."""

    def __init__(self, data):
        self.data, self.failures, self.mutex = data, 0, threading.Lock()

    def fail(self, name, why):
        with self.mutex:
            self.failures += 1
        say("", "error {}: {}".format(name, why))

    def apply(self):
        """Check, then do what can be done while the old models serve, then change. A model that fails before its
        turn keeps its container, its place in compose.yaml and its secrets."""
        ready = []
        every = [name for group in self.data["groups"] for name in names(group)]
        try:
            self.side_by_side(self.accepted(), lambda group: self.prepare(group) and ready.append(group))
            kept = set(every) - {name for group in ready for name in names(group)}
            self.write_secrets(kept)
            write(COMPOSE_FILE, self.project(kept), 0o644)
        except OSError as error:
            for name in every or ["models"]:
                self.fail(name, "{}; it was not changed".format(error))
            return
        with contextlib.suppress(OSError):
            os.unlink(NEXT)
        self.side_by_side(ready, self.change)
        self.remove_old_secrets()

    def project(self, kept=()):
        """The text of compose.yaml, with the models in `kept` as they are in the one that lies there."""
        new, old = self.data["compose"]["services"], self.data["compose"]["before"]
        chosen = {name: new[name] for name in new if name not in kept}
        chosen.update({name: old[name] for name in kept if name in old})
        return self.assembled(chosen)

    def assembled(self, chosen):
        """Models' lines as one file; the same text as gpurack/plan/compose.py: document."""
        text = self.data["compose"]["head"]
        for section in ("services", "secrets", "volumes"):
            lines = {}
            for block in chosen.values():
                lines.update(block[section])
            if lines:
                text += '"{}":\n'.format(section) + "".join(lines[key] for key in sorted(lines))
            elif section == "services":
                text += '"services": {}\n'
        return text

    def accepted(self):
        """The groups that Compose accepts; one wrong service would make it refuse all of them."""
        groups = self.data["groups"]
        if not self.refusal(self.project()):
            return groups
        good = []
        for group in groups:
            blocks = {model["name"]: self.data["compose"]["services"].get(model["name"]) for model in group}
            wrong = {name: self.refusal(self.assembled({name: block})) for name, block in blocks.items() if block}
            wrong = {name: refusal for name, refusal in wrong.items() if refusal}
            for name, refusal in wrong.items():
                self.fail(name, "Compose refuses it, so it was not changed; correct its compose field. " + refusal)
            if wrong:
                self.fail_others(group, wrong)
            else:
                good.append(group)
        refusal = self.refusal(self.project({name for group in groups if group not in good for name in names(group)}))
        if refusal:
            for group in good:
                self.fail(group[0]["name"], "Compose refuses the whole project, nothing was changed: " + refusal)
            return []
        return good

    def refusal(self, text):
        """What Compose says against a project; "" when it accepts it. `text` is then in NEXT."""
        write(NEXT, text, 0o644)
        if '"services": {}' in text:  # an empty project is right, but `config` exits with 1
            return ""
        code, output = run(*compose("config", "--quiet", file=NEXT))
        return (output.replace("validating {}: ".format(NEXT), "") or "exit code {}".format(code)) if code else ""

    def fail_others(self, group, failed):
        """The rest of a group stays as it is, because its models need each other's cards or ports."""
        for name in names(group):
            if name not in failed:
                what = "not changed, because it shares a card or port with {}, which failed"
                self.fail(name, what.format(", ".join(sorted(failed))))

    def side_by_side(self, groups, work):
        def guarded(group):
            try:
                work(group)
            except Exception as error:  # a thread's exception would be lost, and the run look like a success
                self.fail(group[0]["name"], "{}: {}".format(type(error).__name__, error))

        threads = [threading.Thread(target=guarded, args=(group,)) for group in groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def write_secrets(self, kept):
        os.makedirs(SECRETS, mode=0o700, exist_ok=True)
        for name, value in self.data["secrets"].items():
            if name not in kept:
                write("{}/{}/api_key".format(SECRETS, name), value + "\n", 0o400)

    def remove_old_secrets(self):
        """Those of models that are gone: not wanted any more and not mounted by a container that stayed."""
        for name in os.listdir(SECRETS):
            folder = os.path.join(SECRETS, name)
            mounts = run("docker", "container", "inspect", "--format", "{{json .Mounts}}", name)
            if name not in self.data["secrets"] and not (mounts[0] == 0 and folder + "/" in mounts[1]):
                shutil.rmtree(folder, ignore_errors=True)  # the next run tries again

    def prepare(self, group):
        """Whatever can be done while the old ones still serve. One failure keeps the whole group as it is."""
        for model in group:
            name = model["name"]
            try:
                if model.get("fetch"):
                    obtain(name, model["fetch"], self.data.get("hf_token"))
                if model["action"] in ("create", "recreate", "start"):
                    pull(name, model["image"], NEXT)
            except (Failure, OSError) as failure:
                self.fail(name, str(failure))
                self.fail_others(group, {name})
                return False
        return True

    def change(self, group):
        """Stop all that must make room, wait for the memory, start one after the other."""
        pids = set()
        for model in group:
            if model["action"] in ("remove", "recreate"):
                try:
                    pids |= stop(model["name"])
                    if model["action"] == "remove":
                        say(model["name"], "removed")
                except (Failure, OSError) as failure:
                    self.fail(model["name"], str(failure))
        for model in group:
            if model["action"] == "remove":
                continue
            try:
                if model.get("replaces"):
                    pids |= set_aside(model["name"], model["replaces"])
                if model["uuids"]:
                    wait_for_memory(model["name"], pids)
                if model["action"] != "wait":
                    start(model["name"])
                seconds = wait_until_ready(model["name"], model["url"], model["served_name"], model["timeout"])
                say(model["name"], "ready after {}".format(clock(seconds)))
            except (Failure, OSError) as failure:
                self.fail(model["name"], str(failure))
                if model.get("replaces"):
                    self.put_back(model["name"], model["replaces"])

    def put_back(self, name, old):
        """The container made by hand serves again, because the model that was to replace it did not."""
        try:
            run("docker", "rm", "--force", name)
            must("docker", "rename", old + SET_ASIDE, old)
            with open(os.path.join(REPLACED, old)) as policy:
                must("docker", "update", "--restart", policy.read().strip(), old)
            must("docker", "start", old)
            say(name, "{} is back in its place".format(old))
        except (Failure, OSError) as failure:
            self.fail(name, "{} could not be put back: {}".format(old, failure))


def names(group):
    return [model["name"] for model in group]


def apply():
    job = Job(json.load(sys.stdin))
    with locked("models"):
        job.apply()
    return min(job.failures, 100)


# --- boot ------------------------------------------------------------------------------------------------------------


def boot():
    """Starts what belongs to the project and does not run: CPU models at once, the others when the driver is there."""
    code, output = run("docker", "ps", "--all", "--filter", "label=gpurack.model", "--format", "{{.Names}}")
    names = output.split() if code == 0 else []
    late = [name for name in names if wants_gpu(name)]
    failed = start_all([name for name in names if name not in late])
    if late:
        failed += start_all(late) if wait_for_driver() else late
    for name in failed:
        say("", "error {}: did not start; see docker logs {}".format(name, name))
    return min(len(failed), 100)


def wants_gpu(name):
    code, output = run("docker", "container", "inspect", "--format", '{{index .Config.Labels "gpurack.model"}}', name)
    return bool(code == 0 and json.loads(output).get("uuids"))


def start_all(names):
    """One after the other, under the lock: a run that makes room on a card must not find a model back on it.
    Returns the names that did not start; a container that is gone by now is nobody's failure."""
    failed = []
    with locked("boot"):
        for name in names:
            if container_state(name)["status"] in ("running", "gone"):
                continue
            code, output = run("docker", "start", name)
            if code:
                say(name, output)
                failed.append(name)
    return failed


def wait_for_driver():
    """Cards answer and CDI names them; both may come minutes after Docker."""
    progress = Progress("boot")
    while progress.elapsed() < DRIVER_TIMEOUT:
        code, output = run("nvidia-smi", "-L")
        uuids = re.findall(r"UUID: (GPU-[0-9a-f-]+)", output)
        if code in (0, 15) and uuids:
            known = run("nvidia-ctk", "cdi", "list")[1]
            if all("=" + uuid in known for uuid in uuids):
                return True
            run("systemctl", "reset-failed", "nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path")
            run("systemctl", "restart", "nvidia-cdi-refresh.service")
        time.sleep(1)
    say("boot", "the GPU driver did not appear within {}".format(clock(DRIVER_TIMEOUT)))
    return False


def main():
    # The connection that started us may be gone; what was begun is carried to its end all the same.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    actions = {"apply": apply, "boot": boot}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.stderr.write(__doc__)
        return 64
    return actions[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
