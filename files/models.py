#!/usr/bin/env python3
"""The models' runner: applies gpurack's plan for the models of this host. It plans nothing itself.

    models.py apply    apply the plan that comes as JSON on standard input (made by gpurack/plan/runner.py)
    models.py jobs     run jobs; their plan comes the same way (gpurack/plan/models/jobs.py)
    models.py boot     start the models of compose.yaml once Docker and the GPU driver are ready

Runs on the host's own python3 (3.6 or newer, standard library only), as root, under one lock for each Docker. The
host's lock is never held while waiting for a user's Docker, which may never answer. Prints progress; a line that begins
with "error NAME: " names a failure, and the exit code is the number of failures.
"""

import contextlib
import glob
import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
from urllib.parse import urlsplit

sys.dont_write_bytecode = True
import asking  # noqa: E402
import boot  # noqa: E402
import jobs  # noqa: E402
import ollama  # noqa: E402
import record  # noqa: E402
from common import Failure, Progress, clock, describe_error, locked, run, say  # noqa: E402 (beside this file)
from dockerd import Dockerd, ensure_record  # noqa: E402
from fetch import check_locked, obtain  # noqa: E402
from images import provide  # noqa: E402
from remedies import error_hint  # noqa: E402

KFD_PROCESSES = "/sys/class/kfd/kfd/proc"  # one folder for each process on an AMD GPU
PROBE_TIMEOUT = 5  # seconds for one readiness request
KEY_TIMEOUT = 10  # seconds of rejected keys before it fails; a loading server answers otherwise, or not at all
GPU_MEMORY_TIMEOUT = 60  # seconds to wait for a stopped model's memory to be freed
ELSEWHERE_TIMEOUT = 3600  # seconds that a service waits for models in another Docker, without a lock
AS_IT_IS = ("remove", "wait", "pull")  # actions without Compose
ROOTS_ALONE = (  # older versions left them readable for all users
    "/var/lib/gpurack/sha256",
    "/var/lib/gpurack/jobs/*",
    "/var/lib/gpurack/jobs/",
    "/var/lib/gpurack/backups/*",
    "/var/lib/gpurack/backups/",
    "/etc/gpurack/jobs/*.yaml",
)


# --- one model, step by step -----------------------------------------------------------------------------------------


def wait_for_memory(name, pids):
    """Wait until these processes hold no GPU memory: it is freed shortly after a process ends. Raises Failure."""
    progress = Progress(name)
    while pids and progress.elapsed() < GPU_MEMORY_TIMEOUT:
        if not pids & gpu_pids():
            return
        progress.tell("waiting for GPU memory to be freed")
        time.sleep(0.2)
    if pids:
        raise Failure("GPU memory was not freed within {} s. See nvidia-smi or rocm-smi".format(GPU_MEMORY_TIMEOUT))


def gpu_pids():
    """The ids of processes on NVIDIA and AMD GPUs; empty where they cannot be listed."""
    pids = set()
    if shutil.which("nvidia-smi"):
        code, output = run("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader")
        pids.update([] if code else output.split())
    with contextlib.suppress(OSError):
        pids.update(os.listdir(KFD_PROCESSES))
    return pids


def wait_until_ready(dockerd, name, url, served_name, timeout, cards=True, hints=()):
    """Wait until the model's API answers 200 and names the model; returns the seconds that took.

    served_name: None where the answer names no model. cards: does it have GPUs? hints: for remedies.py. Raises Failure
    on a timeout, on a rejected key, and at once when the container exits or restarts."""
    progress, delay, refused = Progress(name), 0.1, None
    restarts = dockerd.state_of(name)["restarts"]
    while True:
        # a stopped one gets no request: another process on its port would receive its key
        state = dockerd.state_of(name)
        up = state["status"] == "running" and state["restarts"] <= restarts
        status, answer = probe(dockerd, name, url) if up else (0, "")
        if status == 200 and (served_name is None or json.dumps(served_name) in answer):
            return progress.elapsed()
        refused = refused or time.monotonic() if status in (401, 403) else None
        if refused and time.monotonic() - refused >= KEY_TIMEOUT:
            why = asking.key_error(dockerd.api_key(name), status, url)
            raise Failure("{} {}".format(why, dockerd.logs(name)))
        if not up:
            code = state["code"]
            if state["status"] == "running":
                code = dockerd.last_exit(name, int(progress.elapsed()) + 1)
            if name in dockerd.ids:
                dockerd.run("stop", "--time", "5", dockerd.ids[name])  # or it would restart without end
            ended = "crashed and was restarted" if code is None else "exit code {}".format(code)
            reason, logs = state["error"] or ended, dockerd.logs(name)
            helps = error_hint(code, dockerd.said(name, 60), hints, cards)  # a traceback is longer than what is shown
            raise Failure("exited while loading ({}).{} {}".format(reason, helps, logs))
        if progress.elapsed() > timeout:
            unlike = {0: "did not answer", 200: "does not name the model `{}`".format(served_name)}
            what = unlike.get(status, "returned HTTP {} instead of 200".format(status))
            raise Failure("not ready after {}: {} {}. {}".format(clock(timeout), url, what, dockerd.logs(name)))
        progress.tell("loading")
        time.sleep(delay)
        delay = min(delay * 1.5, 1)


def probe(dockerd, name, url):
    """(HTTP status, body) of one readiness request; status 0 where there is no answer."""
    return asking.send(dockerd, url, urlsplit(url).path, None, dockerd.api_key(name), PROBE_TIMEOUT)


# --- the job ---------------------------------------------------------------------------------------------------------


class Project:
    """The Compose project of one daemon, as the job has it."""

    def __init__(self, dockerd, data):
        self.dockerd, self.data = dockerd, data

    def text(self, kept=()):
        """The text of compose.yaml; models in `kept` stay as in the current file."""
        new, old = self.data["services"], self.data["before"]
        chosen = {name: new[name] for name in new if name not in kept}
        chosen.update({name: old[name] for name in kept if name in old})
        return self.assembled(chosen)

    def assembled(self, chosen):
        """Models' lines as one file; the same text as gpurack/plan/models/compose.py: document."""
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
        """Compose's error about the new project; "" when it accepts it. The text checked is in compose.yaml.next."""
        return self.dockerd.refusal(self.text(kept))

    def refused(self, group):
        """The models of a group that Compose rejects on their own → its error."""
        blocks = {name: self.data["services"][name] for name in names(group) if name in self.data["services"]}
        found = {name: self.dockerd.refusal(self.assembled({name: block})) for name, block in blocks.items()}
        return {name: refusal for name, refusal in found.items() if refusal}

    def write(self, kept):
        """Containers' files and compose.yaml; the models in `kept` keep their old ones."""
        self.dockerd.write_files(self.data["files"], kept)
        self.dockerd.keep(self.dockerd.compose_file, self.text(kept))


class Job:
    """One run of `models.py apply`."""

    def __init__(self, data):
        self.data, self.failures, self.mutex = data, 0, threading.Lock()
        self.dockerds = {}
        self.settled = {name: threading.Event() for group in data["groups"] for name in names(group)}

    def dockerd(self, user):
        """The daemon of a user, "" for the host's own. Raises Failure where there is no such user."""
        with self.mutex:
            if user not in self.dockerds:
                self.dockerds[user] = Dockerd(user)
            return self.dockerds[user]

    def fail(self, name, why):
        with self.mutex:
            self.failures += 1
        say("", "error {}: {}".format(name, why))

    def apply(self):
        """Run all parts in parallel."""
        try:
            ensure_record(self.data.get("ours", {}))
        except Failure as failure:
            for name in self.settled or ["models"]:
                self.fail(name, str(failure))
            return
        threads = [threading.Thread(target=self.apply_part, args=part) for part in self.parts()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def parts(self):
        """[(users, groups)]: each daemon is a part by itself, so that one that does not answer keeps nothing from the
        others, nor holds their locks. Those that a group mixes are one part: the host's lock is held there while a
        user's daemon is worked on. Not for ever: each command on that daemon and each request to its models has a
        limit, and after the first command without an answer no further one is tried."""
        parts = [({user}, []) for user in self.data["projects"]]
        for group in self.data["groups"]:
            users = set().union(*map(daemons, group))
            mixed = [part for part in parts if part[0] & users]
            parts = [part for part in parts if not part[0] & users]
            parts.append((users.union(*(part[0] for part in mixed)), [g for part in mixed for g in part[1]] + [group]))
        return parts

    def apply_part(self, users, groups):
        """Run one part under the locks of these users' daemons; whatever the result, its models count as settled."""
        try:
            with locked("models", users):
                projects = self.begun(users)
                ready = self.get_ready(projects, groups)
                ready = self.change_those_free(ready)
                self.clean_up(projects if not ready else [])
            while ready:
                self.wait_for_elsewhere(ready)
                with locked("models", users):
                    self.begun(users)
                    ready = self.change_those_free(ready)
                    self.clean_up(projects if not ready else [])
        except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
            left = [name for group in groups for name in names(group) if not self.settled[name].is_set()]
            for name in left or ["{}'s Docker".format(user) if user else "models" for user in sorted(users)]:
                self.fail(name, "{}; not changed".format(describe_error(error)))
        finally:
            for group in groups:
                for name in names(group):
                    self.settled[name].set()

    def begun(self, users):
        """The projects of these users. What is ours in their daemons is read now, under their locks: another run may
        have recreated it since this one was planned."""
        for user in users:
            self.dockerd(user).ids = record.ids(user, self.data.get("ours", {}).get(user, {}))
        projects = self.data["projects"]
        return [Project(self.dockerd(user), projects[user]) for user in sorted(users) if user in projects]

    def get_ready(self, projects, groups):
        """Check, and do what can be done while the old models serve; returns the groups for which all went well. A
        model that fails before its turn keeps its container, its place in compose.yaml and its secrets."""
        ready = []
        self.side_by_side(self.accepted(projects, groups), lambda group: self.prepare(group) and ready.append(group))
        kept = {name for group in groups if group not in ready for name in names(group)}
        for name in kept:
            self.settled[name].set()
        for project in projects:
            project.write(kept)
        for project in projects:
            with contextlib.suppress(OSError):
                os.unlink(project.dockerd.next)
        return ready

    def change_those_free(self, groups):
        """Changes the groups that wait for nothing in another part; those that do are returned: no lock is held as long
        as that takes."""
        waiting = self.waiting(groups)
        self.side_by_side([group for group in groups if group not in waiting], self.change)
        return waiting

    def waiting(self, groups):
        """Those that wait for a model in another part of the job, or for one that does."""
        late = {name for name, event in self.settled.items() if not event.is_set()}
        late -= {name for group in groups for name in names(group)}
        waiting, count = [], None
        while count != len(waiting):
            count = len(waiting)
            waiting = [group for group in groups if late.intersection(after(group))]
            late.update(name for group in waiting for name in names(group))
        return waiting

    def wait_for_elsewhere(self, groups):
        """Until one of the groups waits no longer; after an hour they go on without what they wait for."""
        progress, here = Progress(groups[0][0]["name"]), {name for group in groups for name in names(group)}
        while len(self.waiting(groups)) == len(groups) and progress.elapsed() < ELSEWHERE_TIMEOUT:
            progress.tell("waiting for models in another Docker")
            time.sleep(0.2)
        if progress.elapsed() >= ELSEWHERE_TIMEOUT:
            for name in {name for group in groups for name in after(group)} & self.settled.keys() - here:
                self.settled[name].set()

    def clean_up(self, projects):
        for project in projects:
            with contextlib.suppress(Failure):  # a daemon without an answer, which was said; the next run tries again
                project.dockerd.remove_old_files(project.data["files"])

    def accepted(self, projects, groups):
        """The groups that Compose accepts; one wrong service would make it refuse all of its project."""
        refusing = [project for project in projects if project.refusal()]
        good = []
        for group in groups:
            wrong = {name: why for project in refusing for name, why in project.refused(group).items()}
            for name, why in wrong.items():
                self.fail(name, "Compose rejects it, so it was not changed. Correct its `compose` field. " + why)
            if wrong:
                self.fail_others(group, wrong)
            else:
                good.append(group)
        kept = {name for group in groups if group not in good for name in names(group)}
        for refusal in [refusal for project in refusing for refusal in [project.refusal(kept)] if refusal]:
            for group in good:
                self.fail(group[0]["name"], "Compose rejects the project, so nothing was changed: " + refusal)
            return []
        return good

    def fail_others(self, group, failed):
        """The rest of a group stays as it is, because its models need each other's cards or ports."""
        for name in names(group):
            if name not in failed:
                what = "not changed: it shares a GPU or port with {}, which failed"
                self.fail(name, what.format(", ".join(sorted(failed))))

    def side_by_side(self, groups, work):
        def guarded(group):
            try:
                work(group)
            except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
                self.fail(group[0]["name"], describe_error(error))

        threads = [threading.Thread(target=guarded, args=(group,)) for group in groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def prepare(self, group):
        """Fetch weights and images while the old models serve. One failure leaves the whole group unchanged."""
        for model in group:
            name = model["name"]
            try:
                for weights in model.get("fetch", ()):
                    obtain(name, weights, self.data.get("hf_token"))
                check_locked(name, model.get("sha256", {}), model.get("again", ""), model.get("user", ""))
                if model["action"] not in AS_IT_IS:
                    old = model.get("replaces") or {}
                    same = old.get("user") == model["user"]
                    self.dockerd(model["user"]).refuse_foreign(name, old["id"] if same else None)
                if model["action"] in ("create", "recreate", "start") or "digest" in model:
                    provide(self.dockerd(model["user"]), model, self.data.get("logins", {}))
            except Exception as error:
                self.fail(name, describe_error(error))
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
        """Wait until the entries that a service connects to are ready or have failed; then it starts anyway."""
        progress = Progress(model["name"])
        for other in model.get("after", []):
            while other in self.settled and not self.settled[other].wait(1):
                progress.tell("waiting for {}".format(other))

    def change_all(self, group):
        """Stop what must free memory, wait for the memory, then start the models one by one."""
        if len(group) == 1:
            self.wait_for_others(group[0])  # the old one keeps serving meanwhile
        pids, stuck = set(), set()
        for model in group:
            if model["action"] in ("remove", "recreate"):
                try:
                    pids |= self.dockerd(model["from"]).stop(model["name"])
                    if model["action"] == "remove":
                        say(model["name"], "removed")
                except Exception as error:
                    self.fail(model["name"], describe_error(error))
                    stuck.add(model["name"])
        for model in group:
            if model["action"] != "remove" and model["name"] not in stuck:
                self.bring_up(model, pids)
            self.settled[model["name"]].set()

    def bring_up(self, model, pids):
        """Start one model. pids: the processes whose GPU memory must be freed first."""
        name, old = model["name"], model.get("replaces")
        try:
            dockerd = self.dockerd(model["user"])
            self.wait_for_others(model)
            if old:
                pids |= self.dockerd(old["user"]).set_aside(name, old["name"], old["id"])
            if model["uuids"]:
                wait_for_memory(name, pids)
            if model["action"] not in AS_IT_IS:
                dockerd.start(name, model.get("definition", ""))
            served, cards = model["served_name"], bool(model["uuids"])
            hints = model.get("hints", ())
            seconds = wait_until_ready(dockerd, name, model["url"], served, model["timeout"], cards, hints)
            if "pull" in model:
                ollama.settle(dockerd, model, self.data.get("prune"))
            asking.smoke_test(dockerd, name, model["url"], model.get("requests", ()))
            if "gateway" in model:
                asking.smoke_test_gateway(dockerd, name, model["url"], model["gateway"])
            say(name, "ready after {}".format(clock(seconds)))
        except Exception as error:
            self.fail(name, describe_error(error))
            if old:
                self.put_back(model, old)

    def put_back(self, model, old):
        """Restore the container made by hand, because the model that replaces it failed."""
        try:
            self.dockerd(model["user"]).remove(model["name"])
            self.dockerd(old["user"]).put_back(model["name"], old["name"], old["id"])
        except Exception as error:
            self.fail(
                model["name"], "could not restore the container {}: {}".format(old["name"], describe_error(error))
            )


def names(group):
    return [model["name"] for model in group]


def after(group):
    """The names of the entries that the services of a group connect to."""
    return [other for model in group for other in model.get("after", [])]


def daemons(model):
    """The users in whose Docker something happens for a model."""
    users = {model.get("user"), model.get("from"), model.get("replaces", {}).get("user")}
    return users - {None}


def tighten():
    """Restrict files that older versions left readable for all users. Follows no links."""
    for pattern in ROOTS_ALONE:
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
                    os.chmod(path, 0o700 if stat.S_ISDIR(mode) else 0o600)


def run_jobs():
    data = json.load(sys.stdin)
    os.environ.update(data.get("proxy", {}))
    tighten()
    with locked("jobs"):
        return min(jobs.run_all(data), 100)


def apply():
    job = Job(json.load(sys.stdin))
    os.environ.update(job.data.get("proxy", {}))  # for curl and git; dockerd has its own
    tighten()
    job.apply()
    return min(job.failures, 100)


def main():
    # The SSH connection may close; the run continues to its end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    actions = {"apply": apply, "jobs": run_jobs, "boot": boot.boot}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.stderr.write(__doc__)
        return 64
    return actions[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
