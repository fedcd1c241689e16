"""Any of the forms → entries and findings: the one door of this package."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpurack.engines.base import Engine
from gpurack.importing import built, compose_file, docker_run, inspect, recognise, secret, words
from gpurack.importing.container import ContainerRun, Finding
from gpurack.importing.to_inventory import Entry, Known, entry_of
from gpurack.spec.image_ref import split

IGNORED_DOCKER = {
    "pull": ("left out", "gpurack pulls what the inventory names"),
    "images": ("left out", "only looks"), "ps": ("left out", "only looks"), "logs": ("left out", "only looks"),
    "stats": ("left out", "only looks"), "inspect": ("left out", "only looks"), "version": ("left out", "only looks"),
    "info": ("left out", "only looks"),
    "exec": ("left out", "works inside a container that runs; the inventory says what one is at its start"),
    "stop": ("left out", "enabled: false in an entry stops it"),
    "start": ("left out", "gpurack starts what is enabled"),
    "restart": ("left out", "docker compose restart NAME does it on the host"),
    "rm": ("left out", "what is no longer in the inventory is removed"),
    "tag": ("left out", "an inventory names the image itself"),
    "login": ("left out", "write registries: {REGISTRY: {user, password}} for the host"),
    "save": ("left out", "gpurack image save writes an image of a host to a file here"),
    "load": ("left out", 'image: {"tar": FILE} of an entry does it'),
    "compose": ("left out", "give the compose file itself to gpurack import"),
    "commit": ("open", "an image made from a container lacks what was mounted (the model) and exists on one host only; "
               "the entry itself is all that is needed to have the container again"),
}  # fmt: skip


Pulls = dict[tuple[Engine, str | None], list[str]]
"""(engine, container, None where it is not said) → the models that somebody pulled in it."""
NO_DOCKER = "no docker command."
BUILT_HERE = (
    'built from the folder it stands in; write image: {"build": {"git": …, "revision": …, "dockerfile": …}} where it '
    "is used, or keep its name while the host has it"
)


@dataclass
class Imported:
    """host: fields of the host. models, services, jobs: entries by name. findings: all that they do not say."""

    host: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def data(self) -> dict[str, Any]:
        """The host's fields, as an inventory has them."""
        return {**self.host, **{name: entries for name, entries in self.entries.items() if entries}}

    @property
    def entries(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By kind: models, services, jobs."""
        return {"models": self.models, "services": self.services, "jobs": self.jobs}


def read(text: str, variables: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> Imported:
    """A shell snippet, a compose file or the output of `docker inspect`, whichever it is.

    variables: values for what the text leaves undefined. files: path on the host → content of files that containers
    read their settings from (CONFIG_FILE, a start script). Raises compose_file.NoCompose, inspect.NoInspect.
    """
    given = dict(variables or {})
    known = Known(variables=given, files=dict(files or {}))
    if inspect.is_inspect(text):
        runs, findings = inspect.read(text)
    elif compose_file.is_compose(text):
        runs, findings, images = compose_file.read(text, given)
        services = {run.where.removeprefix("service "): run.name or "" for run in runs}
        known = replace(known, names=services, images=images)
    else:
        runs, findings, known = of_script(text, known)
    known = replace(known, names={**{run.name: run.name for run in runs if run.name}, **known.names})
    imported = Imported(findings=findings)
    for run in runs:
        try:
            entry, found = entry_of(run, known)
        except ValueError as error:  # a number that is none
            imported.findings.append(Finding("open", run.where, f"cannot be understood: {error}."))
            continue
        except (AttributeError, LookupError, TypeError):  # of another kind than Docker says it is
            imported.findings.append(Finding("open", run.where, "cannot be understood."))
            continue
        imported.findings += found
        if entry:
            add(imported, entry)
        elif run.running:  # how its cards would have been said is of no interest any more
            imported.findings = [one for one in imported.findings if one.where != run.where or one in found]
    imported.findings = sorted(dict.fromkeys(imported.findings), key=line_of)
    return imported


def line_of(finding: Finding) -> int:
    """The line a finding is about; 0 where there are no lines. (Sorting keeps the order of the rest.)"""
    found = re.match(r"line (\d+)", finding.where)
    return int(found[1]) if found else 0


def add(imported: Imported, entry: Entry) -> None:
    """One entry among the others; of two with one name the last is kept, as Docker would have it after a rm."""
    others = imported.entries[entry.kind]
    before = others.get(entry.key)
    if before is not None and before != entry.fields:
        differ = [name for name in {**before, **entry.fields} if before.get(name) != entry.fields.get(name)]
        says = "; ".join(f"{name} {before.get(name, 'not given')!s} there" for name in differ)
        imported.findings.append(
            Finding("open", entry.where, f"{entry.key} is there twice and differs ({says}); this one is taken.")
        )
    elif before is not None:
        imported.findings.append(Finding("changed", entry.where, f"{entry.key} once more, the same; written once."))
    others[entry.key] = entry.fields
    imported.host |= entry.host


def of_script(text: str, known: Known) -> tuple[list[ContainerRun], list[Finding], Known]:
    """The containers of a shell snippet, and what its other commands say about them."""
    script = words.read(text, known.variables, docker_run.unfinished)
    findings = list(script.findings)
    runs: list[ContainerRun] = []
    committed: dict[str, str] = {}
    pulls: Pulls = {}
    images: dict[str, built.Built] = {}
    checkout = built.Checkout()
    for where, comment in script.comments:
        if re.match(r"(sudo\s+)?docker\s+run\b", comment):
            findings.append(Finding("left out", where, "a docker run in a comment."))
    # its -p is the password, and so is what a command before it prints for --password-stdin
    logins = {command.where for command in script.commands if docker_run.docker_words(command.words)[:1] == ["login"]}
    for command in script.commands:
        options, building = docker_run.run_words(command.words), built.build_words(command.words)
        for name in command.undefined if options is not None or building is not None else ():
            what = f"{name} is not defined" + (f"; give it with --set {name[1:]}=…." if name[:2] != "$(" else ".")
            findings.append(Finding("open", command.where, what))
        checkout = checkout.after(command.words)
        if building is not None:
            findings += build(command, building, checkout, images)
            continue
        if options is None:
            tag(command.words, images)
            findings += other(command, committed, pulls, logins)
            continue
        try:
            container, found = docker_run.parse(options, command.where)
        except (docker_run.Unreadable, ValueError) as error:
            findings.append(Finding("open", command.where, f"docker run cannot be read: {error}"))
            continue
        runs.append(container)
        findings += found
    started = {built.full(recognise.moved(run.image)) for run in runs}
    for one in dict.fromkeys(images.values()):
        if not started & {name for name, other in images.items() if other is one}:
            findings.append(unused(one))
    by_container: dict[str, list[str]] = {}
    for (puller, container_name), models in pulls.items():
        names = [run.name or "" for run in runs if recognise.engine_of(run.image) is puller]
        if container_name in names or len(set(names)) == 1:
            name = container_name if container_name in names else names[0]
            by_container.setdefault(name or "", []).extend(models)
        else:
            findings.append(Finding("open", puller.name, f"pulls {', '.join(models)}; name them in pull of its entry."))
    engines = {run.name: engine for run in runs if run.name and (engine := recognise.engine_of(run.image))}
    local = {split(image)[0]: engines[container] for image, container in committed.items() if container in engines}
    return (
        runs,
        findings,
        replace(
            known,
            pulls=by_container,
            engines={**engines, **local},
            committed={split(image)[0]: container for image, container in committed.items()},
            images=images,
        ),
    )


def build(
    command: words.Command, options: list[str], checkout: built.Checkout, images: dict[str, built.Built]
) -> list[Finding]:
    """A docker build; what it was built from is kept for the entries that use it."""
    try:
        names, found = built.parse(options, command.where, checkout)
    except docker_run.Unreadable as error:
        return [Finding("open", command.where, f"docker build cannot be read: {error}")]
    if found is None:
        return [Finding("open", command.where, f"`{secret.masked(command.words)}`: {BUILT_HERE}.")]
    images |= {built.full(name): found for name in names}
    return [] if names else [unused(found)]


def unused(one: built.Built) -> Finding:
    """An image that was built and that nothing of the text starts."""
    image = json.dumps({"build": one.build}, ensure_ascii=False)
    what = f"a docker build, of an image that nothing here starts; where it is used write image: {image}."
    return Finding("open", one.where, what)


def tag(command: Sequence[str], images: dict[str, built.Built]) -> None:
    """A docker tag: another name for what was built."""
    rest = docker_run.docker_words(command)
    if rest[:1] == ["tag"] and len(rest) == 3 and (found := images.get(built.full(rest[1]))):
        images[built.full(rest[2])] = found


def other(command: words.Command, committed: dict[str, str], pulls: Pulls, logins: set[str]) -> list[Finding]:
    """A command that is no docker run. logins: lines that hold a docker login."""
    rest = docker_run.docker_words(command.words)
    shown = secret.masked(command.words)
    if command.where in logins:
        shown = " ".join([*(["docker"] if rest else []), (rest or command.words)[0], "…"])
    plain = [word for word in command.words if word not in ("sudo",)]
    if rest[:1] == ["exec"]:
        inside = [word for word in rest[1:] if not word.startswith("-")]
        if found := recognise.pulled(inside[1:]):
            pulls.setdefault((found[0], inside[0]), []).append(found[1])
            return []
    if found := recognise.pulled(plain):
        pulls.setdefault((found[0], None), []).append(found[1])
        return []
    if rest[:1] == ["commit"]:
        names = [word for word in rest[1:] if not word.startswith("-")]
        if len(names) >= 2:
            committed[names[-1]] = names[-2]
    verb = rest[0] if rest else ""
    if verb in IGNORED_DOCKER:
        kind, why = IGNORED_DOCKER[verb]
        return [Finding(kind, command.where, f"`{shown}`: {why}.")]  # type: ignore[arg-type]
    if rest:
        return [Finding("open", command.where, f"`{shown}`: could not be expressed.")]
    return [Finding("left out", command.where, f"`{shown}`: {NO_DOCKER}")]
