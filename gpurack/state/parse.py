"""The snapshot's text → HostState. Pure; every section is read by one function of its name."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpurack.state.model import (
    Container,
    Driver,
    File,
    Gpu,
    GpuProcess,
    Header,
    HostState,
    Listener,
    Os,
    Package,
    Probe,
    Unit,
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
    return HostState(
        raised=raised,
        os=os_release(get("os")),
        busy=word(machine, "busy"),
        arch=word(machine, "arch"),
        init=word(machine, "init"),
        address=word(machine, "address"),
        tools=frozenset(line.split()[1] for line in machine if line.startswith("tool ")),
        packages=packages(get("packages")),
        audit=int((get("audit") or ["0"])[0]),
        sources={path: decoded(content).decode(errors="replace") for path, content in pairs(get("sources"))},
        files=files(get("files")),
        units=units(get("units")),
        docker_flags=word(get("units"), "flags"),
        secrets={name: (mode, int(uid)) for name, mode, uid in (line.rsplit(" ", 2) for line in get("secrets"))},
        weights=weights(get("weights")),
        stamps=(stamps := {path: stamp for stamp, _, path in (line.partition("|") for line in get("stamps"))}),
        headers=headers(get("headers"), stamps),
        listeners=tuple(listeners(get("ports"), get("owners"))),
        driver=driver(get("driver"), get("pci"), get("gpus"), "gpus" in sections),
        gpus=tuple(gpus(get("gpus"))),
        gpu_processes=tuple(gpu_processes(get("processes"))),
        cdi=frozenset(get("cdi")),
        docker=docker(get("docker")),
        compose=(get("compose") or [""])[0].removeprefix("v"),
        containers=tuple(container(json.loads(line)) for line in get("containers") if line.startswith("{")),
        images={name: id_ for id_, name in (line.split("|", 1) for line in get("images")) if id_ != "-"},
        probes={name[6:]: probe(body) for name, body in sections.items() if name.startswith("probe ")},
    )


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


def headers(lines: list[str], stamps: Mapping[str, str]) -> dict[str, Header]:
    """A line of JSON for each path whose header was read; what cannot be understood counts as not read."""
    found = {}
    for line in lines:
        try:
            said = json.loads(line)
            found[said["path"]] = header(said, stamps[said["path"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


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


def driver(version: list[str], pci: list[str], gpus: list[str], present: bool) -> Driver:
    """/proc/driver/nvidia and what nvidia-smi complained of."""
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
    )


def gpus(lines: list[str]) -> list[Gpu]:
    """`--query-gpu=index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,pci.bus_id`."""
    found = []
    for line in lines:
        columns = [column.strip() for column in line.split(",")]
        if len(columns) == 9 and columns[1].startswith("GPU-"):
            index, uuid, name, total, used, version, compute, _, pci = columns
            found.append(Gpu(int(index), uuid, name, mib(total), mib(used), version, compute, pci))
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
    info = json.loads(lines[0]) if lines and lines[0].startswith("{") else {}
    return info if info.get("ServerVersion") else {}


def container(data: dict[str, Any]) -> Container:
    """One line of the snapshot's own `docker inspect --format`."""
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
    )


def probe(lines: list[str]) -> Probe:
    """curl's body and, in the last line, the status code ("000": no answer)."""
    body, _, status = decoded("".join(lines)).decode(errors="replace").rstrip().rpartition("\n")
    return Probe(int(status) if status.isdigit() else 0, body)
