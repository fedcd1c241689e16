"""Programs in an engine's images that end by themselves, for `gpurack import` to write `jobs`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Jobs(ABC):
    """What an engine's images do once. command: the words after the image in `docker run`."""

    @abstractmethod
    def ends(self, tag: str, command: Sequence[str]) -> bool:
        """Does a container of the image with this tag end by itself?"""

    @abstractmethod
    def version(self, tag: str) -> str | None:
        """The version in an image's tag; None where it has none."""

    @abstractmethod
    def result(self, command: Sequence[str]) -> str | None:
        """The path inside of the file that it makes; None where the command does not say."""

    @abstractmethod
    def makes_a_file(self, command: Sequence[str]) -> bool:
        """Does it make a file whose name may depend on what it reads?"""

    @abstractmethod
    def name(self, command: Sequence[str]) -> str:
        """What it does, as the name of an entry: `quantize`."""
