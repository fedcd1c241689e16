"""The shape of a kind of problem. The kinds: error_codes.py (inventories) and live_codes.py (hosts)."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One kind of problem.

    message: what is wrong; hint: what to do; both with {parameters}, both whole sentences.

    cause and fix are for docs/errors.md: why gpurack refuses it or warns of it, and what to do where the hint is empty
    or made of parameters alone. warning: it works, so that only `--strict` makes an error of it.
    """

    message: str
    hint: str = ""
    cause: str = ""
    fix: str = ""
    warning: bool = False

    def text(self, parameters: Mapping[str, str]) -> str:
        """Message and hint. Raises KeyError for a missing parameter."""
        return " ".join(part.format_map(parameters) for part in (self.message, self.hint) if part).rstrip()


def warning(message: str, hint: str = "", cause: str = "", fix: str = "") -> Code:
    """A code of a warning."""
    return Code(message, hint, cause, fix, warning=True)
