"""Convert `docker build` to the `build` of an entry's image, if the text or an engine names its repository.

Engines know the Dockerfiles of their own repositories: gpurack/engines/builds.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.builds import UNSAID
from gpurack.importing import docker_run, secret

ELSEWHERE = ("label", "platform", "secret", "ssh", "build-context", "add-host", "network")
"""Options that an entry does not support. All others do not change the image."""


@dataclass(frozen=True, eq=False)
class Built:
    """An image that was built. where: the command's place. build: the entry's `build`. changed, open: findings."""

    where: str
    build: Mapping[str, Any]
    changed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @property
    def like(self) -> str:
        """The upstream image with the same programs, "" if unknown."""
        return next((builds.like(self.build) for builds in REPOSITORIES if builds.is_of(self.build)), "")


REPOSITORIES = tuple(engine.builds for engine in ENGINES.values() if engine.builds)
"""The repositories of all engines whose images are commonly built by hand."""


PARSER = docker_run.parser_of(
    "q/quiet no-cache pull load push rm force-rm squash compress",
    f"t/tag build-arg {' '.join(ELSEWHERE)} cache-from cache-to ulimit allow annotation attest",
    "f/file target o/output progress iidfile shm-size m/memory builder provenance sbom metadata-file no-cache-filter "
    "cgroup-parent",
)
PARSER.add_argument("context")


def build_words(words: Sequence[str]) -> list[str] | None:
    """The words after `docker build`; None for another command."""
    rest = docker_run.docker_words(words)
    if rest[:1] in (["buildx"], ["image"], ["builder"]):
        rest = rest[1:]
    return rest[1:] if rest[:1] == ["build"] else None


@dataclass(frozen=True)
class Checkout:
    """The repository that a script works in, by its `git clone`, `git checkout` and `cd` commands."""

    git: str = ""
    revision: str = ""
    folder: str | None = None
    """The script's folder in the repository; None outside of it."""

    def after(self, words: Sequence[str]) -> "Checkout":
        """The checkout after one more command."""
        if list(words[:2]) == ["git", "clone"]:
            return self._cloned(words[2:])
        if list(words[:2]) in (["git", "checkout"], ["git", "switch"]) and self.folder is not None:
            named = [word for word in words[2:] if not word.startswith("-")]
            return replace(self, revision=named[0] if named else self.revision)
        if list(words[:1]) == ["cd"] and len(words) == 2 and self.git:
            name = self.git.removesuffix(".git").rstrip("/").rpartition("/")[2]
            if self.folder is None:
                return replace(self, folder="" if words[1].strip("./").rpartition("/")[2] == name else None)
            return replace(self, folder=None if words[1].startswith(("/", "~", "..")) else words[1].strip("./"))
        return self

    def _cloned(self, words: Sequence[str]) -> "Checkout":
        urls = [word for word in words if re.match(r"(https?|ssh|git)://|[\w.-]+@[\w.-]+:", word)]
        branch = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-b", "--branch")), "")
        return Checkout(urls[0], branch) if urls else self


def parse(words: Sequence[str], where: str, checkout: Checkout) -> tuple[list[str], Built | None]:
    """(names of the image, what it was built from; None if unknown). Raises service.Unreadable."""
    options = vars(PARSER.parse_args(words))
    args = dict(text.partition("=")[::2] for text in options["build-arg"] if "=" in text)
    file, target = options["file"] or "Dockerfile", options["target"]
    found = without_secrets(build_of(options["context"], file, target, args, options["tag"], where, checkout))
    if found is None:
        return options["tag"], None
    left_out = [f"build option --{option} was not converted" for option in ELSEWHERE if options[option]]
    left_out += [
        f"the value of build argument {name} is not in the text; add it"
        for name in options["build-arg"]
        if "=" not in name
    ]
    return options["tag"], replace(found, open=(*found.open, *left_out))


def without_secrets(found: Built | None) -> Built | None:
    """The same build with masked secrets."""
    shown = secret.mask(found.build) if found else {}
    if not found or shown == found.build:
        return found
    what = f"its build contained a secret, shown as {secret.HIDDEN} here. Build arguments remain readable in the image"
    return replace(found, build=shown, open=(*found.open, what))


def build_of(
    context: str,
    dockerfile: str,
    target: str | None,
    args: Mapping[str, str],
    names: Sequence[str],
    where: str,
    checkout: Checkout,
) -> Built | None:
    """What an image was built from; None if its repository is unknown."""
    more = {**({"target": target} if target else {}), **({"args": dict(args)} if args else {})}
    url, _, rest = context.partition("#")
    if re.match(r"(https?|ssh|git)://.*|git@.*", url) and not url.endswith((".tar.gz", ".tgz", "/Dockerfile")):
        revision, _, folder = rest.partition(":")
        checkout = Checkout(url, revision, folder)
    elif plain(context) not in ("", "."):
        checkout = Checkout()
    if checkout.git and checkout.folder == "":
        build = {"git": checkout.git, "revision": checkout.revision or UNSAID, "dockerfile": plain(dockerfile)}
        return renewed(Built(where, {**build, **more}))
    path = f"{context.rstrip('/')}/{plain(dockerfile)}"
    for builds in REPOSITORIES:
        if file := builds.dockerfile(path, dockerfile, names):
            return renewed(Built(where, {"git": builds.git, "revision": UNSAID, "dockerfile": file, **more}))
    return None


def renewed(built: Built) -> Built:
    """The same build with the Dockerfile that its engine's repository has today."""
    for builds in REPOSITORIES:
        if today := builds.renewed(built.build):
            return replace(built, build=today[0], changed=(*built.changed, today[1]))
    return built


def by_name(image: str, where: str) -> Built | None:
    """The build of an image with a name from upstream's documentation; None for other names."""
    for builds in REPOSITORIES:
        if found := builds.by_name(image):
            return Built(where, {"git": builds.git, "revision": UNSAID, **found})
    return None


def full(image: str) -> str:
    """The name with the tag `latest` if it has none, as Docker compares names."""
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


def plain(path: str) -> str:
    """A path without a leading `./`.

    >>> plain("./.devops/cuda.Dockerfile")
    '.devops/cuda.Dockerfile'
    """
    return re.sub(r"^(\./)+", "", path)
