"""Runs jobs one after another, each in its own container. A part of models.py.

A job that a killed run started continues in its container; the next run waits for it there. Runs on the host's own
python3 (3.6 or newer, standard library only).
"""

import json
import os
import time

import preparing
import record
from dockerd import JOBS_PROJECT, Dockerd
from fetch import obtain
from images import provide
from messages import Failure, clock, code_of, describe_error, say, say_error, size
from paths import JOB_LABEL, JOBS
from programs import Child
from progress import Progress, show_progress
from record_rebuild import ensure_record
from safe_paths import make_folder, require_roots
from writing import write  # (beside this file)

SHOWN = 6  # last lines of a job's output that are shown
LONGEST = 2 * 24 * 3600  # seconds that a run waits for a job, times PATIENCE of files/docker_commands.py: 8 days
KEPT = 8 << 20  # bytes of a job's output that are kept, of its start and of its end each


def download(data):
    """Bring what the jobs need, while other runs change models; returns name → why, of those that lack something.

    data: as for `run_all`."""
    failed = {}
    for job in [job for group in data["groups"] for job in group]:
        try:
            preparing.bring(Dockerd("", JOBS_PROJECT), job, data)
        except Exception as error:  # the others run anyway
            failed[job["name"]] = describe_error(error)
            say_error(job["name"], failed[job["name"]], code_of(error))
    return failed


def run_all(data, without=()):
    """Run all jobs; returns name → why, of those that failed.

    data: made by gpurack/plan/models/jobs.py. without: names that are left out.
    """
    failed = {}
    try:
        ensure_record(data.get("ours", {}))
    except Failure as failure:
        say_error("jobs", str(failure), failure.code)
        return {"jobs": str(failure)}
    for group in data["groups"]:
        for job in group:
            if job["name"] in without:
                continue
            try:
                run_one(job, data)
            except Exception as error:  # the others run anyway
                failed[job["name"]] = describe_error(error)
                say_error(job["name"], failed[job["name"]], code_of(error))
    return failed


def run_one(job, data):
    """Run one job, from its image to its record. Raises Failure."""
    name, dockerd, progress = job["name"], Dockerd("", JOBS_PROJECT), Progress(job["name"])
    dockerd.ids = record.ids("", data.get("ours", {}).get("", {}))
    dockerd.compose_file = dockerd.next = job["compose_file"]
    if not begun(dockerd, job):
        for wanted in job["fetch"]:
            obtain(name, wanted, data.get("hf_token"))
        provide(dockerd, job, data.get("logins", {}))
        require_roots(job["folder"], "choose another folder")  # Docker follows a link there as root
        if not os.path.isdir(job["folder"]):
            make_folder(job["folder"])
        dockerd.start(name, job["definition"])
    container = dockerd.ids[name]
    with show_progress(progress, "running"):
        seen = lambda line: progress.tell("running, " + line[:100])  # noqa: E731
        dockerd.follow(["logs", "--follow", container], seen, LONGEST, LONGEST)
        code = dockerd.must("wait", container, limit=LONGEST)
    output = printed(dockerd, container)
    os.makedirs(JOBS, mode=0o700, exist_ok=True)
    log = os.path.join(JOBS, name + ".log")
    write(log, output + "\n", 0o600)
    state = dockerd.state_of(name)
    dockerd.remove(name)
    lines = "".join("\n    | " + line[:300] for line in output.splitlines()[-12:])
    if code != "0":
        why = state["error"] or "exit code {}".format(code)
        raise Failure("failed ({}); the next run repeats it. Output: {}{}".format(why, log, lines), "job-failed")
    if job["result"] and not os.path.exists(job["result"]):
        what = "succeeded, but {} does not exist. Correct `result` or `command`. Output: {}{}"
        raise Failure(what.format(job["result"], log, lines), "job-failed")
    done = {"definition": job["definition"], "ended": time.strftime("%Y-%m-%d %H:%M:%S"), "result": job["result"]}
    write(os.path.join(JOBS, name + ".json"), json.dumps(done, indent=1, sort_keys=True) + "\n", 0o600)
    for line in [line for line in output.splitlines() if line.strip()][-SHOWN:]:
        say(name, "| " + line[:300])
    say(name, "done in {}; {}".format(clock(progress.elapsed()), job["result"] or log))


def printed(dockerd, container):
    """A container's output; where it is too long, its start and its end."""
    child, first, last, length = Child(dockerd.docker("logs", container)), bytearray(), bytearray(), 0
    for piece in child.output():
        length += len(piece)
        room = KEPT - len(first)
        first += piece[:room]
        last += piece[room:]
        if len(last) > 2 * KEPT:
            del last[:-KEPT]
    del last[:-KEPT]
    left_out = length - len(first) - len(last)
    gap = "\n… {} of output omitted …\n".format(size(left_out)) if left_out else ""
    return (first + gap.encode("utf-8") + last).decode("utf-8", "replace").strip()


def begun(dockerd, job):
    """Does its container run, or has it succeeded, from an earlier run? One that failed or differs is removed."""
    found = dockerd.id_of(job["name"])
    if not found:
        return False
    definition = dockerd.inspect(found)["labels"][JOB_LABEL]
    state = dockerd.state_of(job["name"])
    ended_well = state["status"] == "exited" and state["code"] == 0
    if definition == job["definition"] and (state["status"] == "running" or ended_well):
        say(job["name"], "an earlier run started it; waiting for it to end")
        return True
    dockerd.remove(job["name"])
    return False
