"""What works but may hurt one day. Pure; shown by `gpurack plan`, and errors with `--strict`."""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from gpurack.endpoints import others_reach
from gpurack.engines import ENGINES, weights_of
from gpurack.engines.args import normal
from gpurack.engines.known_flags import doubtful
from gpurack.engines.open_webui import UNCLAIMED
from gpurack.inventory.checks.gpus import gpu_warnings
from gpurack.plan import weights
from gpurack.spec.host import Host
from gpurack.spec.image import Build, BuildImage
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem
from gpurack.spec.secret_names import holds_secret
from gpurack.spec.weights import HfWeights, ModelScopeWeights

FLOATING = ("latest", "main", "main-stable", "server", "server-cuda", "full", "light")


NOTHING_BEHIND = (
    "there is nothing that it could connect to: no enabled model that it reaches; look at enabled, and at bind of "
    "models on other hosts."
)


def warnings(fleet: Mapping[str, Host]) -> list[Problem]:
    """All warnings of a fleet, in order of hosts."""
    found = []
    for name, host in fleet.items():
        made = {weights.result_path(host, key) for key, job in host.jobs.items() if job.enabled}
        for key, entry in host.everything.items():
            if entry.enabled:
                found += [Problem(name, f"{host.kind_of(key)}.{key}", what) for what in of_entry(entry, made)]
        found += [
            Problem(name, f"{host.kind_of(key)}.{key}", NOTHING_BEHIND)
            for key, entry in host.entries.items()
            if entry.enabled and entry.connects_to and not host.connections(key)
        ]
        hub = host.mirrors.get("huggingface")
        if host.hf_token and hub and hub.url.startswith("http://"):
            found.append(Problem(name, "mirrors.huggingface", "is http://, so hf_token goes there for all to read."))
        found += [Problem(name, path, what) for path, what in gpu_warnings(host)]
    return found


def of_entry(entry: Model | Job, made: Container[str | None]) -> list[str]:
    """The warnings of one model, service or job. made: what jobs make."""
    found = open_doors(entry) if isinstance(entry, Model) else []
    if legacy := ENGINES[entry.engine].legacy:
        found.append(f"{entry.engine} is legacy: {legacy}")
    every = weights_of(entry)
    for one in every:
        which = f"its weights {one}" if len(every) > 1 else "its weights"
        if isinstance(one, str) and one not in made:
            found.append(f"{which} have no source; a rebuild of the host cannot bring them back.")
        if isinstance(one, HfWeights | ModelScopeWeights) and one.revision is None:
            found.append(f"{which} follow a branch; give a revision to get the same ones again.")
    if isinstance(entry.image, str) and floating(entry.image):
        found.append(f"image {entry.image} floats: its tag can be another image tomorrow; name a version or a digest.")
    if entry.vram is not None and entry.gpus and not ENGINES[entry.engine].enforces_vram:
        found.append(f"{entry.engine} does not enforce vram; {entry.vram} is a promise.")
    found += [
        f"{where} is a secret in plain text, in the inventory and in {shown}"
        for where, name, value, shown in told(entry)
        if value and not value.startswith("/") and holds_secret(name, value)  # the path of a file that holds it is none
    ]
    if isinstance(entry, Model):
        found += removed_flags(entry) + doubtful(entry)
        if settings := ENGINES[entry.engine].prompt_logs(entry):
            found.append(f"{', '.join(settings)}: what people ask is written into its log, where the host keeps it.")
        if ENGINES[entry.engine].unclaimed(entry, "") and others_reach(entry):
            found.append(f"until its database has an account, {UNCLAIMED}")
        if (setting := ENGINES[entry.engine].own_database(entry)) and others_reach(entry):
            found.append(f"{setting}: gpurack does not inspect this database. While it has no account, {UNCLAIMED}")
    if isinstance(entry.image, BuildImage) and (problem := unproven_source(entry.image.build)):
        found.append(problem)
    return found


def unproven_source(build: Build) -> str | None:
    """A repository that comes by a protocol which proves nothing, and no commit that would."""
    if not build.git.startswith(("http://", "git://")) or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", build.revision):
        return None
    return (
        f"image.build.git {build.git} can be changed on its way by anyone on the network, and root builds it. Use "
        "https:// or ssh://, or give the full commit as revision."
    )


def open_doors(model: Model) -> list[str]:
    """Through which anybody uses a model that is not for the host alone."""
    engine = ENGINES[model.engine]
    if not others_reach(model):
        return []
    if model.api_key is None and not model.keys:
        return [] if "api_key" in engine.unused else ["no key, open to everybody who reaches the host (api_key: null)."]
    if not engine.unguarded:
        return []
    return [
        f"its key guards /v1 alone: {', '.join(engine.unguarded)} and more stay open to everybody who reaches the "
        "host; bind it to loopback behind a gateway (litellm)."
    ]


def removed_flags(model: Model) -> list[str]:
    """Flags of earlier versions, where the model's own may have them."""
    engine = ENGINES[model.engine]
    if engine.is_without_removed(model.version):
        return []
    since, version = ".".join(map(str, engine.removed_since)), model.version or "The image"
    return [
        f"args.{flag}: {model.engine} {since} has no --{normal(flag)} any more: {engine.removed_args[normal(flag)]} "
        f"{version} may have it."
        for flag in engine.removed(model)
    ]


def told(entry: Model | Job) -> Iterator[tuple[str, str, str, str]]:
    """(where, name, value, who sees it and what to do instead) of each text that an entry hands to its container."""
    seen, listed = "docker inspect", "docker inspect and every list of processes"
    for name, value in entry.env.items():
        yield f"env.{name}", name, value, f"{seen}; {remedy(name, entry)}"
    for name, value in variables(entry.compose.get("environment")):
        yield f"compose.environment.{name}", name, value, f"{seen}; {remedy(name, entry)}"
    if isinstance(entry, Model):
        for name, given in entry.args.items():
            for one in given if isinstance(given, list) else [given]:
                if isinstance(one, str):
                    yield f"args.{name}", name, one, f"{listed}; {remedy(name, entry)}"
    else:
        for word, following in zip(entry.command, [*entry.command[1:], ""], strict=True):
            name, assigned, value = word.partition("=")
            if name.startswith("-"):
                yield f"command {name}", name, value if assigned else following, f"{listed}; {remedy(name, entry)}"
    if isinstance(entry.image, BuildImage):
        for name, value in entry.image.build.args.items():
            instead = "build it elsewhere (docker build --secret), and name that image or its tar."
            yield f"image.build.args.{name}", name, value, f"the image; {instead}"


def variables(environment: Any) -> Iterator[tuple[str, str]]:
    """Compose's `environment`, which is a map, or a list of NAME=value."""
    if isinstance(environment, Mapping):
        yield from ((name, str(value)) for name, value in environment.items() if value is not None)
    elif isinstance(environment, list):
        yield from (str(item).partition("=")[::2] for item in environment)


def remedy(name: str, entry: Model | Job) -> str:
    """Where the value of a variable or flag that holds a secret belongs."""
    if name.lstrip("-").upper().replace("-", "_").startswith(("HF_", "HUGGING")):
        return "hf_token of the host fetches weights with it."
    keys = "clients' keys belong into api_key, others" if isinstance(entry, Model) else "it belongs"
    return f'{keys} into a file on the host: compose: {{"env_file": ["/…"]}}.'


def floating(image: str) -> bool:
    """Does a reference name no fixed image? No tag means latest.

    >>> floating("vllm/vllm-openai"), floating("a/b:1.2"), floating("a/b@sha256:0")
    (True, False, False)
    """
    if "@" in image:
        return False
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return not tag or tag in FLOATING
