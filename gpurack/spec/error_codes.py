"""Every kind of error and warning of an inventory: its stable code, its sentences, its cause (docs/errors.md).

A code never changes its meaning; its sentences may. `Problem.of(code, host, path, …)` fills in the parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One kind of problem. message: what is wrong; hint: what to do; both with {parameters}, both whole sentences.
    cause: why gpurack refuses it or warns of it, for docs/errors.md."""

    message: str
    hint: str = ""
    cause: str = ""

    def text(self, parameters: Mapping[str, str]) -> str:
        """Message and hint. Raises KeyError for a missing parameter."""
        return " ".join(part.format_map(parameters) for part in (self.message, self.hint) if part)


CODES: Mapping[str, Code] = {
    "port-used-twice": Code(
        "port {port} is used by both `{one}` and `{other}`.",
        "Change one of them.",
        "Two containers cannot publish the same port at addresses that overlap.",
    ),
}
