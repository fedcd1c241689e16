"""The folders files/ and templates/: at the top of a checkout, inside the package when pip installed it."""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def _root() -> Path:
    return _PACKAGE if (_PACKAGE / "files").is_dir() else _PACKAGE.parent


@cache
def read_text(path: str) -> str:
    """A file's text, e.g. `read_text("files/snapshot.sh")`."""
    return (_root() / path).read_text(encoding="utf-8")


@cache
def program(name: str, *parts: str) -> str:
    """files/NAME.py with the parts of files/ that it imports, each after what it imports itself, as one text: for
    `python3 -c` or `python3 -` on a host, so that the host's own may be older, or missing."""
    lines = ["import sys, types"]
    for part in parts:
        text = read_text(f"files/{part}.py")
        lines.append(f"_part = sys.modules[{part!r}] = types.ModuleType({part!r})")
        lines.append(f"exec(compile({text!r}, {part + '.py'!r}, 'exec'), _part.__dict__)")
    return "\n".join(lines) + "\n" + read_text(f"files/{name}.py")


def render(path: str, **values: object) -> str:
    """A Jinja2 template's text; an undefined variable raises. HTML holds only escaped and printable values."""
    # Not needed by `gpurack plan`, whose start it would slow down.
    from jinja2 import Environment, StrictUndefined

    from gpurack.screen import clean

    html = path.endswith(".html.j2")
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=html, finalize=clean if html else None
    )
    return environment.from_string(read_text(path)).render(**values)
