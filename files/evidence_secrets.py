"""Files with secrets, and where else a secret can be read. Places are said, never a secret.

A part of evidence.py, by which verification inspects a host.
"""

import contextlib
import glob
import hmac
import json
import os
import pwd
import stat

from evidence_parts import ASKED, content


def secrets(daemons):
    """Mode, owner and salted sum of the files in closed folders, and where else a secret can be read.

    Places are said, never a secret.
    """
    found = {"files": {}, "leaks": []}
    for top in ASKED["closed"]:
        for folder, _, names in os.walk(top):
            for path in [folder] + [os.path.join(folder, name) for name in names]:
                status = os.stat(path)
                found["files"][path] = {
                    "mode": "{:o}".format(stat.S_IMODE(status.st_mode)),
                    "owner": owner_of(status.st_uid),
                    "sum": salted(content(path)) if os.path.isfile(path) else None,
                }
    for daemon in daemons.values():
        for name, container in (daemon or {}).get("containers", {}).items():
            found["leaks"] += leaks("docker inspect " + name, json.dumps(container, ensure_ascii=False))
    for path in beside_secrets():
        found["leaks"] += leaks(path, content(path))
    return found


def leaks(place, text):
    """[secret, place] of each secret that a text holds."""
    return [[name, place] for name, secret in ASKED["secrets"].items() if secret in (text or "")]


def processes_by_owner():
    """uid → pids."""
    found = {}
    for path in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            found.setdefault(os.stat(path).st_uid, []).append(int(path.split("/")[2]))
    return found


def arguments(pids):
    """The secrets among the arguments of processes.

    They are read from a process's own memory, which may never answer: as its user.
    """
    places = [("the arguments of process {}".format(pid), content("/proc/{}/cmdline".format(pid))) for pid in pids]
    return [leak for place, text in places for leak in leaks(place, text)]


def salted(text):
    return hmac.new(ASKED["salt"].encode(), (text or "").encode(), "sha256").hexdigest()


def owner_of(uid):
    """A user's name; the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def beside_secrets():
    """Files of gpurack's outside the closed folders: no secret belongs there, whoever may read it."""
    for top in ASKED["public"]:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in ASKED["closed"]]
            for path in (os.path.join(folder, name) for name in names):
                if os.path.isfile(path):
                    yield path
