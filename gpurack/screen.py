"""All output of gpurack. `printable` makes text harmless before a user, a terminal or a program reads it.

Output of hosts, logs and HTTP bodies may hold escape sequences that clear the screen, write the clipboard or type for
the user, and characters that reverse the reading order. No other module prints or imports rich
(tests/security/test_one_screen.py), so the filter cannot be forgotten:

- `console`, `line` and `table` are rich's without markup: text is never parsed, styles are passed beside it.
- `echo`, `as_json` and the HTML templates (gpurack/resources.py) filter their input.
- `protect` filters a whole process: everything that pyinfra, a logger or a traceback writes passes `Filtered`.

Sources: Unicode UAX #9 (bidirectional controls), UTS #39 (invisible characters), CVE-2021-42574 "Trojan Source",
ECMA-48 (control sequences, also by the C1 characters).
"""

import json
import math
import re
import secrets
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TextIO, cast

import click
import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typing_extensions import override

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories without a glyph: controls, format characters (including all that change the direction and all
invisible ones, such as zero width characters and tags), lone surrogates, separators of lines and paragraphs."""
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
"""A whole colour sequence. It is left out; other escape sequences are shown."""
PLAIN = ("\n", "\t")


class _Shown(dict[int, str]):
    """Character → the text shown for it, computed on first use."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        hidden = char not in PLAIN and unicodedata.category(char) in HIDDEN
        self[code] = char.encode("unicode_escape").decode() if hidden else char
        return self[code]


_SHOWN = _Shown()


def printable(text: str) -> str:
    r"""Any text as one that a terminal, browser or editor shows literally.

    Removes colours and carriage returns before line ends. Every other character of `HIDDEN` becomes its Python escape.

    >>> printable("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eevil [/] été\r\n")
    'red \\x1b]0;title\\x07 \\u202eevil [/] été\n'
    """
    if text.isprintable():
        return text
    return re.sub(r"\r+(?=\n|\Z)", "", COLOURS.sub("", text)).translate(_SHOWN)


def clean(value: Any) -> Any:
    """Data for JSON: texts and keys are made `printable`; NaN and infinity become None."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


SCHEMA = 1
"""The version of all JSON output. It changes when a field changes its meaning."""


def as_json(data: Any) -> str:
    """Data as JSON text, after `clean`."""
    return json.dumps(clean(data), indent=2, allow_nan=False)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text."""
    click.echo(printable(text), err=err, nl=nl)


class Console(rich.console.Console):
    """rich's console without markup, emoji codes and highlighting. Everything it prints is `printable`."""

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        """Filter text before rich measures it, so that table columns align."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    @override
    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterable[Segment]:
        """Filter also a `Text` that was not made by `line`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


LOG = 160
"""Columns without a terminal, for logs and cron's mail; rich assumes 80."""


def console(*, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> Console:
    """The console of a command, as wide as `width` or its terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=unprotected(stream),
        width=width or (None if stream.isatty() else LOG),
        soft_wrap=soft_wrap,
    )


def wrapped(console: Console, text: str, indent: int) -> str:
    """A text in lines of the console's width; all but the first begin with `indent` spaces. No word is cut."""
    if len(text) <= console.width:
        return text
    front, rest = text[:indent], text[indent:]
    room = max(console.width - indent, 20)
    parts = textwrap.wrap(rest, room, break_long_words=False, break_on_hyphens=False)
    return front + f"\n{' ' * indent}".join(parts)


Part = str | tuple[str, str]


def line(*parts: Part | Text) -> Text:
    """Join texts, each plain or (text, style). Markup in them is not interpreted."""
    return Text.assemble(*(part if isinstance(part, Text) else _printable_part(part) for part in parts))


def _printable_part(part: Part) -> Part:
    return printable(part) if isinstance(part, str) else (printable(part[0]), part[1])


class Lines(Table):
    """A table whose lines end with their last text, without the spaces that fill its last column."""

    @override
    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterable[Segment]:
        for cells in Segment.split_lines(cast(Iterable[Segment], super().__rich_console__(console, options))):
            while cells and not cells[-1].text.strip():
                cells.pop()
            if cells:
                cells[-1] = cells[-1]._replace(text=cells[-1].text.rstrip())
            yield from (*cells, Segment.line())


def table(*titles: str, broken: Collection[str] = ("STATE",)) -> Table:
    """A table without rules; without titles it has no header. broken: columns whose long texts wrap."""
    made = Lines(box=None, show_header=bool(titles), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        made.add_column(title, overflow="fold", no_wrap=title not in broken)
    return made


class Page:
    """What a live screen shows, cut to the height of the terminal; the last part is always visible."""

    def __init__(self, parts: Iterable[RenderableType], last: Text) -> None:
        self.parts, self.last = tuple(parts), last

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterable[RenderableType | Segment]:
        foot = console.render_lines(self.last, options.update(height=None), pad=False)
        lines = console.render_lines(Group(*self.parts), options.update(height=None), pad=False)
        room = max(2, (options.height or console.height) - len(foot))
        if cut := max(0, len(lines) - room + 1) if len(lines) > room else 0:
            lines = [*lines[: room - 1], [Segment(f"… {cut} more lines: enlarge the window")]]
        for each in (*lines, *foot):
            yield from (*each, Segment.line())


def live(console: Console) -> Live:
    """A screen of its own in the terminal. It is drawn when it is told to: a thread of rich's does not fit gevent."""
    return Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


# --- all else that a process writes -----------------------------------------------------------------------------------

_OURS = secrets.randbelow(10**12)
"""A random number in gpurack's own colour sequences. A host cannot know it, so its colours are never shown."""
_MARKED = re.compile(rf"(\x1b\[{_OURS};[0-9;]*m)")
_click_style = click.style


def representation(value: Any, width: int) -> str:
    """Return a value as Python code, on several lines if one is longer than `width`."""
    from rich.pretty import pretty_repr

    return pretty_repr(value, max_width=width)


def duration(seconds: float) -> str:
    """Return `0.9 s`, `42 s`, `1 min 52 s`, `1 h 5 min`.

    >>> [duration(each) for each in (0.93, 42.4, 112, 3900)]
    ['0.9 s', '42 s', '1 min 52 s', '1 h 5 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def style(text: Any, *given: Any, **options: Any) -> str:
    """`click.style` with its colours marked as gpurack's. Marked colours in the text are kept."""
    styled = _click_style(_kept(str(text)), *given, **options)
    return re.sub(rf"\x1b\[(?!{_OURS};)", f"\x1b[{_OURS};", styled)


def _kept(text: str) -> str:
    """The text made `printable`, with gpurack's own colours kept."""
    return "".join(part if _MARKED.fullmatch(part) else printable(part) for part in _MARKED.split(text))


class Filtered:
    """A text stream that writes everything as `printable` text and keeps only gpurack's own colours.

    It has no `buffer`, so that no code can write past the filter.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write filtered text. Escape sequences split over several writes are not joined again."""
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
    """Filter stdout and stderr of this process from now on, also for pyinfra, loggers, gevent and tracebacks.

    Can be called repeatedly.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), Filtered):
            setattr(sys, name, Filtered(stream))


def unprotected(stream: Any) -> Any:
    """The unfiltered stream, for code that moves the cursor: rich, which filters itself, and pyinfra's spinner."""
    return stream.stream if isinstance(stream, Filtered) else stream
