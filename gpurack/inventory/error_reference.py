"""docs/errors.md, made from the codes of errors: `make docs` writes it, a test checks it."""

from collections.abc import Iterator

from gpurack import screen
from gpurack.spec.error_codes import CODES, Code

INTRODUCTION = """\
<!-- Made by `make docs` from gpurack/spec/error_codes.py; change it there. -->
# Errors and warnings

Read this page when an error or warning of an inventory needs more explanation than its own line. Each section is one
code, which `gpurack plan --json` prints as `code`. Codes never change their meaning; words in `{braces}` are filled in.
"""


def page() -> str:
    """The whole page: errors, then warnings, each in order of their codes."""
    sections = [INTRODUCTION, "## Errors\n", *_sections(False), "## Warnings\n"]
    sections += ["They stop nothing; `gpurack plan --strict` ends with an exit code for them.\n", *_sections(True)]
    return "\n".join(sections)


def _sections(warnings: bool) -> Iterator[str]:
    for name, code in sorted(CODES.items()):
        if code.warning == warnings:
            yield f"### {name}\n\n" + "\n".join(f"- **{word}**: {text}" for word, text in _lines(code)) + "\n"


def _lines(code: Code) -> Iterator[tuple[str, str]]:
    message, hint = (text.replace("{{", "{").replace("}}", "}") for text in (code.message, code.hint))
    yield "Message", message if message != "{what}" else "says what is wrong, with names and numbers."
    yield "Cause", code.cause
    yield "Fix", code.fix or hint


if __name__ == "__main__":
    screen.echo(page(), nl=False)
