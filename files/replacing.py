"""Changes models that belong together, with a way back until all new ones are ready. A part of models.py.

           PREPARE ──────────────► TRY ─────────────────────► COMMIT ──► done
           rename the old ones     stop the old ones          compose.yaml names the new ones
           (they go on serving)    wait for their memory      remove the old ones
           create the new ones     copy their databases       give the new ones their restart policy
           are their ports free?   start the new ones
           CUDA? the arguments?    ready? do they answer?
                │                       │
                └── any failure ────────┴──► RESTORE ──► done, with an error
                                             keep the log of what failed, remove all new ones
                                             rename the old ones, restore their databases, start them

    phase in record.json   after a kill or a power cut (files/recovering.py)
    prepare, try, restore  RESTORE
    commit                 COMMIT continues

The record has the phase before its first step. All new containers are removed before the first old one starts, and all
old ones have stopped before the first new one starts: so no GPU ever has both. Until COMMIT, compose.yaml names the old
ones, and dockerd starts neither by itself: the old ones were stopped, the new ones have the restart policy `no`.
A removal that needs nothing of others begins with COMMIT, once its running requests had their time to end.

A change in the host's Docker and a user's holds the host's lock for its decision alone (files/claims.py). It may wait
for it: then the new ones serve, and a kill is undone. RESTORE waits for no lock.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import re
import threading
import time
import uuid

import asking
import databases
import finishing
import loading
import locks
import members
import probing
import processes
import record
import starting
import undoing
from changes import apart, limit_users, turn, users_of
from messages import CertainFailure, Failure, code_of, describe_error, say
from paths import NEW_SERVES, PROBE_LABEL
from ports import own_url
from programs import raise_first, together
from progress import Progress  # (beside this file)

CHANGES = ("create", "recreate", "remove")  # actions that this file is for; the others start what exists
OF_DOCKER = re.compile(
    "Cannot connect to the Docker daemon|error during connect|Docker closed the connection|"
    r"container inspect gave no answer|\(docker container inspect: nothing within|"
    # a mere question; a start may take too long because of its definition
    "Error response from daemon: .*no space left on device"
)
"""Failures that say nothing of a definition: dockerd was restarted, killed or frozen, or its disk is full."""


def new_change():
    """A change for the record, with no members yet."""
    return {"batch": uuid.uuid4().hex, "phase": "prepare", "since": record.now(), "members": []}


class Batch:
    """Changes that succeed or fail together, since one's new GPU, port or name is another one's old one.

    job: files/models.py: Job. models: its entries of the payload. Those whose action is none of CHANGES are started
    when the old containers have stopped; if one of these fails, that concerns no other. change: what the record has of
    it, where it claims them already."""

    def __init__(self, job, models, change=None):
        self.job, self.models = job, models
        self.changes = [model for model in models if model["action"] in CHANGES]
        self.others = [model for model in models if model["action"] not in CHANGES]
        self.news = [model for model in self.changes if model["action"] != "remove"]
        self.names = [model["name"] for model in self.changes]
        self.tags = members.tags(self.changes)
        self.members, self.olds = {}, {}  # by tag, as `failed`
        self.change = change or new_change()
        self.gate, self.doomed = threading.Lock(), False  # held while a container is started
        self.progress = threading.Condition()
        self.threads, self.ended, self.failed = [], set(), {}
        self.seconds, self.ready = {}, {}  # name → how long a new one took to start, and when it was ready
        self.reported = set()  # the others whose result is known
        self.stopped = None  # when the old ones began to stop: until then nothing was tried
        self.daemons = {}  # user → the processes of their dockerd when the trial began

    def carry_out(self):
        """Change, or leave everything unchanged. All that fails is reported to the job."""
        if not self.changes:
            self.run_all()
            return
        try:
            self.begin()
            if self.news or self.others:
                self.prepare()
                self.try_it()
            else:
                self.drain_all()
            self.stage()
        except Exception as error:
            self.failed = self.failed or {self.tags[0]: error}
        if self.failed:
            self.restore()
        else:
            self.commit()

    # --- PREPARE ------------------------------------------------------------------------------------------------------

    def pairs(self, models=None):
        """(tag, entry of the payload, member) of the changes."""
        each = [(self.tags[index], model) for index, model in enumerate(self.changes)]
        return [(tag, model, self.members.get(tag)) for tag, model in each if models is None or model in models]

    def begin(self):
        """Find the containers of the changes, and put the change into the record. Raises Failure."""
        for tag, model, _ in self.pairs():
            with self.blamed(tag):
                self.members[tag], self.olds[tag] = members.member_of(self.job, model)
        self.change["members"] = [member for _, _, member in self.pairs()]
        record.set_replacing(self.change)

    def prepare(self):
        """Prove what can be proven while the old ones serve. Raises Failure."""
        for tag, _, member in self.pairs():
            if member["old_id"]:
                with self.blamed(tag):
                    self.job.dockerd(member["from"]).limited("rename", member["old_id"], member["aside"])
        for tag, model, member in self.pairs(self.news):
            with self.blamed(tag):
                members.create(self.job, self.change["batch"], self.names, model, member, self.olds[tag])
        record.set_replacing(self.change)
        held = [port for old in self.olds.values() if old and old["status"] in members.RUNS for port in old["ports"]]
        for tag, _, member in self.pairs(self.news):
            with self.blamed(tag):
                members.prove_ports(member, held)
        for tag, model, member in self.pairs(self.news):
            with self.blamed(tag):
                probing.prove(self.job, model, member, self.change["batch"])
                probing.prove_arguments(self.job, model, member, self.change["batch"])

    @contextlib.contextmanager
    def blamed(self, tag):
        """An error in the block is this change's."""
        try:
            yield
        except Exception as error:
            self.failed.setdefault(tag, error)
            raise

    # --- TRY ----------------------------------------------------------------------------------------------------------

    def try_it(self):
        """Stop the old ones, start the new ones and test them. `failed` has those that failed."""
        self.daemons = {user: self.daemons_of(user) for user in {member["user"] for member in self.change["members"]}}
        self.change["phase"] = "try"
        record.set_replacing(self.change)
        self.stop_old()
        if self.failed:
            return
        for tag, model, member in self.pairs(self.news):
            with self.blamed(tag):
                databases.save(self.change, model, member, self.olds[tag], self.job.dockerd(member["user"]))
        for member in self.change["members"]:
            dockerd = self.job.dockerd(member["user"])
            if member["new_id"]:
                dockerd.ids[member["name"]], dockerd.keys[member["name"]] = member["new_id"], member["new_key"]
        self.run_all()
        for tag, model, member in self.pairs(self.news) if not self.failed else ():
            with self.blamed(tag):  # it may have ended while others loaded
                on_gpus, hints = bool(model["uuids"]), model.get("hints", ())
                loading.still_up(self.job.dockerd(member["user"]), model["name"], member["new_id"], 0, on_gpus, hints)

    def daemons_of(self, user):
        """The processes of a user's dockerd; "" is the host's."""
        return processes.daemons(self.job.dockerd(user))

    def stop_old(self):
        """Stop the old ones together, and wait until they hold no GPU memory."""
        uuids = sorted({uuid for model in self.models for uuid in model.get("uuids", ())})
        wanted, running = {}, set()
        for tag, _, member in self.pairs():
            if not member["old_id"]:
                continue
            dockerd = self.job.dockerd(member["from"])
            if member["old_policy"] is not None:
                dockerd.limited("update", "--restart", "no", member["old_id"])
            wanted[tag] = dockerd, member["old_id"]
            if uuids:
                running |= processes.of_container(dockerd, member["old_id"])
        before = processes.memory_of(running, uuids) if running else {}
        self.drain_all()
        self.stopped = time.monotonic()
        results = processes.stop_together(wanted)
        self.failed.update({tag: result for tag, result in results.items() if isinstance(result, Exception)})
        if self.failed or not uuids:
            return
        first = next((tag for tag, model, _ in self.pairs(self.news) if model["uuids"]), self.tags[0])
        with self.blamed(first):
            ended = set().union(running, *results.values())
            processes.wait_for_memory(first, ended, uuids, before)

    def drain_all(self):
        """Let the old containers that run end their requests, side by side; one that cannot be asked is stopped so."""
        together((self.drain, *each) for each in self.pairs() if each[2]["ran"])

    def drain(self, tag, model, member):
        """Let an old container end its running requests, for some seconds."""
        url = self.probe_of(tag)
        if url and model.get("running"):
            dockerd = self.job.dockerd(member["from"])
            runs = processes.Watched(dockerd, member["old_id"]).runs
            asking.drain(dockerd, model["name"], url, model["running"], member["old_key"], runs)

    def probe_of(self, tag):
        """Where an old container says that it is ready; None where that is unknown."""
        old, known = self.olds[tag], self.changes[self.tags.index(tag)].get("url", "")
        return own_url(old["found"]["labels"].get(PROBE_LABEL), old["ports"], known)

    def run_all(self):
        """Start all models, each in a thread, until all are ready or a changed one has failed."""
        self.threads = [threading.Thread(target=self.run_one, args=(model,)) for model in self.news + self.others]
        for thread in self.threads:
            thread.start()
        with self.progress:
            while len(self.ended) < len(self.threads) and not self.failed:
                self.progress.wait(1)

    def run_one(self, model):
        """Start one model and wait until it has passed its tests, whatever comes of it."""
        name, error = model["name"], None
        try:
            self.wait_for_others(model)
            if model in self.news:
                self.start_new(model)
            else:
                dockerd = self.job.dockerd(model["user"])
                starting.bring_up(self.job.data, self.job.lanes, dockerd, model, self.allowed)
        except Exception as found:  # an exception in a thread would be lost
            error = found
        finally:
            with self.progress:
                if error and model in self.news and not self.doomed:
                    self.failed.setdefault(name, error)
                self.ended.add(name)
                if model in self.others and not (error and self.doomed):
                    self.reported.add(name)
                self.progress.notify_all()
        if error and name in self.reported:
            self.job.fail(name, describe_error(error), code_of(error))

    def wait_for_others(self, model):
        """Until the entries of this batch that a service connects to are ready or have failed.

        A new version that changes its database starts last, and not where another one failed: that would undo what
        users have written by then (files/databases.py)."""
        last = [one["name"] for _, one, member in self.pairs(self.news) if member["database"]]
        progress, name = Progress(model["name"]), model["name"]
        wanted = set(model.get("after", ())) & {other["name"] for other in self.news + self.others}
        if name in last:  # of several, one after the other
            later = waiting_for(name, self.news + self.others).union(last[last.index(name) :])
            wanted |= {other["name"] for other in self.news} - later
        with self.progress:
            while not self.doomed and (wanted - self.ended or (name in last and self.failed)):
                self.progress.wait(1)
                progress.tell("waiting for {}".format(" and ".join(sorted(wanted - self.ended or wanted))))

    @contextlib.contextmanager
    def allowed(self):
        """Hold the gate while a container is started. Raises Failure where the way back has begun."""
        with self.gate:
            if self.doomed:
                raise Failure("not started, since another one failed", "others-failed")
            yield

    def start_new(self, model):
        """Start a model's new container and test it. Raises Failure."""
        ((_, _, member),) = self.pairs([model])
        dockerd, container = self.job.dockerd(member["user"]), member["new_id"]

        def start(silence):
            with self.allowed():
                processes.start(dockerd, container)
            with contextlib.suppress(Failure):  # only for the record: no reason to go back
                member["started"] = processes.state(dockerd, container)["started"]
            return starting.until_tested(self.job.data, dockerd, model, container, member["new_key"], silence)

        stop = lambda: processes.stop(dockerd, container, 5)  # noqa: E731
        seconds = starting.in_turn(self.job.lanes, model, start, stop, lambda: self.doomed)
        self.seconds[model["name"]], self.ready[model["name"]] = seconds, time.monotonic()
        if "label" in model:
            member["ready"][-1]["seconds"] = round(seconds)

    # --- COMMIT -------------------------------------------------------------------------------------------------------

    def stage(self):
        """Decide for the new ones: from here on nothing is restored. Raises Failure or OSError before that."""
        if self.failed:
            return
        concerned = users_of(self.change)
        with self.in_turn(concerned), self.job.deciding:
            users = sorted(concerned & set(self.job.projects))
            for user in users:
                self.job.projects[user].stage(self.change["batch"], self.names)
            self.change["phase"] = "commit"
            try:
                record.set_replacing(self.change)
            except Exception:
                self.change["phase"] = "try"
                raise
            for user in users:
                self.job.projects[user].decided(self.names)
            with contextlib.suppress(OSError):  # `commit` tries again
                finishing.publish(self.change, self.job.dockerd)

    @contextlib.contextmanager
    def in_turn(self, users):
        """The turn of this change at the host's lock."""
        if apart(users) != users and self.news and locks.is_held(locks.LOCK):
            what = "{}: ready, and may be used. The change is completed when no other run works on the host's models"
            say("", what.format(", ".join(model["name"] for model in self.news)))
        with turn(users, self.job.dockerd):
            yield

    def commit(self):
        """Remove what is not needed any more, and report."""
        ended = False
        try:
            finishing.finish(self.change, self.job.dockerd, start=False)
            ended = True
        except Exception as error:
            now = NEW_SERVES + " the change" if self.news else "its removal"
            what = "{} could not be ended: {}. The next run continues it"
            self.job.fail(self.names[0], what.format(now, describe_error(error)), code_of(error))
        for _, model, member in self.pairs():
            name = model["name"]
            if member["remove"]:
                self.job.dockerd(member["from"]).ids.pop(name, None)
                if ended:
                    say(name, "removed")
                continue
            if member["from"] != member["user"] and member["old_policy"] is None:
                self.job.dockerd(member["from"]).ids.pop(name, None)
            if member["old_policy"] is not None:
                say(name, "stopped {} and renamed it to {}".format(member["old_name"], member["aside"]))
            image = member["ready"][-1]["id"] if member["ready"] else None
            down = self.ready[name] - self.stopped if member["ran"] else None
            say(name, starting.ready_after(member["user"], name, image, self.seconds[name], down))

    # --- RESTORE ------------------------------------------------------------------------------------------------------

    def restore(self):
        """Bring the old ones back, and report."""
        with self.gate:
            self.doomed = True
        tried = self.stopped is not None
        with self.progress:
            self.progress.notify_all()
        trouble, back, again = "", {}, set()  # again: what was started and is stopped again
        if self.change["members"]:
            limit_users(self.change, self.job.dockerd)
            try:
                self.stop_others(again)
                names = {model["name"] for tag, model, _ in self.pairs() if tag in self.failed}
                left = undoing.take_back(self.change, self.job.dockerd, True, names if tried else ())
                self.see_old()
                back = self.wait_for_old() if tried else {}
                for error in left:
                    say(self.names[0], "{}. The next run tries it again".format(describe_error(error)))
                if not left:
                    self.forget()
            except Exception as error:
                trouble = describe_error(error)
            self.write_failures(back, tried)
        for thread in self.threads:
            thread.join()
        for tag, model, member in self.pairs():
            if tag in self.failed:
                error = self.failed[tag]
                what = members.message(member, error, tried, back.get(tag), trouble)
                self.job.fail(model["name"], what, code_of(error))
        names = {model["name"] for tag, model, _ in self.pairs() if tag in self.failed}
        rest = [model for model in self.models if model["name"] not in self.reported - again]
        self.job.fail_others(rest, names)

    def forget(self):
        """Drop the change from the record; on a full disk the next run does, and finds nothing else to do."""
        try:
            undoing.forget(self.change, self.job.dockerd)
        except OSError as error:
            say("", "{} cannot be written: {}".format(record.RECORD, describe_error(error)))

    def stop_others(self, again):
        """Stop what was started on the GPUs of the old ones, side by side; `again` gets their names. Raises Failure."""
        wanted = {}
        for model in self.others:
            name, dockerd = model["name"], self.job.dockerd(model["user"])
            if model["action"] == "start" and name in dockerd.ids and self.threads:
                wanted[name] = dockerd, dockerd.ids[name]
        results = processes.stop_together(wanted)
        again.update(name for name in results if not isinstance(results[name], Exception))
        raise_first(result for result in results.values() if isinstance(result, Exception))

    def see_old(self):
        """The names mean the old containers again."""
        for member in self.change["members"]:
            for user in {member["user"], member["from"]}:
                dockerd = self.job.dockerd(user)
                dockerd.ids.pop(member["name"], None)
                known = record.ids(user).get(member["name"])
                if known:
                    dockerd.ids[member["name"]] = known
                    dockerd.keys[member["name"]] = record.keys(user)[member["name"]]

    def wait_for_old(self):
        """Wait until the old ones are ready again; tag → (time of day, seconds that it was down) or the Failure."""
        back = {}

        def one(tag, model, member):
            try:
                self.wait_for_one(tag, model, member)
                back[tag] = time.strftime("%H:%M:%S"), time.monotonic() - self.stopped
            except Exception as error:  # it is said with what failed
                back[tag] = error

        together((one, *each) for each in self.pairs() if each[2]["ran"])
        return back

    def wait_for_one(self, tag, model, member):
        """Wait until an old container is ready, as far as it says how to ask it."""
        if member.get("lost"):
            raise Failure(member["lost"], "previous-lost")
        if member["old_policy"] is not None:
            return
        name, dockerd = member["name"], self.job.dockerd(member["from"])
        url = self.probe_of(tag)
        if url and name in dockerd.ids:
            container, patience, key = dockerd.ids[name], model.get("timeout", 1800), dockerd.key(name)
            loading.wait_until_ready(dockerd, name, container, url, None, patience, key=key, silence=lambda: None)

    def restarted(self, user):
        """Was a user's dockerd restarted or killed since the trial began? Its containers and connections ended then."""
        return user in self.daemons and self.daemons_of(user) != self.daemons[user]

    def write_failures(self, back, tried):
        """Record what failed, so that it is not tried again until something changes.

        Before the old ones stopped, only what certainly fails again counts.
        """
        for tag, model, member in self.pairs(self.news):
            error, old = self.failed.get(tag), back.get(tag)
            if error is None or isinstance(error, OSError):  # of gpurack's own files
                continue
            if OF_DOCKER.search(str(error)) or self.restarted(model["user"]):
                continue
            if not tried and not isinstance(error, CertainFailure):
                continue
            serves = isinstance(old, tuple) if tried else member["ran"]
            down = int(old[1]) if isinstance(old, tuple) else 0
            members.note_failure(self.job, model, error, member.get("image", ""), serves, down)


def waiting_for(name, models):
    """The name, and those of the models that wait for it, also through others.

    >>> sorted(waiting_for("a", [{"name": "a"}, {"name": "b", "after": ["a"]}, {"name": "c", "after": ["b"]}]))
    ['a', 'b', 'c']
    """
    found, more = set(), {name}
    while more - found:
        found |= more
        more = {model["name"] for model in models if found.intersection(model.get("after", ()))}
    return found
