"""Any image: gpurack gives it GPUs, a port, weights and a key file; the entry has the rest.

The vocabulary has no words for what only an unknown image has, so two are taken from Compose: `compose.expose` says
where it listens inside its container (default: the same number as `port`), and `compose.x-ready` which path answers
200 once it serves (default: "/"; keys that begin with x- are Compose's own extension points).
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from gpurack.engines.args import flags
from gpurack.engines.base import Engine, Request, Row
from gpurack.engines.container import Accelerator, Container, Run
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

READY = "x-ready"


class Custom(Engine):
    """Any other image."""

    name = "custom"
    title = "custom"
    row = Row(
        serves="anything",
        image="`image`",
        gpus="any",
        key="the file is there, the rest is yours",
        sets="GPUs, port, weights' mount, readiness",
        limits="vram is a promise",
        state="**carried out**, run here with llama.cpp's image",
    )
    api = "unknown"
    ready_names_model = False
    base_path = ""
    ready_path = "/"
    service = None
    unused: ClassVar = {
        "version": "Name the whole image, with its tag, in `image`.",
        "context": "Use `args` or `env`, as the image expects it.",
    }

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Always raises LookupError: custom has no images."""
        raise LookupError("custom has no images of its own. Name one in `image`.")

    def variants(self, version: str) -> list[str]:
        """None."""
        return []

    def listens(self, model: Model) -> int:
        """The first of `compose.expose`, else the same number as outside."""
        exposed = _exposed(model)
        return int(exposed) if exposed and exposed.isdecimal() else model.port

    def ready_at(self, model: Model) -> str:
        """`compose.x-ready`."""
        return str(model.compose.get(READY, self.ready_path))

    def container(self, model: Model, run: Run) -> Container:
        """The args as its command, if any; a key is in a file, as for every engine."""
        return Container(flags(model.args) or None)

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """No test request: its API is unknown."""
        return []

    def check(self, model: Model) -> list[Problem]:
        """Also: a valid port and readiness path."""
        problems = super().check(model)
        exposed = _exposed(model)
        if exposed is not None and not (exposed.isdecimal() and 0 < int(exposed) < 65536):
            problems.append(Problem.of("invalid-expose", path="compose.expose"))
        path: Any = model.compose.get(READY, "/")
        if not (isinstance(path, str) and re.fullmatch(r"/\S*", path)):
            problems.append(Problem.of("invalid-ready-path", path=f"compose.{READY}"))
        return problems

    def check_weights(self, model: Model) -> list[Problem]:
        """Any, or none: they are mounted at /weights/NAME."""
        return []


def _exposed(model: Model) -> str | None:
    """The port in `compose.expose`, as text; None if it is not given, "" if it is invalid."""
    given = model.compose.get("expose")
    if given is None:
        return None
    return str(given[0]) if isinstance(given, list) and len(given) == 1 else ""
