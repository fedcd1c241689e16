"""Warnings: what works, but has a risk.

Pure; `gpurack plan` prints them, and `--strict` makes them errors.
"""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from gpurack.engines import ENGINES, weights_of
from gpurack.engines.args import with_dashes
from gpurack.engines.known_flags import unknown_flag_warnings
from gpurack.engines.open_webui import UNCLAIMED
from gpurack.engines.urls import others_reach
from gpurack.inventory.checks.gpus import gpu_warnings
from gpurack.plan.models.jobs import enabled_jobs
from gpurack.spec.host import Host
from gpurack.spec.image import Build, BuildImage
from gpurack.spec.image_ref import split
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem, nearest, suggestion
from gpurack.spec.secret_names import holds_secret
from gpurack.spec.weights import HfWeights, ModelScopeWeights

LOG_DRIVERS = (
    "local", "json-file", "journald", "syslog", "none", "fluentd", "gelf", "splunk", "awslogs", "gcplogs", "etwlogs",
)  # fmt: skip
"""Docker's own log drivers (docs.docker.com, "Configure logging drivers")."""
SSH_PORT = 22
FLOATING = ("latest", "main", "main-stable", "server", "server-cuda", "full", "light")


def warnings(fleet: Mapping[str, Host]) -> list[Problem]:
    """All warnings of a fleet, in order of hosts."""
    found = []
    for name, host in fleet.items():
        made = {job.result for job in enabled_jobs(host)}
        for key, entry in host.everything.items():
            if entry.enabled:
                found += [each.at(name, f"{host.kind_of(key)}.{key}") for each in entry_warnings(entry, made)]
        found += [
            Problem.of("nothing-to-connect-to", name, f"{host.kind_of(key)}.{key}")
            for key, entry in host.entries.items()
            if entry.enabled and entry.connects_to and not host.connections(key)
        ]
        hub = host.mirrors.get("huggingface")
        if host.hf_token and hub and hub.url.startswith("http://"):
            found.append(Problem.of("token-over-http", name, "mirrors.huggingface"))
        found += [each.at(name) for each in (*gpu_warnings(host), *daemon_warnings(host.docker.daemon))]
    return found + same_endpoints(fleet)


def daemon_warnings(daemon: Mapping[str, Any]) -> list[Problem]:
    """Warnings of keys for daemon.json that dockerd does not know, and of its log driver."""
    return [
        *(Problem.of("daemon-key-with-underscore", path=f"docker.daemon.{key}", key=key, right=key.replace("_", "-"))
          for key in daemon if "_" in key),
        *log_driver_warnings("docker.daemon.log-driver", daemon.get("log-driver")),
    ]  # fmt: skip


def log_driver_warnings(path: str, name: Any) -> list[Problem]:
    """The warning of a misspelt log driver. Another name that Docker does not have is a plugin's alias (`loki`)."""
    if not isinstance(name, str) or name in LOG_DRIVERS or not nearest(name.lower(), LOG_DRIVERS):
        return []
    return [Problem.of("unknown-log-driver", path=path, name=name, hint=suggestion(name, LOG_DRIVERS))]


def same_endpoints(fleet: Mapping[str, Host]) -> list[Problem]:
    """A warning for each two hosts with one address and port: two names, perhaps, for one server."""
    first: dict[tuple[str, int], str] = {}
    found: dict[tuple[str, str], Problem] = {}
    for name, host in fleet.items():
        address = host.address or name
        for key, entry in host.entries.items():
            other = first.setdefault((address, entry.port), name) if entry.enabled else name
            if other != name:
                told = {"other": other, "endpoint": f"{address}:{entry.port}"}
                found.setdefault((name, other), Problem.of("same-endpoint", name, host.path_of(key), **told))
    return list(found.values())


def entry_warnings(entry: Model | Job, made: Container[str | None]) -> list[Problem]:
    """The warnings of one model, service or job, without host and path. made: the paths of jobs' results."""
    found = access_warnings(entry) if isinstance(entry, Model) else []
    if isinstance(entry, Model) and entry.port == SSH_PORT:
        found.append(Problem.of("port-of-ssh", path="port"))
    logging = entry.compose.get("logging")
    found += log_driver_warnings("compose.logging", logging.get("driver") if isinstance(logging, Mapping) else None)
    if legacy := ENGINES[entry.engine].legacy:
        found.append(Problem.of("legacy-engine", engine=entry.engine, why=legacy))
    every = weights_of(entry)
    for one in every:
        which = f"`weights` {one}" if len(every) > 1 else "`weights`"
        if isinstance(one, str) and one not in made:
            found.append(Problem.of("weights-without-source", which=which))
        if isinstance(one, HfWeights | ModelScopeWeights) and one.revision is None:
            found.append(Problem.of("weights-follow-branch", which=which))
    if isinstance(entry.image, str) and floating(entry.image):
        found.append(Problem.of("floating-image", image=entry.image))
    if entry.vram is not None and entry.gpus and not ENGINES[entry.engine].enforces_vram:
        found.append(Problem.of("vram-not-enforced", engine=entry.engine, vram=entry.vram))
    found += [
        Problem.of("secret-in-plain-text", where=where, shown=shown, hint=hint)
        for where, name, value, shown, hint in texts_of(entry)
        if value and not value.startswith("/") and holds_secret(name, value)  # a path only names the file that holds it
    ]
    if isinstance(entry, Model):
        found += removed_flags(entry) + unknown_flag_warnings(entry)
        if settings := ENGINES[entry.engine].prompt_logs(entry):
            found.append(Problem.of("prompts-in-log", settings=", ".join(settings)))
        if ENGINES[entry.engine].unclaimed(entry, "") and others_reach(entry):
            found.append(Problem.of("first-account-open", what=UNCLAIMED))
        if (setting := ENGINES[entry.engine].own_database(entry)) and others_reach(entry):
            found.append(Problem.of("own-database", setting=setting, what=UNCLAIMED))
    if isinstance(entry.image, BuildImage) and (problem := unverified_source(entry.image.build)):
        found.append(problem)
    return found


def unverified_source(build: Build) -> Problem | None:
    """The warning of a repository over http:// or git:// without a full commit, which would verify it."""
    if not build.git.startswith(("http://", "git://")) or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", build.revision):
        return None
    return Problem.of("source-not-verified", git=build.git)


def access_warnings(model: Model) -> list[Problem]:
    """Warnings of a model that others reach without a key."""
    engine = ENGINES[model.engine]
    if not others_reach(model):
        return []
    if model.api_key is None and not model.keys:
        hint = "Bind it to loopback behind a gateway (litellm)." if engine.keyless else "Set `api_key`."
        return [] if "api_key" in engine.unused else [Problem.of("no-key", hint=hint)]
    if not engine.unguarded:
        return []
    return [Problem.of("key-guards-part", routes=", ".join(engine.unguarded))]


def removed_flags(model: Model) -> list[Problem]:
    """Warnings of flags that later versions removed, where the model's own version may still have them."""
    engine = ENGINES[model.engine]
    if engine.is_without_removed(model.version):
        return []
    since, version = ".".join(map(str, engine.removed_since)), model.version or "The image"
    parts = {"engine": model.engine, "since": since}
    return [
        Problem.of(
            "flag-perhaps-removed",
            flag=flag,
            normal=with_dashes(flag),
            hint=f"{engine.instead_of(flag)} {version} may have it.",
            **parts,
        )
        for flag in engine.removed(model)
    ]


def texts_of(entry: Model | Job) -> Iterator[tuple[str, str, str, str, str]]:
    """(where, name, value, where it is visible, hint) of each text that an entry gives its container."""
    seen, listed = "docker inspect", "docker inspect and every list of processes"
    for name, value in entry.env.items():
        yield f"env.{name}", name, value, seen, secret_hint(name, entry)
    for name, value in variables(entry.compose.get("environment")):
        yield f"compose.environment.{name}", name, value, seen, secret_hint(name, entry)
    if isinstance(entry, Model):
        for name, given in entry.args.items():
            for one in given if isinstance(given, list) else [given]:
                if isinstance(one, str):
                    yield f"args.{name}", name, one, listed, secret_hint(name, entry)
    else:
        for word, following in zip(entry.command, [*entry.command[1:], ""], strict=True):
            name, assigned, value = word.partition("=")
            if name.startswith("-"):
                yield f"command {name}", name, value if assigned else following, listed, secret_hint(name, entry)
    if isinstance(entry.image, BuildImage):
        for name, value in entry.image.build.args.items():
            hint = "Build the image elsewhere (docker build --secret), and name it or its tar."
            yield f"image.build.args.{name}", name, value, "the image", hint


def variables(environment: Any) -> Iterator[tuple[str, str]]:
    """Compose's `environment`, which is a map, or a list of NAME=value."""
    if isinstance(environment, Mapping):
        yield from ((name, str(value)) for name, value in environment.items() if value is not None)
    elif isinstance(environment, list):
        yield from (str(item).partition("=")[::2] for item in environment)


def secret_hint(name: str, entry: Model | Job) -> str:
    """Where the secret in a variable or flag belongs."""
    if name.lstrip("-").upper().replace("-", "_").startswith(("HF_", "HUGGING")):
        return "Use hf_token of the host, which fetches weights with it."
    file = 'into a file on the host: compose: {"env_file": ["/…"]}.'
    return f"Put clients' keys into api_key, others {file}" if isinstance(entry, Model) else f"Put it {file}"


def floating(image: str) -> bool:
    """Does a reference float, so that it can name another image later? No tag means latest.

    >>> floating("vllm/vllm-openai"), floating("a/b:1.2"), floating("a/b@sha256:0")
    (True, False, False)
    """
    _, tag, digest = split(image)
    return digest is None and (not tag or tag in FLOATING)
