"""What can be brought to a host ahead of a change, while everything serves. Pure.

Weights and images that models and jobs lack, and models that a running ollama lacks.
"""

from collections.abc import Mapping
from typing import Any

from gpurack.facts.model import HostFacts
from gpurack.plan.models import images, pulls
from gpurack.plan.models.diff import Action

NEEDS_IMAGE = (Action.CREATE, Action.RECREATE, Action.START, Action.RUN)
ALWAYS = ("name", "user", "action", "compose_file")
IMAGE = ("image", "key", "load", "build", "digest", "driver")
"""The words of a payload about an entry's image."""
PULL = ("url", "pull")
"""Those about the models of an ollama."""


def preparation(job: Mapping[str, Any], facts: HostFacts) -> dict[str, Any] | None:
    """Return the part of a payload (plan/runner.py) for files/preparing.py; None if the host lacks nothing.

    Weights that a model has from another commit are not among it: they take the place of the present ones, so that
    belongs to the change.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in images.entries_of(job):
        if entry.get("action") == Action.REMOVE:
            continue
        fetch = [wanted for wanted in entry.get("fetch", ()) if lacks_weights(wanted, facts)]
        words = [*(IMAGE if lacks_image(entry, facts) else ()), *(PULL if lacks_models(entry, facts) else ())]
        if fetch or words:
            told = {word: entry[word] for word in (*ALWAYS, *words) if word in entry}
            found[entry["name"]] = {**told, "fetch": fetch}
    if not found:
        return None
    users = {entry["user"] for entry in found.values()}
    return {
        **{word: job[word] for word in ("proxy", "hf_token", "logins", "unused") if word in job},
        "projects": {
            user: {
                "head": data["head"],
                "services": {name: block for name, block in data["services"].items() if name in found},
            }
            for user, data in job.get("projects", {}).items()
            if user in users
        },
        "batches": [[entry] for entry in found.values()],
    }


def lacks_models(entry: Mapping[str, Any], facts: HostFacts) -> bool:
    """Does an ollama lack models that it can pull now? One that starts or is recreated pulls them then."""
    there = pulls.answered(facts.probes.get((entry["user"], entry["name"]))) or {}
    return entry.get("action") == Action.PULL and any(wanted["name"] not in there for wanted in entry["pull"])


def lacks_weights(wanted: Mapping[str, Any], facts: HostFacts) -> bool:
    """Are weights that are fetched or copied missing on the host?"""
    path = f"{wanted['path']}/{wanted['file']}" if "file" in wanted else wanted["path"]
    return facts.weights.get(path) is None


def lacks_image(entry: Mapping[str, Any], facts: HostFacts) -> bool:
    """Does an entry's Docker lack the image that its change needs, or the locked one?"""
    found, digest = facts.images_of(entry["user"]).get(entry["image"]), entry.get("digest")
    if digest:
        return not any(one.endswith(f"@{digest}") for one in facts.digests_of(entry["user"]).get(found or "", ()))
    return entry.get("action", Action.RUN) in NEEDS_IMAGE and found is None
