"""Gathers what gpurack.verify judges: one look at this host, read only, printed as JSON.

Comes by standard input of the host's python3 (3.6 or newer, standard library only), as root, with ASKED put in front:
the questions, see gpurack/verify/evidence.py. It shares nothing with the snapshot that deploys use: Docker is asked
over its socket and not by its program, listeners, GPUs and answers are read here once more.

Every part of it runs in a process of its own (`Part`) with a time limit; what belongs to a user is read in one of that
user. One that fails, hangs or says too much takes no other with it.
"""

import calendar
import concurrent.futures
import contextlib
import ctypes
import errno
import glob
import hashlib
import hmac
import http.client
import json
import math
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
READY_TIMEOUT, ANSWER_TIMEOUT, DAEMON_TIMEOUT = 5, 60, 60  # seconds
LIMIT, TALK_LIMIT, DEEP_LIMIT = 90, 300, 86400  # seconds of a part, of a talk with a model, of hashing weights
DAEMON_SIZE, USER_SIZE = 1 << 26, 1 << 22  # bytes of an answer of a Docker daemon, of all that a part says of a user
HTTP_SIZE = 200000  # bytes of a model's answer
CUDA_SIZE = 20000  # characters at the end of what a program prints of CUDA
MINUTES = 10  # of a server's log after its start, in which it says what it computes on
PR_SET_DUMPABLE = 4  # linux/prctl.h
NOBODY = 65534  # the number of a user and a group that own nothing
DEPTH, DIGITS = 40, 40  # of JSON, of an integer in it
USER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/docker.io/contrib"
"""For the programs of a user, as in files/paths.py."""
MORE_PATH = ":/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/wsl/lib"  # the last has nvidia-smi in WSL
HUNG = "/run/gpurack/hung"  # a file for each part that left something behind, as snapshot.sh has it


def run(*argv):
    """(exit code, standard output) of a program; (127, "") when there is none."""
    try:
        environment = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + MORE_PATH)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError:
        return 127, ""
    out, error = (text.decode("utf-8", "replace").strip() for text in (done.stdout, done.stderr))
    return done.returncode, out or error


def data(text):
    """JSON as plain data: not nested without end, no number that takes minutes to read or that is none.

    Raises ValueError.
    """
    try:
        found = json.loads(text, parse_int=integer, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    rest = [(found, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > DEPTH:
            raise ValueError("nested too deep")
        inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        rest += [(one, depth + 1) for one in inside]
    return found


def integer(digits):
    if len(digits) > DIGITS:
        raise ValueError("an integer of {} digits".format(len(digits)))
    return int(digits)


def finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("{} is not a number of JSON".format(text[:DIGITS]))
    return number


# --- parts -----------------------------------------------------------------------------------------------------------


class Part:
    """A function that runs in a process of its own: as root, or as a user.

    The user may stop it, but it has neither root's rights nor as much time or memory as there is. What an earlier one
    of this name left behind is not joined by more. Begun where there are no threads. user: a name, or the number of one
    that has none.
    """

    def __init__(self, name, seconds, function, *arguments, **options):
        self.seconds, self.said, self.late = seconds, b"", None
        user = options.get("user") or ""
        self.size = USER_SIZE if user else DAEMON_SIZE
        self.end = time.time() + seconds
        self.hung = os.path.join(HUNG, "verify " + name)
        since = still_hangs(self.hung)
        if since:
            self.late = "still hangs since " + since
            return
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                apart(seconds)
                if user:
                    become(user)
                said = json.dumps(attempt(function, *arguments), ensure_ascii=False).encode("utf-8", "replace")
                with os.fdopen(write, "wb") as out:
                    out.write(said)
            finally:
                os._exit(0)
        os.close(write)

    def hear(self):
        """Takes what it says now; True at its end."""
        piece = os.read(self.pipe, 1 << 16)
        self.said += piece
        if piece and len(self.said) <= self.size:
            return False
        self.stop([self.pid])
        return True

    def abandon(self):
        """Ends one that takes too long.

        What SIGKILL does not end (it waits for a file system or a card) is left behind and written down.
        """
        self.late = "timed out after {} s".format(self.seconds)
        self.leave(self.stop(members(self.pid)))

    def leave(self, left):
        """Writes down what is left behind, so that no more of it is begun while it is there. left: pids."""
        for pid, found in ((pid, process(pid)) for pid in left):
            if found:
                os.makedirs(HUNG, mode=0o700, exist_ok=True)
                with open(os.open(self.hung, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as note:
                    note.write("{} {} {}\n".format(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), pid, found[2]))
                self.late += ", pid {} ({}) is left behind".format(pid, found[0])

    def stop(self, pids):
        """Ends processes; returns those that are still there."""
        os.close(self.pipe)
        return end(pids, self.pid)

    def result(self):
        """What the function returned; {"late": why} or {"broken": why} for nothing."""
        if self.late:
            return {"late": self.late}
        if len(self.said) > self.size:
            return {"broken": "more than {} bytes".format(self.size)}
        try:
            return json.loads(self.said.decode("utf-8", "replace"))  # written by this program
        except ValueError:
            return {"broken": "its process was ended"}


def end(pids, child=None):
    """Ends processes; returns those that are still there after a second.

    child: one of this process's, which waits for it.
    """
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    until = time.time() + 1
    left = list(pids)
    while left and time.time() < until:
        with contextlib.suppress(OSError, TypeError):
            os.waitpid(child, os.WNOHANG)
        left = [pid for pid in left if process(pid)]
        time.sleep(0.002 if left else 0)
    return left


def results(parts):
    """What parts (key → Part) say, in the order that they were begun in; all are heard at once."""
    running = {part.pipe: part for part in parts.values() if not part.late}
    while running:
        wait = min(part.end for part in running.values()) - time.time()
        for pipe in select.select(list(running), [], [], max(0, wait))[0]:
            if running[pipe].hear():
                del running[pipe]
        for pipe, part in list(running.items()):
            if time.time() >= part.end:
                del running[pipe]
                part.abandon()
    return {key: part.result() for key, part in parts.items()}


def attempt(function, *arguments):
    """What a function says, or {"broken": why}."""
    try:
        return function(*arguments)
    except Exception as error:
        return {"broken": "{}: {}".format(type(error).__name__, error)}


def apart(seconds):
    """This process gets a session of its own, and nothing of the connection, which it would hold open.

    It ends by itself where nobody is left to end it.
    """
    os.setsid()
    signal.alarm(seconds + 5)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def become(user, group=NOBODY):
    """Make this process a user's, with nothing of root's environment.

    Its memory stays closed to that user: the secrets of others are in it. user: a name, or a number, with its group.
    """
    global DAEMON_SIZE
    DAEMON_SIZE = USER_SIZE
    os.chdir("/")
    os.environ.clear()
    os.environ.update(PATH=USER_PATH)
    if isinstance(user, int):
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    else:
        account = pwd.getpwnam(user)
        runtime = "/run/user/{}".format(account.pw_uid)
        os.environ.update(HOME=account.pw_dir, USER=user, XDG_RUNTIME_DIR=runtime)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # as by default, but for fs.suid_dumpable=1


def process(pid):
    """(name, session, begin in the kernel's ticks) of a process; None for one that has ended."""
    said = content("/proc/{}/stat".format(pid)) or ""
    name, _, rest = said.partition("(")[2].rpartition(")")  # the name may hold anything
    words = rest.split()
    if len(words) < 20 or words[0] in "ZX":
        return None
    return re.sub("[^A-Za-z0-9._-]", "", name), int(words[3]), words[19]


def members(session):
    """The processes of a session."""
    pids = [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/stat")]
    return [pid for pid in pids if (process(pid) or (None, None))[1] == session]


def family(pid):
    """A process and its descendants."""
    found, parents = [pid], {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        words = (content(path) or "").rpartition(")")[2].split()
        if len(words) > 1:
            parents.setdefault(int(words[1]), []).append(int(path.split("/")[2]))
    for one in found:
        found += parents.get(one, [])
    return found


def still_hangs(note):
    """Since when, if anything that was left behind is still there."""
    for line in (content(note) or "").splitlines():
        since, pid, ticks = line.split()
        found = process(pid)
        if found and found[2] == ticks:
            return "{} (pid {})".format(since, pid)
    with contextlib.suppress(OSError):
        os.unlink(note)
    return ""


# --- files -----------------------------------------------------------------------------------------------------------


LARGEST = 64 << 20  # bytes of a text


def content(path, size=LARGEST):
    """A file's text, None when there is none."""
    try:
        with opened(path) as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return None


def opened(path):
    """A file to read.

    What could block or answer (a FIFO, a device) is not opened, and links only where root made them: root reads nothing
    for others. Raises OSError.
    """
    for _ in range(10):
        if os.path.islink(path) and os.lstat(path).st_uid in (0, os.geteuid()):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", path)
    return file


# --- the system ------------------------------------------------------------------------------------------------------


def system():
    """os-release, and what the kernel says."""
    said = (line.partition("=") for line in (content("/etc/os-release") or "").splitlines())
    memory = re.search(r"(?m)^MemTotal: +(\d+) kB$", content("/proc/meminfo") or "")
    return {
        "arch": os.uname().machine,
        "memory": int(memory.group(1)) // 1024 if memory else None,  # MiB
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


def account(user):
    """As a user: their docker.service, and the asked files of their home.

    How is the unit, and does it run from boot on?
    """
    known = pwd.getpwnam(user)
    asked = ("systemctl", "--user", "show", "--property=ActiveState,UnitFileState", "docker.service")
    said = dict(line.partition("=")[::2] for line in run(*asked)[1].splitlines())
    files = {path: content(path, 1 << 20) for path in (os.path.join(known.pw_dir, name) for name in ASKED["homes"])}
    return {
        "linger": os.path.exists("/var/lib/systemd/linger/" + user),
        "active": said.get("ActiveState", ""),
        "enabled": said.get("UnitFileState", ""),
        "uid": known.pw_uid,
        "gid": known.pw_gid,
        "home": known.pw_dir,
        "files": {path: text for path, text in files.items() if text is not None},
    }


def listeners():
    """[address, port, who] of every TCP socket that listens.

    Who has it is found by the socket's number: a process may call itself what it likes, also several lines, so `ss -p`
    can be made to say anything.
    """
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


# --- GPUs ------------------------------------------------------------------------------------------------------------


def cards():
    """What the kernel, nvidia-smi and the CDI specs say of the host's cards."""
    version = content("/proc/driver/nvidia/version")
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", version or "")
    known = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        uuid = re.search(r"GPU UUID:\s*(\S+)", content(path) or "")
        known[path.split("/")[-2]] = uuid.group(1) if uuid else ""
    wsl = os.path.exists("/dev/dxg")  # instead of the usual driver
    if version is None and not known and not wsl:
        return None
    fields, rows = "index,uuid,name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"
    asked = ("--query-gpu=" + fields + ",compute_cap", rows)
    code, out = run("nvidia-smi", *asked)
    if code == 2:  # drivers before 510 do not know compute_cap
        asked = ("--query-gpu=" + fields, rows)
        code, out = run("nvidia-smi", *asked)
        out = re.sub(r"$", ", ", out.rstrip(), flags=re.M)
    lines = said = out.splitlines()
    if code:  # one lost GPU fails them all; the others answer when they are asked alone
        lines = [line for place in known for line in run("nvidia-smi", "-i", place, *asked)[1].splitlines()]
    answering = [[part.strip() for part in line.split(",")] for line in lines if "GPU-" in line]
    # a name may have commas
    answering = [card[:2] + [", ".join(card[2:-4])] + card[-4:] for card in answering if len(card) > 6]
    modes = run("nvidia-smi", "--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")[1]
    in_mig_mode = re.findall(r"^(GPU-[0-9a-f-]+), Enabled\s*$", modes, re.M)
    return {
        "kernel": kernel.group(1) if kernel else "",
        "wsl": wsl,
        "known": known,
        "exit_code": code,
        "message": "" if code == 0 else " ".join(" ".join(line for line in said if "GPU-" not in line).split()),
        "answering": answering,
        "mig": {"on": in_mig_mode, "listed": run("nvidia-smi", "-L")[1].splitlines() if in_mig_mode else []},
        "cdi": cdi(),
        "toolkit": (re.findall(r"version (\d+(?:\.\d+)+)", run("nvidia-ctk", "--version")[1]) or [""])[0],
    }


def processes():
    """[card, container, uid, MiB] of every process that computes.

    A container's id is in its cgroup's name, behind that of a container around it. In the slice of a user that user
    gives names as they like: its uid is said, None elsewhere.
    """
    found = []
    out = run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits")[1]
    for uuid, pid, used in re.findall(r"((?:GPU|MIG)-[0-9A-Za-z/-]+),\s*(\d+),\s*(\d*)", out):
        cgroup = content("/proc/{}/cgroup".format(pid)) or ""
        container = (re.findall(r"[-/]([0-9a-f]{64})\b", cgroup) or [""])[-1]
        whose = re.search(r"/user-(\d{1,10})\.slice/", cgroup)
        uid = int(whose.group(1)) if whose else None
        found.append([uuid, container, uid, int(used) if used else None])  # MiB, unknown with MIG or unified memory
    return found


def amd():
    """AMD's GPUs by sysfs, as the kernel's compute driver (KFD) lists them; a node without gpu_id is a CPU."""
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
    """The devices of kind nvidia.com/gpu that a CDI spec names, and what of theirs is missing.

    Missing are device nodes, and files such as libraries and programs.
    """
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
            answer = response.read(DAEMON_SIZE)
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


def unread(said):
    """Is it what a part says that came to no end?"""
    return isinstance(said, dict) and bool({"late", "broken"} & said.keys())


def exists(user):
    """Is there such a user?"""
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


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


# --- weights ---------------------------------------------------------------------------------------------------------


REMEMBERED = "/var/lib/gpurack/sha256"
"""A line for each file that was hashed: its size and time of change then, its sha256, its path."""


def weights(path, deep, remembered):
    """Size, time of change and (deep) sha256 of a file, or of every file of a folder.

    Also what they were when they were hashed (as `hashed_before` says), and what a hub said of them when they were
    fetched.
    """
    if not os.path.exists(path):
        return None
    names = [path]
    if os.path.isdir(path):
        names = [os.path.join(folder, name) for folder, _, inside in os.walk(path) for name in inside]
    elif re.search(r"-\d{5}-of-\d{5}\.gguf$", path):
        names = glob.glob(re.sub(r"-\d{5}-of-", "-?????-of-", path))
    found = {}
    for name in sorted(names):
        with contextlib.suppress(OSError):  # it is gone, or not for this user's eyes: as good as not there
            status = os.stat(name)
            if stat.S_ISREG(status.st_mode):
                key = os.path.relpath(name, path) if os.path.isdir(path) else os.path.basename(name)
                found[key] = {"size": status.st_size, "mtime": status.st_mtime, "then": remembered.get(name)}
                if deep:
                    found[key]["sha256"] = sha256(name)
    return {"files": found, "hub": noted(content(path + ".json"))}


def weights_as_keeper(path, deep, remembered):
    """The same in a process of root's, which becomes that of whoever could lead the path elsewhere."""
    who = keeper(path) if os.geteuid() == 0 else ROOT
    if who != ROOT:
        become(*who)
    return weights(path, deep, remembered)


ROOT = ("",)


def keeper(path):
    """The account that inspects a path, as arguments of `become`; ROOT if only root can change where it leads.

    Otherwise the owner of the first part that is not root's, following root's links. If all are root's: `nobody`, in
    the group that can write to a folder on the path; in no group if everyone or several groups can."""
    at, rest, steps, groups = "/", path.split("/"), 0, set()
    while rest and steps < 1000:
        part, steps = os.path.normpath(os.path.join(at, rest.pop(0))), steps + 1
        try:
            status = os.lstat(part)
        except OSError:
            break
        if status.st_uid != 0:
            try:
                return (pwd.getpwuid(status.st_uid).pw_name,)
            except KeyError:
                return (status.st_uid,)
        if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX and status.st_mode & 0o022:
            groups.add(NOBODY if status.st_mode & 0o002 else status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            rest = os.readlink(part).split("/") + rest
            at = "/" if rest[0] == "" else at
        else:
            at = part
    if not groups:
        return ROOT
    return NOBODY, groups.pop() if len(groups) == 1 else NOBODY


def hashed_before():
    """File → size, time of change and sha256 when it was hashed."""
    lines = (line.split(" ", 3) for line in (content(REMEMBERED) or "").splitlines())
    return {line[3]: line[:3] for line in lines if len(line) == 4}


def noted(text):
    """What was written down of a repository, or of one file in it.

    None for nothing, or for a file of somebody else's beside weights by path.
    """
    try:
        said = data(text or "null")
    except ValueError:
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
    if not isinstance(pid, int) or not os.path.exists(inner(pid, "/")):
        return found
    for mount in container.get("Mounts", []):
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
    cards = r"UUID: (GPU-[0-9a-f-]+(?=\))(?!\)\s*\n\s*MIG )|MIG-[0-9A-Za-z/-]+)|(/dev/dri/renderD\d+)"
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


# --- secrets ---------------------------------------------------------------------------------------------------------


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


def main():
    """Three rounds of parts: the host and its daemons, then what needs to know the containers, then who computes."""
    signal.alarm(ASKED["limit"])
    models, deep = ASKED["models"], ASKED["deep"]
    parts = (system, packages, files, units, listeners, cards, amd)
    begun = {part.__name__: Part(part.__name__, LIMIT, part) for part in parts}
    begun["docker", ""] = Part("docker", LIMIT, docker, "")
    there = [user for user in ASKED["users"] if user and exists(user)]
    for user in there:
        begun["docker", user] = Part("docker " + user, LIMIT, docker, user, user=user)
        begun["account", user] = Part("account " + user, LIMIT, account, user, user=user)
    found = results(begun)
    daemons = {user: of_form(found.pop(("docker", user))) for user in ["", *there]}
    found["users"] = {user: found.pop(("account", user)) if user in there else None for user in ASKED["users"] if user}

    record, remembered = recorded(), hashed_before()
    begun = {"secrets": Part("secrets", LIMIT, secrets, daemons)}
    for uid, pids in processes_by_owner().items():
        begun["arguments", uid] = Part("arguments {}".format(uid), LIMIT, arguments, pids, user=uid)
    for name, one in models.items():
        user, container = one["user"], ours(name, one, daemons, record)
        for path in one["weights"]:
            limit = DEEP_LIMIT if deep else LIMIT
            begun["weights", name, path] = Part(
                "weights " + name, limit, weights if user else weights_as_keeper, path, deep, remembered, user=user
            )
        if container:
            begun["mounted", name] = Part("mounts " + name, LIMIT, same_inside, container, user=user)
            talk = (conversation, one, container["Id"], found["system"])
            begun["answers", name] = Part("answers " + name, TALK_LIMIT, *talk, user=user)
            if one["cards"]:
                words = (cards_inside, user, container["Id"])
                begun["cards", name] = Part("cards in " + name, TALK_LIMIT, *words, user=user)
            if one["cuda"]:
                words = (cuda_inside, user, container["Id"], one["cuda"][0] or container["Path"], one["cuda"][1])
                begun["cuda", name] = Part("CUDA in " + name, TALK_LIMIT, *words, user=user)
            if one["cuda log"]:
                begun["cuda log", name] = Part("log of " + name, TALK_LIMIT, cuda_log, user, container, user=user)
    said = results(begun)
    said.update({key: seen_inside(begun[key], said[key], INSIDE[key[0]]) for key in begun if key[0] in INSIDE})

    found["secrets"] = with_arguments(said)
    found["models"] = {name: of_model(name, one, said) for name, one in models.items()}
    found["daemons"] = daemons
    # after the requests: some engines load a model only then
    found.update(results({"processes": Part("processes", LIMIT, processes)}))
    json.dump(found, sys.stdout)


INSIDE = {"cards": "nvidia-smi", "cuda": "CUDA"}
"""Parts that run a program in a container → the program, for messages."""


def seen_inside(part, said, program):
    """What a part of INSIDE found. A program that hangs in the container is written down as the part's."""
    if unread(said):
        return said
    left = [pid for pid in said["left"] if isinstance(pid, int)]
    if not left:
        return said["found"]
    part.late = "{} in the container did not end in {} s".format(program, DAEMON_TIMEOUT)
    part.leave(left)
    return part.result()


def with_arguments(said):
    """The secrets' part with what is known of processes' arguments; `unread`: why not, by user."""
    found = dict(said["secrets"], unread={})
    for key, told in said.items():
        if key[0] == "arguments":
            if unread(told):
                found["unread"][owner_of(key[1])] = told.get("late") or told["broken"]
            elif not unread(found):
                found["leaks"] = found["leaks"] + told
    return found


def of_model(name, one, said):
    """All that concerns one entry of the inventory and is not said by its daemon already.

    A model that cannot be asked is not ready.
    """
    answered = said.get(("answers", name), {})
    if unread(answered):
        answered = {"ready": [0, answered.get("late") or answered["broken"]]}
    found = {"weights": {path: said["weights", name, path] for path in one["weights"]}}
    found.update(answered, mounted=said.get(("mounted", name), {}))
    if ("cards", name) in said:
        found["cards inside"] = said["cards", name]
    for part in ("cuda", "cuda log"):
        if (part, name) in said:
            found[part] = said[part, name]
    return found


if __name__ == "__main__":
    main()
