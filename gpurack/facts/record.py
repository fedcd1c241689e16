"""The host's record of gpurack's containers (/var/lib/gpurack/record.json). Pure.

It proves that a container is ours. Labels alone prove nothing: `docker commit` and `docker run` inherit them, and a
user's daemon may answer anything. The runner (files/record.py) writes the record before a container is created and
after it is removed.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpurack import paths
from gpurack.host_data import json_from_host, yaml_from_host

if TYPE_CHECKING:
    from gpurack.facts.model import Container, File

FORMAT = 1
Kind = Literal["model", "job"]
PROJECTS: Mapping[Kind, str] = {"model": paths.PROJECT, "job": paths.JOBS_PROJECT}
"""The Compose projects of our models and jobs."""
COMPOSE = "com.docker.compose."


@dataclass(frozen=True)
class Entry:
    """A container in the record.

    id: None between the decision to create it and its creation. definition: the sha256 of a model's label gpurack.model
    as root wrote it, or of a job's definition; "" if unknown.
    """

    id: str | None
    kind: Kind
    definition: str = ""


Record = Mapping[str, Mapping[str, Entry]]
"""user → name → entry. The user "" is the host's own Docker.

A user is absent if the daemon did not answer when the record was made.
"""


class TooNew(ValueError):
    """A newer gpurack wrote the record."""


def read(text: str) -> Record | None:
    """Parse the record; None if it is invalid, which counts as missing. Raises TooNew."""
    try:
        said = json_from_host(text)
        if isinstance(said["format"], int) and said["format"] > FORMAT:
            raise TooNew(f"a newer gpurack wrote the host's record (format {said['format']}). Update gpurack.")
        if type(said["format"]) is not int or said["format"] != FORMAT:
            return None
        return {
            str(user): {
                str(name): Entry(checked_id(entry["id"]), checked_kind(entry["kind"]), str(entry.get("definition", "")))
                for name, entry in entries.items()
            }
            for user, entries in said["containers"].items()
        }
    except TooNew:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def checked_id(value: object) -> str | None:
    """Return a container's id, or None. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        return value
    raise ValueError(value)


def checked_kind(value: object) -> Kind:
    """Return a container's kind. Raises ValueError for anything else."""
    if value == "model" or value == "job":
        return value
    raise ValueError(value)


def has(record: Record | None, user: str) -> bool:
    """Does the record cover a user's daemon, or the host's own ("")?"""
    return record is not None and user in record


def is_ours(
    container: "Container", record: Record | None, services: Mapping[str, Any], present: Collection[str] = ()
) -> bool:
    """Did gpurack create this container? Its labels, Compose's labels and the record decide.

    services: the services in root's own compose.yaml of that daemon (for a job: in its own file). They decide, together
    with Compose's labels, if the record does not cover that daemon, as after an upgrade.

    present: the ids of all containers that exist. If the recorded one is gone from the host's own Docker, a container
    that Compose created in its place is ours as well, because an admin may run `docker compose up` with root's
    compose.yaml. Compose writes the id of the image into a label. A copy (`docker commit`, `docker run`) inherits that
    label but has another image.
    """
    kind = container.kind
    if kind is None:
        return False
    labels = container.labels
    if (labels.get(f"{COMPOSE}project"), labels.get(f"{COMPOSE}service")) != (PROJECTS[kind], container.name):
        return False
    known = None if record is None else record.get(container.user)
    if known is None:
        return container.name in services
    entry = known.get(container.name)
    if entry is None or entry.kind != kind:
        return False
    by_compose = not container.user and labels.get(f"{COMPOSE}image") == container.image
    return entry.id in (None, container.id) or (by_compose and entry.id not in present)


def services(file: "File | None") -> dict[str, Any]:
    """Return the services of a compose.yaml of the host; {} if it is invalid."""
    try:
        content = yaml_from_host(file.text) if file else {}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    found = content.get("services", {}) if isinstance(content, dict) else {}
    return {str(name): data for name, data in found.items()} if isinstance(found, dict) else {}
