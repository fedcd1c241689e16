"""`gpurack status --watch`: what it shows, what it survives, and how it ends."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpurack import screen
from gpurack.commands import observing
from gpurack.commands.main import main

pytestmark = pytest.mark.sampled

WHY = "RMA until 15 Jan, then back in rack 4, says Kim"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """One host, in maintenance, so that nothing is connected to."""
    path = tmp_path / "lab.yaml"
    alpha = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "api_key": None}
    path.write_text(json.dumps({"hosts": {"gone.invalid": {"maintenance": WHY, "models": {"alpha": alpha}}}}))
    return path


def watch(monkeypatch: pytest.MonkeyPatch, inventory: Path, pauses: Iterator[object], *words: str) -> Result:
    """The command, with what happens in the pauses between inspections."""

    def sleep(seconds: float) -> None:
        match next(pauses):
            case str() as text:
                inventory.write_text(text)
            case BaseException() as error:
                raise error

    monkeypatch.setattr(time, "sleep", sleep)
    return CliRunner().invoke(main, ["status", str(inventory), "--watch", *words])


def test_inspects_again_until_it_is_interrupted(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = watch(monkeypatch, inventory, iter([None, KeyboardInterrupt()]))
    assert (done.output.count("0 of 0 models ready."), done.exit_code) == (2, 0)


def test_an_interrupt_that_python_loses_ends_it(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a finalizer is printed and forgotten."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    inspect = observing.inspect

    def inspected(*words: Any) -> Any:
        finalized = Finalized()
        del finalized
        return inspect(*words)

    monkeypatch.setattr(observing, "inspect", inspected)
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    done = watch(monkeypatch, inventory, iter([None, AssertionError("it goes on")]))
    assert (done.output.count("0 of 0 models ready."), done.exit_code) == (1, 0)


def test_survives_an_edit(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = watch(monkeypatch, inventory, iter(["hosts: [", inventory.read_text(), KeyboardInterrupt()]))
    assert "the file ends inside of a bracket" in done.output
    assert (done.output.count("0 of 0 models ready."), done.exit_code) == (2, 0)


def test_survives_a_page_that_cannot_be_written(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = watch(monkeypatch, inventory, iter([None, KeyboardInterrupt()]), "--html", "/nowhere/lab.html")
    assert (done.output.count("Could not write /nowhere/lab.html"), done.exit_code) == (2, 0)


def test_ends_while_it_inspects(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(observing, "inspect", interrupted)
    assert watch(monkeypatch, inventory, iter([])).exit_code == 0


def test_is_not_for_programs(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, inventory, iter([]), "--json").exit_code == 2


@pytest.mark.parametrize(("height", "shown"), [(50, 40), (10, 8)])
def test_page_that_is_too_long_says_how_much_is_missing(height: int, shown: int) -> None:
    console = screen.Console(file=io.StringIO(), width=60, height=height, force_terminal=True)
    with screen.live(console) as live:
        live.update(screen.Page([screen.line(f"host{number}") for number in range(40)], screen.line("Ctrl-C ends it.")))
        live.refresh()
        text = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(set(re.findall(r"host\d+", text))) == shown
    assert ("… 32 more lines" in text) == (shown == 8)
    assert "Ctrl-C ends it." in text


def test_is_drawn_anew_when_the_terminal_changes_its_size(inventory: Path) -> None:
    control, terminal = pty.openpty()
    resize(terminal, 100)
    program = [sys.executable, "-m", "gpurack", "status", str(inventory), "--watch"]
    process = subprocess.Popen(
        program, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm"}
    )
    os.close(terminal)
    try:
        assert "\x1b[?1049h" in until(control, f"{WHY}.*Ctrl-C ends it")
        resize(control, 50)
        until(control, r"Jan, then\s*\n\s*back in rack 4")
        while select.select([control], [], [], 1)[0]:  # it draws
            os.read(control, 65536)
        process.send_signal(signal.SIGINT)
        assert WHY in until(control, r"\x1b\[\?1049l.*Checked").rpartition("\x1b[?1049l")[2]
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(control)


def resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))


def until(control: int, pattern: str) -> str:
    """What the program writes until it matches."""
    said, ends = "", time.monotonic() + 60
    while not re.search(pattern, said, re.DOTALL):
        assert select.select([control], [], [], max(0, ends - time.monotonic()))[0], said
        said += os.read(control, 65536).decode(errors="replace")
    return said
