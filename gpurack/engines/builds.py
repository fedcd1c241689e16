"""Images that users build by hand from an engine's repository, for `gpurack import`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

UNSAID = "…"
"""Stands for an unknown revision; the plan refuses it until the admin writes one."""


class Builds(ABC):
    """An engine's repository.

    A build is an entry's `image.build`: git, revision, dockerfile, target, args.
    """

    git: ClassVar[str]
    """The repository's address."""

    def is_of(self, build: Mapping[str, Any]) -> bool:
        """Is something built from this repository, or from a copy with its name?"""
        name = str(build["git"]).removesuffix(".git").rstrip("/").rpartition("/")[2]
        return name == self.git.rpartition("/")[2]

    @abstractmethod
    def like(self, build: Mapping[str, Any]) -> str:
        """The upstream image with the same programs."""

    @abstractmethod
    def dockerfile(self, path: str, file: str, names: Sequence[str]) -> str | None:
        """The repository's Dockerfile of a build that does not name its repository; None if it is another one.
        path: of the Dockerfile, with the build folder. file: as it was given. names: of the image."""

    @abstractmethod
    def by_name(self, image: str) -> Mapping[str, str] | None:
        """dockerfile (and target) of an image with a name from upstream's documentation; None for other names."""

    def renewed(self, build: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """(the same build with today's Dockerfile, a sentence about it); None if the old one still exists."""
        return None
