"""The change of models that a payload asks for: batches side by side, each under the locks of its Dockers.

A part of models.py.

Changes are made under one lock for each Docker, downloads before them without it. The host's lock is not held while
waiting for a user's Docker, which may never answer: a change that needs both claims its entries (files/claims.py). Runs
on the host's own python3 (3.6 or newer, standard library only).
"""

import collections
import contextlib
import threading
import time

import claims
import databases
import finishing
import kept_logs
import members
import preparing
import probing
import record
import recovering
import stopping
from changes import apart, turn, users_of
from docker_commands import TURN
from dockerd import Dockerd
from fetch import check_locked, obtain, refuse_damaged, roots_alone
from images import provide
from locks import locked
from messages import CertainFailure, Failure, code_of, describe_error, say, say_error
from progress import Progress  # (beside this file)
from project import REJECTED, Project
from record_rebuild import ensure_record
from replacing import CHANGES, Batch, new_change
from starting import SEEN, Lanes

ELSEWHERE_TIMEOUT = 3600  # seconds that a service waits for models in another Docker, without a lock
CHANGED = "another run changed {} after this one was planned. Run gpurack again"
REFUSED = "Compose rejects the project, so nothing was changed: {}"
INTERRUPTED = "an earlier change was interrupted and cannot be undone yet: {}"
CREATES = ("create", "recreate")
STARTS = (*CREATES, "start")


class Job:
    """One run of `models.py apply`."""

    def __init__(self, data):
        self.data, self.failures, self.mutex = data, 0, threading.Lock()
        self.failed = {}  # name → why
        self.foreign = []  # (users, change): those in several Dockers that were interrupted before this run
        self.claimed = {}  # entries of a batch in the host's Docker and a user's → (change, what is closed at its end)
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

    def fail(self, name, why, code):
        """Say that an entry failed. code: of `Failure`."""
        with self.mutex:
            self.failures += 1
            self.failed[name] = why
        say_error(name, why, code)

    def origin(self):
        """Where this change comes from, for the record; unknown words are left out."""
        told = self.data.get("origin", {})
        return {word: told[word] for word in record.ORIGIN if told.get(word)}

    def changes(self):
        """What was done, for the history."""
        models = [model for batch in self.data["batches"] for model in batch if model["name"] not in self.failed]
        done = ["{} {}".format(model["action"], model["name"]) for model in models if model["action"] not in SEEN]
        return done + ["take over {}".format(name) for names in self.data.get("take", {}).values() for name in names]

    def recorded_definition(self, user, name):
        """The digest of what a container was created from, by the record; "" if unknown."""
        entries = (record.load() or {"containers": {}})["containers"].get(user, {})
        return entries.get(name, {}).get("definition", "")

    def recorded_time(self, user, name):
        """{"at": since when a container has its definition, by the record}; {} if unknown."""
        entries = (record.load() or {"containers": {}})["containers"].get(user, {})
        applied = entries.get(name, {}).get("applied")
        return {"at": applied} if applied else {}

    def apply(self):
        """Run all parts in parallel."""
        try:
            ensure_record(self.data.get("ours", {}))
        except Failure as failure:
            for name in self.settled or ["models"]:
                self.fail(name, str(failure), failure.code)
            return
        parts = self.parts()
        self.foreign = [(users_of(change), change) for change in recovering.interrupted_shared()]
        others = [change for users, change in self.foreign if not any(users <= part for part, _ in parts)]
        threads = [threading.Thread(target=self.apply_part, args=part) for part in parts]
        threads += [threading.Thread(target=self.end_change, args=(change,)) for change in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expire()

    def end_change(self, change):
        """End an interrupted change in several Dockers that no part of this run has together, beside them."""
        try:
            left = recovering.recover(lambda found: found["batch"] == change["batch"], limit=TURN)
        except Exception as error:  # as in apply_part
            left = {entry: describe_error(error) for entry in record.entries(change)}
        for name, why in sorted({name: why for (_, name), why in left.items()}.items()):
            self.fail(name, INTERRUPTED.format(why), "change-not-ended")

    def parts(self):
        """The parts that this run changes apart from each other, [(users, batches)].

        Each daemon is a part by itself, so that one that does not answer keeps nothing from the others, nor holds their
        locks. Batches that need the same daemons together are one more part.
        """
        parts = {frozenset([user]): [] for user in self.data["projects"]}
        for batch in self.data["batches"]:
            parts.setdefault(frozenset().union(*map(daemons, batch)), []).append(batch)
        shared = set().union(*(users for users in parts if len(users) > 1))
        return [(set(users), batches) for users, batches in parts.items() if batches or not users <= shared]

    def apply_part(self, users, batches):
        """Download what one part needs, then change it under the locks of these users' daemons.

        Whatever the result, its models count as settled.

        Where the host's own daemon and users' take part, its lock is held in turns, in which no user's is asked."""
        planned = batches
        try:
            within = recovering.is_within(users)  # no part waits for the Docker of another
            recovering.recover(within)  # what a killed run left down does not wait for downloads
            batches = self.downloaded(batches)
            unfinished = recovering.recover(within)
            if apart(users) != users:  # a job may hold the host's lock for days
                with locked("models", users, heard=True):
                    pass
            with locked("models", apart(users), heard=True):
                with turn(users):
                    projects, batches = self.unchanged(users, batches, unfinished)
                    for user, taken in self.data.get("take", {}).items():
                        record.take(user, taken if user in users else (), self.origin())
                    self.release(users & {""})
                self.release(users - {""})
                ready = self.get_ready(users, projects, batches)
                with turn(users):
                    ready = self.begin(users, projects, ready, unfinished)
                ready = self.change_those_free(users, ready)
                self.clean_up(users, projects if not ready else [])
            while ready:
                self.wait_for_elsewhere(ready)
                with locked("models", apart(users)):
                    with turn(users):
                        if not all(project.intact() for project in self.begun(users)):
                            raise Failure(
                                "another run changed compose.yaml while this one waited. Run gpurack again",
                                "changed-meanwhile",
                            )
                    ready = self.change_those_free(users, ready)
                    self.clean_up(users, projects if not ready else [])
        except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
            each = [name for batch in planned for name in names(batch)]
            left = [name for name in each if not self.settled[name].is_set()]
            if not left and not (each and self.failed.keys() >= set(each)):  # those that failed have an error already
                left = ["{}'s Docker".format(user) if user else "models" for user in sorted(users)]
            for name in left:
                self.fail(name, "{}; not changed".format(describe_error(error)), code_of(error))
        finally:
            self.unclaim(planned)
            self.settle(planned)

    def release(self, users):
        """Drop the marks of models of these users that may start again."""
        for user in users & self.data.get("release", {}).keys():
            stopping.release(self.dockerd(user), self.data["release"].pop(user))

    @contextlib.contextmanager
    def within_limits(self, users, batches):
        """Limit how long the block waits for users' Dockers, where models of the host wait too.

        Their users decide how long each command takes. The way back gets its own time (limit_users).
        """
        others = users - {""} if "" in users else set()
        loading = [model.get("timeout", 0) for batch in batches for model in batch if model.get("user") in others]
        for user in others:
            self.dockerd(user).give(TURN + max(loading, default=0))
        try:
            yield
        finally:
            for user in others:
                self.dockerd(user).give(None)

    def unchanged(self, users, batches, unfinished):
        """The projects of these users, and the batches as they are still to be carried out.

        Raises Failure where the plan no longer fits, since another run changed or held an entry. What others still
        change stays as they have it, and batches with such an entry fail. unfinished: (user, name) → why an interrupted
        change cannot be ended.
        """
        projects = self.begun(users)
        with self.mutex:
            mine = {change["batch"] for change, _ in self.claimed.values()}
        changes = claims.others(mine)
        known = {change["batch"] for change in changes}  # one that ended meanwhile is not what was planned for
        changes += [each for whose, each in self.foreign if not whose <= users and each["batch"] not in known]
        for project in projects:
            for change in changes:
                if change["phase"] == "commit":  # a run was killed before it wrote that
                    finishing.publish_one(change, project.dockerd)
            user = project.dockerd.user
            project.follow([name for change in changes for whose, name in record.entries(change) if whose == user])
        busy = claims.reasons(changes)
        busy.update((entry, INTERRUPTED.format(said)) for entry, said in unfinished.items())
        batches = without_done(projects, self.free(batches, busy))
        changed = [name for project in projects for name in project.stale() + project.removed()]
        if changed:
            raise Failure(CHANGED.format(" and ".join(changed)), "changed-meanwhile")
        held = self.held(users, batches)
        if held:
            what = "{} was held after this run was planned. Run gpurack again"
            raise Failure(what.format(" and ".join(held)), "entry-held")
        return projects, batches

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
        """The projects of these users.

        What is ours in their daemons is read now, under their locks: another run may have recreated it since this one
        was planned.
        """
        for user in users:
            dockerd = self.dockerd(user)
            dockerd.ids = record.ids(user, self.data.get("ours", {}).get(user, {}))
            dockerd.keys = record.keys(user)
            if user in self.data["projects"] and user not in self.projects:
                self.projects[user] = Project(dockerd, self.data["projects"][user])
        return [self.projects[user] for user in sorted(users) if user in self.projects]

    def free(self, batches, busy):
        """The batches without those that have an entry that must not be changed now; these fail.

        busy: (user, name) → why."""
        good = []
        for batch in batches:
            why = next((busy[tuple(entry)] for entry in claims_of(batch) if tuple(entry) in busy), None)
            if why is None:
                good.append(batch)
            for name in names(batch) if why else ():
                self.fail(name, "not changed: " + why, "changed-meanwhile")
                self.settled[name].set()
        return good

    def get_ready(self, users, projects, batches):
        """Check, and do what can be done while the old models serve; returns the batches for which all went well.

        A model that fails before its turn keeps its container, its place in compose.yaml and its secrets.
        """
        ready = []
        host = [project for project in projects if not project.dockerd.user]
        with turn(users):
            accepted = self.accepted(host, batches)
        accepted = self.accepted([project for project in projects if project not in host], accepted)
        self.side_by_side(accepted, lambda batch: self.for_each(batch, self.prepare) and ready.append(batch))
        self.settle(batch for batch in batches if batch not in ready)
        return ready

    def begin(self, users, projects, ready, unfinished):
        """Write the files of these batches, and of the rest what stays. Returns the batches that continue."""
        if apart(users) != users:
            _, ready = self.unchanged(users, ready, unfinished)  # the host's lock was free meanwhile
            for batch in ready:
                self.claim(batch)
        models = [model for batch in self.data["batches"] for model in batch]
        go_on = [model for batch in ready for model in batch]
        kept = {model["name"] for model in models if model not in go_on or model["action"] in CHANGES}
        stay = {model.get("key", model["name"]) for model in models if model not in go_on}
        stay |= {model.get("old_key") for model in models if model["action"] in CHANGES}
        for project in projects:
            preparing.remove_leftovers(project.dockerd)
            project.begin(kept, stay - {model.get("key", model["name"]) for model in go_on})
        return ready

    def claim(self, batch):
        """Claim the entries of a batch in the host's Docker and a user's; other runs leave them alone from now on."""
        change, held = dict(new_change(), claims=claims_of(batch)), contextlib.ExitStack()
        claims.hold(change["batch"], held)
        with self.mutex:
            self.claimed[str(claims_of(batch))] = change, held
        record.set_replacing(change)

    def unclaim(self, batches):
        """End the claims of batches. A change that could not be ended stays in the record, for the next run."""
        for batch in batches:
            with self.mutex:
                change, held = self.claimed.pop(str(claims_of(batch)), (None, contextlib.ExitStack()))
            try:
                with held:
                    if change:
                        record.drop_claims(change["batch"])
            except (OSError, Failure) as error:  # a full disk; the next run finds nothing else to do
                say("", "{} cannot be written: {}".format(record.RECORD, describe_error(error)))

    def change_those_free(self, users, batches):
        """Change the batches that wait for nothing in another part, and return those that do.

        No lock is held as long as these wait.
        """
        waiting = self.waiting(batches)
        with self.within_limits(users, batches):
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

    def clean_up(self, users, projects):
        for project in projects:
            held = turn(() if project.dockerd.user else users)
            with held, contextlib.suppress(Failure):  # a daemon without an answer; the next run tries again
                project.clean_up()

    def accepted(self, projects, batches):
        """The batches that Compose accepts; one wrong service would make it refuse all of its project."""
        refusing = [project for project in projects if project.refusal()]
        good = []
        for batch in batches:
            wrong = {name: why for project in refusing for name, why in project.refused(batch).items()}
            for name, why in wrong.items():
                self.fail(name, REJECTED + why, "service-rejected")
            if wrong:
                self.fail_others(batch, wrong)
            else:
                good.append(batch)
        kept = {name for batch in batches if batch not in good for name in names(batch)}
        for refusal in [refusal for project in refusing for refusal in [project.refusal(kept)] if refusal]:
            for batch in good:
                self.fail(batch[0]["name"], REFUSED.format(refusal), "service-rejected")
            return []
        return good

    def fail_others(self, batch, failed):
        """The rest of a batch stays as it is, because its models need each other's GPUs or ports."""
        for name in names(batch):
            if name not in failed:
                what = "not changed: it shares a GPU or port with {}, which failed"
                self.fail(name, what.format(", ".join(sorted(failed))), "others-failed")

    def side_by_side(self, batches, work):
        def guarded(batch):
            try:
                work(batch)
            except Exception as error:  # an exception in a thread would be lost, and the run would appear successful
                self.fail(batch[0]["name"], describe_error(error), code_of(error))

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
                if isinstance(error, CertainFailure) and model["action"] in STARTS:
                    members.note_failure(self, model, error, serves=members.serves(self, model))
                self.fail(name, describe_error(error), code_of(error))
                self.fail_others(batch, {name})
                return False
        return True

    def prepare(self, model):
        """Prove that a model can change."""
        name = model["name"]
        self.provide(model)
        refuse_damaged(name, roots_alone(model.get("weights", ())), model.get("user", ""))
        if model["action"] in STARTS:
            old = model.get("replaces") or {}
            same = old.get("user") == model["user"]
            expected, key = old["id"] if same else None, model.get("key")
            self.dockerd(model["user"]).refuse_foreign(name, expected, key)

    def provide(self, model):
        """Put into place what was downloaded before, which is used from now on.

        It is brought again where something removed it meanwhile.
        """
        name = model["name"]
        for weights in model.get("fetch", ()):
            obtain(name, weights, self.data.get("hf_token"))
        check_locked(name, model.get("sha256", {}), model.get("again", ""), model.get("user", ""), read=False)
        if preparing.needs_image(model):
            provide(self.dockerd(model["user"]), model, self.data.get("logins", {}))

    def change(self, batch):
        """Change a batch; whoever waits for one of it waits no longer, whatever became of it."""
        try:
            for model in batch:
                self.wait_for_others(model)  # the old one keeps serving meanwhile
            Batch(self, batch, self.claimed.get(str(claims_of(batch)), (None,))[0]).carry_out()
        finally:
            self.unclaim([batch])
            self.settle([batch])

    def wait_for_others(self, model):
        """Wait until the entries that a service connects to are ready or have failed; then it starts anyway."""
        progress = Progress(model["name"])
        for other in sorted(self.early.get(model["name"], ())):
            while not self.settled[other].wait(1):
                progress.tell("waiting for {}".format(other))


def without_done(projects, batches):
    """The batches, where what another run meanwhile did just so is only tested; also a move between two Dockers."""
    ours = {project.dockerd.user: project for project in projects}
    gone = lambda model: model["from"] in ours and model["name"] not in ours[model["from"]].dockerd.ids  # noqa: E731
    each = [model for batch in batches for model in batch if model["action"] in CREATES and model.get("definition")]
    planned = {model["name"]: model for model in each if model["from"] == model["user"] or gone(model)}
    definitions = {name: model["definition"] for name, model in planned.items()}
    done = {name: planned[name] for project in projects for name in project.done(definitions)}
    for name, model in done.items():
        if model["from"] != model["user"]:
            ours[model["from"]].follow([name])  # its lines are no longer there
    return [[dict(model, action="check") if model["name"] in done else model for model in batch] for batch in batches]


def names(batch):
    return [model["name"] for model in batch]


def after(batch):
    """The names of the entries that the services of a batch connect to."""
    return [other for model in batch for other in model.get("after", [])]


def waits_for(batches):
    """name → the names in other batches that it waits for.

    Of batches that wait for each other, only the later ones wait, so that none waits for ever.

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


def claims_of(batch):
    """The entries of a batch for the record (files/claims.py): [[user, name]]."""
    return sorted([user, model["name"]] for model in batch for user in daemons(model))


def expire():
    """Remove what is kept for some time only."""
    kept_logs.expire()
    databases.expire()
