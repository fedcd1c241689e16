"""Logs of containers that were replaced or that failed: /var/lib/gpurack/logs/USER/NAME.KIND.log. A part of models.py.

USER is "_" for the host's own Docker. Root alone can read them. Runs on the host's own python3 (3.6 or newer, standard
library only).
"""

import contextlib
import os
import re
import time

from messages import UNSEEN, Failure, TimeIsUp, describe_error, say
from paths import LOG_DAYS, LOGS, kept_log
from programs import Child
from writing import write  # (beside this file)

LARGEST = 2**20  # bytes of a log that are kept
LINES = 20000  # asked of Docker, as it cannot be asked for bytes
PATIENCE = 60  # seconds to read a log
COLOUR = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
SHOWN = 12  # lines in a message


def keep(dockerd, name, container_id, kind, secrets=()):
    """Keep the last LARGEST bytes of a container's log; returns the path. kind: "failed" or "previous".

    secrets: texts to mask, beside the files of its project. Never raises: says why it was not kept, and returns ""."""
    path = kept_log(dockerd.user, name, kind)
    try:
        text = plain(tail(dockerd, container_id))
        for secret in secrets:
            text = text.replace(secret or "\0", "•••")
        data = dockerd.without_secrets(text).encode("utf-8")
        if len(data) > LARGEST:  # from the begin of a line: a part of a secret would not be known as one
            data = data[-LARGEST:].partition(b"\n")[2] or data[-LARGEST:]
        make_folders(os.path.dirname(path), LOGS)
        write(path, data.decode("utf-8", "replace"), 0o600)
        return path
    except Exception as error:  # a missing log must not end a change half way
        say(name, "its log was not kept: {}".format(describe_error(error)))
        return ""


def tail(dockerd, container_id, lines=LINES):
    """The last bytes of a container's log, twice what is kept, as text.

    Raises Failure where Docker does not give it in time, or not at all (its log driver cannot be read)."""
    limit, kept = dockerd.allowed(PATIENCE), b""
    child = Child(dockerd.docker("logs", "--tail", str(lines), container_id), limit=limit)
    try:
        for piece in child.output():
            kept = (kept + piece)[-2 * LARGEST :]
    except TimeIsUp:
        raise Failure("docker logs did not end within {} s".format(PATIENCE), "time-is-up") from None
    text = kept.decode("utf-8", "replace")
    if child.code:
        raise Failure("docker logs failed: {}".format(text.strip()[-300:]), "docker-command-failed")
    return text


def plain(text):
    """A log for a terminal: its colours and progress bars become lines of text, other control characters are replaced.

    >>> plain("\\x1b[32mINFO\\x1b[0m 1%\\r2%\\r\\n")
    'INFO 1%\\n2%\\n'
    """
    text = re.sub("\r+\n?", "\n", COLOUR.sub("", text))
    return "\n".join(UNSEEN.sub("\ufffd", line) for line in text.split("\n"))


def last_lines(dockerd, container_id, count=SHOWN):
    """The last lines of a container's log without known secrets; "" where Docker does not give it."""
    with contextlib.suppress(Failure):
        return dockerd.without_secrets("\n".join(plain(tail(dockerd, container_id, count)).splitlines()[-count:]))
    return ""


def quoted(dockerd, container_id):
    """The last lines of a container's log for the end of a message, each in a line of its own."""
    lines = last_lines(dockerd, container_id).splitlines()
    return "".join("\n    | " + line[:300] for line in lines if line.strip())


def make_folders(folder, first):
    """Create the folders from `first` to one below it; only root can list them."""
    if folder != first:
        make_folders(os.path.dirname(folder), first)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    os.chmod(folder, 0o700)


def expire():
    """Remove logs older than LOG_DAYS days. Never raises; says why one was not removed.

    systemd-tmpfiles does so as well (gpurack/plan/models/plan.py: host_files), but later where one was read since."""
    oldest = time.time() - LOG_DAYS * 86400
    for folder, _, files in os.walk(LOGS):
        for file in files:
            path = os.path.join(folder, file)
            try:
                if os.lstat(path).st_mtime < oldest:
                    os.unlink(path)
            except FileNotFoundError:  # another run was faster
                pass
            except OSError as error:
                say("", "{} was not removed: {}".format(path, error.strerror))
