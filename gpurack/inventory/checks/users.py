"""Errors about users with a rootless Docker, and about models that run there."""

import re

from gpurack.spec.gpu_access import loses_gpus
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

NAME = r"[A-Za-z_][A-Za-z0-9_.-]*\$?"
"""What useradd accepts, and also capitals and dots, as directory services have them. No slash: it is part of paths."""


def user_problems(spec: Host) -> list[Problem]:
    """Errors about users and the models in their Docker; the problems name no host."""
    found: list[Problem] = []
    for user in spec.users:
        path = f"docker.rootless.{user}"
        if not re.fullmatch(NAME, user):
            found.append(Problem.of("invalid-user-name", path=path))
        elif user == "root":
            found.append(Problem.of("root-is-not-rootless", path=path))
    for name, model in spec.entries.items():
        path = f"{'services' if name in spec.services else 'models'}.{name}"
        if not model.enabled or not model.user:
            continue
        if model.user not in spec.users:
            found.append(Problem.of("user-without-docker", path=f"{path}.user", user=model.user))
        if model.port < 1024:
            found.append(Problem.of("port-needs-root", path=f"{path}.port", port=model.port, user=model.user))
    if names := loses_gpus(spec, spec.docker.version or "", spec.nvidia.toolkit or ""):
        found.append(Problem.of("no-cgroups-takes-gpus", path="nvidia.no_cgroups", names=", ".join(names)))
    return found
