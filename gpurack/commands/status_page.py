"""`gpurack status --html FILE`: one self-contained page."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from gpurack.commands.lab_status import HostStatus
from gpurack.commands.status import served_text, state_text, summary
from gpurack.engines.urls import loopback_note, only_on_host
from gpurack.replace_file import replace_file
from gpurack.resources import read_text, render
from gpurack.spec.problems import grouped

PAGE = "templates/status.html.j2"


def write_page(
    file: Path, lab: Sequence[HostStatus], title: str, now: datetime, curls: Mapping[str, str] | None = None
) -> None:
    """Write the page, so that a web server never serves half of it. Raises OSError.

    curls: address → a command that tests it. A browser runs no script but gpurack's own: its hash is in the page.
    """
    script = read_text(PAGE).partition("<script>")[2].partition("</script>")[0]
    text = render(
        PAGE,
        lab=sorted(lab, key=lambda host: (not host.down, host.is_well)),
        title=title,
        now=now.astimezone(),
        summary=summary(lab),
        curls=curls or {},
        loopback=loopback_note((host.name, model.endpoint) for host in lab for model in host.models),
        only_on_host=only_on_host,
        grouped=grouped,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        state_text=state_text,
        served_text=served_text,
    )
    replace_file(file, text)
