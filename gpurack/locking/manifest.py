"""`gpurack manifest`: everything that defines a host, as sorted lines that `diff` can compare. Pure.

It leaves out what is new on every rebuilt host (docs/rebuild.md): UUIDs of GPUs, ids and dates of containers, values of
secrets and their salted fingerprints. Lines keep their form, because users keep manifests for years.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.locking.observe import observed
from gpurack.plan.models import compose
from gpurack.plan.models.diff import SALTED
from gpurack.plan.models.ledger import label
from gpurack.spec.host import Host
from gpurack.spec.lock import facts

DEPEND_ON_GPUS = ("uuids", "render_nodes", "service")
"""Fields of a model's label that depend on the UUIDs of this host's GPUs."""
FINGERPRINTS = (*SALTED, "files")
"""Fields that hold fingerprints; every container has a new salt."""


def manifest(spec: Host, facts: HostFacts, more: list[str]) -> str:
    """The whole text. more: the output of files/manifest.sh on the host."""
    jobs = tuple(f"job {paths.job_file(name)} " for name, job in spec.jobs.items() if job.enabled)
    more = [line for line in more if not line.startswith("job ") or line.startswith(jobs)]
    more = [of_entry(line, facts) for line in more]
    lines = [*more, *system(facts), *locked(spec, facts), *projects(facts), *containers(facts)]
    return "".join(f"{line}\n" for line in sorted({one_line(line) for line in lines}))


def system(facts: HostFacts) -> Iterator[str]:
    """Operating system, architecture, GPUs and secrets' files."""
    yield f"os {facts.os.name}"
    yield f"arch {facts.arch}"
    yield from (f"gpu {gpu.index} {gpu.name} {gpu.memory_total or 0} MiB" for gpu in facts.gpus)
    yield from (of_entry(f"secret {path} {mode} uid {uid}", facts) for path, (mode, uid) in facts.secrets.items())


def of_entry(line: str, facts: HostFacts) -> str:
    """A line about a container's file with its entry in the path, whichever generation the container is."""
    for user in ("", *facts.users):
        for name, key in facts.keys(user).items():
            line = line.replace(f" {paths.container_file(user, key, '')}", f" {paths.container_file(user, name, '')}")
    return line


def locked(spec: Host, state: HostFacts) -> Iterator[str]:
    """The lines of a lock, without packages, which files/manifest.sh lists."""
    for fact, value in facts(observed(spec, state)).items():
        if not fact.startswith("packages "):
            yield f"lock {fact} {value}"


def projects(facts: HostFacts) -> Iterator[str]:
    """The services of every compose.yaml, one line per field."""
    for user in ("", *facts.users):
        for name, service in compose.old_services(facts, user).items():
            for field, value in service.items():
                yield f"service {name} {field} {shown(without_labels(value) if field == 'labels' else value, facts)}"


def containers(facts: HostFacts) -> Iterator[str]:
    """The fields in the labels of managed containers, and the names of all others."""
    yield from (f"container {each.name} is not gpurack's" for each in facts.containers if not facts.is_ours(each))
    for (_, name), container in facts.ours.items():
        for word, value in label(container.labels).items():
            if word in FINGERPRINTS:
                yield f"runs {name} {word} {', '.join(value) if isinstance(value, Mapping) else 'set'}"
            elif word not in DEPEND_ON_GPUS:
                yield f"runs {name} {word} {shown(value, facts)}"


def without_labels(labels: Any) -> Any:
    """A service's labels without gpurack's own, whose fields have their own lines."""
    if not isinstance(labels, Mapping):
        return labels
    return {name: value for name, value in labels.items() if name != paths.MODEL_LABEL}


def shown(value: Any, facts: HostFacts) -> str:
    """A value on one line, with the indexes of GPUs instead of their UUIDs."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    numbers = {gpu.uuid: f"gpu-{gpu.index}" for gpu in facts.gpus}
    return re.sub(r"GPU-[0-9A-Za-z-]+", lambda found: numbers.get(found[0], found[0]), text)


def one_line(text: str) -> str:
    """A text with its line breaks escaped."""
    return text.replace("\n", "\\n")
