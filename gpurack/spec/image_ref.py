"""Image references, by Docker's own rules: which registry, repository, tag and digest a name means.

Pure. The programs of files/ use it also: files/image_ref.py is a link to it. So it imports nothing of gpurack, and
Python 3.6 can run it.

Source: github.com/distribution/reference, which Docker and Compose use (reference.go: the grammar; normalize.go:
ParseNormalizedNamed, splitDockerDomain, FamiliarName).
"""

import re
from typing import NamedTuple

HUB = "docker.io"
_OFFICIAL = "library/"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST_NAME = 255


class ImageRef(NamedTuple):
    """An image reference in full.

    registry: `docker.io`, `ghcr.io`, `mirror:5000`. repository: its path there, `library/redis`. tag: "" if not written
    (Docker then uses `latest`). digest: `sha256:…`, "" if not written.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "ImageRef":
        """Parse a reference as users write it. Raises ValueError if Docker would reject it.

        >>> ImageRef.parse("redis:7")
        ImageRef(registry='docker.io', repository='library/redis', tag='7', digest='')
        >>> ImageRef.parse("reg:5000/a/b").name
        'reg:5000/a/b'
        """
        name, tag, digest = split(text)
        registry, repository = _split_registry(name)
        if registry == HUB and "/" not in repository:
            repository = _OFFICIAL + repository
        valid = (
            _DOMAIN.fullmatch(registry)
            and _REPOSITORY.fullmatch(repository)
            and len(registry) + 1 + len(repository) <= _LONGEST_NAME
            and not re.fullmatch(r"[0-9a-f]{64}", name)  # the id of an image
            and (tag is None or _TAG.fullmatch(tag))
            and (digest is None or _DIGEST.fullmatch(digest))
        )
        if not valid:
            raise ValueError(f'"{text}" is not an image reference')
        return cls(registry, repository, tag or "", digest or "")

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest: `docker.io/library/redis`."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The reference in full.

        >>> ImageRef.parse("redis").canonical
        'docker.io/library/redis:latest'
        """
        tag = self.tag or ("" if self.digest else "latest")
        return self.name + (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar_name(self) -> str:
        """The name as Docker shows it, without `docker.io/` and `library/`.

        >>> ImageRef.parse("docker.io/library/redis:7").familiar_name, ImageRef.parse("r:5000/library/a").familiar_name
        ('redis', 'r:5000/library/a')
        """
        if self.registry != HUB:
            return self.name
        official, _, short = self.repository.rpartition("/")
        return short if f"{official}/" == _OFFICIAL else self.repository

    @property
    def familiar(self) -> str:
        """The reference as in `docker image ls`, RepoTags and RepoDigests: with its digest, else with its tag.

        >>> ImageRef.parse("redis").familiar, ImageRef.parse("index.docker.io/a/b").familiar
        ('redis:latest', 'a/b:latest')
        """
        return f"{self.familiar_name}@{self.digest}" if self.digest else f"{self.familiar_name}:{self.tag or 'latest'}"

    def at(self, mirror: str) -> str:
        """The reference at a mirror of its registry: `mirror:5000/path`, then the full repository.

        >>> ImageRef.parse("redis:7").at("mirror:5000/hub"), ImageRef.parse("docker.io/redis:7").at("mirror:5000/hub")
        ('mirror:5000/hub/library/redis:7', 'mirror:5000/hub/library/redis:7')
        """
        tag = f":{self.tag}" if self.tag else ""
        return f"{mirror.rstrip('/')}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def _split_registry(name: str) -> "tuple[str, str]":
    """(registry, repository) of a name without tag and digest."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or set(first) & {".", ":"} or first != first.lower()):
        return HUB if first == f"index.{HUB}" else first, rest
    return HUB, name


def registry_of(text: str) -> str:
    """The registry of a reference, as `registries` has it, also where Docker would reject the reference.

    >>> registry_of("index.docker.io/a/b:1"), registry_of("reg:5000/A@sha256:0"), registry_of("redis")
    ('docker.io', 'reg:5000', 'docker.io')
    """
    return _split_registry(split(text)[0])[0]


def split(text: str) -> "tuple[str, str | None, str | None]":
    """(name, tag, digest) as written; None for a missing part. Also splits invalid references such as `a/b:${TAG}`.

    >>> split("reg:5000/a/b:1"), split("a/b"), split("a@sha256:0")
    (('reg:5000/a/b', '1', None), ('a/b', None, None), ('a', None, 'sha256:0'))
    """
    named, digest = split_digest(text)
    name, colon, tag = named.rpartition(":")
    tagged = colon and "/" not in tag  # a colon before the last slash is a port's
    return (name if tagged else named), (tag if tagged else None), (digest if "@" in text else None)


def same_repository(one: str, other: str) -> bool:
    """Are both references of the same repository? False for an invalid reference.

    >>> same_repository("docker.io/redis:7", "redis"), same_repository("", "redis")
    (True, False)
    """
    try:
        return ImageRef.parse(one).name == ImageRef.parse(other).name
    except ValueError:
        return False


def split_digest(text: str) -> "tuple[str, str]":
    """(the text before the digest, the digest or "").

    >>> split_digest("a/b:1@sha256:0")
    ('a/b:1', 'sha256:0')
    """
    before, _, digest = text.partition("@")
    return before, digest
