"""Runs a command under the locks of users' Dockers ("" is the host's own), as the models' runner takes them.

gpurack puts `JOB = "…"` in front (JSON; gpurack/operations/commands.py: under_lock): folder of the locks, name of this
run for others that wait, users, argv of the command, its standard input or null, and `heard` (locks.locked). The
command inherits no lock; the exit code is the command's. Runs on the host's own python3 (3.6 or newer, standard library
only), as root.
"""

import json
import subprocess
import sys

import locks
import messages
import umask_and_path  # noqa: F401 (all three are put in front, with what they import)


def main():
    job = json.loads(JOB)  # noqa: F821 - put in front by gpurack
    locks.LOCK, locks.BUSY = job["folder"] + "/lock", job["folder"] + "/busy"
    options = {"stdin": subprocess.DEVNULL} if job["stdin"] is None else {"input": job["stdin"].encode("utf-8")}
    try:
        with locks.locked(job["what"], job["users"], heard=job["heard"]):
            code = subprocess.run(job["argv"], **options).returncode
    except messages.Failure as failure:
        messages.say("", "error {}".format(failure))
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
