"""What a model answers, and what it computes on.

A part of evidence.py, by which verification inspects a host.
"""

import calendar
import http.client
import json
import re
import time

from evidence_docker import api, asked, inside, limited, published, socket_of, unframed

READY_TIMEOUT, ANSWER_TIMEOUT = 5, 60  # seconds
HTTP_SIZE = 200000  # bytes of a model's answer
CUDA_SIZE = 20000  # characters at the end of what a program prints of CUDA
MINUTES = 10  # of a server's log after its start, in which it says what it computes on


def http_answer(address, port, path, body=None, key=None, timeout=READY_TIMEOUT):
    """[status, body]; status 0 and why, when nothing whole comes in `timeout` s."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = "Bearer " + key
    begun = time.time()
    try:
        with limited(http.client.HTTPConnection(address, port, timeout=timeout), timeout) as connection:
            connection.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            text = response.read(HTTP_SIZE).decode("utf-8", "replace")
        if time.time() - begun < timeout:
            return [response.status, text]
    except (OSError, http.client.HTTPException) as error:
        if time.time() - begun < timeout:
            return [0, str(error) or repr(error)]
    return [0, "nothing in {} s".format(timeout)]


def sleeps(answer, key):
    """Does a model say that it sleeps? answer: (HTTP status, body). key: of the JSON object that it answers."""
    try:
        said = json.loads(answer[1]) if answer[0] == 200 else None
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get(key) is True


def answers(one, ask):
    """What a model says: is it ready, which models does it list, how does it answer requests?

    One request is real, the other the same with a wrong key. ask: `http_answer` at the model.
    """
    found = {"ready": ask(one["ready"], key=one["key"])}
    if found["ready"][0] != 200:
        return found
    if one["lists"]:
        found["listed"] = ask(one["lists"], key=one["key"])
    asleep = one.get("sleeping")  # [path, key of the answer]
    if asleep and sleeps(ask(asleep[0], key=one["key"]), asleep[1]):
        found["sleeps"] = True  # a request would wake it, or end it
        return found
    for path, body in one["requests"]:
        found["path"] = path
        found["answer"] = ask(path, body, one["key"], ANSWER_TIMEOUT)
        if found["answer"][0] in (0, 200):
            break
    if one["key"] and one["requests"]:  # whether an engine is ready, it may tell anybody
        path = found["path"]
        found["wrong key"] = ask(path, body, "wrong-" + one["key"][:1], ANSWER_TIMEOUT)[0]
        found["no key"] = ask(path, body, None, ANSWER_TIMEOUT)[0]
    return found


def conversation(one, container, system):
    """What a model answers.

    container: its id. Whether that still runs is asked before each request: whoever listens at its port later is not
    it, and would get its key.
    """
    path = socket_of(one["user"])

    def ask(*words, **options):
        now = asked(path, "/containers/{}/json".format(container))
        if not now or now["State"]["Status"] != "running":
            return [0, "nothing, its container does not run any more"]
        at = published(now, one["port"])
        if at is None:
            return [0, "its container does not publish port {}".format(one["port"])]
        address = one["address"] or system["address"] or at
        return http_answer({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), one["port"], *words, **options)

    return answers(one, ask)


def cards_inside(user, container):
    """The GPUs that a container sees, and what its program leaves behind (as `inside`)."""
    listed, left = inside(socket_of(user), container, ["sh", "-c", "nvidia-smi -L; ls -d /dev/dri/render*"])
    # of a card in MIG mode its instances, which are below it
    cards = r"UUID: ((?:GPU-)?[0-9a-f-]+(?=\))(?!\)\s*\n\s*MIG )|MIG-[0-9A-Za-z/-]+)|(/dev/dri/renderD\d+)"
    found = re.findall(cards, listed)
    return {"found": [uuid or node for uuid, node in found], "left": left}


def cuda_inside(user, container, program, arguments):
    """What a program prints of CUDA in a container, and what it leaves behind (as `inside`)."""
    printed, left = inside(socket_of(user), container, [program] + arguments)
    return {"found": printed[-CUDA_SIZE:], "left": left}


ABOUT_GPUS = (
    r"ggml_cuda_init: |inference compute|NVIDIA driver too old|no usable GPU found|no compatible GPUs|"
    r"not compiled with GPU|no CUDA devices found|DriverError\(CUDA_ERROR_|Starting \w+ model on C(pu|uda)|"
    r"^([0-9.]+ )?([A-Z] )?\w+: +(using device |layer +\d+ assigned to device |layer +\d+: dev = )?CUDA\d|"
    r"msg=\"[^\"]*\" device=CUDA\d|offloaded \d+/\d+ layers to GPU"
)


def cuda_log(user, container):
    """What a server's log says of its GPUs in the first minutes since its start.

    Only such lines, as others may be of its users.
    """
    begun = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", container["State"]["StartedAt"])
    if not begun or container["Config"].get("Tty"):
        return ""
    since = calendar.timegm(time.strptime(begun.group(), "%Y-%m-%dT%H:%M:%S"))
    where = "/containers/{}/logs?stdout=1&stderr=1&since={}&until={}".format(
        container["Id"], since, since + MINUTES * 60
    )
    lines = unframed(api(socket_of(user), where) or b"").splitlines()
    told = [line for line in lines if re.search(ABOUT_GPUS, line)]
    return "\n".join(told)[:CUDA_SIZE]
