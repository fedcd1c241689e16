"""The filter `printable`, and the places where all output passes it."""

import io
import json
import logging
import sys

import click
import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from gpurack import screen
from tests.security.attacks import EVERYTHING, HIDDEN, IN_PIECES, VISIBLE, harmless


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", HIDDEN)
def test_shows_deceptive_characters_as_escapes(text: str) -> None:
    assert harmless(screen.printable(text)) != text


@pytest.mark.parametrize("text", [*VISIBLE, "été 模型 🚀 ░█ → ·\ttab\nline"])
def test_keeps_other_text(text: str) -> None:
    assert screen.printable(text) == text


def test_escaped_text_stays_readable() -> None:
    assert screen.printable("\x1b[1;31mERROR\x1b[0m 10 %\r\n") == "ERROR 10 %\n"
    assert screen.printable("\x1b]0;x\x07\u202e\x9b") == "\\x1b]0;x\\x07\\u202e\\x9b"


def test_removal_creates_no_new_sequence() -> None:
    assert screen.printable(IN_PIECES) == "\\x1b[2J\\x9b"


@given(st.text(st.characters()))
def test_any_text_becomes_printable_and_stays_so(text: str) -> None:
    shown = harmless(screen.printable(text))
    assert screen.printable(shown) == shown
    shown.encode()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(st.characters()), lambda one: st.lists(one)))
def test_decoded_json_is_harmless(data: object) -> None:
    text = screen.as_json({"a": data})
    harmless(text)
    harmless(json.dumps(json.loads(text), ensure_ascii=False))
    assert "NaN" not in text.replace('"NaN', "")


def test_json_keys_are_printable() -> None:
    assert json.loads(screen.as_json({EVERYTHING: 1})) == {screen.printable(EVERYTHING): 1}


@pytest.mark.parametrize("text", [*HIDDEN, *VISIBLE, EVERYTHING])
def test_console_ignores_markup_in_texts_and_cells(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    console = screen.console(width=4000)
    table = screen.table(text, "STATE")
    table.add_row(text, screen.line((text, "red"), text))
    table.add_row(Text(text), text)  # made past `line`
    console.print(text)
    console.print(table)
    console.print(screen.line("a", (text, "bold"), "b"))
    shown = harmless(out.getvalue(), colours=True)
    assert "\x1b[31m" in shown
    if text in VISIBLE:
        assert shown.count(text) == 8


def test_table_columns_stay_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table = screen.table("A", "B")
    table.add_row("\x1b[2J\u202e", "x")
    table.add_row("short", "x")
    screen.console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert len({line.rindex(end) for line, end in zip(lines, "Bxx", strict=True)}) == 1


def test_echo_filters_and_accepts_closing_tag(capsys: pytest.CaptureFixture[str]) -> None:
    screen.echo(EVERYTHING)
    screen.echo(EVERYTHING, err=True, nl=False)
    said = capsys.readouterr()
    assert harmless(said.out) == screen.printable(EVERYTHING) + "\n"
    assert harmless(said.err) == screen.printable(EVERYTHING)


def protected(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """The stderr of a protected process, a terminal. (Not a fixture, because pytest replaces the streams after
    fixtures.)"""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", out := Terminal())
    screen.protect()
    screen.protect()
    return out


def fail() -> None:
    raise ValueError(EVERYTHING)


def test_protected_process_prints_filtered_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """print, click, a logger without handlers, and exceptions, also gevent's."""
    terminal = protected(monkeypatch)
    monkeypatch.setattr(logging.getLogger("somebody"), "propagate", False)  # pytest's own handler
    print(EVERYTHING, file=sys.stderr)
    sys.stderr.writelines([EVERYTHING, "\x1b", "[2J"])
    click.echo(EVERYTHING, err=True)
    logging.getLogger("somebody").error(EVERYTHING)
    gevent.joinall([gevent.spawn(fail)])
    sys.excepthook(ValueError, ValueError(EVERYTHING), None)
    shown = harmless(terminal.getvalue())
    assert shown.count("pwned") >= 7
    with pytest.raises(AttributeError):
        sys.stderr.buffer  # noqa: B018 – the way past it


def test_keeps_own_colours_and_removes_those_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = protected(monkeypatch)
    inner = screen.style("\x1b[32mhost\x1b[0m", "red")
    click.echo(screen.style(f"\x1b[8mhidden {inner} \x1b[31mend", fg="yellow"), err=True)
    click.echo("\x1b[31mplain host\x1b[0m", err=True)
    shown = terminal.getvalue()
    assert shown == "\x1b[33mhidden \x1b[31mhost\x1b[0m end\x1b[0m\nplain host\n"


def test_rich_keeps_its_colours_in_protected_process(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = protected(monkeypatch)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen.console(stderr=True).print(screen.line(("error", "red"), EVERYTHING))
    assert harmless(terminal.getvalue(), colours=True).startswith("\x1b[31merror\x1b[0m")
