"""Read files/ and templates/, which are at the top of a checkout and inside the installed package."""

import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gpurack import paths

if TYPE_CHECKING:
    from jinja2 import Template

_PACKAGE = Path(__file__).parent


@cache
def _root() -> Path:
    return _PACKAGE if (_PACKAGE / "files").is_dir() else _PACKAGE.parent


@cache
def read_text(path: str) -> str:
    """The text of a file, e.g. `read_text("files/snapshot.sh")`."""
    return (_root() / path).read_text(encoding="utf-8")


SHIPPED: Mapping[str, str] = {
    **{
        path: f"files/{path.rpartition('/')[2]}" for path in (*paths.RUNNER_PARTS, paths.RUNNER, paths.DOCKERD_ROOTLESS)
    },
    f"{paths.KEYRINGS}/gpurack-docker-ce.asc": "files/keys/docker.asc",
    f"{paths.KEYRINGS}/gpurack-nvidia-container-toolkit.asc": "files/keys/nvidia.asc",
    f"{paths.RPM_KEYS}/gpurack-docker-ce.asc": "files/keys/docker-rpm.asc",
    f"{paths.RPM_KEYS}/gpurack-nvidia-container-toolkit.asc": "files/keys/nvidia.asc",
}
"""Path on a host → the file that gpurack usually writes there as it is. None is secret."""


@cache
def shipped_digests() -> Mapping[str, str]:
    """Path on a host → sha256 of the file that gpurack usually writes there (SHIPPED)."""
    return {path: sha256(read_text(name).encode()).hexdigest() for path, name in SHIPPED.items()}


@cache
def program(name: str) -> str:
    """files/NAME.py and the modules of files/ that it imports as one program for `python3 -c` or `python3 -`.

    So the copies on the host may be older or missing.
    """
    lines = ["import sys, types"]
    for part in modules_of(name):
        lines.append(f"_part = sys.modules[{part!r}] = types.ModuleType({part!r})")
        lines.append(f"exec(compile({_literal(part)}, {part + '.py'!r}, 'exec'), _part.__dict__)")
    lines.append(f"exec(compile({_literal(name)}, {name + '.py'!r}, 'exec'))")
    return "\n".join(lines) + "\n"


@cache
def modules_of(name: str) -> tuple[str, ...]:
    """The modules of files/ that files/NAME.py imports, each after those that it imports itself.

    >>> modules_of("locks")
    ('messages', 'paths', 'progress')
    """
    found: dict[str, None] = {}
    imports = re.findall(r"(?m)^(?:import|from) (\w+)", read_text(f"files/{name}.py"))
    for module in sorted(imports):
        if (_root() / f"files/{module}.py").exists():
            found |= dict.fromkeys([*modules_of(module), module])
    return tuple(found)


def _literal(name: str) -> str:
    """Return files/NAME.py as a literal in ASCII.

    Python 3.6 reads a program from -c or standard input in the host's encoding. It is ASCII where root's locale is C.
    """
    return ascii(read_text(f"files/{name}.py"))


def render(path: str, **values: object) -> str:
    """Render a Jinja2 template. Values in HTML are escaped and made printable. Raises jinja2.UndefinedError."""
    return _template(path).render(**values)


@cache
def _template(path: str) -> "Template":
    # imported here because it would slow down the start of `gpurack plan`, which does not need it
    from jinja2 import Environment, StrictUndefined

    from gpurack.screen import clean

    html = path.endswith(".html.j2")
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=html, finalize=clean if html else None
    )
    return environment.from_string(read_text(path))
