"""Docker daemons, asked over their sockets, and which of their containers gpurack made.

A part of evidence.py, by which verification inspects a host.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pwd
import re
import socket
import threading

import evidence_parts
from evidence_parts import ASKED, content, data, end, family, unread

DAEMON_TIMEOUT = 60  # seconds


class Daemon(http.client.HTTPConnection):
    """A Docker daemon's API over its socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@contextlib.contextmanager
def limited(connection, seconds):
    """A connection whose talk ends after so many seconds: whoever sends a byte now and then is never silent."""
    end = None
    try:
        connection.connect()
        # the socket by itself: the connection forgets it where the server is going to close it
        end = threading.Timer(seconds, connection.sock.shutdown, (socket.SHUT_RDWR,))
        end.daemon = True
        end.start()
        yield connection
    finally:
        if end:
            end.cancel()
        connection.close()


def api(path, where, method="GET", body=None):
    """The bytes that a daemon answers; None when it does not, or with an error."""
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        with limited(Daemon(path), DAEMON_TIMEOUT) as connection:
            connection.request(method, where, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            answer = response.read(evidence_parts.DAEMON_SIZE)
            return answer if response.status < 400 else None
    except (OSError, http.client.HTTPException):
        return None


def asked(path, where):
    """The same, as data. Raises ValueError."""
    answer = api(path, where)
    return data(answer.decode()) if answer else None


def of_form(said):
    """What a daemon said, None where it is not as `docker` makes it."""
    if unread(said):
        return said
    forms = {"info": dict, "containers": dict, "images": list}
    if said is None or not all(isinstance(said.get(key), form) for key, form in forms.items()):
        return None
    if not all(isinstance(one, dict) for one in list(said["containers"].values()) + said["images"]):
        return None
    return said


def socket_of(user):
    """Where a user's rootless daemon listens; the host's own for ""."""
    return "/run/user/{}/docker.sock".format(pwd.getpwnam(user).pw_uid) if user else "/run/docker.sock"


def docker(user):
    """One daemon: `docker info`, its containers as inspected, its images' ids, tags and digests."""
    path = socket_of(user)
    info = asked(path, "/info")
    if info is None:
        return None
    ids = [container["Id"] for container in asked(path, "/containers/json?all=1") or []]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        inspected = list(pool.map(lambda one: asked(path, "/containers/{}/json".format(one)), ids))
    images = asked(path, "/images/json") or []
    return {
        "info": info,
        "containers": {one["Name"].lstrip("/"): one for one in inspected if one},
        "images": [
            {"id": one["Id"], "tags": one.get("RepoTags") or [], "digests": one.get("RepoDigests") or []}
            for one in images
        ],
    }


def inside(path, container, argv):
    """(what a program prints inside a container, its processes that nothing ends: they wait for a card)"""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv}
    made = api(path, "/containers/{}/exec".format(container), "POST", body)
    if not made:
        return "", []
    number = data(made.decode())["Id"]
    raw = api(path, "/exec/{}/start".format(number), "POST", {"Detach": False, "Tty": False}) or b""
    started = asked(path, "/exec/{}/json".format(number)) or {}
    pid = started.get("Pid") if started.get("Running") else None
    left = end(family(pid)) if isinstance(pid, int) and pid > 1 else []
    return unframed(raw), left


def unframed(raw):
    """The text in Docker's frames: stream, three zeros, length, bytes."""
    text, at = b"", 0
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "big")
        text += raw[at + 8 : at + 8 + size]
        at += 8 + size
    return text.decode("utf-8", "replace")


OF_COMPOSE = "com.docker.compose."


def is_ours(name, container, user, daemon, record):
    """Did gpurack make this container (as gpurack/facts/record.py: is_ours)? Another one gets no key.

    record: user → name → entry.
    """
    labels = container["Config"].get("Labels") or {}
    if "gpurack.model" not in labels or labels.get(OF_COMPOSE + "project") != "gpurack":
        return False
    if not re.match(re.escape(name) + r"(\.[0-9]+)?\Z", labels.get(OF_COMPOSE + "service") or ""):
        return False
    if container["Name"].lstrip("/") != name:
        return False
    if user not in record:
        return True
    entry = record[user].get(name, {"id": ""})
    if labels[OF_COMPOSE + "service"] != (entry.get("service") or name):
        return False
    known = entry["id"]
    by_compose = not user and known and labels.get(OF_COMPOSE + "image") == container["Image"]
    return known in (None, container["Id"]) or bool(
        by_compose and known not in [one["Id"] for one in daemon["containers"].values()]
    )


def recorded():
    """The host's record of gpurack's containers: user → name → entry, with its id and its service in Compose."""
    try:
        found = data(content(ASKED["record"]) or "{}").get("containers", {})
        return {
            user: {name: {"id": entry["id"], "service": entry.get("service")} for name, entry in of.items()}
            for user, of in found.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError):
        return {}


def ours(name, one, daemons, record):
    """An entry's container, as inspected; None where it has none that runs, or a stranger has its name."""
    daemon = daemons.get(one["user"])
    try:
        container = daemon["containers"][name]
        runs = container["State"]["Status"] == "running" and isinstance(container["Id"], str)
        return container if runs and is_ours(name, container, one["user"], daemon, record) else None
    except (LookupError, TypeError, AttributeError):
        return None


def published(container, port):
    """The address at which a container publishes a port; "" for one that publishes none.

    It then has the host's network. None for one that publishes others: who listens there then is not it, and would get
    its key.
    """
    bindings = [bound for ports in (container["HostConfig"]["PortBindings"] or {}).values() for bound in ports or []]
    places = [str(binding["HostIp"]) for binding in bindings if binding["HostPort"] == str(port)]
    return places[0] if places else None if bindings else ""
