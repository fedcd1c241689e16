"""Output of programs and answers of servers are data in the lines that the runner prints."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.operations.output import reasons_of
from tests.unit.host_programs import load

MESSAGES = load("messages")
HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\r",
    "\x9b31m",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x85",
    "\x0b",
    "\x0c",
    "\x7f",
    "\0",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_prints_no_control_characters(capsys: Any, text: str) -> None:
    load("messages").say("alpha", f"it ended: a{text}b")
    out = capsys.readouterr().out
    assert out.startswith("alpha: it ended: a")
    assert out.endswith("b\n")
    assert text not in out
    assert len(out.splitlines()) == 1


def test_cuts_a_message_without_end(capsys: Any) -> None:
    """A user's Docker may name a container as long as it likes."""
    load("messages").say("", "error alpha: " + "x" * 10**7)
    out = capsys.readouterr().out
    assert out.startswith("error alpha: xxx")
    assert len(out) < 21000


def test_line_of_program_is_never_read_as_our_message(capsys: Any) -> None:
    load("messages").say(
        "", "error alpha: it ended\nerror beta: FAILED too\n    | CUDA error\nbeta: ready after 0:01\n"
    )
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "error alpha: it ended", "    | error beta: FAILED too", "    | CUDA error", "    | beta: ready after 0:01"
    ]  # fmt: skip
    assert len(reasons_of(out)) == 1


@given(st.text())
def test_any_text_is_one_message(text: str) -> None:
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, "utf-8")):
        MESSAGES.say("", "error alpha: " + text)
        lines = raw.getvalue().decode().splitlines()
    assert [line for line in lines if not line.startswith("    | ")] == lines[:1]
    assert not any(ord(character) < 32 and character != "\t" for line in lines for character in line)
