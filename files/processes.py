"""Processes of a container: which they are, how they are stopped, when their GPU memory is free. A part of models.py.

A process is (pid, start time in ticks since boot), because ids are used again. Runs as root, on the host's own python3
(3.6 or newer, standard library only).
"""

import os
import re
import shutil
import threading
import time

import programs
from docker_commands import BROKE_OFF, START, why_not_started
from docker_restart import GRACE, MOST_GRACE
from json_data import parsed
from messages import Failure, TimeIsUp, code_of, describe_error
from progress import Progress  # (beside this file)

PROC = "/proc"
KFD_PROCESSES = "/sys/class/kfd/kfd/proc"  # one folder for each process on an AMD GPU
QUERY = 30  # seconds for one answer of a daemon or of nvidia-smi
BEYOND_GRACE = 15  # seconds that `docker stop` may take beyond its grace period
MEMORY_TIMEOUT = 60  # seconds to wait for a stopped model's memory to be freed
SLACK = 512  # MiB of a GPU's memory that may stay: contexts of the driver, and others that grow meanwhile
IN_SLICE = re.compile(r"/user-(\d+)\.slice/")
SHOWN = 5  # processes named in a message
STARTED = re.compile(r"[0-9TZ:.+-]{0,40}\Z")  # a time as Docker writes it; the host's record keeps it
GONE = {"status": "gone", "pid": 0, "restarts": 0, "code": 0, "error": "", "started": ""}
FORM = (
    '{"status":{{json .State.Status}},"pid":{{.State.Pid}},"restarts":{{.RestartCount}},"code":{{.State.ExitCode}},'
    '"error":{{json .State.Error}},"started":{{json .State.StartedAt}},'
    '"grace":{{with .Config.StopTimeout}}{{.}}{{else}}null{{end}}}'
)
ENDED = ("gone", "created", "exited", "dead")
"""The status of a container that has no processes."""


def docker(dockerd, *words, limit=None):
    """Run a docker command that takes at most `limit` seconds (QUERY) on every daemon; returns (exit code, output).

    Raises TimeIsUp. The daemon continues what it began. Unlike Dockerd.run, a timeout here does not end the work on a
    user's daemon: a stop that takes too long is not a daemon that does not answer."""
    limit = dockerd.allowed(limit or QUERY)
    return programs.run(*dockerd.docker(*words), limit=limit, what="{} {}".format(dockerd.by_hand, words[0]))


def state(dockerd, container_id):
    """The state of a container, as Docker has it; status "gone" where none exists.

    status, pid, restarts, exit code, Docker's error, start time and own grace period.

    Raises Failure where Docker gives no valid answer within QUERY seconds."""
    if dockerd.user:
        code, output = dockerd.run("container", "inspect", "--format", FORM, container_id, limit=QUERY)
    else:
        try:
            code, output = docker(dockerd, "container", "inspect", "--format", FORM, container_id)
        except TimeIsUp:
            raise Failure("docker container inspect gave no answer within {} s".format(QUERY), "time-is-up") from None
    if code and "no such container" in output.lower():
        return dict(GONE)
    found = parsed(next((line for line in output.splitlines() if line.startswith("{")), "")) if not code else None
    if not isinstance(found, dict) or any(type(found.get(word)) is not type(GONE[word]) for word in GONE):
        raise Failure(
            "{} container inspect printed no valid answer: {}".format(dockerd.by_hand, output[:300]),
            "docker-command-failed",
        )
    return dict(found, started=found["started"] if STARTED.match(found["started"]) else "")


class Watched:
    """The state of a container that is inspected repeatedly.

    Docker is not asked while the main process that it named lives: each question starts a program, and several models
    may load for minutes. A user's Docker is asked each time, because it may name any process."""

    def __init__(self, dockerd, container_id, proc=PROC):
        self.dockerd, self.container_id, self.proc = dockerd, container_id, proc
        self.known, self.main = None, None

    def state(self):
        """The same as the function `state`. One that is paused counts as running until its process ends."""
        if self.main and alive(self.main, self.proc):
            return self.known
        self.known, self.main = state(self.dockerd, self.container_id), None
        if self.known["status"] == "running" and not self.dockerd.user:
            found = fields(self.proc, self.known["pid"])
            self.main = found and (self.known["pid"], found["start"])
        return self.known

    def runs(self):
        """Does it run? Raises Failure where its Docker does not say."""
        return self.state()["status"] == "running"


# --- which ------------------------------------------------------------------------------------------------------------


def of_container(dockerd, container_id, main=None, proc=PROC):
    """The processes of a container, as a set of (pid, start time); empty where it does not run.

    main: the pid of its main process, if known.

    By their cgroup, whose path has the container's id whatever the driver and version of cgroups. The main process and
    its descendants count too: a rootless daemon on cgroup v1 makes no cgroups. `docker top` lists none on hybrid
    cgroups. In a user's Docker only processes in the user's slice count, because the caller waits until they have
    ended; in the host's own none that a user started."""
    found, parents, started = set(), {}, {}
    for pid in pids(proc):
        cgroup, stat = read(proc, pid, "cgroup"), fields(proc, pid)
        if cgroup is None or stat is None or not may_belong(dockerd, cgroup, container_id):
            continue
        parents[pid], started[pid] = stat["parent"], stat["start"]
        if container_id in cgroup:
            found.add(pid)
    main = state(dockerd, container_id)["pid"] if main is None else main
    more = {main} & started.keys()
    while more - found:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in found}
    return {(pid, started[pid]) for pid in found}


def may_belong(dockerd, cgroup, container_id):
    """May a process with this cgroup belong to a container of this daemon?

    Users give names as they like below their slice, also those of other users' slices, and so does a container below
    its cgroup: the first slice decides, in front of the container."""
    named = [line.partition(container_id)[0] for line in cgroup.splitlines() if container_id in line]
    found = [IN_SLICE.search(line) for line in named or cgroup.splitlines()]
    owners = {slice_of.group(1) for slice_of in found if slice_of}
    return owners == {str(dockerd.uid)} if dockerd.user else not owners - {"0"}


def daemons(dockerd, proc=PROC):
    """The processes of a Docker's user that are called dockerd. Another set than before: it was restarted, or is away.

    A user can name any process so, which concerns their own Docker alone."""
    found = set()
    for pid in pids(proc):
        said = read(proc, pid, "status") or ""
        if said.startswith("Name:\tdockerd\n") and "\nUid:\t{}\t".format(dockerd.uid) in said:
            stat = fields(proc, pid)
            found.update({(pid, stat["start"])} if stat else ())
    return found


def alive(process, proc=PROC):
    """Does a process still exist? A zombie does not count, unless threads of it still run: it holds no memory."""
    pid, start = process
    stat = fields(proc, pid)
    if stat is None or stat["start"] != start:
        return False
    return stat["state"] not in "ZX" or len(threads(proc, pid)) > 1


def survivors(processes, proc=PROC):
    """Those of the processes that still exist."""
    return {process for process in processes if alive(process, proc)}


def describe(processes):
    """The first few processes as text, by their names: a command line may have a key."""
    known = sorted(pid for pid, _ in processes)
    shown = ["pid {} ({})".format(pid, (read(PROC, pid, "comm") or "ended").strip()) for pid in known[:SHOWN]]
    return ", ".join(shown + ["{} more".format(len(known) - SHOWN)] * (len(known) > SHOWN))


def pids(proc):
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def threads(proc, pid):
    try:
        return os.listdir(os.path.join(proc, str(pid), "task"))
    except OSError:
        return []


def read(proc, pid, file):
    """The text of a process's file; None where the process has ended."""
    try:
        with open(os.path.join(proc, str(pid), file), errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def fields(proc, pid):
    """state, parent and start time of a process; None where it has ended (proc(5), stat: fields 3, 4 and 22)."""
    words = (read(proc, pid, "stat") or "").rpartition(")")[2].split()  # its name may have spaces and parentheses
    if len(words) < 20 or not (words[1].isdigit() and words[19].isdigit()):
        return None
    return {"state": words[0], "parent": int(words[1]), "start": int(words[19])}


# --- stop -------------------------------------------------------------------------------------------------------------


def runs(dockerd, container):
    """Does a container run? Where its daemon does not answer, its processes decide."""
    try:
        return state(dockerd, container)["status"] not in ENDED
    except Failure:
        return bool(of_container(dockerd, container, 0))


def start(dockerd, container):
    """Start a container by its id. Raises Failure.

    runc loses a race with its own child once in thousands of starts, so such a failure is tried once more."""
    for last in (False, True):
        try:
            dockerd.limited("start", container, limit=START)
            return
        except Failure as failure:
            text = str(failure)
            if last or "OCI runtime create failed" not in text:
                raise Failure(
                    text if text == BROKE_OFF else why_not_started(1, text), "container-not-started"
                ) from None


def stop(dockerd, container_id, grace=None):
    """Stop a container; returns the processes it had. Takes at most grace + BEYOND_GRACE + QUERY seconds.

    grace: seconds before it is killed; None for its own, up to MOST_GRACE, or else GRACE.

    `docker stop` may hang, or fail although the container ends, so its state afterwards decides. Raises Failure, which
    names the processes that are left, where the container did not exit."""
    before = state(dockerd, container_id)
    if before["status"] == "gone":
        return set()
    if grace is None:
        own = before.get("grace")
        grace = min(own, MOST_GRACE) if type(own) is int and own >= 0 else GRACE
    processes, limit = of_container(dockerd, container_id, before["pid"]), grace + BEYOND_GRACE
    try:
        if before["status"] == "paused":
            docker(dockerd, "unpause", container_id)
        code, output = docker(dockerd, "stop", "-t", str(grace), container_id, limit=limit)
        what = output.strip()[:300] or "exit code {}".format(code)
    except TimeIsUp:
        what = "no answer within {} s".format(limit)
    after = state(dockerd, container_id)
    if after["status"] in ENDED:
        return processes
    left = survivors(processes | of_container(dockerd, container_id, after["pid"]))
    running = "still running: " + describe(left) if left else "Docker says that it is " + after["status"]
    raise Failure("{} stop failed ({}); {}".format(dockerd.by_hand, what, running), "container-not-stopped")


def stop_together(wanted):
    """Stop containers side by side: name → (daemon, container id).

    Returns name → the processes it had, or the Failure. One that ignores its signal delays no other's result."""
    results = {}

    def one(name, dockerd, container_id):
        try:
            results[name] = stop(dockerd, container_id)
        except Exception as error:  # an exception in a thread would be lost
            results[name] = error if isinstance(error, Failure) else Failure(describe_error(error), code_of(error))

    clients = [threading.Thread(target=one, args=(name,) + tuple(each)) for name, each in wanted.items()]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return results


# --- GPU memory -------------------------------------------------------------------------------------------------------


def memory_of(processes, uuids):
    """What wait_for_memory compares with, read before the processes stop: uuid → (MiB used, MiB of these processes).

    Without GPUs, and where nvidia-smi does not say both, nothing."""
    apps, own = compute_apps(), {}
    known = {pid for pid, _ in processes}
    for pid, uuid, used in apps or ():
        if pid in known:
            own.setdefault(uuid, []).append(used)
    used = memory_used()
    return {
        uuid: (used[uuid], sum(own[uuid])) for uuid in uuids if uuid in used and uuid in own and None not in own[uuid]
    }


def wait_for_memory(name, processes, uuids, before=None, proc=PROC):
    """Wait until these processes have ended and hold no GPU memory, which is freed shortly after a process ends.

    before: from memory_of; then the GPUs' memory in use must also be back. Raises Failure after MEMORY_TIMEOUT seconds,
    which names what is left."""
    progress, delay = Progress(name), 0.05
    while True:
        left = why_not_free(processes, uuids, before or {}, proc)
        if not left:
            return
        if progress.elapsed() >= MEMORY_TIMEOUT:
            what = "GPU memory was not freed within {} s: {}. See nvidia-smi or rocm-smi"
            raise Failure(what.format(MEMORY_TIMEOUT, left), "gpu-memory-not-freed")
        progress.tell("waiting for GPU memory to be freed")
        time.sleep(delay)
        delay = min(delay * 2, 0.5)


def why_not_free(processes, uuids, before, proc=PROC):
    """What still holds GPU memory, as text; "" where nothing does."""
    left = survivors(processes, proc)
    if left:
        return "still running: " + describe(left)
    if not uuids:
        return ""
    apps = compute_apps()
    if apps is None:
        return "nvidia-smi gives no answer"
    known = {pid for pid, _ in processes}
    holding = sorted((known & {pid for pid, _, _ in apps}) | (known & amd_pids()))
    if holding:
        return "the driver still lists pid {}".format(", ".join(map(str, holding)))
    if not any(uuid in before for uuid in uuids):
        return ""
    used = memory_used()
    for uuid in sorted(set(uuids) & before.keys() & used.keys()):
        others = [mib for _, on, mib in apps if on == uuid]
        if None in others:  # unknown: the driver does not say
            continue
        most = max(before[uuid][0] - before[uuid][1], sum(others)) + SLACK
        if used[uuid] > most:
            return "{} has {} MiB in use, {} MiB more than before".format(uuid, used[uuid], used[uuid] - most + SLACK)
    return ""


def compute_apps():
    """[(pid, uuid, MiB or None)] of processes on NVIDIA GPUs; None where nvidia-smi gives no answer in time."""
    rows = nvidia_smi("--query-compute-apps=pid,gpu_uuid,used_memory")
    if rows is None:
        return None
    rows = [row for row in rows if len(row) == 3 and row[0].isdigit()]
    return [(int(pid), uuid, int(used) if used.isdigit() else None) for pid, uuid, used in rows]


def memory_used():
    """uuid → MiB in use, of NVIDIA GPUs."""
    rows = nvidia_smi("--query-gpu=uuid,memory.used") or []
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def nvidia_smi(query):
    """The rows of a query; empty without NVIDIA GPUs, None where a program in the driver keeps it from answering.

    It fails with all rows there (14: a damaged infoROM); what it says besides is a row that is none."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        _, output = programs.run("nvidia-smi", query, "--format=csv,noheader,nounits", limit=QUERY, what="nvidia-smi")
    except TimeIsUp:
        return None
    return [[word.strip() for word in line.split(",")] for line in output.splitlines()]


def amd_pids():
    """The ids of processes on AMD GPUs."""
    try:
        return {int(name) for name in os.listdir(KFD_PROCESSES) if name.isdigit()}
    except OSError:
        return set()
