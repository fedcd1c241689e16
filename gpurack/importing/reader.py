"""Read any supported source as entries and findings: the entry point of this package."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpurack.importing import built, compose_file, docker_run, helpers, inspect, names, notes, recognise, secret, words
from gpurack.importing.container import ContainerRun, Finding, Pull
from gpurack.importing.service import Unreadable
from gpurack.importing.to_inventory import Entry, Known, entry_of
from gpurack.spec.image_ref import split
from gpurack.spec.secret_names import is_secret

READING = ("images", "ps", "logs", "stats", "inspect", "version", "info")
IGNORED_DOCKER = {
    **dict.fromkeys(READING, ("left out", "read-only command")),
    "pull": ("left out", "gpurack pulls images itself"),
    "exec": ("left out", "changes inside a running container are not imported"),
    "stop": ("left out", "use enabled: false in the entry"),
    "start": ("left out", "gpurack starts all enabled entries"),
    "restart": ("left out", "use docker compose restart NAME on the host"),
    "rm": ("left out", "gpurack removes containers that leave the inventory"),
    "tag": ("left out", "entries name the image directly"),
    "login": ("left out", "use registries: {REGISTRY: {user, password}} for the host"),
    "save": ("left out", "use gpurack image save"),
    "load": ("left out", 'use image: {"tar": FILE} in the entry'),
    "compose": ("left out", "pass the compose file to gpurack import"),
    "commit": ("open", "a committed image lacks the mounted model and exists on one host only. The entry is enough to "
               "recreate the container"),
}  # fmt: skip


NOT_IMPORTED = {
    "a Quadlet file of Podman": re.compile(r"^\[Container\]\s*$", re.MULTILINE),
    "a devcontainer.json": re.compile(r'^\s*"(runArgs|forwardPorts|postCreateCommand|remoteUser)"\s*:', re.MULTILINE),
    "a Kubernetes manifest": re.compile(r"\A(?:#.*\n|---\s*\n|\s*\n)*(?:apiVersion|kind): *\S"),
}
"""Kinds of files that are recognised, but not imported."""
INSIDE = re.compile(r"\b(docker|podman|nerdctl)\s(.*\s)?(run|create)\s", re.DOTALL)
"""A command of a container in another one."""
NO_DOCKER = "not a docker command."
BUILT_HERE = (
    'builds a local folder. Set image: {"build": {"git": …, "revision": …, "dockerfile": …}} in its entry, or keep the '
    "image's name if the host has it"
)


@dataclass
class Imported:
    """The result. host: fields of the host. models, services, jobs: entries by name. findings: everything else.

    places: name of an entry → its place in the source. refused: entries by kind that `gpurack plan` would refuse.
    """

    host: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """All fields of the host, as in an inventory."""
        return {**self.host, **{name: entries for name, entries in self.entries.items() if entries}}

    @property
    def entries(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By kind: models, services, jobs."""
        return {"models": self.models, "services": self.services, "jobs": self.jobs}


def read(
    text: str,
    variables: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
) -> Imported:
    """Import a shell script, a compose file or the output of `docker inspect`.

    variables: values of variables that the text does not define. files: path on the host → content, for files that
    containers read (CONFIG_FILE, a start script) or a compose file names. profiles: those of a compose file to import.
    Raises compose_file.NoCompose, inspect.NoInspect.
    """
    text = text.removeprefix("\ufeff")
    given = dict(variables or {})
    known = Known(variables=given, files=dict(files or {}))
    if inspect.is_inspect(text):
        runs, findings = inspect.read(text)
    elif other := next((what for what, pattern in NOT_IMPORTED.items() if pattern.search(text)), None):
        raise compose_file.NoCompose(f"is {other}, which is not imported. Pass a docker run command.")
    elif compose_file.is_compose(text) and not notes.has_blocks(text):
        runs, findings, images = compose_file.read(text, given, known.files, profiles)
        known = replace(known, images=images)
    else:
        runs, findings, known = import_notes(text, known, profiles)
    every = runs
    runs, pulls, own = helpers.without_pullers(runs, known.pulled)
    named = [name for run in runs for name in (run.name, *run.aliases) if name]
    engines = {run.name: engine for run in runs if run.name and (engine := recognise.engine_of(run.image))}
    known = replace(known, names=named, pulls=pulls, engines=engines)
    started = {built.full(recognise.moved(run.image)) for run in every}
    used = {one for name, one in known.images.items() if name in started}
    own += [unused(one) for one in dict.fromkeys(known.images.values()) if one not in used]
    imported = Imported()
    made: list[tuple[Entry, ContainerRun]] = []
    for run in runs:
        try:
            entry, found = entry_of(run, known)
        except ValueError as error:  # an invalid number
            own.append(Finding("open", run.where, f"could not be converted: {error}."))
            continue
        except (AttributeError, LookupError, TypeError):  # a value of another type than Docker documents
            own.append(Finding("open", run.where, "could not be converted."))
            continue
        own += found
        if entry:
            entry.key = own_key(entry, run, [one for one, _ in made])
            made.append((entry, run))
    # what its settings lack does not matter for a container that is not imported
    without = {run.where for run in every} - {run.where for _, run in made}
    imported.findings = [*(finding for finding in findings if finding.where not in without), *own]
    known_names = names.targets(runs, made)
    published = {entry.fields.get("port", 0): names.Target(entry.key, *entry.inside) for entry, _ in made}
    for entry, run in made:
        imported.findings += names.adapt(entry, run, known_names, published)
        add(imported, entry, run)
    data = json.dumps(imported.data)  # plan says which variables of secrets to export
    exported = [name for name in re.findall(r'"env": "(\w+)"', data) if f"${name}" not in data]
    asked = [f"${name} is not defined. Pass --set {name}=…." for name in exported]
    needed = dict.fromkeys(finding for finding in imported.findings if finding.what not in asked)
    imported.findings = sorted(needed, key=line_of)
    return imported


def line_of(finding: Finding) -> int:
    """The line of a finding, 0 without one."""
    found = re.match(r"line (\d+)", finding.where)
    return int(found[1]) if found else 0


def own_key(entry: Entry, run: ContainerRun, others: Sequence[Entry]) -> str:
    """The key of an entry, with a number if it is not the container's name and another entry has it."""
    used = {other.key: other.fields for other in others if other.kind == entry.kind}
    if entry.key == run.name or used.get(entry.key, entry.fields) == entry.fields:
        return entry.key
    return next(key for number in range(2, 1000) if (key := f"{entry.key}-{number}") not in used)


def add(imported: Imported, entry: Entry, run: ContainerRun) -> None:
    """Add an entry. Of two with the same name the last one wins, of alternatives the first.

    Alternatives without a name are those of the entry with their port.
    """
    others = imported.entries[entry.kind]
    if run.name is None and run.alternative and (port := entry.fields.get("port")):
        every = {**imported.models, **imported.services}
        if first := next((key for key, fields in every.items() if fields.get("port") == port), None):
            what = f"is another branch's container with port {port}; {first} is used. This one had image {run.image}."
            imported.findings.append(Finding("open", run.where, what))
            return
    before = others.get(entry.key)
    if before is not None and before != entry.fields:
        used, other = (before, entry.fields) if run.alternative else (entry.fields, before)
        which = ("the first one", "This one") if run.alternative else ("this one", "The first")
        earlier = "; ".join(f"{name}: {other.get(name, 'not set')!s}" for name in {**before, **entry.fields}
                            if used.get(name) != other.get(name))  # fmt: skip
        what = f"{entry.key} is defined twice; {which[0]} is used. {which[1]} had {earlier}."
        imported.findings.append(Finding("open", entry.where, what))
        if run.alternative:
            return
    elif before is not None:
        imported.findings.append(Finding("changed", entry.where, f"{entry.key} is defined twice identically."))
    others[entry.key] = entry.fields
    imported.places[entry.key] = entry.where
    imported.host |= entry.host


def import_notes(text: str, known: Known, profiles: Sequence[str]) -> tuple[list[ContainerRun], list[Finding], Known]:
    """(containers of a script or of Markdown notes, also of compose files in them; findings; what the text shows)"""
    shell, compose = notes.split(text)
    known = replace(known, files={**notes.files(shell, known.variables.get("PWD", ".")), **known.files})
    defined = words.read(shell, known.variables).variables if compose else {}
    given = {**defined, **notes.variables(shell), **known.variables}
    runs, findings, known = import_script(shell, known)
    if notes.is_markdown(text):
        findings = [finding for finding in findings if not finding.what.endswith(NO_DOCKER)]
    for number, block in compose:
        try:
            more, found, images = compose_file.read(block, given, known.files, profiles)
        except compose_file.NoCompose as error:
            findings.append(Finding("open", f"line {number}", str(error)))
            continue
        runs, findings = [*runs, *more], [*findings, *found]
        known = replace(known, images={**known.images, **images})
    return runs, findings, known


def import_script(text: str, known: Known) -> tuple[list[ContainerRun], list[Finding], Known]:
    """(containers of a shell script, findings, what its other commands show about them)"""
    script = words.read(text, known.variables, docker_run.unfinished)
    findings = list(script.findings)
    runs: list[ContainerRun] = []
    committed: dict[str, str] = {}
    pulls: list[Pull] = []
    images: dict[str, built.Built] = {}
    checkout = built.Checkout()
    for where, comment in script.comments:
        if re.match(r"(sudo\s+)?docker\s+run\b", comment):
            findings.append(Finding("left out", where, "docker run in a comment."))
    # these lines contain the password, also in a command before `docker login --password-stdin`
    logins = {command.where for command in script.commands if docker_run.docker_words(command.words)[:1] == ["login"]}
    for command in script.commands:
        options, building = docker_run.run_words(command.words), built.build_words(command.words)
        for name in command.undefined if options is not None or building is not None else ():
            if is_secret(name):
                continue  # its entry reads it from the environment
            what = f"{name} is not defined." + (f" Pass --set {name[1:]}=…." if re.fullmatch(r"\$\w+", name) else "")
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
            container, found = docker_run.parse(options, command.where, known.variables)
        except (Unreadable, ValueError) as error:
            findings.append(Finding("open", command.where, f"invalid docker run: {error}"))
            continue
        runs.append(replace(container, alternative=command.alternative))
        findings += found
    return runs, findings, replace(known, pulled=pulls, committed=committed, images=images)


def build(
    command: words.Command, options: list[str], checkout: built.Checkout, images: dict[str, built.Built]
) -> list[Finding]:
    """Handle a docker build: add what it was built from to images, for the entries that use it."""
    try:
        names, found = built.parse(options, command.where, checkout)
    except Unreadable as error:
        return [Finding("open", command.where, f"invalid docker build: {error}")]
    if found is None:
        return [Finding("open", command.where, f"`{secret.masked_command(command.words)}`: {BUILT_HERE}.")]
    images |= {built.full(name): found for name in names}
    return [] if names else [unused(found)]


def unused(one: built.Built) -> Finding:
    """The finding for an image that was built but not started."""
    image = json.dumps({"build": one.build}, ensure_ascii=False)
    what = f"docker build of an image that is not started here. To use it, set image: {image}."
    return Finding("open", one.where, what)


def tag(command: Sequence[str], images: dict[str, built.Built]) -> None:
    """Handle a docker tag: add the new name of a built image to images."""
    rest = docker_run.docker_words(command)
    if rest[:1] == ["tag"] and len(rest) == 3 and (found := images.get(built.full(rest[1]))):
        images[built.full(rest[2])] = found


def other(command: words.Command, committed: dict[str, str], pulls: list[Pull], logins: set[str]) -> list[Finding]:
    """Handle any other command. logins: lines with a docker login."""
    rest = docker_run.docker_words(command.words)
    shown = secret.masked_command(command.words)
    if command.where in logins:
        shown = " ".join([*(["docker"] if rest else []), (rest or command.words)[0], "…"])
    server, inside = docker_run.exec_words(command.words)
    if inside and (models := helpers.pulled_in(inside)[1]):
        pulls.append(Pull(command.where, models, [server] if server else ()))
        return []
    if rest[:1] == ["commit"]:
        names = [word for word in rest[1:] if not word.startswith("-")]
        if len(names) >= 2:
            committed[split(names[-1])[0]] = names[-2]
    verb = rest[0] if rest else ""
    if verb in IGNORED_DOCKER:
        kind, why = IGNORED_DOCKER[verb]
        return [Finding(kind, command.where, f"`{shown}`: {why}.")]  # type: ignore[arg-type]
    if rest:
        return [Finding("open", command.where, f"`{shown}`: not converted.")]
    said = command.words[0] in ("echo", "printf") and "$(" not in shown
    if INSIDE.search(" ".join(command.words)) and not said:
        what = f"`{shown}`: starts a container through another program. Pass that docker run command itself."
        return [Finding("open", command.where, what)]
    return [Finding("left out", command.where, f"`{shown}`: {NO_DOCKER}")]
