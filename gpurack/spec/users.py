"""What cannot be about the users with a rootless Docker, and about the models that run there."""

import re

from gpurack.spec.access import takes_cards
from gpurack.spec.host import Host

NAME = r"[A-Za-z_][A-Za-z0-9_.-]*\$?"
"""What useradd takes, and more: directories know capitals and dots. No slash, for it becomes a folder's name."""


def user_problems(host: Host) -> list[tuple[str, str]]:
    """(path, what is wrong and what to write) for each mistake of a host."""
    found = []
    for user in host.users:
        path = f"docker.rootless.{user}"
        if not re.fullmatch(NAME, user):
            found.append((path, "is not a user's name."))
        elif user == "root":
            found.append((path, "root's Docker is the host's own; leave it out, and leave user out of its models."))
    for name, model in host.entries.items():
        path = f"{'services' if name in host.services else 'models'}.{name}"
        if not model.enabled or not model.user:
            continue
        if model.user not in host.users:
            write = f'docker: {{"rootless": {{"{model.user}": {{}}}}}}'
            found.append((f"{path}.user", f"{model.user} has no rootless Docker on this host; write {write}."))
        if model.port < 1024:
            found.append((f"{path}.port", f"{model.port} is for root alone; {model.user} may have 1024 and above."))
    if error := takes_cards(host, host.docker.version or "", host.nvidia.toolkit or ""):
        found.append(("nvidia.no_cgroups", error))
    return found
