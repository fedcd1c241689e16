"""What the Compose services of models and jobs have in common. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

NO_NEW_PRIVILEGES = "no-new-privileges:true"


def hardened(service: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service whose programs cannot get more privileges than the first one has (setuid, sudo).

    words: the entry's own `compose`. Its `security_opt` is kept; if it sets no-new-privileges itself, that counts, and
    null opts out.

    >>> hardened({"security_opt": ["seccomp=unconfined"]}, {})
    {'security_opt': ['no-new-privileges:true', 'seccomp=unconfined']}
    """
    options = service.get("security_opt", [])
    opted_out = words.get("security_opt", options) is None or not isinstance(options, list)
    if opted_out or any(str(option).startswith("no-new-privileges") for option in options):
        return dict(service)
    return {**service, "security_opt": [NO_NEW_PRIVILEGES, *options]}


def merge_mounts(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Any]) -> list[Any]:
    """Merge mounts as Compose merges those of two files: at the same target, the later one counts.

    >>> merge_mounts([{"target": "/w"}, {"target": "/c"}], ["cache:/c", "/d"])
    [{'target': '/w'}, 'cache:/c', '/d']
    """
    taken = {_place(mount) for mount in theirs}
    return [*(mount for mount in ours if mount["target"] not in taken), *theirs]


def _place(mount: Any) -> str:
    """Return the target of a mount in either form."""
    if isinstance(mount, Mapping):
        return str(mount.get("target"))
    parts = str(mount).split(":")
    return parts[1] if len(parts) > 1 else parts[0]
