"""Images of an engine that people build by hand from upstream's repository: what `gpurack import` must know of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

UNSAID = "…"
"""The revision that nobody said: the plan refuses it until it is written."""


class Builds(ABC):
    """An engine's repository. A build is an entry's `image.build`: git, revision, dockerfile, target, args."""

    git: ClassVar[str]
    """The repository's address."""

    def is_of(self, build: Mapping[str, Any]) -> bool:
        """Is something built from this repository, or from a copy that has its name?"""
        name = str(build["git"]).removesuffix(".git").rstrip("/").rpartition("/")[2]
        return name == self.git.rpartition("/")[2]

    @abstractmethod
    def like(self, build: Mapping[str, Any]) -> str:
        """The image of upstream's that holds the same programs."""

    @abstractmethod
    def dockerfile(self, path: str, file: str, names: Sequence[str]) -> str | None:
        """Which of the repository's Dockerfiles is used by a build that does not name its repository; None for another.
        path: the Dockerfile's, with the folder that is built. file: as it was given. names: the image's."""

    @abstractmethod
    def by_name(self, image: str) -> Mapping[str, str] | None:
        """dockerfile (and target) of an image by a name that upstream's documentation gives; None for other names."""

    def renewed(self, build: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """(the same build by today's Dockerfile, a sentence that says so); None where upstream still has its own."""
        return None
