"""The state of one container's conversion, which the modules beside this one pass on."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import normpath
from typing import Any

from gpurack.engines.base import Engine
from gpurack.engines.custom import Custom
from gpurack.engines.dialect import Dialect
from gpurack.host_data import json_from_host
from gpurack.importing import secret
from gpurack.importing.built import Built
from gpurack.importing.container import ContainerRun, Finding, Kind, Mount, Pull
from gpurack.importing.flags import Flags

WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)")


@dataclass
class Known:
    """What is known besides the container itself.

    variables: set by the user. files: path on the host → content. engines: container → its engine. committed: image →
    container it was committed from. images: image with tag → what it
    was built from. pulled: what commands of the text pull; pulls: container → models pulled in it. names: of all
    containers, also Compose's.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    committed: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Built] = field(default_factory=dict)
    pulled: Sequence[Pull] = ()
    pulls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Collection[str] = ()


@dataclass
class Entry:
    """An entry. kind: `models`, `services` or `jobs`. host: fields of the host that it needs (hf_token).

    inside: its port in the container, in the text and in gpurack.
    """

    where: str
    kind: str
    key: str
    fields: dict[str, Any]
    host: dict[str, Any] = field(default_factory=dict)
    inside: tuple[int, int] = (0, 0)


class Translation:
    """The conversion of one container. Every step removes what it converted.

    fields: of the entry. host: fields of the host that it needs. environment, compose, flags: not converted yet.
    used: mounts with its weights or settings. scripts: mounts with its start script or its key. named: a served name
    was set. Set by the steps that find them: engine, flags, model (the value of its model flag), gpus, key (name of the
    entry), open (reachable from other machines), listens (container port of a program that is not the engine's), inside
    (its container port in the text, and now), built (what its image was built from).
    """

    engine: Engine
    flags: Flags
    model: str | None
    gpus: Any
    key: str
    open: bool
    listens: int | None
    inside: tuple[int, int]
    built: Built | None

    def __init__(self, run: ContainerRun, known: Known) -> None:
        self.run, self.known = run, known
        self.findings: list[Finding] = []
        self.where = run.where + (f" ({run.name})" if run.name and run.name not in run.where else "")
        self.fields: dict[str, Any] = {}
        self.host: dict[str, Any] = {}
        self.environment = dict(run.environment)
        self.compose = dict(run.compose)
        self.used: set[Mount] = set()
        self.scripts: set[Mount] = set()
        self.named = False

    @property
    def dialect(self) -> Dialect:
        """The command line syntax of its engine."""
        return self.engine.dialect

    @property
    def unknown(self) -> bool:
        """True if the image contains no known engine."""
        return isinstance(self.engine, Custom)

    def note(self, kind: Kind, what: str) -> None:
        """Add a finding about this container."""
        self.findings.append(Finding(kind, self.where, what))

    def without_entry(self, kind: Kind, what: str) -> None:
        """Say why the container gets no entry. What its settings lack does not matter then."""
        self.findings = []
        self.note(kind, what)

    def on_host(self, path: str) -> tuple[str, Mount | None] | None:
        """(path on the host of a path in the container, its mount); None if it is in no mount."""
        for mount in sorted(self.run.mounts, key=lambda one: -len(one.target)):
            inside = mount.inside(path)
            if inside is None or not mount.source:
                continue
            if mount.kind == "volume":
                at = f"/var/lib/docker/volumes/{mount.source}/_data{inside[len(mount.source) :]}"
                self.note("open", f"{path} is in the volume {mount.source}; set to {at}, its path unless Docker has "
                         "another data-root.")  # fmt: skip
                return at, mount
            return self.absolute(inside), mount
        return None

    def file(self, inside: str) -> tuple[str, str | None]:
        """(path on the host of a file in the container, its content if --file gives it). Its mount is then not needed.

        A path that is in no mount stays as it is.
        """
        path, mount = self.on_host(inside) or (inside, None)
        text = self.known.files.get(path)
        self.scripts |= {mount} if mount and text is not None else set()
        return path, text

    def without_file(self, value: str) -> None:
        """Leave out the mounts of the files that a value such as `$(cat /run/secrets/key)` reads."""
        for path in secret.READS.findall(value):
            self.scripts |= {found[1]} if (found := self.on_host(path)) and found[1] else set()

    def absolute(self, path: str) -> str:
        """A path of the host with `.`, `~` and Windows drives resolved, if that is possible."""
        windows = WINDOWS.match(path)
        if windows:
            linux = f"/mnt/{windows[1].lower()}/{windows[2]}".replace("\\", "/")
            self.note("open", f"{path} is a Windows path; set to {linux}, its path in WSL. Set the path on the server.")
            return linux
        if re.match("~[^/]", path):
            self.note("open", f"{path} is in another user's home. Write its absolute path on the server.")
            return path
        base = {".": "PWD", "~": "HOME"}.get(path[:1])
        if base is None:
            return path
        if base in self.known.variables:
            return normpath(f"{self.known.variables[base]}/{path.removeprefix('~')}")
        self.note("open", f"{path} depends on ${base}. Pass --set {base}=/….")
        return path

    def number(self, name: str, text: str, kind: type[int] | type[float] = int) -> Any:
        """The number in a value; None, with a finding, for a variable or another text."""
        try:
            return kind(text)
        except ValueError:
            self.note("open", f"{name} is `{secret.mask_words([text])[0]}`, not a number; it is left out.")
            return None

    def tokens(self, name: str, text: str) -> int | None:
        """A number of tokens as the engine reads it: `32k` for some."""
        found = re.fullmatch(r"(\d+(?:\.\d+(?=[a-z]))?)([a-zA-Z])", text)
        if found and found[2] in self.dialect.multipliers:
            return int(float(found[1]) * self.dialect.multipliers[found[2]])
        return self.number(name, text)  # type: ignore[no-any-return]

    def set_api_key(self, value: str, file: str | None = None) -> None:
        """Set `api_key` to an environment variable.

        value: the key, a reference to a variable, or `$(cat FILE)`. file: of the container, instead of a value.
        """
        given, file = secret.reference(value), file or secret.file_of(value)
        name = given or secret.variable_for(self.key)
        self.fields["api_key"] = {"env": name}
        if file:
            place, _ = self.file(file)
            self.without_file(f"$(cat {file})")
            self.note("open", f"its API key is in {place} of the host. Export {name}=… with it before gpurack plan, or "
                     'name a file on your machine: api_key: {"file": …}.')  # fmt: skip
        elif not given:
            self.note("open", f"its API key was in plain text and is left out. Create a new key and export {name}=… "
                     "before gpurack plan.")  # fmt: skip

    def set_keys(self, path: str) -> None:
        """Set `keys` to environment variables for the clients in a file of the container, name → key or digest."""
        place, text = self.file(path)
        try:
            clients = {name: {"env": secret.variable_for(name)} for name in json_from_host(text or "")}
        except (TypeError, ValueError):
            self.note("open", f"its clients' keys are in {place}. Pass --file {place}=COPY to import their names.")
            return
        self.fields["keys"] = clients
        self.note("open", f"the keys of {listed(clients)} are left out. Export a variable for each, as in `keys`.")

    def set_hf_token(self, found_in: str, value: str) -> None:
        name = secret.reference(value) or "HF_TOKEN"
        self.host["hf_token"] = {"env": name}
        if file := secret.file_of(value):
            self.note("open", f"its Hugging Face token is in {file}. Export {name}=… with it before gpurack plan.")
        elif not secret.reference(value):
            self.note("open", f"a Hugging Face token was in plain text in {found_in}; it is left out. The host's "
                     f"hf_token reads it from the environment: export {name}=….")  # fmt: skip


def counted(number: int, noun: str) -> str:
    """`one GPU`, `2 GPUs`."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Iterable[Any]) -> str:
    """`0, 1`."""
    return ", ".join(map(str, items))
