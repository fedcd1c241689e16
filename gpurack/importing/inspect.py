"""Read running containers as ContainerRuns, from `docker inspect` of the containers and their images."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from gpurack import paths
from gpurack.facts.record import PROJECTS, is_generation
from gpurack.host_data import json_values
from gpurack.importing.container import ContainerRun, Finding
from gpurack.importing.service import container as container_of
from gpurack.shell import sh

COMMAND = sh(
    'docker=docker; docker ps -q >/dev/null 2>&1 || docker="sudo -n docker"; ids=$($docker ps -q) || exit 1; '
    '[ -z "$ids" ] || { $docker inspect $ids && '
    '$docker image inspect $($docker inspect -f "{{.Image}}" $ids | sort -u); }'
)
"""One remote command: inspects the running containers, then their images. The user must be allowed to use Docker."""
WORDS = {
    "CapAdd": "cap_add", "CapDrop": "cap_drop", "ExtraHosts": "extra_hosts", "Dns": "dns", "DnsSearch": "dns_search",
    "DnsOptions": "dns_opt", "GroupAdd": "group_add", "SecurityOpt": "security_opt", "Privileged": "privileged",
    "ReadonlyRootfs": "read_only", "Sysctls": "sysctls", "Init": "init", "PidsLimit": "pids_limit",
    "CpusetCpus": "cpuset", "CpuShares": "cpu_shares", "CpuPeriod": "cpu_period", "CpuQuota": "cpu_quota",
    "Memory": "mem_limit", "MemoryReservation": "mem_reservation", "OomScoreAdj": "oom_score_adj",
    "OomKillDisable": "oom_kill_disable", "IpcMode": "ipc", "PidMode": "pid", "UTSMode": "uts",
    "UsernsMode": "userns_mode", "CgroupParent": "cgroup_parent", "DeviceCgroupRules": "device_cgroup_rules",
    "StorageOpt": "storage_opt", "ShmSize": "shm_size",
}  # fmt: skip
"""Fields of HostConfig → Compose's fields with the same value."""
DEFAULTS = {"IpcMode": ("private", "shareable"), "ShmSize": (64 << 20,)}
"""Values that Docker sets itself."""
OF_IMAGE = {"User": "user", "WorkingDir": "working_dir", "StopSignal": "stop_signal"}
"""Fields of Config, which an image may bring → Compose's fields."""
HEALTH = {
    "Test": "test", "Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period",
    "StartInterval": "start_interval", "Retries": "retries",
}  # fmt: skip


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of all JSON lists in a text, which `COMMAND` prints one after the other."""
    lists = (items if isinstance(items, list) else [items] for items in json_values(text))
    return [item for items in lists for item in items if isinstance(item, dict)]


def only(text: str, names: Collection[str]) -> str:
    """The output of `COMMAND` without containers of other names."""
    items = (item for item in documents(text) if "HostConfig" not in item or _name(item) in names)
    return json.dumps(list(items))


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("Name", "")).lstrip("/")


def is_inspect(text: str) -> bool:
    """True if the text looks like output of `docker inspect`."""
    return text.lstrip().startswith("[") and '"HostConfig"' in text


class NoInspect(Exception):
    """The text is not output of `docker inspect`; the message says why."""


def read(text: str) -> tuple[list[ContainerRun], list[Finding]]:
    """The containers in output of `docker inspect`, without gpurack's own. Raises NoInspect."""
    try:
        items = documents(text)
    except ValueError as error:
        raise NoInspect(f"looks like output of docker inspect but cannot be parsed ({error}).") from None
    images = {str(item["Id"]): item.get("Config") or {} for item in items if "HostConfig" not in item and "Id" in item}
    runs, findings = [], []
    for item in items:
        if "HostConfig" not in item:
            continue
        name = _name(item)
        try:
            if is_ours(name, item["Config"].get("Labels") or {}):
                findings.append(Finding("left out", f"container {name}", "is already managed by gpurack."))
            else:
                runs.append(container(name, item, images.get(str(item.get("Image")), {}), findings))
        except (AttributeError, LookupError, TypeError, ValueError):  # Python's message may contain a secret
            what = "its docker inspect output could not be interpreted."
            findings.append(Finding("open", f"container {name}", what))
    return runs, findings


def is_ours(name: str, labels: Mapping[str, Any]) -> bool:
    """True if gpurack's Compose project made the container.

    A copy (`docker commit`, `docker run`) inherits the labels but has another name; it is imported.
    """
    project, key = labels.get(f"{paths.COMPOSE}project"), labels.get(f"{paths.COMPOSE}service")
    made = is_generation(key, name.removesuffix(paths.PREVIOUS)) or key == name
    return made and any(f"gpurack.{kind}" in labels and project == one for kind, one in PROJECTS.items())


def container(name: str, item: Mapping[str, Any], image: Mapping[str, Any], findings: list[Finding]) -> ContainerRun:
    """One container, without what it inherits from its image."""
    config, host = item["Config"], item["HostConfig"]
    if not isinstance(config["Image"], str):
        raise TypeError("the image is not text")
    where, network = f"container {name}", str(host.get("NetworkMode", ""))
    settings = {
        **compose_fields(config, host, image),
        "image": config["Image"],
        "environment": [text for text in config.get("Env") or [] if text not in (image.get("Env") or [])],
        "volumes": list(map(mount, item.get("Mounts") or [])),
        "ports": ports(host.get("PortBindings") or {}),
        "gpus": gpus_of(host),
        "runtime": host.get("Runtime"),
        "network_mode": network if network == "host" or network.startswith("container:") else None,
        "links": [re.sub(r":.*/", ":", str(text).lstrip("/")) for text in host.get("Links") or []],
        "networks": {
            network: {"aliases": (settings or {}).get("Aliases")}
            for network, settings in ((item.get("NetworkSettings") or {}).get("Networks") or {}).items()
        },
    }
    for key, field in (("Cmd", "command"), ("Entrypoint", "entrypoint")):
        if config.get(key) and config[key] != image.get(key):
            settings[field] = list(map(str, config[key]))
    run = container_of(where, name, settings, findings)
    names = (name, str(item.get("Id"))[:12])
    return replace(run, running=True, aliases=tuple(alias for alias in run.aliases if alias not in names))


def gpus_of(host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The GPUs of --gpus or CDI, as Compose writes them."""
    requests = host.get("DeviceRequests") or []
    return [{"device_ids": one.get("DeviceIDs"), "count": one.get("Count")} for one in requests
            if one.get("DeviceIDs") or one.get("Count")]  # fmt: skip


def mount(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of Mounts, as Compose writes it."""
    kind = str(settings.get("Type")) if settings.get("Type") in ("volume", "tmpfs") else "bind"
    source = settings.get("Name") if kind == "volume" else settings.get("Source")
    return {
        "type": kind,
        "source": source,
        "target": settings["Destination"],
        "read_only": not settings.get("RW", True),
    }


def ports(bindings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published ports of PortBindings, as Compose writes them. The same port on IPv4 and IPv6 is one."""
    found = []
    for inside, places in bindings.items():
        number, _, protocol = inside.partition("/")
        for place in places or []:
            ip, outside = place.get("HostIp", ""), int(place.get("HostPort") or 0)
            ip = "" if ip in ("0.0.0.0", "::") else ip
            found.append({"host_ip": ip, "published": outside, "target": number, "protocol": protocol})
    return found


def compose_fields(config: Mapping[str, Any], host: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """The other settings that differ from Docker's defaults, as Compose fields."""
    settings: dict[str, Any] = {
        word: host[key] for key, word in WORDS.items() if host.get(key) and host[key] not in DEFAULTS.get(key, ())
    }
    settings |= {word: config[key] for key, word in OF_IMAGE.items() if config.get(key) not in ("", image.get(key))}
    policy = host.get("RestartPolicy") or {}
    if policy.get("Name") not in (None, "", "no"):
        retries = policy.get("MaximumRetryCount")
        settings["restart"] = policy["Name"] + (f":{retries}" if retries else "")
    if host.get("NanoCpus"):
        settings["cpus"] = str(host["NanoCpus"] / 1e9)
    if host.get("Ulimits"):
        settings["ulimits"] = {
            limit["Name"]: {"soft": limit["Soft"], "hard": limit["Hard"]} for limit in host["Ulimits"]
        }
    if host.get("Devices"):
        settings["devices"] = [f"{device['PathOnHost']}:{device['PathInContainer']}" for device in host["Devices"]]
    if host.get("Tmpfs"):
        settings["tmpfs"] = [f"{path}:{options}".rstrip(":") for path, options in host["Tmpfs"].items()]
    if (health := config.get("Healthcheck")) and health != image.get("Healthcheck"):
        settings["healthcheck"] = {
            HEALTH[key]: f"{value / 1e9:g}s" if isinstance(value, int) and key != "Retries" else value
            for key, value in health.items()
            if value
        }
    brought = (image.get("Labels") or {}).items()
    labels = {name: value for name, value in (config.get("Labels") or {}).items() if (name, value) not in brought}
    if own := {name: value for name, value in labels.items() if not name.startswith((paths.COMPOSE, "gpurack."))}:
        settings["labels"] = own
    return settings
