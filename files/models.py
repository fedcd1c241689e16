#!/usr/bin/env python3
"""The models' runner: applies gpurack's plan for the models of this host. It plans nothing itself.

    models.py apply    apply the plan that comes as JSON on standard input (made by gpurack/plan/runner.py)
    models.py prepare  fetch weights and get images ahead of a change; the plan comes the same way
    models.py jobs     run jobs; their plan comes the same way (gpurack/plan/models/jobs.py)
    models.py stop     stop a model until the next run, or hold it (gpurack/plan/models/stop.py)
    models.py end      stop containers that are removed next (gpurack/plan/remove.py), whose lock the caller holds
    models.py note     note in the history what a run changed besides the models, if it changes no model
    models.py boot     start the models of compose.yaml once Docker and the GPU driver are ready
    models.py recover  finish or undo the changes of runs that were killed; every run and boot begin with it

Runs on the host's own python3 (3.6 or newer, standard library only), as root. Changes are made under one lock for each
Docker, downloads before them without it. The host's lock is not held while waiting for a user's Docker, which may never
answer: a change that needs both claims its entries (files/claims.py). Prints progress; a line that begins with "error
NAME: " names a failure, "codes: NAME CODE, …" at the end the kinds of all, and the exit code is their number.
"""

import contextlib
import glob
import json
import os
import signal
import stat
import sys

sys.dont_write_bytecode = True
import boot  # noqa: E402
import claims  # noqa: E402
import jobs  # noqa: E402
import phases  # noqa: E402
import preparing  # noqa: E402
import record  # noqa: E402
import recovering  # noqa: E402
import stopping  # noqa: E402
from applying import CHANGED, Job, expire  # noqa: E402 (beside this file)
from locks import locked  # noqa: E402
from messages import CODES, Failure, code_of, describe_error, say, say_codes, say_error  # noqa: E402 (beside this file)

ROOTS_ALONE = (  # older versions left them readable for all users
    "/var/lib/gpurack/sha256",
    "/var/lib/gpurack/jobs/*",
    "/var/lib/gpurack/jobs/",
    "/var/lib/gpurack/backups/*",
    "/var/lib/gpurack/backups/",
    "/etc/gpurack/jobs/*.yaml",
)


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
    before, begun = record.all_ids(), {change["batch"] for change in record.replacing()}
    failed = jobs.download(data)
    try:
        failed.update(run_due(data, before, begun, failed))
    except Failure as error:  # of the lock
        failed["jobs"] = str(error)
        say_error("jobs", failed["jobs"], code_of(error))
    phases.tell()
    names_of_all = [job["name"] for group in data["groups"] for job in group]
    done = names_of_all if "jobs" not in failed else ()
    note_run(data, ["run {}".format(name) for name in done if name not in failed], failed)
    return min(len(failed), 100)


def run_due(data, before, begun, failed):
    """Run the jobs of a payload under the host's lock; returns name → why of those that failed. Raises Failure.

    before: all_ids of the record, and begun: the ids of its changes, when the jobs were planned. failed: what could not
    be downloaded."""
    with locked("jobs", heard=True):
        changed = {name for (_, name), _ in before ^ record.all_ids()}  # it may have the GPU of a job now
        claiming = [change for change in claims.others() if change.get("claims")]
        claiming = [change for change in claiming if change["batch"] not in begun or claims.is_alive(change)]
        changed |= {name for change in claiming for _, name in record.entries(change)}
        if changed:
            raise Failure(CHANGED.format(" and ".join(sorted(changed))), "changed-meanwhile")
        return jobs.run_all(data, failed)


def apply():
    job = Job(json.load(sys.stdin))
    os.environ.update(job.data.get("proxy", {}))  # for curl and git; dockerd has its own
    tighten()
    job.apply()
    phases.tell()
    note_run(job.data, job.changes(), job.failed)
    return min(job.failures, 100)


def stop():
    data, failed = json.load(sys.stdin), {}
    try:
        stopping.stop(data)
    except Exception as error:
        failed[data["name"]] = describe_error(error)
        say_error(data["name"], failed[data["name"]], code_of(error))
    note_run(data, ["{} {}".format("hold" if data["hold"] else "stop", data["name"])] if not failed else [], failed)
    return len(failed)


def end():
    return min(stopping.end(json.load(sys.stdin)), 100)


def note_run(data, changes, failed):
    """Add a run to the history.

    data: its payload, whose `host` says what changed besides the models. failed: name → why.
    """
    try:
        lines = {"{}: {}".format(*each): CODES.get(each[0], "") for each in sorted(failed.items())}
        done = [*data.get("host", ()), *changes]
        record.note_run(data.get("verb", "apply"), data.get("origin", {}), done, lines)
    except (OSError, Failure) as error:  # a full disk
        say("", "this run is not in the history: {}".format(describe_error(error)))


def note():
    """Put what changed besides the models into the history, where they are unchanged."""
    data = json.load(sys.stdin)
    if record.load() is not None:
        note_run(data, [], {})
    return 0


def prepare():
    data = json.load(sys.stdin)
    os.environ.update(data.get("proxy", {}))
    failures = preparing.run_all(data)
    phases.tell()
    return min(failures, 100)


def start_at_boot():
    failures = boot.boot()
    expire()
    return failures


def recover():
    """Finish or undo interrupted changes; returns the number of entries for which that failed.

    A run calls it before it plans, so it waits for users' Dockers for limited time."""
    return min(len(boot.tell_unfinished(recovering.recover_all(recovering.SOON))), 100)


def main():
    # The SSH connection may close; the run continues to its end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    actions = {
        "apply": apply,
        "prepare": prepare,
        "jobs": run_jobs,
        "stop": stop,
        "end": end,
        "note": note,
        "boot": start_at_boot,
        "recover": recover,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.stderr.write(__doc__)
        return 64
    failures = actions[sys.argv[1]]()
    say_codes()
    return failures


if __name__ == "__main__":
    sys.exit(main())
