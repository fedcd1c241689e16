"""docs/errors.md, made from the codes of errors: `make docs` writes it, a test checks it."""

import re
from collections.abc import Iterator, Mapping

from gpurack import screen
from gpurack.spec.code import Code
from gpurack.spec.error_codes import INVENTORY
from gpurack.spec.live_codes import LIVE

INTRODUCTION = """\
<!-- Made by `make docs` from gpurack/spec/error_codes.py, live_codes.py and step_codes.py; change it there. -->
# Errors and warnings

Read this page when an error or warning needs more explanation than its own line. Each section is one code. `--json`
prints it as `code` or in `codes` (that of `gpurack import` has only sentences), and `pyinfra` prints a line `codes: …`
where a run fails. Codes never change their meaning; words in `{braces}` are filled in.
"""


def page() -> str:
    """The whole page: errors, then warnings, of inventories and of hosts, each in order of their codes."""
    sections = [INTRODUCTION, "## Errors of an inventory\n", *_sections(INVENTORY, False), "## Errors of a host\n"]
    sections += ["A connection is needed to find these.\n", *_sections(LIVE, False), "## Warnings of an inventory\n"]
    sections += ["They stop nothing; `gpurack plan --strict` ends with an exit code for them.\n"]
    sections += [*_sections(INVENTORY, True), "## Warnings of a host\n", *_sections(LIVE, True)]
    return "\n".join(sections)


def _sections(codes: Mapping[str, Code], warnings: bool) -> Iterator[str]:
    for name, code in sorted(codes.items()):
        if code.warning == warnings:
            yield f"### {name}\n\n" + "\n".join(f"- **{word}**: {text}" for word, text in _lines(code)) + "\n"


def _lines(code: Code) -> Iterator[tuple[str, str]]:
    message, hint = (text.replace("{{", "{").replace("}}", "}") for text in (code.message, code.hint))
    whole = re.fullmatch(r"\{\w+\}", message)
    yield "Message", "says what is wrong, with names and numbers." if whole else message
    yield "Cause", code.cause
    yield "Fix", code.fix or hint


if __name__ == "__main__":
    screen.echo(page(), nl=False)
