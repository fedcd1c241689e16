"""Jobs: what is done once and ends, one after the other, each in a container of its own. A part of models.py.

What a killed run of gpurack began goes on in its container; the next one waits for it there. Runs on the host's own
python3 (3.6 or newer, standard library only).
"""

import json
import os
import time

from common import Failure, Progress, clock, follow, say, write  # (beside this file)
from dockerd import Dockerd
from fetch import obtain
from images import provide
from safe_paths import make_folder

JOBS = "/var/lib/gpurack/jobs"  # as in gpurack/paths.py
SHOWN = 6  # lines of what a job printed last


def run_all(data):
    """data: what gpurack/plan/jobs.py says. Returns the number of failures; one that fails stops no other."""
    failures = 0
    for group in data["groups"]:
        for job in group:
            try:
                run_one(job, data)
            except (Failure, OSError) as failure:
                failures += 1
                say("", "error {}: {}".format(job["name"], failure))
    return failures


def run_one(job, data):
    """From the image to the record."""
    name, dockerd, progress = job["name"], Dockerd(), Progress(job["name"])
    dockerd.compose_file = dockerd.next = job["compose_file"]
    if not begun(dockerd, job):
        for wanted in job["fetch"]:
            obtain(name, wanted, data.get("hf_token"))
        provide(dockerd, job, data.get("logins", {}))
        if not os.path.isdir(job["folder"]):
            make_folder(job["folder"])
        dockerd.start(name)
    follow(dockerd.docker("logs", "--follow", name), lambda line: progress.tell("running, " + line[:100]))
    code = dockerd.must("wait", name)
    output = dockerd.run("logs", name)[1]
    log = os.path.join(JOBS, name + ".log")
    write(log, output + "\n", 0o644)
    state = dockerd.state_of(name)
    dockerd.run("rm", "--force", name)
    lines = "".join("\n    | " + line[:300] for line in output.splitlines()[-12:])
    if code != "0":
        why = state["error"] or "exit code {}".format(code)
        raise Failure("it failed ({}) and runs again next time. Its output: {}{}".format(why, log, lines))
    if job["result"] and not os.path.exists(job["result"]):
        what = "it ended well, but there is no {}; correct result or command. Its output: {}{}"
        raise Failure(what.format(job["result"], log, lines))
    record = {"definition": job["definition"], "ended": time.strftime("%Y-%m-%d %H:%M:%S"), "result": job["result"]}
    write(os.path.join(JOBS, name + ".json"), json.dumps(record, indent=1, sort_keys=True) + "\n", 0o644)
    for line in [line for line in output.splitlines() if line.strip()][-SHOWN:]:
        say(name, "| " + line[:300])
    say(name, "done in {}; {}".format(clock(progress.elapsed()), job["result"] or log))


def begun(dockerd, job):
    """Is there its container, begun by a run before this one? Of another definition, or one that failed, it goes."""
    form = '{{index .Config.Labels "gpurack.job"}} {{.State.Status}} {{.State.ExitCode}}'
    code, found = dockerd.run("container", "inspect", "--format", form, job["name"])
    if code:
        return False
    definition, status, exit_code = found.split()
    if definition == job["definition"] and (status == "running" or (status == "exited" and exit_code == "0")):
        say(job["name"], "an earlier run began it; waiting for its end")
        return True
    dockerd.must("rm", "--force", job["name"])
    return False
