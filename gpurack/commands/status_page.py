"""`gpurack status --html FILE`: one self-contained page."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gpurack.commands.lab_status import HostStatus
from gpurack.commands.status import served_text, state_text, summary
from gpurack.resources import render


def write_page(file: Path, lab: Sequence[HostStatus], title: str, now: datetime) -> None:
    """Write the page to a temporary file and rename it, so a web server never serves half of it. Raises OSError."""
    text = render(
        "templates/status.html.j2", lab=lab, title=title, now=now, summary=summary(lab),
        state_text=state_text, served_text=served_text,
    )  # fmt: skip
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
