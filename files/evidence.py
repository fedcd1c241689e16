"""Gathers what gpurack.verify judges: one look at this host, read only, printed as JSON.

Comes by standard input of the host's python3 (3.6 or newer, standard library only), as root, with ASKED put in front:
the questions, see gpurack/verify/look.py. It shares nothing with the snapshot that deploys use: Docker is asked over
its socket and not by its program, listeners, cards and answers are read here once more.
"""

import base64
import concurrent.futures
import contextlib
import errno
import glob
import hashlib
import hmac
import http.client
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

ASKED = globals().get("ASKED", {})
READY_TIMEOUT, ANSWER_TIMEOUT, DAEMON_TIMEOUT, TALK_TIMEOUT = 5, 60, 60, 300  # seconds
USER_TIMEOUT = 30  # seconds that what a user's programs say of their home may take
DAEMON_SIZE = 1 << 26  # bytes of an answer of a Docker daemon


def run(*argv, limit=None):
    """(exit code, standard output) of a program; (127, "") when there is none, or it had not ended in `limit` s."""
    try:
        environment = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=limit,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    out, error = (text.decode("utf-8", "replace").strip() for text in (done.stdout, done.stderr))
    return done.returncode, out or error


def run_as(user, seconds, *argv):
    """The same as a user, who may stop the program or have it wait, for so many seconds. It gets nothing of root's
    environment, which any program of that user's could read."""
    account = pwd.getpwnam(user)
    environment = {
        "HOME": account.pw_dir,
        "USER": user,
        "LC_ALL": "C",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_RUNTIME_DIR": "/run/user/{}".format(account.pw_uid),
    }
    words = ["timeout", "-k", "1", str(seconds), "setpriv", "--reuid", str(account.pw_uid)]
    words += ["--regid", str(account.pw_gid), "--init-groups", "env", "-i"]
    words += ["{}={}".format(*pair) for pair in sorted(environment.items())]
    return run(*words, *argv, limit=seconds + 5)


LARGEST = 64 << 20  # bytes of a text


def content(path):
    """A file's text, None when there is none."""
    try:
        with opened(path) as file:
            return file.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return None


def opened(path):
    """A file to read. What could block or answer (a FIFO, a device) is not opened, and links only where root made
    them: root reads nothing for others. Raises OSError."""
    for _ in range(10):
        if os.path.islink(path) and os.lstat(path).st_uid in (0, os.geteuid()):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "no file", path)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no file", path)
    return file


# --- the system ------------------------------------------------------------------------------------------------------


def system():
    """os-release, and what the kernel says."""
    said = (line.partition("=") for line in (content("/etc/os-release") or "").splitlines())
    return {
        "os": {name: value.strip("\"'") for name, _, value in said},
        "init": (content("/proc/1/comm") or "").strip(),
        "address": own_address(),
        "tools": [tool for tool in ("curl", "python3") if shutil.which(tool)],
        "now": time.time(),
    }


def own_address():
    """The address that the default route uses, IPv4's or else IPv6's; nothing is sent."""
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                return probe.getsockname()[0]
        except OSError:
            continue
    return ""


def packages():
    """Name → version, whether it is held and whole, as dpkg or rpm knows them."""
    found = {}
    code, out = run("dpkg-query", "-W", "-f", "${db:Status-Want} ${db:Status-Status} ${Package} ${Version}\n")
    if code == 0:
        for want, status, name, *version in (line.split(" ") for line in out.splitlines()):
            if status not in ("not-installed", "config-files"):
                found[name] = {"version": version[0], "held": want == "hold", "whole": status == "installed"}
        return found
    locked = [line.strip() for line in (content("/etc/dnf/plugins/versionlock.list") or "").splitlines()]
    locked += [line.strip() for line in (content("/etc/yum/pluginconf.d/versionlock.list") or "").splitlines()]
    locked += re.findall(r"(?m)^\s*-?\s*name\s*[:=]\s*['\"]?([^'\"\s]+)", content("/etc/dnf/versionlock.toml") or "")
    for line in run("rpm", "-qa", "--qf", "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n")[1].splitlines():
        name, _, version = line.partition(" ")
        rule = r"(\d+:)?{}-\d".format(re.escape(name))  # yum 3 has the epoch in front, dnf 4 behind the name
        held = any(entry == name or re.match(rule, entry) for entry in locked)
        found[name] = {"version": re.sub("^0:", "", version), "held": held, "whole": True}
    return found


def files():
    """Path → text, mode and owner of every asked path (patterns allowed) that is a file or folder."""
    found = {}
    for pattern in ASKED.get("files", []):
        for path in sorted(glob.glob(pattern)):
            status = os.stat(path)
            found[path] = {
                "mode": "{:o}".format(stat.S_IMODE(status.st_mode)),
                "uid": status.st_uid,
                "text": content(path) if stat.S_ISREG(status.st_mode) else None,
            }
    return found


def units():
    """Unit → active, enabled, loaded, and the command it starts, by systemd's own words."""
    found = {}
    names = ASKED.get("units", [])
    asked_for = "--property=Id,LoadState,ActiveState,UnitFileState,ExecStart"
    out = run("systemctl", "show", asked_for, *names)[1] if names else ""
    for block in out.split("\n\n"):
        said = dict(line.partition("=")[::2] for line in block.splitlines())
        found[said.get("Id", "")] = {
            "loaded": said.get("LoadState", ""),
            "active": said.get("ActiveState", ""),
            "enabled": said.get("UnitFileState", ""),
            "starts": (re.findall(r"argv\[\]=([^;]*?)\s*;", said.get("ExecStart", "")) or [""])[-1],
        }
    return found


def users():
    """Of each user with a rootless Docker: do its units run from boot on, how is its docker.service, and what is in the
    asked files of its home?"""
    found = {}
    for user in filter(None, ASKED["users"]):
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            found[user] = None
            continue
        asked = ("systemctl", "--user", "show", "--property=ActiveState,UnitFileState", "docker.service")
        said = dict(line.partition("=")[::2] for line in run_as(user, USER_TIMEOUT, *asked)[1].splitlines())
        found[user] = {
            "linger": os.path.exists("/var/lib/systemd/linger/" + user),
            "active": said.get("ActiveState", ""),
            "enabled": said.get("UnitFileState", ""),
            "uid": account.pw_uid,
            "gid": account.pw_gid,
            "home": account.pw_dir,
            "files": home_files(user, account.pw_dir),
        }
    return found


def home_files(user, home):
    """Path → text of the asked files of a home that are there, read as that user: root follows no link out of it."""
    paths = [os.path.join(home, name) for name in ASKED["homes"]]
    script = 'for file; do [ -f "$file" ] && printf "=%s" "$(base64 -w 0 "$file")"; echo .; done'
    lines = run_as(user, USER_TIMEOUT, "sh", "-c", script, "sh", *paths)[1].splitlines()
    told = enumerate(line for line in lines if line.startswith(("=", ".")))
    return {paths[at]: base64.b64decode(line[1:-1]).decode("utf-8", "replace") for at, line in told if line[0] == "="}


def listeners():
    """[address, port, who] of every TCP socket that listens. Who has it is found by the socket's number: a process may
    call itself what it likes, also several lines, so `ss -p` can be made to say anything."""
    form = r"LISTEN +\d+ +\d+ +(\S+):(\d+) +\S+.*? ino:(\d+) "
    sockets = [
        found.groups() for found in (re.match(form, line) for line in run("ss", "-Hltne")[1].splitlines()) if found
    ]
    pids = owners({number for _, _, number in sockets})
    return [[address.split("%")[0].strip("[]"), int(port), pids.get(number, "")] for address, port, number in sockets]


def owners(numbers):
    """The number of a socket → `name (pid 7)` of a process that has it."""
    found = {}
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or closed it
            number = re.match(r"socket:\[(\d+)\]$", os.readlink(link))
            if number and number.group(1) in numbers:
                pid = link.split("/")[2]
                name = (content("/proc/{}/comm".format(pid)) or "").strip()
                found.setdefault(number.group(1), "{} (pid {})".format(name, pid))
    return found


# --- cards -----------------------------------------------------------------------------------------------------------


def cards():
    """What the kernel, nvidia-smi and the CDI specs say of the host's cards."""
    version = content("/proc/driver/nvidia/version")
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", version or "")
    known = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        uuid = re.search(r"GPU UUID:\s*(\S+)", content(path) or "")
        known[path.split("/")[-2]] = uuid.group(1) if uuid else ""
    if version is None and not known:
        return None
    fields = "index,uuid,name,memory.total,driver_version,compute_cap"
    asked = ("--query-gpu=" + fields, "--format=csv,noheader,nounits")
    code, out = run("nvidia-smi", *asked)
    lines = out.splitlines()
    if code:  # one lost card fails them all; the others answer when they are asked alone
        lines = [line for place in known for line in run("nvidia-smi", "-i", place, *asked)[1].splitlines()]
    answering = [[part.strip() for part in line.split(",")] for line in lines if "GPU-" in line]
    return {
        "kernel": kernel.group(1) if kernel else "",
        "known": known,
        "on the bus": [
            uuid for place, uuid in known.items() if os.path.exists("/sys/bus/pci/devices/" + place.lower())
        ],
        "exit_code": code,
        "message": "" if code == 0 else " ".join(out.split()),
        "answering": [card for card in answering if len(card) == 6],
        "cdi": cdi(),
        "toolkit": (re.findall(r"version (\d+(?:\.\d+)+)", run("nvidia-ctk", "--version")[1]) or [""])[0],
    }


def processes():
    """[card, container] of every process that computes; a container's cgroup ends in its id."""
    found = []
    out = run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader")[1]
    for uuid, pid in re.findall(r"(GPU-[0-9a-f-]+),\s*(\d+)", out):
        container = re.findall(r"[0-9a-f]{64}", content("/proc/{}/cgroup".format(pid)) or "")
        found.append([uuid, container[0] if container else ""])
    return found


def amd():
    """AMD's cards by sysfs, as the kernel's compute driver (KFD) lists them; a node without gpu_id is a CPU."""
    cards = []
    for node in glob.glob("/sys/class/kfd/kfd/topology/nodes/*"):
        said = dict(line.split(" ", 1) for line in (content(node + "/properties") or "").splitlines() if " " in line)
        minor, place = int(said.get("drm_render_minor", 0)), int(said.get("location_id", 0))
        if int(content(node + "/gpu_id") or 0) and minor:
            device = "/sys/class/drm/renderD{}/device/".format(minor)
            domain, unique = int(said.get("domain", 0)), int(said.get("unique_id", 0))
            place = "{:04x}:{:02x}:{:02x}.{}".format(domain, place >> 8 & 255, place >> 3 & 31, place & 7)
            path = "/dev/dri/renderD{}".format(minor)
            cards.append(
                {
                    "node": path,
                    "gid": os.stat(path).st_gid if os.path.exists(path) else 0,
                    "pci": place,
                    "unique": "GPU-{:016x}".format(unique) if unique else "",
                    "name": (content(device + "product_name") or "").strip(),
                    "memory": int(content(device + "mem_info_vram_total") or 0) >> 20,
                }
            )
    return {"kfd_gid": os.stat("/dev/kfd").st_gid if os.path.exists("/dev/kfd") else 0, "cards": cards}


def cdi():
    """The devices of kind nvidia.com/gpu that a CDI spec names, and device nodes and files (libraries, programs) of
    theirs that are not there."""
    devices, missing, gone = [], [], []
    for path in glob.glob("/etc/cdi/*") + glob.glob("/run/cdi/*"):
        text = content(path) or ""
        if re.search(r"\"?kind\"?\s*:\s*\"?nvidia\.com/gpu", text):
            devices += re.findall(r"\"?name\"?\s*:\s*\"?([\w-]+)", text)
            nodes = re.findall(r"\"?path\"?\s*:\s*\"?(/dev/[\w/-]+)", text)
            missing += [node for node in nodes if not os.path.exists(node)]
            files = re.findall(r"\"?hostPath\"?\s*:\s*\"?(/[^\s\"',}]+)", text)
            gone += [file for file in files if not os.path.exists(file)]
    return {"devices": sorted(set(devices)), "missing": sorted(set(missing)), "gone": sorted(set(gone) - set(missing))}


# --- Docker ----------------------------------------------------------------------------------------------------------


class Daemon(http.client.HTTPConnection):
    """A Docker daemon's API over its socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def api(path, where, method="GET", body=None):
    """The bytes that a daemon answers; None when it does not, or with an error."""
    connection, end = Daemon(path), None
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, where, json.dumps(body) if body else None, headers)
        # a user's daemon may send bytes for ever, one by one
        end = threading.Timer(DAEMON_TIMEOUT, connection.sock.shutdown, (socket.SHUT_RDWR,))
        end.start()
        response = connection.getresponse()
        answer = response.read(DAEMON_SIZE)
        return answer if response.status < 400 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        if end:
            end.cancel()
        connection.close()


def asked(path, where):
    """The same, as data."""
    answer = api(path, where)
    return json.loads(answer.decode()) if answer else None


class AsUser:
    """What a function says that runs as a user, in a process of its own: whoever answers a user's requests has neither
    root's rights, nor as much time or memory as there is. Begun where there are no threads yet."""

    def __init__(self, user, seconds, function, *arguments):
        self.end = time.time() + seconds
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                account = pwd.getpwnam(user)
                os.setsid()
                os.initgroups(user, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
                with os.fdopen(write, "wb") as out:
                    out.write(json.dumps(function(*arguments)).encode())
            finally:
                os._exit(0)
        os.close(write)

    def result(self, kind=dict):
        """None where nothing of this kind came in time."""
        text = b""
        while len(text) <= DAEMON_SIZE and select.select([self.pipe], [], [], max(0, self.end - time.time()))[0]:
            piece = os.read(self.pipe, 1 << 16)
            text += piece
            if not piece:
                break
        os.close(self.pipe)
        with contextlib.suppress(OSError):  # somebody else may have waited for it
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        try:
            said = json.loads(text.decode("utf-8", "replace")) if len(text) <= DAEMON_SIZE else None
        except (ValueError, RecursionError):
            return None
        return said if isinstance(said, kind) else None


def of_form(said):
    """What a user's daemon said, None where it is not as `docker` makes it."""
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
    """What a program prints inside a container."""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv}
    made = api(path, "/containers/{}/exec".format(container), "POST", body)
    if not made:
        return ""
    number = json.loads(made.decode())["Id"]
    raw = api(path, "/exec/{}/start".format(number), "POST", {"Detach": False, "Tty": False}) or b""
    text, at = b"", 0
    while at + 8 <= len(raw):  # frames: stream, three zeros, length, bytes
        size = int.from_bytes(raw[at + 4 : at + 8], "big")
        text += raw[at + 8 : at + 8 + size]
        at += 8 + size
    return text.decode("utf-8", "replace")


# --- weights ---------------------------------------------------------------------------------------------------------


REMEMBERED = "/var/lib/gpurack/sha256"
"""A line for each file that was hashed: its size and time of change then, its sha256, its path."""


def weights(path, deep, user=""):
    """Size, time of change and (deep) sha256 of a file, or of every file of a folder; what they were when they were
    hashed, and what a hub said of them when they were fetched. Those of a user's Docker are read as that user."""
    if user:
        return weights_as(user, path, deep)
    if not os.path.exists(path):
        return None
    names = [path]
    if os.path.isdir(path):
        names = [os.path.join(folder, name) for folder, _, inside in os.walk(path) for name in inside]
    elif re.search(r"-\d{5}-of-\d{5}\.gguf$", path):
        names = glob.glob(re.sub(r"-\d{5}-of-", "-?????-of-", path))
    remembered, found = hashed_before(), {}
    for name in sorted(names):
        status = os.stat(name)
        key = os.path.relpath(name, path) if os.path.isdir(path) else os.path.basename(name)
        found[key] = {"size": status.st_size, "mtime": status.st_mtime, "then": remembered.get(name)}
        if deep:
            found[key]["sha256"] = sha256(name)
    return {"files": found, "hub": noted(content(path + ".json"))}


def hashed_before():
    """File → size, time of change and sha256 when it was hashed."""
    lines = (line.split(" ", 3) for line in (content(REMEMBERED) or "").splitlines())
    return {line[3]: line[:3] for line in lines if len(line) == 4}


AS_USER = r"""
path=$1 deep=$2
case $path in
*-?????-of-?????.gguf) set -- "${path%-?????-of-?????.gguf}"-?????-of-"${path##*-of-}" ;;
*) set -- "$path" ;;
esac
find -L "$@" -type f -printf '%s %T@ %p\0' | if [ "$deep" ]; then
	xargs -0 -n 1 sh -c '
		sum=$(dd if="${1#* * }" iflag=nonblock bs=4M status=none | sha256sum)
		printf "%s %s\0" "${sum%% *}" "$1"' sh
else
	sed -z 's/^/- /'
fi
printf '@%s' "$([ -f "$path.json" ] && head -c 1000000 "$path.json" | base64 -w 0)"
"""


def weights_as(user, path, deep):
    """The same, as a user says it: root follows no link of theirs."""
    argv = ("sh", "-c", AS_USER, "sh", path, "deep" if deep else "")
    files, _, hub = run_as(user, 86400 if deep else 60, *argv)[1].rpartition("@")
    remembered, found = hashed_before(), {}
    for line in filter(None, files.split("\0")):
        said = re.match(r"([0-9a-f]{64}|-) (\d{1,18}) (\d{1,18}(?:\.\d+)?) (.*)", line, re.S)
        if said:
            sha256, size, mtime, name = said.groups()
            key = os.path.relpath(name, path) if name.startswith(path + "/") else os.path.basename(name)
            found[key] = {"size": int(size), "mtime": float(mtime), "then": remembered.get(name)}
            if deep:
                found[key]["sha256"] = sha256
    return {"files": found, "hub": noted(base64.b64decode(hub).decode("utf-8", "replace"))} if found else None


def noted(text):
    """What was written down of a repository, or of one file in it; None for nothing, or for a file of somebody else's
    beside weights by path."""
    try:
        said = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("files"), dict) else None


def sha256(path):
    digest = hashlib.sha256()
    with opened(path) as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()


def same_inside(container):
    """Mounted file → is it inside the very file that lies there now? A file that was replaced is not."""
    found, pid = {}, container["State"].get("Pid")
    for mount in container.get("Mounts", []) if pid else []:
        if mount.get("Type") == "bind":
            try:
                there, here = (os.stat(path) for path in (inner(pid, mount["Destination"]), mount["Source"]))
                found[mount["Source"]] = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
            except OSError:
                found[mount["Source"]] = False
    return found


def inner(pid, path):
    return "/proc/{}/root{}".format(pid, path)


# --- a model's answers -----------------------------------------------------------------------------------------------


def http_answer(address, port, path, body=None, key=None, timeout=READY_TIMEOUT):
    """[status, body]; status 0 and why, when nothing comes."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = "Bearer " + key
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return [response.status, response.read(200000).decode("utf-8", "replace")]
    except (OSError, http.client.HTTPException) as error:
        return [0, "nothing in {} s".format(timeout) if "timed out" in str(error) else str(error) or repr(error)]
    finally:
        connection.close()


def answers(one, address):
    """Is it ready; which models does it list; what does it say to a real request, and to the same one with a wrong
    key?"""
    found = {"ready": http_answer(address, one["port"], one["ready"], key=one["key"])}
    if found["ready"][0] != 200:
        return found
    if one["lists"]:
        found["listed"] = http_answer(address, one["port"], one["lists"], key=one["key"])
    for path, body in one["requests"]:
        found["path"] = path
        found["answer"] = http_answer(address, one["port"], path, body, one["key"], ANSWER_TIMEOUT)
        if found["answer"][0] in (0, 200):
            break
    if one["key"] and one["requests"]:  # whether an engine is ready, it may tell anybody
        path = found["path"]
        found["wrong key"] = http_answer(address, one["port"], path, body, "wrong-" + one["key"][:1], ANSWER_TIMEOUT)[0]
        found["no key"] = http_answer(address, one["port"], path, body, None, ANSWER_TIMEOUT)[0]
    return found


def begun(name, one, daemons, system):
    """The conversation with a user's model, as that user; None for one that does not run, or is the host's own."""
    if not one["user"]:
        return None
    try:
        container = daemons[one["user"]]["containers"][name]
        if container["State"]["Status"] != "running" or not isinstance(container["Id"], str):
            return None
        at = published(container, one["port"])
    except (LookupError, TypeError, AttributeError):
        return None
    return AsUser(one["user"], TALK_TIMEOUT, conversation, one, container["Id"], system, at)


def model(name, one, daemons, system, theirs):
    """All that concerns one entry of the inventory and is not said by its daemon already. theirs: as `begun`."""
    container = (daemons.get(one["user"]) or {}).get("containers", {}).get(name)
    found = {"weights": {path: weights(path, ASKED["deep"], one["user"]) for path in one["weights"]}}
    if container is None or container["State"]["Status"] != "running":
        return found
    found["mounted"] = same_inside(container)
    found.update(
        theirs.result() or {}
        if theirs
        else conversation(one, container["Id"], system, published(container, one["port"]))
    )
    return found


def published(container, port):
    """The address at which a container publishes a port; "" for one that publishes none (the host's network), None for
    one that publishes others: who listens there then is not it, and would get its key."""
    bindings = [bound for ports in (container["HostConfig"]["PortBindings"] or {}).values() for bound in ports or []]
    places = [str(binding["HostIp"]) for binding in bindings if binding["HostPort"] == str(port)]
    return places[0] if places else None if bindings else ""


def conversation(one, container, system, at):
    """What a model answers, and which cards it sees inside. at: the address at which it is published."""
    if at is None:
        return {"ready": [0, "its container does not publish port {}".format(one["port"])]}
    address = one["address"] or system["address"] or at
    found = answers(one, {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address))
    if one["cards"]:
        listed = inside(socket_of(one["user"]), container, ["sh", "-c", "nvidia-smi -L; ls -d /dev/dri/render*"])
        found["cards inside"] = re.findall(r"UUID: (GPU-[0-9a-f-]+)|(/dev/dri/renderD\d+)", listed)
        found["cards inside"] = [uuid or node for uuid, node in found["cards inside"]]
    return found


# --- secrets ---------------------------------------------------------------------------------------------------------


def secrets(daemons):
    """Mode, owner and salted sum of the files in closed folders; and where else a secret can be read: places are said,
    never a secret."""
    found = {"files": {}, "leaks": []}
    for top in ASKED["closed"]:
        for folder, _, names in os.walk(top):
            for path in [folder] + [os.path.join(folder, name) for name in names]:
                status = os.stat(path)
                found["files"][path] = {
                    "mode": "{:o}".format(stat.S_IMODE(status.st_mode)),
                    "owner": owner_of(status),
                    "sum": salted(content(path)) if os.path.isfile(path) else None,
                }
    places = {}
    for daemon in daemons.values():
        for name, container in (daemon or {}).get("containers", {}).items():
            places["docker inspect " + name] = json.dumps(container, ensure_ascii=False)
    for path in beside_secrets():
        places[path] = content(path) or ""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        if path.split("/")[2] != str(os.getpid()):
            places["the arguments of process " + path.split("/")[2]] = content(path) or ""
    for name, secret in ASKED["secrets"].items():
        found["leaks"] += [[name, place] for place, text in places.items() if secret in text]
    return found


def salted(text):
    return hmac.new(ASKED["salt"].encode(), (text or "").encode(), "sha256").hexdigest()


def owner_of(status):
    """A user's name; the number of one that has none."""
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def beside_secrets():
    """Files of gpurack's outside the closed folders: no secret belongs there, whoever may read it."""
    for top in ASKED["public"]:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in ASKED["closed"]]
            for path in (os.path.join(folder, name) for name in names):
                if os.path.isfile(path):
                    yield path


def attempt(part, *arguments):
    """What a part says, or {"broken": why}: one that fails takes no other with it."""
    try:
        return part(*arguments)
    except Exception as error:
        return {"broken": "{}: {}".format(type(error).__name__, error)}


def main():
    theirs = {user: AsUser(user, DAEMON_TIMEOUT, docker, user) for user in ASKED["users"] if user}
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        daemons = {user: pool.submit(attempt, docker, user) for user in ASKED["users"] if not user}
        parts = (system, packages, files, units, users, listeners, cards, amd)
        said = {part.__name__: pool.submit(attempt, part) for part in parts}
        daemons = {user: daemon.result() for user, daemon in daemons.items()}
    daemons.update((user, of_form(daemon.result())) for user, daemon in theirs.items())
    here = said["system"].result()
    theirs = {name: begun(name, one, daemons, here) for name, one in ASKED["models"].items()}
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        said["secrets"] = pool.submit(attempt, secrets, daemons)
        models = {
            name: pool.submit(attempt, model, name, one, daemons, here, theirs[name])
            for name, one in ASKED["models"].items()
        }
        found = {name: part.result() for name, part in said.items()}
        found["models"] = {name: one.result() for name, one in models.items()}
    found["daemons"] = daemons
    found["processes"] = attempt(processes)  # after the requests: some engines load a model only then
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
