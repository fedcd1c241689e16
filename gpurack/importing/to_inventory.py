"""ContainerRun → an entry of `models`, `services` or `jobs` that means the same, and what it does not say."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.base import CPU, normal
from gpurack.importing import built, jobs, recognise, secret, words
from gpurack.importing import flags as flags_of
from gpurack.importing.container import ContainerRun, Finding, Kind, Mount
from gpurack.importing.recognise import DIALECTS, Dialect
from gpurack.spec.fleet import CONTAINER_NAME
from gpurack.spec.secret_names import holds_secret, is_secret

RENAMED = {
    "vllm": {
        "guided-decoding-backend": "structured-outputs-config.backend",
        "override-pooler-config": "pooler-config",
        "max-seq-len-to-capture": "max-cudagraph-capture-size",
    }
}
"""Flags that only have another name today."""
TASKS = {
    "generate": {}, "auto": {},
    "embedding": {"runner": "pooling", "convert": "embed"}, "embed": {"runner": "pooling", "convert": "embed"},
    "classify": {"runner": "pooling", "convert": "classify"}, "score": {"runner": "pooling", "convert": "classify"},
}  # fmt: skip
"""vLLM's --task → what says the same today."""
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
    engines: Mapping[str, str] = field(default_factory=dict)
    committed: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, built.Built] = field(default_factory=dict)
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


def entry_of(run: ContainerRun, known: Known) -> tuple[Entry | None, list[Finding]]:
    """The entry of a container; None for what is no service."""
    translation = _Translation(run, known)
    entry = translation.entry()
    return entry, translation.findings


class _Translation:
    """One container on its way into the inventory. Every step takes away what it has said."""

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

    def say(self, kind: Kind, what: str) -> None:
        self.findings.append(Finding(kind, self.where, what))

    def entry(self) -> Entry | None:
        run = self.run
        image = recognise.moved(run.image)
        # what runs on a host has its image there, under its name
        self.built = self.known.images.get(built.full(image)) or (None if run.running else built.by_name(image, ""))
        like = (self.built.like if self.built else "") or image
        if recognise.is_job(like, run.command):
            return self.job(image)
        self.engine = self.choose_engine(like)
        if self.engine == "custom" and run.running and run.gpus is None:
            self.findings = []
            self.say("left out", f"{run.image} is no engine that gpurack knows, and has no card.")
            return None
        if self.engine == "custom" and not run.ports and not run.host_network and (run.interactive or not run.detached):
            self.findings = []
            self.say("left out", f"no service: {run.image} publishes no port and runs in the foreground.")
            return None
        self.dialect: Dialect = DIALECTS[self.engine]
        arguments = self.arguments()
        self.listens: int | None = None
        in_front = run.interactive and not run.detached
        if arguments is None and (run.running or in_front) and not run.ports and not run.host_network:
            self.findings = []
            what = (
                f"no service: it runs `{secret.masked([*(run.entrypoint or ()), *run.command], 60)}` and has no port."
            )
            self.say("left out", what)
            return None
        if arguments is None:
            if self.engine != "custom":
                # another program in the image of an engine we know: it still answers where that engine does
                self.listens = ENGINES[self.engine].port
                self.compose["x-ready"] = ENGINES[self.engine].ready_path
            self.engine, self.dialect, arguments = "custom", DIALECTS["custom"], flags_of.Flags()
        self.flags = arguments
        self.fields["engine"] = self.engine
        self.say_image(image)
        self.environment_to_flags()
        self.say_weights()
        self.say_cards()
        self.say_parallelism()
        self.key = self.choose_key()
        self.say_address()
        self.say_rest_of_own_flags()
        self.say_args()
        self.say_environment()
        self.say_connections()
        self.say_pulls()
        self.say_mounts()
        self.say_compose()
        kind = "services" if ENGINES[self.engine].service else "models"
        return Entry(run.where, kind, self.key, ordered(self.fields), self.host)

    def job(self, image: str) -> Entry:
        """Something that is done once and ends."""
        self.engine, self.dialect = "llama.cpp", DIALECTS["llama.cpp"]
        fields, words = jobs.fields_of(self.run, image, self.absolute)
        self.fields = {"engine": self.engine}
        self.say_image(image)
        if self.built:
            fields["image"] = self.fields["image"]
        self.fields = {"engine": self.engine, **fields, "command": secret.hidden_words(fields["command"])}
        if self.fields["command"] != fields["command"]:
            self.say("open", f"a secret stood in plain text in its command; it is {secret.HIDDEN} here. hf_token of "
                     "the host is for weights; give others by a file.")  # fmt: skip
        self.say_cards()
        if self.gpus:
            self.fields["gpus"] = self.gpus
            self.say("changed", "it takes no card from a model: choose one that none has.")
        self.say_environment()
        if words:
            self.fields["compose"] = secret.hidden(words)
        self.key = jobs.name_of(self.run)
        if self.run.name is None:
            self.say("open", f'the container has no name; "{self.key}" is chosen.')
        if jobs.makes_a_file(self.run.command) and "result" not in fields:
            self.say("open", "the file that it makes is not known; write result, so that its end is checked.")
        self.say("changed", "it is done once, and again only when its entry changes; what it prints is kept.")
        return Entry(self.run.where, "jobs", self.key, ordered(self.fields), self.host)

    # --- engine and image ---------------------------------------------------------------------------------------------

    def choose_engine(self, image: str) -> str:
        found = recognise.engine_of(image)
        if found:
            return found
        name, _ = recognise.split(image)
        engine = self.known.engines.get(name)
        if name in self.known.committed:
            self.say("open", f"{image} was made by docker commit from {self.known.committed[name]}: it holds no model "
                     "(that was mounted), and exists on one host only; write version instead of image.")  # fmt: skip
        if engine:
            return engine
        guess = flags_of.parse(self.run.command, {}).given
        if {"model", "served-model-name", "tensor-parallel-size"} & set(guess) and ".gguf" not in str(
            guess.get("model")
        ):
            self.say("open", f"{image} is not known; by its arguments it is taken for vLLM.")
            return "vllm"
        self.say("open", f"{image} is not known: engine custom, asked at / whether it is ready; say another path in "
                 'compose: {"x-ready": "/health"}.')  # fmt: skip
        return "custom"

    def arguments(self) -> flags_of.Flags | None:
        """The engine's flags; None when the command is not the engine's own, so that it can only be kept as it is."""
        command = [*(self.run.entrypoint or ()), *self.run.command]
        if self.engine == "custom":
            return None
        script = self.script(command)
        if script is not None:
            command = script
        for program in self.dialect.programs:
            if tuple(command[: len(program)]) == program:
                command = command[len(program) :]
                break
        found = flags_of.parse(command, self.dialect.short, self.dialect.one_dash)
        if self.dialect.positional and command[:1] == found.positional[:1] and "/" in "".join(command[:1]):
            found.given.setdefault("model", [found.positional.pop(0)])
        if found.positional and command[:1] == found.positional[:1]:
            self.say("open", f"its command `{secret.masked(command, 60)}` is not {self.engine}'s own, so it is kept "
                     "as it is, with engine custom.")  # fmt: skip
            return None
        if found.positional:
            self.say("open", f"these words could not be expressed: {' '.join(found.positional)}.")
        if found.strange:
            self.say("open", f"these flags could not be expressed: {' '.join(found.strange)}.")
        return found

    def script(self, command: Sequence[str]) -> list[str] | None:
        """The engine's command in a script that the container runs, when the script was given."""
        if len(command) != 2 or command[0].rsplit("/", 1)[-1] not in ("sh", "bash"):
            return None
        path = self.on_host(command[1])
        text = self.known.files.get(path[0]) if path else None
        if path is None or text is None:
            where = path[0] if path else command[1]
            self.say("open", f"it runs a script; give it with --file {where}=SCRIPT to have its flags read.")
            return None
        read = words.read(text, self.known.variables)
        self.findings += [Finding(found.kind, f"{self.where}, {command[1]}", found.what) for found in read.findings]
        for one in reversed(read.commands):
            rest = one.words[1:] if one.words[:1] == ("exec",) else one.words
            if any(rest[: len(program)] == program for program in self.dialect.programs):
                self.scripts |= {path[1]} if path[1] else set()
                self.say("changed", f"the flags of {command[1]} are written out; the script itself is not used.")
                return self.without_commands(list(rest))
        self.say("open", f"{command[1]} starts nothing that is {self.engine}'s.")
        return None

    def without_commands(self, command: list[str]) -> list[str]:
        """Flags whose value a command computes at the start are left to the engine."""
        kept: list[str] = []
        for word in command:
            if word.startswith(("$(", "`")) and kept and flags_of.is_flag(kept[-1]):
                self.say("open", f"{kept.pop()} was computed by {word} at the start; it is left to {self.engine}.")
            else:
                kept.append(word)
        return kept

    def say_image(self, image: str) -> None:
        engine = ENGINES[self.engine]
        if self.built:
            self.say_build(image, self.built)
            return
        if image != self.run.image:
            self.say("changed", f"{self.run.image} has moved: {image}.")
        version = recognise.version_of(self.engine, image, self.run.gpus is not None)
        if version:
            self.fields["version"] = version
            return
        if engine.only_version and image == engine.image(engine.only_version, CPU):
            self.say("open", f"{self.engine} gets no new versions; open-webui does the same and is kept up.")
            return
        self.fields["image"] = image
        name, _ = recognise.split(image)
        if name in self.known.committed:
            return
        if name.startswith("local/") or ("/" not in name and self.engine != "custom"):
            known = built.by_name(image, "")
            build = {"build": known.build if known else {"git": "…", "revision": "…"}}
            self.say("open", f"{image} was built on the host and exists only there; write image: "
                     f"{json.dumps(build, ensure_ascii=False)}.")  # fmt: skip
        elif recognise.floats(image):
            way = "name a fixed tag"
            if self.engine != "custom":
                way += ', or write version: "…" instead of image, and gpurack chooses the image for the cards'
            self.say("open", f"{image} floats: tomorrow it can be another image; {way}.")

    def say_build(self, image: str, found: built.Built) -> None:
        """An image that was built: gpurack does that on the host."""
        self.fields["image"] = {"build": dict(found.build)}
        for what in found.changed:
            self.say("changed", what)
        for what in found.open:
            self.say("open", f"{image}: {what}.")
        git, revision = found.build["git"], found.build["revision"]
        if revision == built.UNSAID:
            how = "" if found.where else ", and the args it was built with"
            self.say("open", f"{image} was built by hand; gpurack builds it on the host from {git}: write the "
                     f"revision, a commit or a tag{how}.")  # fmt: skip
        else:
            self.say("changed", f"{image} is built on the host from {git}, revision {revision}.")

    # --- what the flags say -------------------------------------------------------------------------------------------

    def environment_to_flags(self) -> None:
        """Variables that mean the same as a flag, and those that gpurack sets itself."""
        for name in list(self.environment):
            meaning = self.dialect.variables.get(name)
            if meaning is None or meaning == "connects_to":
                continue
            value = self.environment.pop(name)
            if meaning == "context":
                self.fields["context"] = int(value)
            elif " " in meaning:
                self.say("changed", f"{name} is left out: {meaning}.")
            else:
                key = normal(meaning)
                self.flags.given.setdefault(key, [flags_of.typed(value)])
                self.flags.spelled.setdefault(key, meaning)

    def say_weights(self) -> None:
        engine = ENGINES[self.engine]
        named = [flag for flag, place in engine.own_args.items() if place == "weights" and flag != "revision"]
        given = next((flag for flag in named if flag in self.flags.given), None)
        self.model = self.flags.take(given) if given else None
        revision = self.flags.take("revision") if given else None
        for flag in named:
            if flag in self.flags.given and not (flag == "hf-file" and given in ("hf", "hf-repo")):
                self.say("open", f"--{flag} {self.flags.take(flag)} could not be expressed beside {self.model}.")
        config = self.flags.take("config-file") if self.engine == "llama-cpp-python" else None
        if config is not None:
            self.say_config(config)
            return
        if self.model is None:
            return
        hub = given in ("hf", "hf-repo")
        file = files_named[0] if hub and (files_named := self.flags.given.pop("hf-file", [])) else None
        if given == "model-url":
            url = secret.hidden_words([self.model])[0]
            self.fields["weights"] = {"url": url, "sha256": "UNKNOWN"}
            if url != self.model:
                self.say("open", f"the URL of its weights holds a password, here {secret.HIDDEN}; give one without, "
                         '{"hf": …} with the host\'s hf_token, or {"copy": …}.')  # fmt: skip
            self.say("open", "the sha256 of its weights is not known; write it (sha256sum FILE).")
        else:
            self.fields["weights"] = self.weights(self.model, revision, hub)
            if hub and isinstance(self.fields["weights"], dict):
                self.fields["weights"]["file"] = file or "UNKNOWN.gguf"
                if not file:
                    self.say("open", f"-hf chooses a file of {self.model} by itself (Q4_K_M, unless told otherwise); "
                             "write which one it is.")  # fmt: skip

    def weights(self, model: str, revision: str | None, hub: bool = False) -> Any:
        """`weights` for what the engine was told: a path inside, or a repository."""
        if not hub and (model.startswith("/") or WINDOWS.match(model)):
            found = self.on_host(model)
            if found is None:
                self.say("open", f"{model} lies in no mount, so in the image itself; put the weights on the host and "
                         "write their path.")  # fmt: skip
                return model
            path, mount = found
            if mount:
                self.used.add(mount)
            if path.endswith((".bin", ".ggml")) and ENGINES[self.engine].weights_suffixes == (".gguf",):
                self.say("open", f"{path} is a GGML file, which {self.engine} has not read since August 2023; get the "
                         "model as GGUF.")  # fmt: skip
            return path
        if "$" in model:
            return model
        repository, _, quant = model.partition(":")
        if quant:
            self.say("open", f"the choice of {quant} in {model} could not be expressed.")
        if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", repository):
            self.say("open", f"{model} is neither a path in a mount nor a repository with its owner.")
            return model
        modelscope = self.environment.pop("VLLM_USE_MODELSCOPE", "") or self.environment.pop(
            "SGLANG_USE_MODELSCOPE", ""
        )
        place = "modelscope" if modelscope.lower() in ("1", "true") else "hf"
        if revision is None:
            self.say("open", f"the weights of {repository} follow a branch; add their revision (a commit).")
        return {place: repository, **({"revision": revision} if revision else {})}

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

    def say_config(self, inside: str) -> None:
        """CONFIG_FILE of llama-cpp-python: its content, with the models' paths on the host."""
        found = self.on_host(inside)
        path = found[0] if found else inside
        text = self.known.files.get(path)
        if found and found[1]:
            self.used.add(found[1])
        if text is None:
            self.say("open", f"its settings are in {path}; give the file with --file {path}=COPY to have them here.")
            self.fields["config"] = {"models": []}
            return
        try:
            config = json.loads(text)
        except ValueError as error:
            self.say("open", f"{path} is no JSON ({error}).")
            return
        for key in ("host", "port"):
            if config.pop(key, None) is not None:
                self.say("changed", f"{key} of {path} is left out: the inventory's port and bind say it.")
        if config.pop("api_key", None) is not None:
            self.say_key(None)
        for model in config.get("models", []):
            if isinstance(model.get("model"), str):
                model["model"] = self.weights(model["model"], None)
        self.fields["config"] = config
        self.say("changed", f"the settings of {path} are written out; gpurack makes the file.")

    def say_cards(self) -> None:
        gpus = self.run.gpus
        if gpus is None:
            computes = ENGINES[self.engine].unused.get("gpus") is None
            self.gpus: Any = [] if computes else None
        elif isinstance(gpus, int):
            self.gpus = list(range(gpus))
            self.say("open", f"a count of {gpus} takes whatever {counted(gpus, 'card')} Docker finds first: written "
                     f"as gpus {self.gpus}; choose the cards.")  # fmt: skip
        elif gpus == "all":
            self.gpus = "all"
        else:
            self.gpus = [int(item) if item.isdigit() else item for item in gpus]
            strange = [item for item in self.gpus if isinstance(item, str) and not item.startswith("GPU-")]
            if strange:
                self.say("open", f"GPU {', '.join(strange)} could not be expressed; write an index or a UUID.")
                self.gpus = [item for item in self.gpus if item not in strange]

    def say_parallelism(self) -> None:
        """As many cards as the flags need; tensor parallel itself follows from the cards."""
        if self.engine in PARALLEL_FLAGS and self.gpus:
            tensor, *others = PARALLEL_FLAGS[self.engine]
            sizes = [int(self.flags.given[flag][-1]) for flag in (tensor, *others) if flag in self.flags.given]
            needed = 1
            for size in sizes:
                needed *= size
            if self.gpus == "all":
                self.gpus = list(range(needed))
                self.say("open", f"it is shown every card and computes on {counted(needed, 'card')}: written as "
                         f"gpus {self.gpus}; choose the {'card' if needed == 1 else 'cards'}.")  # fmt: skip
            elif len(self.gpus) > needed:
                self.say("open", f"it was given GPU {listed(self.gpus)} and computes on {counted(needed, 'card')}: "
                         f"written as gpus {self.gpus[:needed]}; more need {tensor}.")  # fmt: skip
                self.gpus = self.gpus[:needed]
            if len(self.gpus) == needed:
                self.flags.given.pop(tensor, None)
            else:
                self.say(
                    "open", f"it needs {counted(needed, 'card')} ({tensor}) and was given GPU {listed(self.gpus)}."
                )
        elif self.engine == "tei" and self.gpus == "all":
            self.gpus = [0]
            self.say("open", "it is shown every card and computes on one: written as gpus [0]; choose the card.")
        elif self.gpus == "all":
            self.say("open", "it takes every card, so nothing else has room on this host; list cards to share.")
        if self.gpus is not None:
            self.fields["gpus"] = self.gpus
        fraction = self.flags.given.get("gpu-memory-utilization")
        if fraction and self.gpus and self.engine == "vllm":
            self.fields["vram"] = f"{float(fraction[-1]) * 100:g}%"
            del self.flags.given["gpu-memory-utilization"]

    def choose_key(self) -> str:
        """The container's name; without one, something that says what it is."""
        if self.run.name and re.fullmatch(CONTAINER_NAME, self.run.name):
            return self.run.name
        served = self.flags.given.get("served-model-name", self.flags.given.get("alias", [""]))[-1]
        path = str(served or self.model or recognise.split(self.run.image)[0]).rstrip("/").rsplit("/", 1)[-1]
        stem = re.sub(r"\.(gguf|bin|safetensors)$", "", path)
        key = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or self.engine
        key = key if re.fullmatch(CONTAINER_NAME, key) else f"{self.engine}-{key}"  # Docker wants two letters
        self.say("open", f'the container has no name; "{key}" is chosen.')
        return key

    def say_address(self) -> None:
        """port and bind."""
        engine = ENGINES[self.engine]
        said = [flag for flag, place in engine.own_args.items() if place == "port"]
        listens = next((int(value) for flag in said if (value := self.flags.take(flag))), None)
        for flag in [flag for flag, place in engine.own_args.items() if place == "bind"]:
            self.flags.given.pop(flag, None)
        tcp = [port for port in self.run.ports if port.protocol == "tcp"]
        inside = listens or self.listens or getattr(engine, "port", None) or (tcp[0].container if tcp else 8000)
        ours = next((port for port in tcp if port.container == inside), tcp[0] if tcp else None)
        if ours and ours.container != inside and self.engine != "custom":
            self.say("open", f"port {ours.host} leads to {ours.container} inside, where nothing answers: it listens on "
                     f"{inside}. gpurack publishes what it listens on.")  # fmt: skip
        for port in self.run.ports:
            if port is not ours:
                self.say("open", f"port {port.host or ''}:{port.container}/{port.protocol} could not be expressed; an "
                         "entry has one port.")  # fmt: skip
        if ours:
            port_number, bind = ours.host, {"": "any", "0.0.0.0": "any", "127.0.0.1": "loopback"}.get(ours.ip, ours.ip)
            if port_number is None:
                port_number = inside
                self.say("open", f"Docker chose its port at every start; {inside} is written.")
            inside = ours.container
        elif self.run.host_network:
            port_number, bind = inside, "any"
            self.say("changed", f"it shared the host's network; gpurack publishes port {inside} instead.")
        else:
            port_number, bind = inside, "loopback"
            self.say("open", f"it publishes no port, so nobody outside its host's containers reaches it; gpurack "
                     f"publishes {inside} on the host's loopback.")  # fmt: skip
        if self.engine == "custom" and inside != port_number:
            self.compose["expose"] = [str(inside)]
        self.fields["port"], self.fields["bind"] = port_number, bind
        self.open = bind not in ("loopback",)

    def say_rest_of_own_flags(self) -> None:
        """served_name, context, api_key: flags that gpurack writes itself."""
        engine = ENGINES[self.engine]
        for flag, place in engine.own_args.items():
            if flag not in self.flags.given:
                continue
            values = self.flags.given.pop(flag)
            if place == "served_name":
                if len(values) > 1:
                    self.say("open", f"its further names could not be expressed: {', '.join(map(str, values[1:]))}.")
                if str(values[0]) != self.key:
                    self.fields["served_name"] = str(values[0])
                self.named = True
            elif place == "context":
                self.say_context(int(values[-1]))
            elif place == "api_key" and flag.endswith("file"):
                self.say(
                    "open", f'its key is in {values[-1]}; say where it is on your machine: api_key: {{"file": …}}.'
                )
            elif place == "api_key":
                self.say_key(str(values[-1]))
            elif place == "hf_token":
                self.say_token(f"--{flag}", str(values[-1]))
            else:
                self.say("changed", f"--{flag} is left out: gpurack sets it from {place}.")
        if not engine.keyless and "api-key" in self.flags.given:  # a variable's alone; the engine has no such flag
            self.say_key(str(self.flags.given.pop("api-key")[-1]))
        # Without a name vLLM and SGLang answer by what they were told to load.
        if self.engine in PARALLEL_FLAGS and self.model and "served_name" not in self.fields and not self.named:
            self.fields["served_name"] = self.model
            self.say("changed", f'clients ask for "{self.model}", because no name was given; served_name keeps that.')
        if engine.keyless or "api_key" in engine.unused:
            if engine.keyless and self.open:
                self.fields["api_key"] = None
        elif self.open and "api_key" not in self.fields:
            self.say("open", f"everybody who reaches the host uses it without a key ({self.fields['bind']}); add "
                     'api_key: {"env": …}, and bind: "lan".')  # fmt: skip

    def say_context(self, tokens: int) -> None:
        """The longest prompt with its answer; llama.cpp's flag is the sum for all its slots."""
        given = self.flags.given
        slots = int(given["parallel"][-1]) if self.engine == "llama.cpp" and "parallel" in given else 1
        if slots > 1 and not {"kv-unified", "kvu"} & set(given):
            if tokens % slots:
                self.say("open", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each.")
            else:
                self.say(
                    "changed", f"{tokens} tokens of context for {slots} slots are {tokens // slots} each: context."
                )
            tokens //= slots
        if tokens > 0:
            self.fields["context"] = tokens

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

    def say_args(self) -> None:
        """The engine's remaining flags, with today's names where the version is of today, or not known."""
        engine = ENGINES[self.engine]
        args: dict[str, Any] = {}
        version = self.fields.get("version")
        old = version is not None and not engine.is_without_removed(str(version))  # which has its own flags
        for flag, values in self.flags.given.items():
            removed = None if old else engine.removed_args.get(flag)
            renamed = RENAMED.get(self.engine, {}).get(flag)
            if flag == "task" and removed and str(values[-1]) in TASKS:
                args |= TASKS[str(values[-1])]
                now = (
                    ", ".join(f"{name}: {value}" for name, value in TASKS[str(values[-1])].items())
                    or "nothing is needed"
                )
                self.say("changed", f"{self.engine} has no --task any more: {now}.")
            elif removed and renamed:
                args[renamed] = values[-1]
                self.say("changed", f"{self.engine} has no --{flag} any more: {renamed}.")
            elif removed:
                self.say("open", f"{self.engine} has no --{flag} any more: {removed} It is left out.")
            elif is_secret(flag):
                self.say(
                    "open", f"--{flag} is a secret and could not be expressed; it is left out and not repeated here."
                )
            else:
                name = self.flags.spelled.get(flag, flag) if self.engine == "llama-cpp-python" else flag
                args[name] = values[0] if len(values) == 1 else values
        if self.engine == "llama.cpp" and self.gpus and "n-gpu-layers" not in args:
            self.say("changed", "it said nothing of --n-gpu-layers; gpurack puts all layers on the cards.")
        if "config" in args and self.engine == "litellm":
            self.say(
                "open",
                f"its models are in {args.pop('config')}, which gpurack writes itself: name them in connects_to.",
            )
        if args:
            self.fields["args"] = args

    # --- environment, mounts, the rest --------------------------------------------------------------------------------

    def say_environment(self) -> None:
        env: dict[str, str] = {}
        for name, value in self.environment.items():
            if self.dialect.variables.get(name) == "connects_to":
                continue
            if name in secret.HF_TOKENS:
                self.say_token(name, value)
            elif holds_secret(name, value):
                self.say("open", f"{name} is a secret, which `env` would show to everybody in docker inspect; it is "
                         "left out and not repeated here. Put it into a file on the host: compose: "
                         '{"env_file": ["/…"]}.')  # fmt: skip
            elif name == "HF_ENDPOINT":
                self.host["mirrors"] = {"huggingface": value}
                self.say("changed", "HF_ENDPOINT is the host's mirror now.")
            else:
                env[name] = value
        for name in self.environment_without_value:
            if name in secret.HF_TOKENS:
                self.host["hf_token"] = {"env": name}
            elif self.dialect.variables.get(name) in ("api-key", "api_key"):
                self.fields["api_key"] = {"env": name}
            else:
                self.say("open", f"{name} came from the environment of whoever started it; give its value in env.")
        if env:
            self.fields["env"] = env

    def say_connections(self) -> None:
        if "connects_to" not in ENGINES[self.engine].fields:
            return
        names: list[str] = []
        for name, value in self.environment.items():
            if self.dialect.variables.get(name) != "connects_to":
                continue
            for url in filter(None, value.split(";")):
                host = re.sub(r"^https?://", "", url).split("/")[0].split(":")[0]
                if host in self.known.names:
                    names.append(self.known.names[host])
                else:
                    self.say("open", f"it connects to {host}, which is none of these containers; name the entry in "
                             "connects_to.")  # fmt: skip
        self.fields["connects_to"] = list(dict.fromkeys(names)) or "all"

    def say_pulls(self) -> None:
        if self.engine != "ollama":
            return
        pulls = list(dict.fromkeys(self.known.pulls.get(self.run.name or "", ())))
        if pulls:
            self.fields["pull"] = pulls
        else:
            self.say("open", 'which models it serves is not said; name them in pull: ["qwen2.5:7b"].')
        if not any(mount.target == "/root/.ollama" for mount in self.run.mounts):
            self.say(
                "changed", "it had no volume, so its models were gone with the container; gpurack keeps them in one."
            )

    def say_mounts(self) -> None:
        """What remains of the mounts once the weights are said; caches are gpurack's."""
        kept = []
        said = json.dumps([self.fields.get("args"), self.fields.get("env"), self.compose.get("command")])
        for mount in self.run.mounts:
            if self.engine == "custom":
                kept.append(mount)
            elif mount.target.rstrip("/") in self.dialect.caches:
                source = mount.source or "a volume without a name"
                self.say(
                    "changed",
                    f"{source} on {mount.target} is left out: {self.dialect.caches[mount.target.rstrip('/')]}.",
                )
            elif mount not in self.used | self.scripts or f"{mount.target.rstrip('/')}/" in said:
                kept.append(mount)
            if mount in self.used and self.fields.get("weights"):
                self.say("changed", f"its weights are mounted read-only below /weights, not at {mount.target}.")
        volumes = [self.volume(mount) for mount in kept]
        if volumes:
            self.compose["volumes"] = volumes

    def volume(self, mount: Mount) -> dict[str, Any]:
        said: dict[str, Any] = {"type": mount.kind, "target": mount.target}
        if mount.source:
            said["source"] = self.absolute(mount.source) if mount.kind == "bind" else mount.source
        if mount.kind == "volume":
            self.say("open", f"the volume {mount.source or 'without a name'} on {mount.target} starts empty: gpurack's "
                     "volumes are its own (gpurack_NAME); copy what is needed.")  # fmt: skip
        return {**said, **({"read_only": True} if mount.read_only else {})}

    def say_compose(self) -> None:
        """The rest in Compose's words, but for what gpurack does anyway."""
        if self.engine == "custom":
            if self.run.command:
                self.compose["command"] = list(self.run.command)
            if self.run.entrypoint:
                self.compose["entrypoint"] = list(self.run.entrypoint)
        if self.engine in PARALLEL_FLAGS:
            if self.compose.get("ipc") == "host":
                del self.compose["ipc"]
            elif "shm_size" in self.compose:
                self.compose["ipc"] = self.compose.get("ipc")
            elif "ipc" not in self.compose:
                self.say("changed", f"ipc: host is added: {self.engine} needs more shared memory than Docker gives.")
        if self.compose.get("restart") == "unless-stopped":
            del self.compose["restart"]
        elif "restart" not in self.compose:
            how = (
                "it ran in the foreground"
                if self.run.interactive or not self.run.detached
                else "it had no restart policy"
            )
            self.say(
                "changed", f"{how}; gpurack runs it as a service, again after a crash and a reboot (unless-stopped)."
            )
        for file in self.compose.get("env_file", []) if isinstance(self.compose.get("env_file"), list) else []:
            if not str(file).startswith("/"):
                self.say("open", f"env_file {file}: write its absolute path on the host.")
        if self.run.running:
            self.fields["replaces"] = self.run.name
        if self.compose:
            self.fields["compose"] = secret.hidden(self.compose)
            if self.fields["compose"] != self.compose:
                self.say("open", f"a secret stood in plain text in its compose words; it is {secret.HIDDEN} here. Give "
                         "it to the program by a file.")  # fmt: skip


PARALLEL_FLAGS = recognise.PARALLEL
ORDER = (
    "engine", "version", "image", "folder", "command", "result",
    "weights", "pull", "config", "connects_to", "gpus", "vram", "context", "port", "bind",
    "served_name", "api_key", "args", "env", "replaces", "compose",
)  # fmt: skip


def ordered(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in the order in which the documentation shows them."""
    return {name: fields[name] for name in ORDER if name in fields}


def counted(number: int, noun: str) -> str:
    """`one card`, `2 cards`."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Sequence[Any]) -> str:
    """`0, 1`."""
    return ", ".join(map(str, items))
