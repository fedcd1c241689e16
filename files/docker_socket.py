"""What a Docker says of itself, its containers and the images in use, by its socket: a part of snapshot_docker.sh.

    python3 -I -S -c PROGRAM SOCKET MARK RUNNING LABEL

It is one program in place of nine of Docker's CLI, and prints the same sections (docker_by_cli). For a user's Docker it
runs as that user. Standard input has the references of wanted images, one a line. It writes the models that run
(containers with the label) to the file RUNNING. At anything unusual it exits with 1 and prints nothing, and the CLI is
asked.

Docker's API: https://docs.docker.com/reference/api/engine/. HTTP/1.0, so that the end of the connection is the end of
the answer; an answer that is cut off is not JSON. Python 3.6 or newer, standard library only.
"""

import json
import socket
import sys
from urllib.parse import quote

LIMIT = 60  # seconds without a byte
MOST = 64 << 20  # bytes of an answer
UP = ("running", "restarting")
OF_SERVICE = "com.docker.compose.service"


class Unusual(Exception):
    """An answer that the CLI had better explain."""


def ask(place, path):
    """The JSON that Docker answers to a request; None for what does not exist."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(place)
        connection.sendall("GET {} HTTP/1.0\r\nHost: docker\r\n\r\n".format(path).encode())
        text = b""
        while len(text) <= MOST:
            piece = connection.recv(1 << 16)
            if not piece:
                break
            text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    status = head.split()[1:2]
    if status == [b"404"]:
        return None
    if status != [b"200"] or len(text) > MOST:
        raise Unusual(path)
    return json.loads(body.decode())


def plain(text):
    """A text for a line of fields that `|` parts; "" for one that could be mistaken for several."""
    good = isinstance(text, str) and all(" " <= char <= "~" and char not in '|"\\' for char in text)
    return text if good else ""


def published(container):
    """`8080/tcp;127.0.0.1;8000 ` for each published port."""
    every = container["HostConfig"].get("PortBindings") or {}
    each = [(port, one) for port, found in every.items() for one in found or ()]
    return "".join("{};{};{} ".format(plain(port), plain(one["HostIp"]), plain(one["HostPort"])) for port, one in each)


def facts(place, images, label):
    """(the sections' lines, the lines of models that run). Raises what an unusual answer raises."""
    info = ask(place, "/info")
    if "BuildahVersion" in info:
        raise Unusual("Podman")
    sections, running = {"docker": [json.dumps(info)], "containers": [], "digests": [], "images": []}, []
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
            running.append("|".join(published(found) if word is None else plain(word) for word in words))
    for image in used:
        found = ask(place, "/images/{}/json".format(quote(image)))
        if found:
            sections["digests"].append("{}|{}".format(plain(found["Id"]), json.dumps(found.get("RepoDigests"))))
    for reference in images:
        found = ask(place, "/images/{}/json".format(quote(reference)))
        sections["images"].append("{}|{}".format(plain(found["Id"]) if found else "-", reference))
    return sections, running


def main(place, mark, file, label):
    try:
        sections, running = facts(place, sys.stdin.read().split(), label)
        with open(file, "w") as stream:
            stream.writelines(line + "\n" for line in running)
    except Exception:  # whatever a Docker says, the CLI is asked and says what is wrong
        return 1
    for name, lines in sections.items():
        sys.stdout.write("\n@@{} {}\n".format(mark, name) + "".join(line + "\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
