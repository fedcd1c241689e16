"""What a Docker says of itself, its containers and the images in use, by its socket: a part of snapshot_docker.sh.

    python3 -I -S -c PROGRAM SOCKET RUNNING LABEL ABOUT_GPUS

It is one program in place of nine of Docker's CLI and six for each log, and prints the same sections (docker_by_cli).
For a user's Docker it runs as that user. Standard input has the snapshot's MARK, which no user may see (they see what a
program is started with); a line with the models whose logs to read; and the references of wanted images, one a line.
It writes the models that run (containers with the label) to the file RUNNING, and what the log of one says of its GPUs
since its start (lines with the pattern ABOUT_GPUS, in base64) to the file log.CONTAINER beside it. At anything unusual
it exits with 1 and prints nothing, and the CLI is asked.

Docker's API: https://docs.docker.com/reference/api/engine/. HTTP/1.0, so that the end of the connection is the end of
the answer; an answer that is cut off is not JSON. Python 3.6 or newer, standard library only.
"""

import base64
import calendar
import json
import os
import re
import socket
import sys
import threading
import time
from urllib.parse import quote

LIMIT = 60  # seconds without a byte
MOST = 64 << 20  # bytes of an answer
LOGS_LIMIT = 5  # seconds for a log
LOG, LINES, LONGEST = 1000000, 20, 300  # bytes at the beginning of a log, its first and last lines, bytes of a line
UP = ("running", "restarting")
OF_SERVICE = "com.docker.compose.service"


class Unusual(Exception):
    """An answer that the CLI had better explain."""


def left(end):
    """The seconds until a time of the monotonic clock, at least a few milliseconds."""
    return max(end - time.monotonic(), 0.005)


def get(place, path, most, end=None):
    """(status, body) of Docker's answer to a request, of which little more than `most` bytes are read, until `end`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(left(end) if end else LIMIT)
        connection.connect(place)
        connection.sendall("GET {} HTTP/1.0\r\nHost: docker\r\n\r\n".format(path).encode())
        text = b""
        while len(text) <= most:
            if end:
                connection.settimeout(left(end))
            piece = connection.recv(1 << 16)
            if not piece:
                break
            text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    return b"".join(head.split()[1:2]), body


def ask(place, path):
    """The JSON that Docker answers to a request; None for what does not exist."""
    status, body = get(place, path, MOST)
    if status == b"404":
        return None
    if status != b"200" or len(body) > MOST:
        raise Unusual(path)
    return json.loads(body.decode())


def since(started):
    """A time of Docker's as it wants it in a request for logs. Raises ValueError for another form.

    >>> since("2026-11-20T07:00:00.5Z")
    '1795158000.5'
    """
    whole, _, fraction = started.rstrip("Z").partition(".")
    if fraction and not re.match(r"[0-9]{1,9}\Z", fraction):
        raise ValueError(started)
    return "{}.{}".format(calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")), fraction or 0)


def without_frames(stream):
    """The text of a stream of frames: eight bytes, the last four the length of what follows."""
    parts = []
    while len(stream) > 8:
        size = 8 + int.from_bytes(stream[4:8], "big")
        parts.append(stream[8:size])
        stream = memoryview(stream)[size:]
    return b"".join(parts)


def about_gpus(place, container, pattern, end):
    """What a container's log says of its GPUs since its start: no other lines, as they may be its users'.

    In base64; "" where its log driver cannot be read, or not in time.
    """
    words = "/containers/{}/logs?stdout=1&stderr=1&since={}"
    try:
        path = words.format(quote(container["Id"]), since(container["State"]["StartedAt"]))
        status, body = get(place, path, LOG, end)
    except (OSError, ValueError):
        return ""
    text = body[:LOG] if container["Config"].get("Tty") else without_frames(body[:LOG])
    lines = (line[:LONGEST] for line in text.split(b"\n")) if status == b"200" else ()
    found = [line + b"\n" for line in lines if re.search(pattern.encode(), line)]
    return base64.b64encode(b"".join(found[:LINES] + found[LINES:][-LINES:])).decode()


def plain(text):
    """A text for a line of fields that `|` parts; "" for one that could be mistaken for several."""
    good = isinstance(text, str) and all(" " <= char <= "~" and char not in '|"\\' for char in text)
    return text if good else ""


def published(container):
    """`8080/tcp;127.0.0.1;8000 ` for each published port."""
    every = container["HostConfig"].get("PortBindings") or {}
    each = [(port, one) for port, found in every.items() for one in found or ()]
    return "".join("{};{};{} ".format(plain(port), plain(one["HostIp"]), plain(one["HostPort"])) for port, one in each)


def write_logs(place, containers, pattern, folder):
    """Write what the logs of containers say of their GPUs to a file each, all at once: one may be long."""
    end = time.monotonic() + LOGS_LIMIT

    def write(one):
        with open(os.path.join(folder, "log." + one["Name"][1:]), "w") as stream:
            stream.write(about_gpus(place, one, pattern, end) + "\n")

    threads = [threading.Thread(target=write, args=(one,), daemon=True) for one in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(left(end))


def facts(place, images, label):
    """(the sections' lines, the models that run, their lines). Raises what an unusual answer raises."""
    info = ask(place, "/info")
    if "BuildahVersion" in info:
        raise Unusual("Podman")
    sections, running, lines = {"docker": [json.dumps(info)], "containers": [], "digests": [], "images": []}, [], []
    used = []
    for listed in ask(place, "/containers/json?all=true"):
        found = ask(place, "/containers/{}/json".format(quote(listed["Id"])))
        if found is None:  # removed meanwhile
            continue
        labels, state = found["Config"].get("Labels") or {}, found["State"]
        told = {"id": found["Id"], "name": found["Name"], "image": found["Image"], "state": state, "labels": labels}
        told.update(ports=found["HostConfig"].get("PortBindings"), restarts=found["RestartCount"])
        state.pop("Health", None)  # its log is long and not needed
        sections["containers"].append(json.dumps(told))
        used += [found["Image"]] if found["Image"] not in used else []
        if label in labels and state["Status"] in UP:
            words = (found["Name"], state["Status"], labels.get(OF_SERVICE), None, state["StartedAt"])
            lines.append("|".join(published(found) if word is None else plain(word) for word in words))
            running.append(found)
    for image in used:
        found = ask(place, "/images/{}/json".format(quote(image)))
        if found:
            sections["digests"].append("{}|{}".format(plain(found["Id"]), json.dumps(found.get("RepoDigests"))))
    for reference in images:
        found = ask(place, "/images/{}/json".format(quote(reference)))
        sections["images"].append("{}|{}".format(plain(found["Id"]) if found else "-", reference))
    return sections, running, lines


def main(place, file, label, pattern):
    mark, logs, images = (sys.stdin.read() + "\n\n").split("\n", 2)
    names = {"/" + name + end for name in logs.split() for end in ("", ".previous")}
    try:
        sections, running, lines = facts(place, images.split(), label)
        with open(file, "w") as stream:
            stream.writelines(line + "\n" for line in lines)
        asked = [one for one in running if one["Name"] in names and one["State"]["Status"] == "running"]
        write_logs(place, asked, pattern, os.path.dirname(file))
    except Exception:  # whatever a Docker says, the CLI is asked and says what is wrong
        return 1
    for name, lines in sections.items():
        sys.stdout.write("\n@@{} {}\n".format(mark, name) + "".join(line + "\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
