"""A container on its way into the inventory, as the modules beside this one pass it on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack.engines.base import Engine
from gpurack.engines.custom import Custom
from gpurack.engines.dialect import Dialect
from gpurack.importing import secret
from gpurack.importing.built import Built
from gpurack.importing.container import ContainerRun, Finding, Kind, Mount
from gpurack.importing.flags import Flags

WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)")


@dataclass
class Known:
    """What is known beside the container itself.

    variables: as given by the user. files: path on the host → content. engines: local image → the engine in it, when
    the text shows it (a commit, an earlier run). images: image with its tag → what it was built from. pulls: container
    → models that somebody pulled in its ollama. names: how others call it (Compose's service) → key of the entry.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    committed: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Built] = field(default_factory=dict)
    pulls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """kind: `models`, `services` or `jobs`. host: fields of the host that belong to it (hf_token)."""

    where: str
    kind: str
    key: str
    fields: dict[str, Any]
    host: dict[str, Any] = field(default_factory=dict)


class Translation:
    """One container on its way into the inventory. Every step takes away what it has said.

    fields: of its entry; host: those of the host that belong to it. environment, compose, flags: what is not said yet.
    used: mounts by which something of it came; scripts: those with what it is started by. named: has it a served name?
    Known only after the steps that find them: engine, flags, model (what it was told to load), gpus, key (its
    name in the inventory), open (is it reached from outside its host?), listens (the port inside of a program that is
    not its engine's), built (what its image was built from).
    """

    engine: Engine
    flags: Flags
    model: str | None
    gpus: Any
    key: str
    open: bool
    listens: int | None
    built: Built | None

    def __init__(self, run: ContainerRun, known: Known) -> None:
        self.run, self.known = run, known
        self.findings: list[Finding] = []
        self.where = run.where + (f" ({run.name})" if run.name and run.name not in run.where else "")
        self.fields: dict[str, Any] = {}
        self.host: dict[str, Any] = {}
        self.environment = dict(run.environment)
        self.compose = dict(run.compose)
        self.environment_without_value = list(self.compose.pop("environment", []))
        self.used: set[Mount] = set()
        self.scripts: set[Mount] = set()
        self.named = False

    @property
    def dialect(self) -> Dialect:
        """How its engine is started by hand."""
        return self.engine.dialect

    @property
    def unknown(self) -> bool:
        """Is it an image that holds no engine we know?"""
        return isinstance(self.engine, Custom)

    def say(self, kind: Kind, what: str) -> None:
        """A finding about this container."""
        self.findings.append(Finding(kind, self.where, what))

    def on_host(self, path: str) -> tuple[str, Mount | None] | None:
        """The host's path of a path in the container, and the mount it came by."""
        for mount in sorted(self.run.mounts, key=lambda one: -len(one.target)):
            inside = mount.inside(path)
            if inside is None or not mount.source:
                continue
            if mount.kind == "volume":
                at = f"/var/lib/docker/volumes/{mount.source}/_data{inside[len(mount.source) :]}"
                self.say("open", f"{path} lies in the volume {mount.source}; written as {at}, where Docker keeps it "
                         "unless data-root says otherwise.")  # fmt: skip
                return at, mount
            return self.absolute(inside), mount
        return None

    def absolute(self, path: str) -> str:
        """A path of the host without `.`, `~` and Windows' drives, as far as that can be known."""
        windows = WINDOWS.match(path)
        if windows:
            linux = f"/mnt/{windows[1].lower()}/{windows[2]}".replace("\\", "/")
            what = (
                f"{path} is a path of Windows; written as {linux} (as WSL shows it): write where it lies on the server."
            )
            if Finding("open", self.where, what) not in self.findings:
                self.say("open", what)
            return linux
        base = {".": "PWD", "~": "HOME"}.get(path[:1])
        if base is None:
            return path
        if base in self.known.variables:
            rest = re.sub(r"^(\./|\.$|~/?)", "", path)
            parts = self.known.variables[base].rstrip("/").split("/")
            while rest.startswith("../"):
                parts, rest = parts[:-1], rest[3:]
            return "/".join([*parts, rest]).rstrip("/")
        on = "the folder it was started in" if base == "PWD" else "the user who started it"
        what = f"{path} depends on {on}; give it with --set {base}=/…."
        if Finding("open", self.where, what) not in self.findings:
            self.say("open", what)
        return path

    def say_key(self, value: str | None) -> None:
        """A key is where the admin keeps it, never here."""
        given = secret.reference(value or "")
        name = given or secret.variable_for(self.key)
        self.fields["api_key"] = {"env": name}
        if not given:
            self.say("open", f"its key stood in plain text and is not repeated here. export {name}=… "
                     "before gpurack plan, with a new key: the old one could be read.")  # fmt: skip

    def say_token(self, found_in: str, value: str) -> None:
        name = secret.reference(value) or "HF_TOKEN"
        self.host["hf_token"] = {"env": name}
        if not secret.reference(value):
            self.say("open", f"a Hugging Face token stood in plain text in {found_in}; it is not repeated here. It is "
                     f"the host's hf_token now: export {name}=….")  # fmt: skip


def counted(number: int, noun: str) -> str:
    """`one card`, `2 cards`."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Sequence[Any]) -> str:
    """`0, 1`."""
    return ", ".join(map(str, items))
