"""What can be proven of a new container before the old one stops. A part of models.py.

Its image, mounts and name are proven by creating it; a port only by taking it. Runs as root, on the host's own python3
(3.6 or newer, standard library only).
"""

import contextlib
import errno
import glob
import os
import re
import socket

PROC = "/proc"


def port_free(address, port):
    """Can a container be given this port of the host? "" if it can, else why not.

    Only where no container that the change stops holds it. The port is taken and given back at once; no client can
    connect meanwhile. address: "" for all."""
    six = ":" in address
    with contextlib.closing(socket.socket(socket.AF_INET6 if six else socket.AF_INET)) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Docker does: ended connections do not count
        if six:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            taken.bind((address, int(port)))
        except OSError as error:
            return reason(error, address, int(port))
    return ""


def reason(error, address, port):
    """Why a port cannot be taken, as a sentence."""
    if error.errno == errno.EADDRINUSE:
        known = ", ".join(holders(port))
        return "port {} is in use{}".format(port, " by " + known if known else "")
    if error.errno == errno.EADDRNOTAVAIL:
        return "the address {} is not on this host, so port {} cannot be published there".format(address, port)
    return "port {} of {} cannot be taken: {}".format(port, address or "this host", error.strerror or error)


def holders(port, proc=PROC):
    """The programs that listen at a port, as `NAME (pid N)`; empty where they are unknown."""
    sockets = {"socket:[{}]".format(inode) for inode in listening(port, proc)}
    found = set()
    for link in glob.glob(os.path.join(proc, "[0-9]*/fd/*")) if sockets else ():
        with contextlib.suppress(OSError):
            if os.readlink(link) in sockets:
                found.add(int(link.split("/")[-3]))
    named = []
    for pid in sorted(found):
        with contextlib.suppress(OSError), open(os.path.join(proc, str(pid), "comm"), errors="replace") as name:
            named.append("{} (pid {})".format(name.read().strip(), pid))
    return named


def listening(port, proc=PROC):
    """The inodes of TCP sockets that listen at a port: proc(5), /proc/net/tcp; 0A is the state LISTEN."""
    found = set()
    for file in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(os.path.join(proc, "net", file)) as table:
            for line in table:
                words = line.split()
                if len(words) > 9 and re.search(":{:04X}$".format(port), words[1]) and words[3] == "0A":
                    found.add(words[9])
    return found - {"0"}
