"""The files of a project that `gpurack init` writes, from what its hosts have."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from typing import Any

from gpurack import screen
from gpurack.commands.requirements_file import repository, requirements
from gpurack.importing.container import ContainerRun
from gpurack.importing.reader import Imported
from gpurack.importing.text import SCHEMA, SCHEMA_LINE, comments, one_line, yaml_text
from gpurack.inventory.schema import schema_text
from gpurack.resources import render
from gpurack.spec.fields import in_order
from gpurack.spec.gpus import count_of
from gpurack.spec.host import Gpus
from gpurack.spec.model import Model

INVENTORY, LOCK = "lab.yaml", "lab.lock.yaml"
REQUIREMENTS = "requirements.txt"
EXAMPLE: Mapping[str, Any] = {
    "engine": "llama.cpp",
    "version": "b7000",
    "weights": "/data/models/qwen2.5-7b-instruct-q8_0.gguf",
    "port": 8000,
    "bind": "lan",
    "api_key": {"env": "LAB_KEY"},
    "enabled": False,
}
"""The entry of a project without models."""
NO_MODELS: Mapping[str, Any] = {"models": {}}
"""What a host without GPUs and models has in the inventory."""
FIRST_APPLY = "Your first apply removes those that the inventory lacks."
"""What becomes of models without a lab."""
UNKNOWN = "hardware: {A30: 4}    # its GPUs, so that `gpurack plan` can check them"
"""The comment in the place of hardware that is unknown."""
PROGRAM = "notify"
"""The file that can be executed."""
TEMPLATES = {
    ".gitignore": "gitignore.j2",
    ".gitlab-ci.yml": "gitlab-ci.yml.j2",
    ".github/workflows/gpurack.yml": "github.yml.j2",
    PROGRAM: "notify.j2",
    "README.md": "README.md.j2",
}
"""File → its template."""
NAMES = (INVENTORY, REQUIREMENTS, SCHEMA, *TEMPLATES)
"""The files of a project."""


@dataclass(frozen=True)
class ProjectHost:
    """A host of the new project. ssh: pyinfra's fields to reach it. hardware: as in the inventory, {} if unknown.

    unknown: why its hardware is unknown. running: its containers that are not gpurack's. unread: why they are unknown.
    managed: lab, "" for none → its models that gpurack runs there already.
    adopted: what `gpurack import` makes of those to adopt. refused: errors that `gpurack plan` would report for them.
    """

    name: str
    ssh: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, int | Gpus] = field(default_factory=dict)
    unknown: str = ""
    running: Sequence[ContainerRun] = ()
    unread: str = ""
    managed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    adopted: Imported = field(default_factory=Imported)
    refused: Sequence[str] = ()

    @property
    def data(self) -> dict[str, Any]:
        """Its part of the inventory."""
        cards = {name: one.model_dump() if isinstance(one, Gpus) else one for name, one in self.hardware.items()}
        return {**self.ssh, **({"hardware": cards} if cards else {}), **self.adopted.data}

    @property
    def left(self) -> Sequence[ContainerRun]:
        """The running containers that are not adopted."""
        adopted = {entry.get("replaces") for kind in self.adopted.entries.values() for entry in kind.values()}
        return [run for run in self.running if run.name not in adopted]

    @property
    def to_do(self) -> list[str]:
        """What is left to fill in or decide about the containers to adopt."""
        return [*map(str, (one for one in self.adopted.findings if one.kind != "changed")), *self.refused]


EXAMPLE_HOST = ProjectHost("gpu1.lab", unknown="this host is an example. Write the name of yours.")
"""The host of a project without hosts."""


def files(lab: str, hosts: Sequence[ProjectHost]) -> dict[str, str]:
    """Path → content of every file, for a project with these hosts. lab: the inventory's name."""
    every = hosts or [EXAMPLE_HOST]
    parts, notes = {host.name: host.data for host in every}, {host.name: host_notes(host) for host in every}
    if not any(data.get("models") or data.get("jobs") for data in parts.values()):
        first = every[0]
        example = in_order(Model, {**EXAMPLE, "gpus": [0] if first.hardware else []})
        parts[first.name] = {**first.data, "models": {"example": example}}
        notes[first.name] += ["`example` is off: set its weights, a file on the host, and remove `enabled`."]
    required = requirements(distribution("gpurack"))
    words = {
        "lab": lab,
        "repository": repository(required),
        "inventory": INVENTORY,
        "lock": LOCK,
        "keys": list(dict.fromkeys(variables(parts))),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    return {
        INVENTORY: inventory_text(lab, parts, notes),
        REQUIREMENTS: required,
        SCHEMA: f"{schema_text()}\n",
        **{name: render(f"templates/project/{template}", **words) for name, template in TEMPLATES.items()},
    }


def inventory_text(lab: str, hosts: Mapping[str, Mapping[str, Any]], notes: Mapping[str, Sequence[str]]) -> str:
    """The inventory in YAML. hosts: name → data. notes: name → the comment lines below it.

    Texts with characters that an editor hides or obeys are in double quotes (importing/text.py), where the escapes of
    `printable` mean the same characters.
    """
    lines = [
        SCHEMA_LINE,
        "# The servers, and what runs on them. After a change: gpurack plan, gpurack diff, gpurack apply.",
        "all:",
        *(f"  {line}" for line in yaml_lines("lab", lab)),
        "hosts:",
    ]
    for name, data in hosts.items():
        lines += host_lines(name, data, notes[name])
    return screen.printable("\n".join(lines)) + "\n"


def host_lines(name: str, data: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    """The lines of one host in the inventory. notes: the comment lines below its name, without `# `."""
    return [
        f"  {yaml_lines(name, None)[0].removesuffix(' null')}",
        *(f"    # {note}" for note in notes),
        *(f"    {line}" for key, value in (data or NO_MODELS).items() for line in yaml_lines(key, value)),
    ]


def yaml_lines(key: str, value: Any) -> list[str]:
    """`key: value` in YAML.

    >>> yaml_lines("ssh_user", "root"), yaml_lines("hardware", {"A30": 4})
    (['ssh_user: root'], ['hardware: {A30: 4}'])
    """
    return yaml_text({key: value}, flow=None if isinstance(value, Mapping) else False).splitlines()


def host_notes(host: ProjectHost) -> list[str]:
    """The comment lines of a host in the inventory, without `# `."""
    notes = []
    if host.unknown:
        notes += [f"Its GPUs are not known: {one_line(host.unknown)}", UNKNOWN]
    if host.unread:
        notes += [f"Its containers are not known: {one_line(host.unread)}"]
    notes += managed_lines(host)
    if host.left:
        notes += [
            f"Containers that gpurack does not manage. `gpurack import --host {host.name} {INVENTORY}` prints entries "
            "that adopt them.",
            *(f"  {'  '.join(container_cells(run))}" for run in host.left),
        ]
    found = replace(host.adopted, places={})  # the entries themselves are in the file
    return notes + [line.removeprefix("# ") for line in comments(found, host.refused).splitlines()]


def managed_lines(host: ProjectHost) -> list[str]:
    """The lines that say which models gpurack runs on a host already, and what a run does with those of no lab."""
    lines = []
    for lab, names in host.managed.items():
        whose, then = (f"of lab {lab}", "") if lab else ("not owned by any lab", f" {FIRST_APPLY}")
        lines.append(f"Models that gpurack runs there, {whose}: {', '.join(names)}.{then}")
    return lines


def container_cells(run: ContainerRun) -> tuple[str, str, str, str]:
    """Name, image, GPUs and ports of a container, for a line of a list."""
    if isinstance(run.gpus, tuple):
        gpus = f"GPU {', '.join(run.gpus)}"
    else:
        gpus = "no GPU" if run.gpus is None else f"{run.gpus} GPUs"
    ports = "host network" if run.host_network else ", ".join(f":{port.host}" for port in run.ports if port.host)
    return one_line(str(run.name)), one_line(run.image), one_line(gpus), ports


def variables(data: Any) -> Iterator[str]:
    """The environment variables that a part of an inventory reads: every `{"env": NAME}` with a name of a shell.

    >>> list(variables({"models": {"a": {"env": {"A": "b"}, "api_key": {"env": "LAB_KEY"}}}}))
    ['LAB_KEY']
    """
    if not isinstance(data, Mapping):
        return
    if data.keys() == {"env"} and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(data["env"])):
        yield data["env"]
    for value in data.values():
        yield from variables(value)


def hardware_text(hardware: Mapping[str, int | Gpus]) -> str:
    """`4 × A30`; `no GPUs`."""
    return " + ".join(f"{count_of(cards)} × {name}" for name, cards in hardware.items()) or "no GPUs"
