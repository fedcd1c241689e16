#!/usr/bin/env python3
"""Carries out what gpurack planned for the models of this host. It decides nothing about what they should be.

    models.py apply    the job comes as JSON on standard input (made by gpurack/plan/job.py)
    models.py jobs     what is done once and ends; the same way (gpurack/plan/jobs.py)
    models.py boot     starts what compose.yaml holds, when Docker and the GPU driver are both there

Runs on the host's own python3 (3.6 or newer, standard library only), as root, under a lock. Prints progress for people;
a line that begins with "error NAME: " says what failed, and the exit code is the number of failures.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from urllib.parse import urlsplit

sys.dont_write_bytecode = True
import asking  # noqa: E402
import boot  # noqa: E402
import jobs  # noqa: E402
import ollama  # noqa: E402
from common import Failure, Progress, clock, locked, run, say, write  # noqa: E402 (beside this file)
from dockerd import Dockerd  # noqa: E402
from fetch import agree, obtain  # noqa: E402
from images import provide  # noqa: E402
from remedies import remedy  # noqa: E402

KFD_PROCESSES = "/sys/class/kfd/kfd/proc"  # those on AMD's cards, a folder each
LOOK_TIMEOUT = 5  # seconds that one look whether a model is ready may take
KEY_TIMEOUT = 10  # seconds that a server may refuse our key; one that loads answers otherwise, or not at all
GPU_MEMORY_TIMEOUT = 60  # seconds that a stopped model's memory may take to come back


# --- one model, step by step -----------------------------------------------------------------------------------------


def wait_for_memory(name, pids):
    """A card's memory comes back a moment after the process that held it is gone."""
    progress = Progress(name)
    while pids and progress.elapsed() < GPU_MEMORY_TIMEOUT:
        if not pids & on_cards():
            return
        progress.tell("waiting for the memory of the card")
        time.sleep(0.2)
    if pids:
        raise Failure(
            "the memory of its card did not come back within {} s; see nvidia-smi or rocm-smi".format(
                GPU_MEMORY_TIMEOUT
            )
        )


def on_cards():
    """The ids of the processes on NVIDIA's cards and AMD's; none where nobody can say."""
    pids = set()
    if shutil.which("nvidia-smi"):
        code, output = run("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader")
        pids.update([] if code else output.split())
    with contextlib.suppress(OSError):
        pids.update(os.listdir(KFD_PROCESSES))
    return pids


def wait_until_ready(dockerd, name, url, served_name, timeout, cards=True):
    """Until the model's own API answers 200 and names the model (served_name; None: its answer names none).
    Ends at once when the container exits or restarts."""
    progress, delay, refused = Progress(name), 0.1, None
    restarts = dockerd.state_of(name)["restarts"]
    while True:
        status, answer = look(dockerd, name, url)
        if status == 200 and (served_name is None or json.dumps(served_name) in answer):
            return progress.elapsed()
        refused = refused or time.monotonic() if status in (401, 403) else None
        if refused and time.monotonic() - refused >= KEY_TIMEOUT:
            why = asking.another_key(dockerd.api_key(name), status, url)
            raise Failure("{} {}".format(why, dockerd.logs(name)))
        state = dockerd.state_of(name)
        if state["status"] != "running" or state["restarts"] > restarts:
            code = state["code"]
            if state["status"] == "running":
                code = dockerd.last_exit(name, int(progress.elapsed()) + 1)
            dockerd.run("stop", "--time", "5", name)  # or it would go on restarting
            ended = "it crashed and was restarted" if code is None else "exit code {}".format(code)
            reason, logs = state["error"] or ended, dockerd.logs(name)
            helps = remedy(code, dockerd.said(name, 60), cards)  # a traceback is longer than what is shown
            raise Failure("it ended while loading ({}).{} {}".format(reason, helps, logs))
        if progress.elapsed() > timeout:
            unlike = {0: "did not answer", 200: 'did not name "{}"'.format(served_name)}
            what = unlike.get(status, "answers with HTTP status {}, not 200".format(status))
            raise Failure("not ready after {}: {} {}. {}".format(clock(timeout), url, what, dockerd.logs(name)))
        progress.tell("loading")
        time.sleep(delay)
        delay = min(delay * 1.5, 1)


def look(dockerd, name, url):
    """(HTTP status, body) of one look whether it is ready; status 0 where nothing answers."""
    return asking.send(url, urlsplit(url).path, None, dockerd.api_key(name), LOOK_TIMEOUT)


# --- the job ---------------------------------------------------------------------------------------------------------


class Project:
    """The Compose project of one daemon, as the job has it."""

    def __init__(self, user, data):
        self.dockerd, self.data = Dockerd(user), data

    def text(self, kept=()):
        """The text of compose.yaml, with the models in `kept` as they are in the one that lies there."""
        new, old = self.data["services"], self.data["before"]
        chosen = {name: new[name] for name in new if name not in kept}
        chosen.update({name: old[name] for name in kept if name in old})
        return self.assembled(chosen)

    def assembled(self, chosen):
        """Models' lines as one file; the same text as gpurack/plan/compose.py: document."""
        text = self.data["head"]
        for section in ("services", "secrets", "volumes"):
            lines = {}
            for block in chosen.values():
                lines.update(block[section])
            if lines:
                text += '"{}":\n'.format(section) + "".join(lines[key] for key in sorted(lines))
            elif section == "services":
                text += '"services": {}\n'
        return text

    def refusal(self, kept=()):
        """What Compose says against the project; "" for nothing. What it was asked lies beside compose.yaml then."""
        return self.dockerd.refusal(self.text(kept))

    def refused(self, group):
        """The models of a group that Compose refuses each by itself, with what it says."""
        blocks = {name: self.data["services"][name] for name in names(group) if name in self.data["services"]}
        found = {name: self.dockerd.refusal(self.assembled({name: block})) for name, block in blocks.items()}
        return {name: refusal for name, refusal in found.items() if refusal}

    def write(self, kept):
        """Containers' files and compose.yaml; the models in `kept` keep their old ones."""
        self.dockerd.write_files(self.data["files"], kept)
        write(self.dockerd.compose_file, self.text(kept), 0o644)


class Job:
    """All that one run has to do."""

    def __init__(self, data):
        self.data, self.failures, self.mutex = data, 0, threading.Lock()
        self.projects = {user: Project(user, project) for user, project in data["projects"].items()}
        self.settled = {name: threading.Event() for group in data["groups"] for name in names(group)}

    def dockerd(self, user):
        """The daemon of a user, "" for the host's own."""
        return self.projects[user].dockerd

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
            for project in self.projects.values():
                project.write(kept)
        except OSError as error:
            for name in every or ["models"]:
                self.fail(name, "{}; it was not changed".format(error))
            return
        for project in self.projects.values():
            with contextlib.suppress(OSError):
                os.unlink(project.dockerd.next)
        for name in kept:
            self.settled[name].set()
        self.side_by_side(ready, self.change)
        for project in self.projects.values():
            project.dockerd.remove_old_files(project.data["files"])

    def accepted(self):
        """The groups that Compose accepts; one wrong service would make it refuse all of its project."""
        groups = self.data["groups"]
        refusing = [project for project in self.projects.values() if project.refusal()]
        good = []
        for group in groups:
            wrong = {name: why for project in refusing for name, why in project.refused(group).items()}
            for name, why in wrong.items():
                self.fail(name, "Compose refuses it, so it was not changed; correct its compose field. " + why)
            if wrong:
                self.fail_others(group, wrong)
            else:
                good.append(group)
        kept = {name for group in groups if group not in good for name in names(group)}
        for refusal in [refusal for project in refusing for refusal in [project.refusal(kept)] if refusal]:
            for group in good:
                self.fail(group[0]["name"], "Compose refuses the whole project, nothing was changed: " + refusal)
            return []
        return good

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

    def prepare(self, group):
        """Whatever can be done while the old ones still serve. One failure keeps the whole group as it is."""
        for model in group:
            name = model["name"]
            try:
                for weights in model.get("fetch", ()):
                    obtain(name, weights, self.data.get("hf_token"))
                agree(name, model.get("sha256", {}), model.get("again", ""), model["user"])
                if model["action"] in ("create", "recreate", "start") or "digest" in model:
                    provide(self.dockerd(model["user"]), model, self.data.get("logins", {}))
            except (Failure, OSError) as failure:
                self.fail(name, str(failure))
                self.fail_others(group, {name})
                return False
        return True

    def change(self, group):
        """See `change_all`; whoever waits for one of the group waits no longer, whatever became of it."""
        try:
            self.change_all(group)
        finally:
            for name in names(group):
                self.settled[name].set()

    def wait_for_others(self, model):
        """Until what a service connects to is ready, or has failed: then the service starts without it."""
        progress = Progress(model["name"])
        for other in model.get("after", []):
            while other in self.settled and not self.settled[other].wait(1):
                progress.tell("waiting for {}".format(other))

    def change_all(self, group):
        """Stop all that must make room, wait for the memory, start one after the other."""
        if len(group) == 1:
            self.wait_for_others(group[0])  # the old one serves as long as that takes
        pids = set()
        for model in group:
            if model["action"] in ("remove", "recreate"):
                try:
                    pids |= self.dockerd(model["from"]).stop(model["name"])
                    if model["action"] == "remove":
                        say(model["name"], "removed")
                except (Failure, OSError) as failure:
                    self.fail(model["name"], str(failure))
        for model in group:
            if model["action"] == "remove":
                continue
            name, dockerd, old = model["name"], self.dockerd(model["user"]), model.get("replaces")
            other = Dockerd(old["user"]) if old else None
            try:
                self.wait_for_others(model)
                if old:
                    pids |= other.set_aside(name, old["name"])
                if model["uuids"]:
                    wait_for_memory(name, pids)
                if model["action"] not in ("wait", "pull"):
                    dockerd.start(name)
                served, cards = model["served_name"], bool(model["uuids"])
                seconds = wait_until_ready(dockerd, name, model["url"], served, model["timeout"], cards)
                if "pull" in model:
                    ollama.settle(model, self.data.get("prune"))
                asking.ask(dockerd, name, model["url"], model.get("requests", ()))
                if "gateway" in model:
                    asking.ask_gateway(dockerd, name, model["url"], model["gateway"])
                say(name, "ready after {}".format(clock(seconds)))
            except (Failure, OSError) as failure:
                self.fail(name, str(failure))
                if old:
                    dockerd.run("rm", "--force", name)
                    self.put_back(other, name, old["name"])
            self.settled[name].set()

    def put_back(self, dockerd, name, old):
        """The container made by hand serves again, because the model that was to replace it did not."""
        try:
            dockerd.put_back(name, old)
        except (Failure, OSError) as failure:
            self.fail(name, "{} could not be put back: {}".format(old, failure))


def names(group):
    return [model["name"] for model in group]


def run_jobs():
    data = json.load(sys.stdin)
    os.environ.update(data.get("proxy", {}))
    with locked("jobs"):
        return min(jobs.run_all(data), 100)


def apply():
    job = Job(json.load(sys.stdin))
    os.environ.update(job.data.get("proxy", {}))  # for curl and git; dockerd has its own
    with locked("models"):
        job.apply()
    return min(job.failures, 100)


def main():
    # The connection that started us may be gone; what was begun is carried to its end all the same.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    actions = {"apply": apply, "jobs": run_jobs, "boot": boot.boot}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.stderr.write(__doc__)
        return 64
    return actions[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
