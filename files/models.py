#!/usr/bin/env python3
"""The models' runner: applies gpurack's plan for the models of this host. It plans nothing itself.

    models.py apply    apply the plan that comes as JSON on standard input (made by gpurack/plan/runner.py)
    models.py prepare  fetch weights and get images ahead of a change; the plan comes the same way
    models.py jobs     run jobs; their plan comes the same way (gpurack/plan/models/jobs.py)
    models.py stop     stop a model until the next run, or hold it (gpurack/plan/models/stop.py)
    models.py boot     start the models of compose.yaml once Docker and the GPU driver are ready
    models.py recover  finish or undo the changes of runs that were killed; every run and boot begin with it

Runs on the host's own python3 (3.6 or newer, standard library only), as root. Changes are made under one lock for each
Docker, downloads before them without it. The host's lock is never held while waiting for a user's Docker, which may
never answer. Prints progress; a line that begins with "error NAME: " names a failure, and the exit code is the number
of failures.
"""

import collections
import contextlib
import glob
import json
import os
import signal
import stat
import sys
import threading
import time

sys.dont_write_bytecode = True
import boot  # noqa: E402
import databases  # noqa: E402
import jobs  # noqa: E402
import kept_logs  # noqa: E402
import preparing  # noqa: E402
import probing  # noqa: E402
import record  # noqa: E402
import recovering  # noqa: E402
import stopping  # noqa: E402
from common import Failure, Progress, describe_error, locked, say  # noqa: E402 (beside this file)
from dockerd import Dockerd, ensure_record  # noqa: E402
from fetch import check_locked, obtain, refuse_damaged  # noqa: E402
from images import provide  # noqa: E402
from project import REJECTED, Project  # noqa: E402
from replacing import CHANGES, Batch  # noqa: E402
from starting import SEEN, Lanes  # noqa: E402

ELSEWHERE_TIMEOUT = 3600  # seconds that a service waits for models in another Docker, without a lock
CHANGED = "another run changed {} after this one was planned. Run gpurack again"
ROOTS_ALONE = (  # older versions left them readable for all users
    "/var/lib/gpurack/sha256",
    "/var/lib/gpurack/jobs/*",
    "/var/lib/gpurack/jobs/",
    "/var/lib/gpurack/backups/*",
    "/var/lib/gpurack/backups/",
    "/etc/gpurack/jobs/*.yaml",
)


class Job:
    """One run of `models.py apply`."""

    def __init__(self, data):
        self.data, self.failures, self.mutex = data, 0, threading.Lock()
        self.failed = {}  # name → why
        self.deciding = threading.Lock()  # held while compose.yaml changes
        self.lanes, self.dockerds, self.projects = Lanes(), {}, {}
        self.proofs = collections.defaultdict(probing.Proof)
        self.settled = {name: threading.Event() for batch in data["batches"] for name in names(batch)}
        self.early = waits_for(data["batches"])

    def dockerd(self, user):
        """The daemon of a user, "" for the host's own. Raises Failure where there is no such user."""
        with self.mutex:
            if user not in self.dockerds:
                self.dockerds[user] = Dockerd(user)
            return self.dockerds[user]

    def fail(self, name, why):
        with self.mutex:
            self.failures += 1
            self.failed[name] = why
        say("", "error {}: {}".format(name, why))

    def origin(self):
        """Where this change comes from, for the record; unknown words are left out."""
        return {word: text for word, text in self.data.get("origin", {}).items() if text}

    def changes(self):
        """What was done, for the history."""
        models = [model for batch in self.data["batches"] for model in batch if model["name"] not in self.failed]
        done = ["{} {}".format(model["action"], model["name"]) for model in models if model["action"] not in SEEN]
        return done + ["take over {}".format(name) for names in self.data.get("take", {}).values() for name in names]

    def recorded_definition(self, user, name):
        """The digest of what a container was created from, by the record; "" if unknown."""
        entries = (record.load() or {"containers": {}})["containers"].get(user, {})
        return entries.get(name, {}).get("definition", "")

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
        kept_logs.expire()
        databases.expire()

    def parts(self):
        """[(users, batches)]: each daemon is a part by itself, so that one that does not answer keeps nothing from the
        others, nor holds their locks. Those that a batch mixes are one part: the host's lock is held there while a
        user's daemon is worked on. Not for ever: each command on that daemon and each request to its models has a
        limit, and after the first command without an answer no further one is tried."""
        parts = [({user}, []) for user in self.data["projects"]]
        for batch in self.data["batches"]:
            users = set().union(*map(daemons, batch))
            mixed = [part for part in parts if part[0] & users]
            parts = [part for part in parts if not part[0] & users]
            parts.append((users.union(*(part[0] for part in mixed)), [g for part in mixed for g in part[1]] + [batch]))
        return parts

    def apply_part(self, users, batches):
        """Download what one part needs, then change it under the locks of these users' daemons; whatever the result,
        its models count as settled."""
        planned = batches
        try:
            recovering.recover(users)  # what a killed run left down does not wait for downloads
            batches = self.downloaded(batches)
            unfinished = recovering.recover(users)
            with locked("models", users):
                projects = self.begun(users)
                batches = without_done(projects, batches)
                changed = [name for project in projects for name in project.stale() + project.removed()]
                if changed:
                    raise Failure(CHANGED.format(" and ".join(changed)))
                held = self.held(users, batches)
                if held:
                    what = "{} was held after this run was planned. Run gpurack again"
                    raise Failure(what.format(" and ".join(held)))
                for user, taken in self.data.get("take", {}).items():
                    record.take(user, taken if user in users else (), self.origin())
                for user in users & self.data.get("release", {}).keys():
                    stopping.release(self.dockerd(user), self.data["release"][user])
                ready = self.get_ready(projects, self.recovered(batches, unfinished))
                ready = self.change_those_free(ready)
                self.clean_up(projects if not ready else [])
            while ready:
                self.wait_for_elsewhere(ready)
                with locked("models", users):
                    if not all(project.intact() for project in self.begun(users)):
                        raise Failure("another run changed compose.yaml while this one waited. Run gpurack again")
                    ready = self.change_those_free(ready)
                    self.clean_up(projects if not ready else [])
        except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
            each = [name for batch in planned for name in names(batch)]
            left = [name for name in each if not self.settled[name].is_set()]
            if not left and not (each and self.failed.keys() >= set(each)):  # those that failed have an error already
                left = ["{}'s Docker".format(user) if user else "models" for user in sorted(users)]
            for name in left:
                self.fail(name, "{}; not changed".format(describe_error(error)))
        finally:
            self.settle(planned)

    def held(self, users, batches):
        """The entries of these batches that an admin holds by now; only `gpurack start` ends that."""
        if self.data.get("verb") == "start":
            return []
        planned = {model["name"] for batch in batches for model in batch if model["action"] != "remove"}
        marks = [(name, mark) for user in users for name, mark in record.stopped(user).items()]
        return sorted(name for name, mark in marks if mark.get("hold") and name in planned)

    def downloaded(self, batches):
        """Download what these batches need, and check it against the lock; returns those for which that went well.

        It may take hours, so no lock of the models is held meanwhile: other runs change other models. What this run
        assumes of the host is checked afterwards, with the lock."""
        good = []
        self.side_by_side(batches, lambda batch: self.for_each(batch, self.download) and good.append(batch))
        self.settle(batch for batch in batches if batch not in good)
        return [batch for batch in batches if batch in good]

    def download(self, model):
        preparing.bring(self.dockerd(model.get("user", "")), model, self.data)

    def settle(self, batches):
        """Whoever waits for these models waits no longer."""
        for batch in batches:
            for name in names(batch):
                self.settled[name].set()

    def begun(self, users):
        """The projects of these users. What is ours in their daemons is read now, under their locks: another run may
        have recreated it since this one was planned."""
        for user in users:
            dockerd = self.dockerd(user)
            dockerd.ids = record.ids(user, self.data.get("ours", {}).get(user, {}))
            dockerd.keys = record.keys(user)
            if user in self.data["projects"] and user not in self.projects:
                self.projects[user] = Project(dockerd, self.data["projects"][user])
        return [self.projects[user] for user in sorted(users) if user in self.projects]

    def recovered(self, batches, unfinished):
        """The batches without those that have an entry whose earlier change could not be ended; these fail."""
        good = []
        for batch in batches:
            keys = [(user, model["name"]) for model in batch for user in daemons(model)]
            why = next((unfinished[key] for key in keys if key in unfinished), None)
            if why is None:
                good.append(batch)
            for name in names(batch) if why else ():
                self.fail(name, "not changed: an earlier change was interrupted and cannot be undone yet: " + why)
                self.settled[name].set()
        return good

    def get_ready(self, projects, batches):
        """Check, and do what can be done while the old models serve; returns the batches for which all went well. A
        model that fails before its turn keeps its container, its place in compose.yaml and its secrets."""
        ready = []
        accepted = self.accepted(projects, batches)
        self.side_by_side(accepted, lambda batch: self.for_each(batch, self.prepare) and ready.append(batch))
        self.settle(batch for batch in batches if batch not in ready)
        models = [model for batch in self.data["batches"] for model in batch]
        go_on = [model for batch in ready for model in batch]
        kept = {model["name"] for model in models if model not in go_on or model["action"] in CHANGES}
        stay = {model.get("key", model["name"]) for model in models if model not in go_on}
        stay |= {model.get("old_key") for model in models if model["action"] in CHANGES}
        for project in projects:
            preparing.remove_leftovers(project.dockerd)
            project.begin(kept, stay - {model.get("key", model["name"]) for model in go_on})
        return ready

    def change_those_free(self, batches):
        """Changes the batches that wait for nothing in another part; those that do are returned: no lock is held as
        long as that takes."""
        waiting = self.waiting(batches)
        self.side_by_side([batch for batch in batches if batch not in waiting], self.change)
        return waiting

    def waiting(self, batches):
        """Those that wait for a model in another part of the job, or for one that does."""
        late = {name for name, event in self.settled.items() if not event.is_set()}
        late -= {name for batch in batches for name in names(batch)}
        waiting, count = [], None
        while count != len(waiting):
            count = len(waiting)
            waiting = [batch for batch in batches if late.intersection(after(batch))]
            late.update(name for batch in waiting for name in names(batch))
        return waiting

    def wait_for_elsewhere(self, batches):
        """Until one of the batches waits no longer; after an hour they go on without what they wait for."""
        progress, here = Progress(batches[0][0]["name"]), {name for batch in batches for name in names(batch)}
        while len(self.waiting(batches)) == len(batches) and progress.elapsed() < ELSEWHERE_TIMEOUT:
            progress.tell("waiting for models in another Docker")
            time.sleep(0.2)
        if progress.elapsed() >= ELSEWHERE_TIMEOUT:
            for name in {name for batch in batches for name in after(batch)} & self.settled.keys() - here:
                self.settled[name].set()

    def clean_up(self, projects):
        for project in projects:
            with contextlib.suppress(Failure):  # a daemon without an answer, which was said; the next run tries again
                project.clean_up()

    def accepted(self, projects, batches):
        """The batches that Compose accepts; one wrong service would make it refuse all of its project."""
        refusing = [project for project in projects if project.refusal()]
        good = []
        for batch in batches:
            wrong = {name: why for project in refusing for name, why in project.refused(batch).items()}
            for name, why in wrong.items():
                self.fail(name, REJECTED + why)
            if wrong:
                self.fail_others(batch, wrong)
            else:
                good.append(batch)
        kept = {name for batch in batches if batch not in good for name in names(batch)}
        for refusal in [refusal for project in refusing for refusal in [project.refusal(kept)] if refusal]:
            for batch in good:
                self.fail(batch[0]["name"], "Compose rejects the project, so nothing was changed: " + refusal)
            return []
        return good

    def fail_others(self, batch, failed):
        """The rest of a batch stays as it is, because its models need each other's cards or ports."""
        for name in names(batch):
            if name not in failed:
                what = "not changed: it shares a GPU or port with {}, which failed"
                self.fail(name, what.format(", ".join(sorted(failed))))

    def side_by_side(self, batches, work):
        def guarded(batch):
            try:
                work(batch)
            except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
                self.fail(batch[0]["name"], describe_error(error))

        threads = [threading.Thread(target=guarded, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def for_each(self, batch, work):
        """Do some work for each model of a batch. One failure leaves the whole batch unchanged, and returns False."""
        for model in batch:
            name = model["name"]
            try:
                work(model)
            except Exception as error:
                self.fail(name, describe_error(error))
                self.fail_others(batch, {name})
                return False
        return True

    def prepare(self, model):
        """Prove that a model can change. What was downloaded before is in place and used from now on; it is brought
        again where something removed it meanwhile."""
        name = model["name"]
        for weights in model.get("fetch", ()):
            obtain(name, weights, self.data.get("hf_token"))
        check_locked(name, model.get("sha256", {}), model.get("again", ""), model.get("user", ""))
        refuse_damaged(name, model.get("weights", ()), model.get("user", ""))
        if model["action"] in ("create", "recreate", "start"):
            old = model.get("replaces") or {}
            same = old.get("user") == model["user"]
            expected, key = old["id"] if same else None, model.get("key")
            self.dockerd(model["user"]).refuse_foreign(name, expected, key)
        if preparing.needs_image(model):
            provide(self.dockerd(model["user"]), model, self.data.get("logins", {}))

    def change(self, batch):
        """Change a batch; whoever waits for one of it waits no longer, whatever became of it."""
        try:
            for model in batch:
                self.wait_for_others(model)  # the old one keeps serving meanwhile
            Batch(self, batch).carry_out()
        finally:
            self.settle([batch])

    def wait_for_others(self, model):
        """Wait until the entries that a service connects to are ready or have failed; then it starts anyway."""
        progress = Progress(model["name"])
        for other in sorted(self.early.get(model["name"], ())):
            while not self.settled[other].wait(1):
                progress.tell("waiting for {}".format(other))


def without_done(projects, batches):
    """The batches, where what another run meanwhile did just so is only tested. Not where a model leaves a Docker."""
    stay = [batch for batch in batches if all(model["from"] == model.get("user") for model in batch)]
    each = [model for batch in stay for model in batch if model["action"] in ("create", "recreate")]
    planned = {model["name"]: model["definition"] for model in each if model.get("definition")}
    done = {name for project in projects for name in project.done(planned)}
    return [[dict(model, action="check") if model["name"] in done else model for model in batch] for batch in batches]


def names(batch):
    return [model["name"] for model in batch]


def after(batch):
    """The names of the entries that the services of a batch connect to."""
    return [other for model in batch for other in model.get("after", [])]


def waits_for(batches):
    """name → the names in other batches that it waits for. Of batches that wait for each other, only the later ones
    wait, so that none waits for ever.

    >>> waits_for([[{"name": "a"}, {"name": "page", "after": ["b"]}], [{"name": "b"}, {"name": "ui", "after": ["a"]}]])
    {'ui': {'a'}}
    """
    place = {name: index for index, batch in enumerate(batches) for name in names(batch)}
    direct = {index: {place[name] for name in after(batch) if name in place} for index, batch in enumerate(batches)}
    reached = {}
    for index in direct:
        reached[index], more = set(), direct[index]
        while more - reached[index]:
            reached[index] |= more
            more = set().union(*(direct[other] for other in more))
    found = {}
    for index, batch in enumerate(batches):
        for model in batch:
            for other in model.get("after", ()):
                there = place.get(other, index)
                if there != index and (there < index or index not in reached[there]):
                    found.setdefault(model["name"], set()).add(other)
    return found


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
    before = record.all_ids()
    failed = jobs.download(data)
    with locked("jobs"):
        changed = sorted({name for (_, name), _ in before ^ record.all_ids()})  # it may have the GPU of a job now
        if changed:
            failed["jobs"] = CHANGED.format(" and ".join(changed))
            say("", "error jobs: {}".format(failed["jobs"]))
        else:
            failed.update(jobs.run_all(data, failed))
    names_of_all = [job["name"] for group in data["groups"] for job in group]
    done = names_of_all if "jobs" not in failed else ()
    note_run(data, ["run {}".format(name) for name in done if name not in failed], failed)
    return min(len(failed), 100)


def apply():
    job = Job(json.load(sys.stdin))
    os.environ.update(job.data.get("proxy", {}))  # for curl and git; dockerd has its own
    tighten()
    job.apply()
    note_run(job.data, job.changes(), job.failed)
    return min(job.failures, 100)


def stop():
    data, failed = json.load(sys.stdin), {}
    try:
        stopping.stop(data)
    except Exception as error:
        failed[data["name"]] = describe_error(error)
        say("", "error {}: {}".format(data["name"], failed[data["name"]]))
    note_run(data, ["{} {}".format("hold" if data["hold"] else "stop", data["name"])] if not failed else [], failed)
    return len(failed)


def note_run(data, changes, failed):
    """Add a run to the history. data: its payload. failed: name → why."""
    try:
        lines = ["{}: {}".format(*each) for each in sorted(failed.items())]
        record.note_run(data.get("verb", "apply"), data.get("origin", {}), changes, lines)
    except (OSError, Failure) as error:  # a full disk
        say("", "this run is not in the history: {}".format(describe_error(error)))


def prepare():
    data = json.load(sys.stdin)
    os.environ.update(data.get("proxy", {}))
    return min(preparing.run_all(data), 100)


def recover():
    """Finish or undo interrupted changes; returns the number of entries for which that failed."""
    left = recovering.recover()
    for (_, name), why in sorted(left.items()):
        say("", "error {}: an earlier change was interrupted and cannot be undone yet: {}".format(name, why))
    return min(len(left), 100)


def main():
    # The SSH connection may close; the run continues to its end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    actions = {
        "apply": apply,
        "prepare": prepare,
        "jobs": run_jobs,
        "stop": stop,
        "boot": boot.boot,
        "recover": recover,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.stderr.write(__doc__)
        return 64
    return actions[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
