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
from gpurack.importing.service import environment_of

ELSEWHERE = ("label", "platform", "secret", "ssh", "build-context", "add-host", "network")
"""Options that an entry does not support. All others do not change the image."""
UNDERSTOOD = ("context", "dockerfile", "target", "args")
IN_IMAGE = (
    f"its build contained a secret, shown as {secret.HIDDEN} here. Build arguments remain readable in the image",
)


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
    named = {"context": options["context"], "dockerfile": options["file"], "target": options["target"]}
    others = {name: options[name] for name in ELSEWHERE if options[name]}
    build = {**{key: value for key, value in named.items() if value}, "args": options["build-arg"], **others}
    return options["tag"], built_from(build, options["tag"], where, checkout)


def built_from(
    build: Mapping[str, Any], names: Sequence[str], where: str, checkout: Checkout = Checkout()
) -> Built | None:
    """What an image with these names was built from; None if its repository is unknown. build: as Compose writes it."""
    args, unset = environment_of(build.get("args"))
    context, file = str(build.get("context", ".")), str(build.get("dockerfile", "Dockerfile"))
    more = {key: value for key, value in (("target", build.get("target")), ("args", args)) if value}
    url, _, rest = context.partition("#")
    if re.match(r"(https?|ssh|git)://.*|git@.*", url) and not url.endswith((".tar.gz", ".tgz", "/Dockerfile")):
        revision, _, folder = rest.partition(":")
        checkout = Checkout(url, revision, folder)
    elif plain(context) not in ("", "."):
        checkout = Checkout()
    path = f"{context.rstrip('/')}/{plain(file)}"
    known = [(builds.git, "", builds.dockerfile(path, file, names)) for builds in REPOSITORIES]
    if checkout.git and checkout.folder == "":
        known = [(checkout.git, checkout.revision, plain(file))]
    git, revision, dockerfile = next((one for one in known if one[2]), ("", "", None))
    if not dockerfile:
        return None
    found = renewed(Built(where, {"git": git, "revision": revision or UNSAID, "dockerfile": dockerfile, **more}))
    shown = secret.mask(found.build)
    lost = [f"build option {key} was not converted" for key in build if key not in UNDERSTOOD]
    lost += [f"the value of build argument {name} is not in the text; add it" for name in unset]
    return replace(found, build=shown, open=(*(IN_IMAGE if shown != found.build else ()), *lost))


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
