"""Images that users build themselves from an engine's repository, for `gpurack import`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

UNSAID = "…"
"""The placeholder for an unknown revision. The plan refuses it until the admin replaces it."""


class Builds(ABC):
    """An engine's repository.

    A build is an entry's `image.build`: git, revision, dockerfile, target, args.
    """

    git: ClassVar[str]
    """The repository's address."""

    def is_of(self, build: Mapping[str, Any]) -> bool:
        """Is something built from this repository, or from a copy with the same name?"""
        name = str(build["git"]).removesuffix(".git").rstrip("/").rpartition("/")[2]
        return name == self.git.rpartition("/")[2]

    @abstractmethod
    def like(self, build: Mapping[str, Any]) -> str:
        """Return the upstream image that contains the same programs."""

    @abstractmethod
    def dockerfile(self, path: str, file: str, names: Sequence[str]) -> str | None:
        """Return the repository's Dockerfile that a build uses, if the build does not name its repository.

        None if it is a different repository. path: of the Dockerfile, with the build folder. file: as the user wrote
        it. names: of the image.
        """

    @abstractmethod
    def by_name(self, image: str) -> Mapping[str, str] | None:
        """Return dockerfile (and target) of an image that is named as in upstream's documentation; else None."""

    def renewed(self, build: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """Return the build with today's Dockerfile, and a sentence about it; None if the old one still exists."""
        return None
