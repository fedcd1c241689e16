"""What a host is compared by after a fault: read by Docker's, apt's and find's own commands, and made comparable. Pure
but for `read`.

Left out: times, ids of containers, generations of keys, kept logs, backups, and history that depends on what was tried.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.faults.deploys import bare
from tests.testbed import Host

FOLDERS = (
    "/etc/apt/apt.conf.d /etc/apt/keyrings /etc/apt/sources.list.d /etc/cdi /etc/docker /etc/gpurack"
    " /etc/nvidia-container-runtime /etc/systemd/system /usr/local/lib/gpurack /usr/local/libexec /var/lib/gpurack"
)
COMPARED = "-not -path '*/__pycache__*'"
"""What find takes of them: not Python's compiled modules, which have times."""
LOOKS = {
    "containers": "docker ps -aq --no-trunc | xargs -r docker inspect",
    "networks": "docker network ls -q | xargs -r docker network inspect",
    "volumes": "docker volume ls -q",
    "images": "docker images -a --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'",
    "compose": "cat /etc/gpurack/compose.yaml",
    "record": "cat /var/lib/gpurack/record.json",
    "daemon.json": "cat /etc/docker/daemon.json",
    "holds": "apt-mark showhold",
    "packages": "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'",
    "audit": "dpkg --audit",
    "units": "systemctl is-enabled docker gpurack; systemctl is-active docker",
    "unfinished": "ls -d /run/gpurack/docker-restart /run/gpurack/busy 2>/dev/null",
    "files": f"find {FOLDERS} {COMPARED} -printf '%p\\t%y %m %u:%g %l\\n' 2>/dev/null",
    "sums": f"find {FOLDERS} {COMPARED} -type f -not -path '/var/lib/*' -exec sha256sum {{}} + 2>/dev/null",
    "sizes": "find /var/lib/gpurack/weights -type f -printf '%p\\t%s\\n' 2>/dev/null",
}
"""Section → the command that prints it."""
SEPARATOR = "\x1e"
OURS = "gpurack.model"
HISTORY = re.compile(r"/var/lib/gpurack/(logs|backups)[/\t]")
OWN_SECTION = ("/etc/gpurack/compose.yaml", "/etc/docker/daemon.json")
"""Files whose content is compared by what it says."""
SALTED = re.compile(r"\b[0-9a-f]{32}:[0-9a-f]{32}\b")
Manifest = dict[str, Any]


def read(host: Host) -> Manifest:
    """The manifest of a host now."""
    script = f"; printf '\\{ord(SEPARATOR):03o}'; ".join(f"{{ {look}; }} 2>&1" for look in LOOKS.values())
    said = host.root(f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin; {script}", check=False).stdout
    return manifest(dict(zip(LOOKS, said.split(SEPARATOR), strict=True)))


def manifest(said: Mapping[str, str]) -> Manifest:
    """The manifest from what the commands of LOOKS said."""
    containers = as_json(said["containers"], [])
    ours = {name_of(data): data for data in containers if OURS in data["Config"]["Labels"]}
    files = [line.split("\t") for line in said["files"].splitlines() if not HISTORY.search(line)]
    history = [line.split("\t") for line in said["files"].splitlines() if HISTORY.search(line)]
    sums = (line.split(maxsplit=1) for line in said["sums"].splitlines())
    return {
        "containers": {name: of_ours(data) for name, data in ours.items()},
        "others": {name_of(data): of_others(data) for data in containers if name_of(data) not in ours},
        "networks": {
            data["Name"]: [data["Id"], data["Driver"], data["IPAM"]["Config"]]
            for data in as_json(said["networks"], [])
            if data["Name"] not in ("bridge", "host", "none") and not data["Name"].startswith("gpurack")
        },
        "compose": of_compose(said["compose"]),
        "record": of_record(as_json(said["record"], {}), ours),
        "daemon.json": as_json(said["daemon.json"], said["daemon.json"]),
        "files": sorted(f"{bare(path)} {facts}" for path, facts in files),
        "open history": sorted(path for path, facts in history if facts.split()[1] not in ("600", "700")),
        "sums": sorted(f"{bare(path)} {digest}" for digest, path in sums if path not in OWN_SECTION),
        **{what: sorted(said[what].splitlines()) for what in ("volumes", "images", "holds", "packages", "sizes")},
        **{what: said[what].split() for what in ("audit", "units", "unfinished")},
    }


def as_json(text: str, otherwise: Any) -> Any:
    """Parsed JSON; what is given where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def name_of(data: Mapping[str, Any]) -> str:
    """The name of an inspected container."""
    return str(data["Name"]).lstrip("/")


def of_compose(text: str) -> list[Any]:
    """The services of a compose.yaml, in any order; what it says where that is not YAML."""
    try:
        found = yaml.safe_load(SALTED.sub("SALTED", text))
    except yaml.YAMLError:
        return [text]
    services = found.get("services") if isinstance(found, dict) else None
    return sorted(([bare(key), with_bare_secrets(service)] for key, service in (services or {}).items()), key=str)


def with_bare_secrets(service: Mapping[str, Any]) -> Manifest:
    """A Compose service without the generations in the names of its secrets."""
    secrets = [{**secret, "source": bare(secret["source"])} for secret in service.get("secrets", [])]
    return {**service, "secrets": secrets}


def of_ours(data: Mapping[str, Any]) -> Manifest:
    """What a container of gpurack's must be."""
    labels, given = data["Config"]["Labels"], data["HostConfig"]
    return {
        "service": bare(labels["com.docker.compose.service"]),
        "image": [data["Config"]["Image"], data["Image"]],
        "definition": SALTED.sub("SALTED", labels[OURS]),
        "running": data["State"]["Running"],
        "restart": given["RestartPolicy"]["Name"],
        "gpus": [request["DeviceIDs"] for request in given["DeviceRequests"] or []],
        "ports": given["PortBindings"],
        "mounts": sorted([bare(mount["Source"]), mount["Destination"], mount["RW"]] for mount in data["Mounts"]),
        "command": data["Config"]["Cmd"],
    }


def of_others(data: Mapping[str, Any]) -> Manifest:
    """What a container of somebody else's must still be."""
    return {
        "id": data["Id"],
        "image": data["Image"],
        "running": data["State"]["Running"],
        "restart": data["HostConfig"]["RestartPolicy"],
        "command": [data["Config"]["Entrypoint"], data["Config"]["Cmd"]],
        "mounts": sorted(mount["Destination"] for mount in data["Mounts"]),
        "networks": sorted(data["NetworkSettings"]["Networks"]),
    }


def of_record(record: Mapping[str, Any], ours: Mapping[str, Any]) -> Manifest:
    """The host's record: that it is of the containers that there are, and has nothing under way or failed."""
    known = {
        f"{user}/{name}": {
            "of its container": user != "" or entry["id"] == ours.get(name, {}).get("Id"),
            "service": bare(entry.get("service", name)),
            "of its service": user != "" or entry.get("service", name) == service_of(ours.get(name)),
            "of its label": user != "" or entry.get("definition") == digest_of(ours.get(name)),
            **{word: entry.get(word) for word in ("kind", "lab", "by")},
        }
        for user, names in record.get("containers", {}).items()
        for name, entry in names.items()
    }
    newest = {
        f"{user}/{name}": SALTED.sub("SALTED", entries[0]["label"])
        for user, names in record.get("ready", {}).items()
        for name, entries in names.items()
        if entries
    }
    tests = {
        f"{user}/{name}": entry.get("why")
        for user, names in record.get("tests", {}).items()
        for name, entry in names.items()
    }
    replacing, failed = record.get("replacing", []), record.get("failed", {})
    failures = {f"{user}/{name}" for user, names in failed.items() for name in names}
    images = record.get("images", {})
    return {
        "format": record.get("format"),
        "containers": known,
        "ready": newest,
        "tests": tests,
        "replacing": replacing,
        "failed": sorted(failures),
        "images": images,
        "pulling": record.get("pulling", {}),
    }


def service_of(data: Mapping[str, Any] | None) -> str | None:
    """The Compose service of an inspected container."""
    return str(data["Config"]["Labels"]["com.docker.compose.service"]) if data else None


def digest_of(data: Mapping[str, Any] | None) -> str | None:
    """The digest of a container's definition."""
    return hashlib.sha256(data["Config"]["Labels"][OURS].encode()).hexdigest() if data else None


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two manifests differ, a line each.

    >>> differences({"a": {"b": 1}, "c": ["x", "y"]}, {"a": {"b": 2}, "c": ["y", "z"]})
    ['a.b: 1, now 2', "c: 'x' is missing", "c: 'z' is new"]
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = []
        for key in sorted({*expected, *found}):
            there = f"{path}.{key}".lstrip(".")
            if key not in found:
                lines.append(f"{there}: missing")
            elif key not in expected:
                lines.append(f"{there}: new, {found[key]!r}"[:300])
            else:
                lines += differences(expected[key], found[key], there)
        return lines
    if expected == found:
        return []
    if isinstance(expected, list) and isinstance(found, list):
        gone = [f"{path}: {one!r} is missing" for one in expected if one not in found]
        lines = gone + [f"{path}: {one!r} is new" for one in found if one not in expected]
        return lines or [f"{path}: another order or number, {found!r}"[:300]]
    return [f"{path}: {expected!r}, now {found!r}"[:600]]
