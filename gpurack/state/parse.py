"""The snapshot's text → HostState. Pure; every section is read by one function of its name."""

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gpurack.host_data import json_from_host
from gpurack.state import amd, rpm
from gpurack.state.model import (
    Container,
    Driver,
    File,
    Gpu,
    GpuProcess,
    Header,
    HostState,
    Kernel,
    Listener,
    Os,
    Package,
    Probe,
    Unit,
    User,
    Xid,
)


def parse(lines: list[str], raised: bool = False) -> HostState:
    """The script's output → what it saw. A look that was cut short has `trouble` set."""
    sections = split(lines)
    if "end" not in sections:
        return HostState(
            trouble="the look at the host broke off in the middle: its /tmp is full (df -h /tmp), or the connection "
            "broke. Make room there and run again."
        )
    get: Callable[[str], list[str]] = lambda name: sections.get(name, [])  # noqa: E731
    machine = get("machine")
    seen = files(get("files"))
    nvidia = driver(get("driver"), get("pci"), get("gpus"), get("xids"), "gpus" in sections)
    # Beside NVIDIA's cards an AMD one is what the processor brings for a screen.
    amd_lines = [] if nvidia.kernel or nvidia.pci else get("amd")
    return HostState(
        raised=raised,
        os=os_release(get("os")),
        busy=word(machine, "busy"),
        now=moment(word(machine, "now")),
        arch=word(machine, "arch"),
        init=word(machine, "init"),
        address=next(iter(addresses(word(machine, "address"))), ""),
        addresses=addresses(word(machine, "addresses")),
        tools=frozenset(line.split()[1] for line in machine if line.startswith("tool ")),
        manager=rpm.manager(word(machine, "manager")),
        packages={**packages(get("packages")), **rpm.packages(get("rpms"), seen)},
        audit=int((get("audit") or ["0"])[0]),
        files=seen,
        units=units(get("units")),
        docker_flags=word(get("units"), "flags"),
        secrets={name: (mode, int(uid)) for name, mode, uid in (line.rsplit(" ", 2) for line in get("secrets"))},
        weights=weights([*of_users(sections, "weights"), *get("weights")]),
        owned=owned(get("owned")),
        exposed=frozenset(get("exposed")),
        labels=labels(get("labels")),
        stamps=stamps([*of_users(sections, "stamps"), *get("stamps")]),
        headers={**users_headers(sections), **headers(get("headers"), stamps(get("stamps")))},
        commits={path: commit for commit, _, path in (line.partition("|") for line in get("commits")) if commit},
        hashes=hashes(get("hashes"), get("stamped")),
        listeners=tuple(listeners(get("ports"), get("owners"))),
        driver=nvidia,
        gpus=tuple(gpus(get("gpus")) or amd.cards(amd_lines)),
        gpu_processes=tuple(gpu_processes(get("processes")) or amd.processes(amd_lines)),
        kfd_gid=int(word(amd_lines, "kfd") or 0),
        cdi=frozenset(get("cdi")),
        docker=docker(get("docker")),
        compose=(get("compose") or [""])[0].removeprefix("v"),
        containers=tuple(
            container(json_from_host(line), name.partition(" ")[2])
            for name, lines in sections.items()
            if name.partition(" ")[0] == "containers"
            for line in lines
        ),
        images=images(get("images")),
        users=users(sections),
        kernel=kernel(get("rootless")),
        counters={
            name[8:]: counter(lines) for name, lines in sections.items() if name.startswith("counter ") and lines
        },
        digests={
            id_: tuple(json_from_host(names) or ()) for id_, names in (line.split("|") for line in get("digests"))
        },
        probes={name[6:]: probe(body) for name, body in sections.items() if name.startswith("probe ")},
        names={name: address for address, _, name in (line.partition("|") for line in get("names")) if address},
        accounts=frozenset(
            (name.partition(" ")[2], line)
            for name, lines in sections.items()
            if name.partition(" ")[0] == "accounts"
            for line in lines
        ),
        upstreams=upstreams(get("upstreams")),
    )


def addresses(text: str) -> tuple[str, ...]:
    """The IP addresses among words, without those that mean nothing beyond their own link."""
    found = []
    for one in text.split():
        try:
            ip = ipaddress.ip_address(one)
        except ValueError:
            continue
        found += [] if ip.is_link_local or ip.is_loopback or ip.is_unspecified else [str(ip)]
    return tuple(dict.fromkeys(found))


def upstreams(lines: list[str]) -> dict[tuple[str, int], str]:
    """`service|number|HTTP status|what curl says`"""
    found = {}
    for line in lines:
        service, number, status, words = line.split("|", 3)
        said = words.strip().rpartition(": ")[2].removeprefix("curl: ")  # the first part only repeats the address
        why = {"000": said or "no answer", "401": "refuses the key", "503": "is loading"}.get(status, f"HTTP {status}")
        found[service, int(number)] = "" if status == "200" else why
    return found


def split(lines: list[str]) -> dict[str, list[str]]:
    """Lines under their "@@ name" headings; empty lines dropped."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("@@ "):
            current = sections.setdefault(line[3:].strip(), [])
        elif line.strip():
            current.append(line)
    return sections


def word(lines: list[str], key: str) -> str:
    """The rest of the line that begins with `key`; "" when there is none."""
    return next((line[len(key) + 1 :].strip() for line in lines if line.startswith(f"{key} ")), "")


def pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    """(first word, rest) of each line."""
    return [(head, rest) for head, _, rest in (line.partition(" ") for line in lines)]


def decoded(text: str) -> bytes:
    """base64 → bytes; nothing for an empty file."""
    return base64.b64decode(text.strip() or "")


def os_release(lines: list[str]) -> Os:
    """os-release(5)."""
    values = {key: value.strip().strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    return Os(
        id=values.get("ID", ""),
        version=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        name=values.get("PRETTY_NAME", "an unknown system"),
    )


def packages(lines: list[str]) -> dict[str, Package]:
    """`ii |name|version` of dpkg-query: the first letter is what is wanted (h: held), the second the status."""
    found = {}
    for line in lines:
        status, name, version = line.split("|")
        if status[1:2] not in (
            "n",
            "c",
        ):  # neither installed nor half way: not there, or only its configuration
            found[name] = Package(version, held=status[0] == "h", whole=status[1:3].strip() == "i")
    return found


def files(lines: list[str]) -> dict[str, File]:
    """`path mode uid gid base64`."""
    found = {}
    for line in lines:
        path, mode, uid, gid, *content = line.split(" ")
        found[path] = File(decoded(content[0] if content else ""), mode, int(uid), int(gid))
    return found


def units(lines: list[str]) -> dict[str, Unit]:
    """`name LoadState=… ActiveState=… UnitFileState=…`, in whatever order systemctl printed them."""
    found = {}
    for name, rest in pairs(lines):
        values = dict(item.partition("=")[::2] for item in rest.split())
        if "LoadState" in values:
            found[name] = Unit(values["LoadState"], values.get("ActiveState", ""), values.get("UnitFileState", ""))
    return found


def weights(lines: list[str]) -> dict[str, int | None]:
    """`size type|path`; `- missing|path`."""
    found: dict[str, int | None] = {}
    for line in lines:
        seen, _, path = line.partition("|")
        size = seen.split(" ", 1)[0]
        found[path] = None if size == "-" else int(size)
    return found


def of_users(sections: Mapping[str, list[str]], kind: str) -> list[str]:
    """The lines of all sections `kind USER`: root's words of what it asked as that user."""
    return [line for name, lines in sections.items() if name.startswith(f"{kind} ") for line in lines]


def owned(lines: list[str]) -> dict[str, frozenset[str]]:
    """`type mode owner|group|path`, a line for each folder, link or file on the path that others may change."""
    found: dict[str, set[str]] = {}
    for line in lines:
        if match := re.fullmatch(r"[a-z] ([0-7]+) ([^|]*)\|([^|]*)\|(.*)", line):
            mode, owner, group, path = int(match[1], 8), *match.groups()[1:]
            who = found.setdefault(path, set())
            who |= {owner} if owner not in ("root", "0") else set()
            if mode & 0o022 and not line.startswith("l "):
                who.add("everybody" if mode & 0o002 else f"the group {group}")
    return {path: frozenset(who) for path, who in found.items()}


def stamps(lines: list[str]) -> dict[str, str]:
    """`stamp|path`"""
    return {path: stamp for stamp, _, path in (line.partition("|") for line in lines)}


def users_headers(sections: Mapping[str, list[str]]) -> dict[str, Header]:
    """The headers that a program of each user's read, which are believed of the paths that were asked of that user."""
    found = {}
    for name, lines in sections.items():
        if name.startswith("headers "):
            found.update(headers(lines, stamps(sections.get(f"stamps {name.removeprefix('headers ')}", []))))
    return found


def labels(lines: list[str]) -> dict[str, str]:
    """`user:role:type:level|path`"""
    entries = [(path, label.split(":")) for label, _, path in (line.partition("|") for line in lines)]
    return {path: parts[2] for path, parts in entries if len(parts) > 2}


def headers(lines: list[str], stamps: Mapping[str, str]) -> dict[str, Header]:
    """A line of JSON for each path whose header was read; what cannot be understood counts as not read."""
    found = {}
    for line in lines:
        try:
            said = json_from_host(line)
            found[said["path"]] = header(said, stamps[said["path"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def hashes(remembered: Sequence[str], stamped: Sequence[str]) -> dict[str, str]:
    """`size time sha256 path` as files/hashes.py remembers, and `size time path` as it is now: what still holds."""
    now = set(stamped)
    lines = [line.split(" ", 3) for line in remembered]
    found = [line for line in lines if len(line) == 4]
    return {path: sha256 for size, time, sha256, path in found if f"{size} {time} {path}" in now}


def header(said: Mapping[str, Any], stamp: str) -> Header:
    """One answer of files/weights_header.py; Raises TypeError, ValueError or AttributeError when it is none."""
    return Header(
        stamp=stamp,
        kind=str(said.get("kind", "")),
        tensors={str(dtype): int(size) for dtype, size in said.get("tensors", {}).items()},
        config=dict(said.get("config", {})),
        problem=str(said.get("problem", "")),
        seen=str(said.get("seen", "")),
    )


def listeners(lines: list[str], owners: Sequence[str] = ()) -> list[Listener]:
    """`ss -Hltnp`: state, queues, local address, peer, users:(("name",pid=1,fd=2)). owners: `/proc/1 root`."""
    users = {path.rpartition("/")[2]: user for path, user in pairs(owners)}
    found = []
    for line in lines:
        columns = line.split(None, 5)
        if len(columns) < 4:
            continue
        address, _, port = columns[3].rpartition(":")
        owner = re.search(r'\("([^"]+)",pid=(\d+)', columns[5]) if len(columns) > 5 else None
        user = f", user {users[owner[2]]}" if owner and owner[2] in users else ""
        name = f"{owner[1]} (pid {owner[2]}{user})" if owner else ""
        found.append(Listener(address.split("%")[0].strip("[]"), int(port), name))
    return found


def moment(text: str) -> datetime | None:
    """A time as RFC 3339 or dmesg's `--time-format iso` write it (a comma before the fraction), None for no time."""
    try:
        return datetime.fromisoformat(text.replace(",", "."))
    except ValueError:
        return None


def driver(version: list[str], pci: list[str], gpus: list[str], kernel_log: list[str], present: bool) -> Driver:
    """/proc/driver/nvidia, what nvidia-smi complained of, and what the kernel said of its cards."""
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", " ".join(version))
    failure = re.match(r"exit (\d+)\|(.*)", gpus[0]) if gpus else None
    cards = {}
    for line in pci:
        path, uuid, _ = line.split("|")
        cards[path.split("/")[-2]] = uuid
    return Driver(
        kernel=kernel[1] if kernel else "",
        present=present,
        exit_code=int(failure[1]) if failure else 0,
        message=failure[2].strip() if failure else "",
        pci=cards,
        xids=tuple(xids(kernel_log)),
    )


def xids(lines: list[str]) -> list[Xid]:
    """`2026-11-20T02:11:09,123456+00:00 NVRM: Xid (PCI:0000:e1:00): 79, GPU has fallen off the bus.`"""
    form = re.compile(r"(\S+|\[ *\d+\.\d+\])\s+NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+),? *(.*)")
    return [Xid(m[2].lower(), int(m[3]), m[4], moment(m[1])) for m in map(form.match, lines) if m]


def gpus(lines: list[str]) -> list[Gpu]:
    """`--query-gpu=index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,pci.bus_id,utilization.gpu`."""
    found = []
    for line in lines:
        columns = [column.strip() for column in line.split(",")]
        if len(columns) == 10 and columns[1].startswith("GPU-"):
            index, uuid, name, total, used, version, compute, _, pci, busy = columns
            percent = int(busy) if busy.isdigit() else None  # "[N/A]" on cards in MIG mode
            found.append(Gpu(int(index), uuid, name, mib(total), mib(used), version, compute, pci, percent))
    return sorted(found, key=lambda gpu: gpu.index)


def mib(text: str) -> int:
    """A number of MiB; 0 for "[N/A]"."""
    return int(text) if text.isdigit() else 0


def gpu_processes(lines: list[str]) -> list[GpuProcess]:
    """`uuid, pid, name, used_memory`, the user that ps named and the container of its cgroup."""
    found = []
    for line in lines:
        uuid, pid, rest = line.split(",", 2)
        name, used, user, container = rest.rsplit(",", 3)
        found.append(GpuProcess(uuid.strip(), int(pid), name.strip(), mib(used.strip()), user.strip(), container))
    return found


def docker(lines: list[str]) -> Mapping[str, Any]:
    """`docker info`; {} when only the client answered."""
    info = json_from_host(lines[0]) if lines and lines[0].startswith("{") else {}
    return info if info.get("ServerVersion") else {}


def images(lines: list[str]) -> dict[str, str]:
    """`id|reference`; `-|reference` for an image that is not there."""
    return {name: id_ for id_, name in (line.split("|", 1) for line in lines) if id_ != "-"}


def users(sections: Mapping[str, list[str]]) -> dict[str, User]:
    """The sections `user NAME`, `docker NAME` and `images NAME`. One who does not exist has no account line."""
    found = {}
    for section, lines in sections.items():
        kind, _, name = section.partition(" ")
        if kind != "user" or not (account := word(lines, "account")):
            continue
        uid, gid, home = account.split(" ", 2)
        mode, _, owner = word(lines, "folder").partition(" ")
        found[name] = User(
            uid=int(uid),
            gid=int(gid),
            home=home,
            linger=bool(word(lines, "linger")),
            manager="LoadState=" in word(lines, "unit"),
            unit=units([f"docker.service {word(lines, 'unit')}"]).get("docker.service", Unit()),
            folder=(mode, int(owner)) if owner else None,
            acl=word(lines, "weights"),
            sees=frozenset(rest for head, rest in pairs(lines) if head == "sees"),
            unreadable=frozenset(rest for head, rest in pairs(lines) if head == "unreadable"),
            docker=docker(sections.get(f"docker {name}", [])),
            images=images(sections.get(f"images {name}", [])),
        )
    return found


def kernel(lines: list[str]) -> Kernel:
    """The section `rootless`, a fact a line."""
    said = pairs(lines)
    return Kernel(
        sysctls={name: value for name, _, value in (rest.partition(" ") for head, rest in said if head == "sysctl")},
        rootlesskit_profile=("apparmor", "yes") in said,
        subuids=tuple(rest for head, rest in said if head == "subuid"),
        subgids=tuple(rest for head, rest in said if head == "subgid"),
        uids=frozenset(int(rest) for head, rest in said if head == "uid"),
        folders=frozenset(rest for head, rest in said if head == "folder"),
    )


def container(data: dict[str, Any], user: str = "") -> Container:
    """One line of the snapshot's own `docker inspect --format`, from a user's daemon or the host's own."""
    state = data["state"]
    published = [
        (binding.get("HostIp", ""), int(binding["HostPort"]))
        for bindings in (data["ports"] or {}).values()
        for binding in bindings or []
        if binding.get("HostPort")
    ]
    return Container(
        id=data["id"],
        name=data["name"].lstrip("/"),
        image=data["image"],
        status=state["Status"],
        exit_code=state["ExitCode"],
        error=state.get("Error", ""),
        pid=state.get("Pid", 0),
        started=state.get("StartedAt", ""),
        created=data["created"],
        restarts=data["restarts"],
        labels=data["labels"] or {},
        ports=tuple(published),
        user=user,
        finished=state.get("FinishedAt", ""),
    )


def counter(lines: list[str]) -> float:
    """Prometheus' text format: `name{labels} value`, summed."""
    values = (line.rpartition(" ")[2] for line in lines)
    return sum(float(value) for value in values if re.fullmatch(r"[0-9.]+(e[+-]?\d+)?", value))


def probe(lines: list[str]) -> Probe:
    """curl's body and, in the last line, the status code ("000": no answer)."""
    body, _, status = decoded("".join(lines)).decode(errors="replace").rstrip().rpartition("\n")
    return Probe(int(status) if status.isdigit() else 0, body)
