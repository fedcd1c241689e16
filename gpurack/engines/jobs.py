"""Programs in an engine's images that end by themselves, for `gpurack import` to write `jobs`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Jobs(ABC):
    """The commands of an engine's images that end. command: the words after the image in `docker run`."""

    @abstractmethod
    def ends(self, tag: str, command: Sequence[str]) -> bool:
        """Does a container of the image with this tag end by itself?"""

    @abstractmethod
    def version(self, tag: str) -> str | None:
        """Return the version in an image's tag; None if it has none."""

    @abstractmethod
    def result(self, command: Sequence[str]) -> str | None:
        """Return the path inside of the file that it writes; None if the command does not name it."""

    @abstractmethod
    def makes_a_file(self, command: Sequence[str]) -> bool:
        """Does it write a file whose name may depend on its input?"""

    @abstractmethod
    def name(self, command: Sequence[str]) -> str:
        """Return a name for the entry: `quantize`."""
