"""The one place where text is made harmless before a person, a terminal or a program sees it: `printable`.

Hosts, logs and HTTP bodies may hold escape sequences that clear the screen, write the clipboard or answer for the user,
and characters that turn the order of what is read around. Nothing else in gpurack prints or imports rich
(tests/security/test_one_screen.py), so that nobody can forget the filter:

- `console`, `line` and `table` are rich's without markup: a text is never parsed, its style stands beside it.
- `echo`, `as_json` and the HTML templates (gpurack/resources.py) filter what they are given.
- `protect` does so for a whole process: what pyinfra, a logger or a traceback writes passes `Filtered`.

Sources: Unicode UAX #9 (bidirectional controls), UTS #39 (invisible characters), CVE-2021-42574 "Trojan Source",
ECMA-48 (control sequences, also by the C1 characters).
"""

import json
import math
import re
import secrets
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TextIO

import click
import rich.console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typing_extensions import override

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what has no glyph of its own: controls, format characters (all that change the direction and
all that are invisible, as zero width ones and tags), lone surrogates, separators of lines and paragraphs."""
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
"""A whole colour sequence says nothing without its colour; it is left out, where others are shown."""
PLAIN = ("\n", "\t")


class _Shown(dict[int, str]):
    """Character → what is shown in its place, found out once."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        hidden = char not in PLAIN and unicodedata.category(char) in HIDDEN
        self[code] = char.encode("unicode_escape").decode() if hidden else char
        return self[code]


_SHOWN = _Shown()


def printable(text: str) -> str:
    r"""Text that a terminal, a browser or an editor shows as it is, from any text. Colours are left out, the carriage
    returns before line ends too; every other character of `HIDDEN` is shown as Python writes it.

    >>> printable("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eevil [/] été\r\n")
    'red \\x1b]0;title\\x07 \\u202eevil [/] été\n'
    """
    if text.isprintable():
        return text
    return re.sub(r"\r+(?=\n|\Z)", "", COLOURS.sub("", text)).translate(_SHOWN)


def clean(value: Any) -> Any:
    """Data for JSON: every text in it printable, also keys; no number that JSON cannot say."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


SCHEMA = 1
"""The form of all JSON output; a field that changes its meaning makes it 2."""


def as_json(data: Any) -> str:
    """Data as JSON whose texts, once decoded, are printable."""
    return json.dumps(clean(data), indent=2, allow_nan=False)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a text."""
    click.echo(printable(text), err=err, nl=nl)


class Console(rich.console.Console):
    """rich's, without markup, emoji codes and highlighting; all that it prints is printable, whoever made it."""

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        """Before it is measured, so that tables stay in line."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    @override
    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterable[Segment]:
        """The net below: a `Text` that was not made by `line`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


LOG = 160
"""Columns where there is no terminal: a log and cron's mail have room for whole lines, and rich assumes 80."""


def console(*, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> Console:
    """The console of a command, as wide as its terminal or as `width` says."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=unprotected(stream),
        width=width or (None if stream.isatty() else LOG),
        soft_wrap=soft_wrap,
    )


Part = str | tuple[str, str]


def line(*parts: Part | Text) -> Text:
    """Texts one after the other, each plain or (text, style). Nothing in them is markup."""
    return Text.assemble(*(part if isinstance(part, Text) else _printable_part(part) for part in parts))


def _printable_part(part: Part) -> Part:
    return printable(part) if isinstance(part, str) else (printable(part[0]), part[1])


def table(*titles: str, broken: Collection[str] = ("STATE",)) -> Table:
    """A table without lines. No titles: no header. broken: the columns whose long texts take several lines."""
    made = Table(box=None, show_header=bool(titles), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        made.add_column(title, overflow="fold", no_wrap=title not in broken)
    return made


# --- all else that a process writes -----------------------------------------------------------------------------------

_OURS = secrets.randbelow(10**12)
"""A number in the colours that are ours. A host cannot know it, so it cannot have its own colours shown."""
_MARKED = re.compile(rf"(\x1b\[{_OURS};[0-9;]*m)")
_click_style = click.style


def style(text: Any, *given: Any, **options: Any) -> str:
    """`click.style` whose colours are marked as ours. Those that the text has from here already stay."""
    styled = _click_style(_kept(str(text)), *given, **options)
    return re.sub(rf"\x1b\[(?!{_OURS};)", f"\x1b[{_OURS};", styled)


def _kept(text: str) -> str:
    """Printable but for colours of ours."""
    return "".join(part if _MARKED.fullmatch(part) else printable(part) for part in _MARKED.split(text))


class Filtered:
    """A stream of text that shows all that is written to it as printable text; only colours of ours stay.

    It has no `buffer`, so that nothing is written past it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes it; escape sequences that come in pieces are not put together again."""
        return self.stream.write(_kept(text).replace(f"\x1b[{_OURS};", "\x1b["))

    def writelines(self, lines: Iterable[str]) -> None:
        """As `write`."""
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)


def protect() -> None:
    """From now on nothing reaches this process' terminal unfiltered: neither what pyinfra prints of a host's output,
    nor what a logger, gevent or a traceback says. Once or more."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), Filtered):
            setattr(sys, name, Filtered(stream))


def unprotected(stream: Any) -> Any:
    """The stream below, for what may move the cursor: rich, which has filtered already, and pyinfra's spinner."""
    return stream.stream if isinstance(stream, Filtered) else stream
