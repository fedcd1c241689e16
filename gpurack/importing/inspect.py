"""Read running containers as ContainerRuns, from `docker inspect` of the containers and their images."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from gpurack.facts.record import COMPOSE, PREVIOUS, PROJECTS, is_generation
from gpurack.host_data import json_values
from gpurack.importing import docker_run, gpus
from gpurack.importing.container import ContainerRun, Finding, Mount, Port
from gpurack.shell import sh

COMMAND = sh(
    'docker=docker; docker ps -q >/dev/null 2>&1 || docker="sudo -n docker"; ids=$($docker ps -q) || exit 1; '
    '[ -z "$ids" ] || { $docker inspect $ids && '
    '$docker image inspect $($docker inspect -f "{{.Image}}" $ids | sort -u); }'
)
"""One remote command: inspects the running containers, then their images. The user must be allowed to use Docker."""
SHM_SIZE = 64 << 20
"""Docker's default, in bytes."""
WORDS = {
    "CapAdd": "cap_add", "CapDrop": "cap_drop", "ExtraHosts": "extra_hosts", "Dns": "dns", "GroupAdd": "group_add",
    "SecurityOpt": "security_opt", "Privileged": "privileged", "ReadonlyRootfs": "read_only", "Sysctls": "sysctls",
    "Init": "init", "PidsLimit": "pids_limit", "CpusetCpus": "cpuset", "CpuShares": "cpu_shares", "Memory": "mem_limit",
    "OomScoreAdj": "oom_score_adj",
}  # fmt: skip
"""Fields of HostConfig → Compose's fields with the same value."""


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
    project, key = labels.get(f"{COMPOSE}project"), labels.get(f"{COMPOSE}service")
    made = is_generation(key, name.removesuffix(PREVIOUS)) or key == name
    return made and any(f"gpurack.{kind}" in labels and project == one for kind, one in PROJECTS.items())


def container(name: str, item: Mapping[str, Any], image: Mapping[str, Any], findings: list[Finding]) -> ContainerRun:
    """One container, without what it inherits from its image."""
    config, host = item["Config"], item["HostConfig"]
    if not isinstance(config["Image"], str):
        raise TypeError("the image is not text")
    where = f"container {name}"
    brought = set(image.get("Env") or [])
    environment, _ = docker_run.environment_of([text for text in config.get("Env") or [] if text not in brought])
    command = tuple(map(str, config.get("Cmd") or ())) if config.get("Cmd") != image.get("Cmd") else ()
    entrypoint = (
        tuple(map(str, config["Entrypoint"] or ())) if config.get("Entrypoint") != image.get("Entrypoint") else None
    )
    compose = compose_fields(config, host, image)
    given = docker_run.given_gpus(gpus_of(host), compose, host.get("Runtime"), environment, where, findings)
    network = str(host.get("NetworkMode", ""))
    joined = (item.get("NetworkSettings") or {}).get("Networks") or {}
    aliases = (str(alias) for settings in joined.values() for alias in (settings or {}).get("Aliases") or [])
    if network.startswith("container:"):
        findings.append(Finding("open", where, f"network {network} was not converted."))
    return ContainerRun(
        where=where,
        name=name,
        image=config["Image"],
        command=command,
        entrypoint=entrypoint or None,
        environment=given.environment,
        mounts=tuple(mount(settings) for settings in item.get("Mounts") or []),
        ports=tuple(ports(host.get("PortBindings") or {})),
        gpus=given.gpus,
        aliases=tuple(dict.fromkeys(alias for alias in aliases if alias not in (name, str(item.get("Id"))[:12]))),
        links=docker_run.links([re.sub(r":.*/", ":", str(text).lstrip("/")) for text in host.get("Links") or []]),
        host_network=network == "host",
        running=True,
        compose=compose,
    )


def gpus_of(host: Mapping[str, Any]) -> gpus.Gpus:
    """The GPUs of --gpus or CDI."""
    named: list[str] = []
    for request in host.get("DeviceRequests") or []:
        if request.get("DeviceIDs"):
            named += map(str, request["DeviceIDs"])
        elif request.get("Count"):
            return "all" if request["Count"] == -1 else int(request["Count"])
    return gpus.ids(named)


def mount(settings: Mapping[str, Any]) -> Mount:
    """One entry of Mounts."""
    kind = str(settings.get("Type")) if settings.get("Type") in ("volume", "tmpfs") else "bind"
    source = settings.get("Name") if kind == "volume" else settings.get("Source")
    return Mount(kind, str(source or ""), settings["Destination"], not settings.get("RW", True))  # type: ignore[arg-type]


def ports(bindings: Mapping[str, Any]) -> list[Port]:
    """The published ports of PortBindings. The same port on IPv4 and IPv6 is one."""
    found = []
    for inside, places in bindings.items():
        number, _, protocol = inside.partition("/")
        for place in places or []:
            ip = place.get("HostIp", "")
            found.append(
                Port(
                    "" if ip in ("0.0.0.0", "::") else ip,
                    int(place.get("HostPort") or 0) or None,
                    int(number),
                    protocol,
                )
            )
    return list(dict.fromkeys(found))


def compose_fields(config: Mapping[str, Any], host: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """The other settings that differ from Docker's defaults, as Compose fields."""
    settings: dict[str, Any] = {word: host[key] for key, word in WORDS.items() if host.get(key)}
    if host.get("IpcMode") not in (None, "", "private", "shareable"):
        settings["ipc"] = host["IpcMode"]
    if host.get("PidMode"):
        settings["pid"] = host["PidMode"]
    if host.get("ShmSize") not in (None, 0, SHM_SIZE):
        settings["shm_size"] = host["ShmSize"]
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
    for key, word in (("User", "user"), ("WorkingDir", "working_dir")):
        if config.get(key) and config.get(key) != image.get(key):
            settings[word] = config[key]
    return settings
