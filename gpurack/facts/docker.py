"""The sections of the snapshot that a Docker answered: the host's own, or a user's. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from gpurack import paths
from gpurack.facts.lines import ID, Section, Sections, each, fields
from gpurack.facts.parts import Container, Probe
from gpurack.facts.record import HostRecord, keys
from gpurack.facts.sections import decoded
from gpurack.facts.system import address
from gpurack.host_data import json_from_host

IMAGE = rf"sha256:{ID}"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def version_of(lines: Sequence[str]) -> str:
    """Parse `v2.40.3` in the first line; "" for anything else.

    >>> version_of(["v2.40.3"]), version_of(["unknown command"])
    ('2.40.3', '')
    """
    found = each(lines[:1], lambda line: fields(r"v?([0-9][A-Za-z0-9.+~-]*)", line)[0])
    return found[0] if found else ""


def upstreams(lines: Sequence[str]) -> dict[tuple[str, int], str]:
    """Parse `service|number|HTTP status|error of curl` into (service, number) → why it fails, "" if it answers.

    >>> upstreams(["gateway|0|200|", "gateway|1|000|curl: (7) Failed to connect: Connection refused"])
    {('gateway', 0): '', ('gateway', 1): 'Connection refused'}
    """
    found = {}
    for service, number, status, words in each(
        lines, lambda line: fields(rf"({NAME})\|(\d{{1,4}})\|(\d{{3}})\|(.*)", line)
    ):
        said = words.strip().rpartition(": ")[2].removeprefix("curl: ")  # the part before it repeats the address
        why = {"000": said or "no answer", "401": "refuses the key", "503": "is loading"}.get(status, f"HTTP {status}")
        found[service, int(number)] = "" if status == "200" else why
    return found


INFO: Mapping[str, Callable[[Any], bool]] = {
    "ServerVersion": lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9A-Za-z.+~-]{1,80}", value)),
    "NCPU": lambda value: type(value) is int and 0 < value < 1 << 20,
    "MemTotal": lambda value: type(value) is int and 0 < value < 1 << 60,
    "Swarm": lambda value: isinstance(value, dict) and isinstance(value.get("LocalNodeState"), str),
    "LiveRestoreEnabled": lambda value: isinstance(value, bool),
    "Runtimes": lambda value: isinstance(value, dict),
    "SecurityOptions": lambda value: is_text_list(value),
    "CDISpecDirs": lambda value: is_text_list(value),
    "DockerRootDir": lambda value: isinstance(value, str) and value.startswith("/"),
}
"""The keys of `docker info` that gpurack reads, with a check of the value."""


def is_text_list(value: Any) -> bool:
    """Is it a list of strings?"""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def info(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid values of `docker info` that gpurack reads."""
    return {key: said[key] for key, right in INFO.items() if key in said and right(said[key])}


def docker(lines: Sequence[str]) -> Mapping[str, Any]:
    """Parse `docker info`; {} if only the client answered."""

    found = each([line for line in lines[:1] if line.startswith("{")], lambda line: info(json_from_host(line)))
    if not found and lines and isinstance(lines, Section):
        lines.wrong = 1
    return found[0] if found and "ServerVersion" in found[0] else {}


def images(lines: Sequence[str]) -> dict[str, str]:
    """Parse `id|reference`, and `-|reference` for a missing image, into reference → id."""
    found = each(lines, lambda line: fields(rf"({IMAGE}|-)\|(\S+)", line))
    return {name: id_ for id_, name in found if id_ != "-"}


def digests(lines: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse `id|["repository@sha256:…"]`."""

    def read(line: str) -> tuple[str, tuple[str, ...]]:
        id_, said = fields(rf"({IMAGE})\|(.*)", line)
        return id_, tuple(name for name in json_from_host(said) or () if re.fullmatch(rf"[^\s@]+@{IMAGE}", name))

    return dict(each(lines, read))


def containers(sections: Sections, user: str) -> list[Container]:
    """Parse the containers of a user's daemon, or of the host's own ("")."""
    return each(sections.get("containers", Section()), lambda line: container(json_from_host(line), user))


def with_trusted_label(container: Container, record: HostRecord, services: Mapping[str, Any]) -> Container:
    """Return a user's container, with an empty definition if root does not know the one in its label.

    Otherwise a user's daemon could claim any GPU and port, and models of the host would yield to it. services: those of
    root's compose.yaml for that user. They decide if the record has no definition of this container.
    """
    label = container.labels.get(paths.MODEL_LABEL)
    if label is None:
        return container
    renamed = {member.old_id: member.name for one in record.replacing for member in one.members}
    name = renamed.get(container.id, container.name)
    entry = (record.containers or {}).get(container.user, {}).get(name)
    if entry and entry.definition:
        known = sha256(label.encode(errors="replace")).hexdigest() == entry.definition
    else:
        service = services.get(keys(services).get(name, ""))
        labels = service.get("labels") if isinstance(service, Mapping) else None
        known = isinstance(labels, Mapping) and str(labels.get(paths.MODEL_LABEL)).replace("$$", "$") == label
    return container if known else replace(container, labels={**container.labels, paths.MODEL_LABEL: ""})


def container(data: Any, user: str = "") -> Container:
    """Parse one line of the snapshot's `docker inspect --format`. Raises one of WRONG if it has another form."""
    state = data["state"]
    return Container(
        id=fields(f"({ID})", data["id"])[0],
        name=fields(f"/?({NAME})", data["name"])[0],
        image=fields(f"({IMAGE})", data["image"])[0],
        status=fields("([a-z]+)", state["Status"])[0],
        exit_code=checked_int(state["ExitCode"]),
        error=checked_text(state.get("Error")),
        started=checked_text(state.get("StartedAt")),
        restarts=checked_int(data["restarts"]),
        labels={
            checked_text(key): checked_text(value)
            for key, value in (data["labels"] or {}).items()
            if isinstance(value, str)
        },
        ports=tuple(published(data["ports"])),
        chosen_ports=number_bound(data["ports"]) > sum(port > 0 for _, port in published(data["ports"])),
        user=user,
        finished=checked_text(state.get("FinishedAt")),
    )


def published(bindings: Any) -> Iterator[tuple[str, int]]:
    """Yield (address, port) of a container's port bindings, with "" for all addresses.

    Port ranges and anything that is not an address and a number are left out.

    >>> list(published({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}, {"HostPort": "1-9"}]}))
    [('127.0.0.1', 8000)]
    """
    for every in (bindings or {}).values():
        for binding in every or []:
            ip, port = binding.get("HostIp") or "", binding.get("HostPort") or ""
            if re.fullmatch(r"[0-9]{1,5}", port) and (not ip or address(ip)):
                yield address(ip), int(port)


def number_bound(bindings: Any) -> int:
    """Return how many port bindings a container has.

    >>> number_bound({"8000/tcp": [{"HostPort": "8000"}, {"HostPort": "1-9"}], "9/tcp": None})
    2
    """
    return sum(len(every or []) for every in (bindings or {}).values())


def checked_int(value: Any) -> int:
    """Return an integer of Docker's. Raises TypeError or ValueError for anything else."""
    if type(value) is not int:
        raise TypeError(value)
    if abs(value) >= 1 << 63:
        raise ValueError(value)
    return value


def checked_text(value: Any) -> str:
    """Return a text of Docker's, "" for null. Raises TypeError for anything else."""
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return (
        (value or "").encode(errors="replace").decode()
    )  # JSON can contain single surrogates, which cannot be printed


def counter(lines: Sequence[str]) -> float:
    """Sum a counter in Prometheus' text format (`name{labels} value`).

    >>> counter(['done{model="a"} 3', 'done{model="b"} 4.5', "done NaN"])
    7.5
    """
    values = (line.rpartition(" ")[2] for line in lines)
    return sum(float(value) for value in values if re.fullmatch(r"\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,2})?", value))


def cuda_log(lines: Sequence[str]) -> str:
    """Parse lines of a log in base64; "" if they are invalid.

    The script prints the first 20 and the last 20 lines, of 300 characters each. A user may print more in its place.
    """
    try:
        text = decoded("".join(lines)).decode(errors="replace")
    except ValueError:
        return ""
    return "\n".join(line[:300] for line in text.split("\n")[:40])


def probe(lines: Sequence[str]) -> Probe:
    """Parse the answer in base64: the body, and in the last line the status code ("000": no answer)."""
    try:
        text = decoded("".join(lines)).decode(errors="replace").replace("\r", "")
        body, _, status = text.rstrip().rpartition("\n")
    except ValueError:
        return Probe(0, "")
    return Probe(int(status) if re.fullmatch(r"[0-9]{3}", status) else 0, body)
