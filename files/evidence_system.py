"""The system, packages, files, units, users and listeners of a host.

A part of evidence.py, by which verification inspects a host.
"""

import contextlib
import glob
import os
import pwd
import re
import shutil
import socket
import stat
import time

from evidence_parts import ASKED, content, run


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


def exists(user):
    """Is there such a user?"""
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False
