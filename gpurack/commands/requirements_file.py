"""requirements.txt of a project that `gpurack init` writes: the gpurack that ran, and its dependencies."""

import re
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from gpurack.host_data import json_from_host
from gpurack.inventory.origin import clone, git

EXTRA = re.compile(r"extra == ['\"]verify['\"]")
"""The dependencies of `gpurack verify`."""
FROM_A_CLONE = "# The commit of the clone that `gpurack init` ran from. After an update of gpurack, write the new one."
FROM_HERE = (
    "# On this machine only. For others: gpurack[verify] @ git+https://HOST/PATH@COMMIT, or a version of your index."
)
"""The comment above a gpurack that pip installed from a file, or from a folder whose commit is on no known remote."""


def requirements(gpurack: Distribution) -> str:
    """requirements.txt: a gpurack that pip finds, and the versions of its dependencies beside it."""
    needed = [each for each in gpurack.requires or () if "extra ==" not in each or EXTRA.search(each)]
    names = [name[0] for each in needed if (name := re.match(r"[\w.-]+", each))]
    pins = sorted(f"{name}=={version}" for name in names if (version := installed(name)))
    lines = ["# Written by `gpurack init`: what it ran with.", *own_lines(gpurack)]
    return "\n".join([*lines, *pins]) + "\n"


def installed(name: str) -> str:
    """The version of a distribution; "" if it is not installed, as a part of the extra may be."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def repository(requirements: str) -> str:
    """The git repository that requirements.txt takes gpurack from; "" for another place.

    >>> repository("click==8.1\\ngpurack[verify] @ git+ssh://git@lab.example/gpurack@5e7fc9f0\\n")
    'ssh://git@lab.example/gpurack'
    >>> repository("gpurack==0.1.0")
    ''
    """
    found = re.search(r"^gpurack(?:\[verify\])? @ git\+(\S+)@[0-9a-f]+$", requirements, re.MULTILINE)
    return found[1] if found else ""


def own_lines(gpurack: Distribution) -> list[str]:
    """The lines that require gpurack from where it was installed (direct_url.json, PEP 610).

    From a package index this is its version; from git, or from a clone whose commit a remote has, the commit; else the
    file or folder.
    """
    origin = json_from_host(gpurack.read_text("direct_url.json") or "{}")
    if not origin:
        return [f"gpurack[verify]=={gpurack.version}"]
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return [f"gpurack[verify] @ git+{with_host(origin['url'])}@{commit}"]
    if found := published(origin):
        return [FROM_A_CLONE, f"gpurack[verify] @ git+{with_host(found)}"]
    return [*([FROM_HERE] if origin["url"].startswith("file:") else []), f"gpurack[verify] @ {origin['url']}"]


def published(origin: Mapping[str, Any]) -> str:
    """URL@COMMIT of what is checked out in the folder that pip installed from; "" if no remote is known to have it."""
    if "dir_info" not in origin:
        return ""
    folder = Path(unquote(urlsplit(origin["url"]).path))
    top, commit = clone(folder)
    if not top or Path(top) != folder.resolve():  # a folder without git, in a clone of something else
        return ""
    remote, branches = git(folder, "remote", "get-url", "origin"), git(folder, "branch", "-r", "--contains", commit)
    if not (remote and branches and remote.stdout.strip() and branches.stdout.strip()):
        return ""
    return f"{for_pip(remote.stdout.strip(), folder)}@{commit}"


def with_host(url: str) -> str:
    """The URL of a repository, with a host also for a path: pip before 24.1 refuses a `git+` URL without one.

    >>> with_host("file:///srv/gpurack"), with_host("https://git.lab.example/gpurack")
    ('file://localhost/srv/gpurack', 'https://git.lab.example/gpurack')
    """
    return re.sub("^file:///", "file://localhost/", url)


def for_pip(remote: str, folder: Path) -> str:
    """The URL of a remote as pip takes it after `git+`, without a password. folder: of the clone, for relative paths.

    >>> for_pip("git@git.lab.example:ops/gpurack.git", Path("/srv"))
    'ssh://git@git.lab.example/ops/gpurack.git'

    >>> for_pip("https://ci:secret@git.lab.example/gpurack", Path("/srv")), for_pip("../a b", Path("/srv/gpurack"))
    ('https://git.lab.example/gpurack', 'file:///srv/a%20b')
    """
    if "://" in remote:
        parts = urlsplit(remote)
        user = f"{parts.username}@" if parts.scheme == "ssh" and parts.username else ""
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{user}{place}").geturl()
    if found := re.fullmatch(r"((?:[\w.-]+@)?[\w.-]+):(.+)", remote):
        return f"ssh://{found[1]}/{found[2].lstrip('/')}"
    return f"file://{quote(str((folder / remote).resolve()))}"
