"""Any image. gpurack gives it GPUs, a port, weights and a key file; the entry has the rest.

Two settings that only an unknown image needs are taken from Compose. `compose.expose` is the port inside its container
(default: the same number as `port`). `compose.x-ready` is the path that answers 200 when it is ready (default: "/").
Keys that begin with x- are Compose's own extension points.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from gpurack.engines.args import flags
from gpurack.engines.base import Engine, Request, Row
from gpurack.engines.container import Accelerator, Container, Run
from gpurack.engines.probes import PYTHON
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
        key="a file; your `args` or `env` name it",
        sets="GPUs, port, mount of the weights, readiness",
        limits="does not enforce vram",
        state="**real program**: llama.cpp's image",
    )
    api = "unknown"
    ready_names_model = False
    base_path = ""
    ready_path = "/"
    service = None
    cuda_probe = PYTHON
    unused: ClassVar = {
        "version": "Name the whole image, with its tag, in `image`.",
        "context": "Use `args` or `env`, as the image expects it.",
    }

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Raise LookupError: custom has no images."""
        raise LookupError("custom has no images of its own. Name one in `image`.")

    def variants(self, version: str) -> list[str]:
        """Return no references."""
        return []

    def listens(self, model: Model) -> int:
        """Return the first port of `compose.expose`, else the same number as outside."""
        exposed = _exposed(model)
        return int(exposed) if exposed and exposed.isdecimal() else model.port

    def ready_at(self, model: Model) -> str:
        """Return `compose.x-ready`."""
        return str(model.compose.get(READY, self.ready_path))

    def container(self, model: Model, run: Run) -> Container:
        """Pass on the args as its command, if there are any. A key is in a file, as for every engine."""
        return Container(flags(model.args) or None)

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return no test request, because its API is unknown."""
        return []

    def log_shows(self, model: Model) -> Literal["devices"]:
        """Return "devices": it may be llama.cpp, and where that puts its layers is not known."""
        return "devices"

    def check(self, model: Model) -> list[Problem]:
        """Also check the port and the readiness path."""
        problems = super().check(model)
        exposed = _exposed(model)
        if exposed is not None and not (exposed.isdecimal() and 0 < int(exposed) < 65536):
            problems.append(Problem.of("invalid-expose", path="compose.expose"))
        path: Any = model.compose.get(READY, "/")
        if not (isinstance(path, str) and re.fullmatch(r"/\S*", path)):
            problems.append(Problem.of("invalid-ready-path", path=f"compose.{READY}"))
        return problems

    def check_weights(self, model: Model) -> list[Problem]:
        """Accept any weights, or none. They are mounted at /weights/NAME."""
        return []


def _exposed(model: Model) -> str | None:
    """Return the first port in `compose.expose`, as text; None if it is not set, "" if it is invalid."""
    given = model.compose.get("expose")
    if given is None:
        return None
    return str(given[0]).removesuffix("/tcp") if isinstance(given, list) and given else ""
