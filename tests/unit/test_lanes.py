"""tests/lanes.py: whatever happens to a lane, pytest fails and says which test it was."""

from pathlib import Path

import pytest

from tests import forked, lanes

TESTS = """
import os, warnings
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def made():
    with Path("made").open("a") as file:
        file.write(f"{os.getpid()}\\n")

@pytest.mark.parametrize("number", range(4))
def test_passes(made, number):
    print("not shown")

def test_fails(made):
    print("shown")
    warnings.warn("heard")
    assert 1 == 2
"""
DIES = "import os\n\ndef test_dies():\n    os._exit(0)\n"


def ran(folder: Path) -> tuple[int, str]:
    """The exit code and output of pytest in lanes."""
    imported = "ignore:Module already imported so cannot be rewritten"  # tests.lanes, by this file
    words = ["-q", "-W", imported, "-p", "tests.lanes", "--rootdir", str(folder), str(folder)]

    def program() -> int:
        lanes.LANES = 2
        return pytest.main(words)

    done = forked.run(program, words, cwd=folder)
    return done.returncode, done.stdout


def test_reports_of_all_lanes_are_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    code, said = ran(tmp_path)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 8 passed, 2 warnings" in said
    assert said.count("Captured stdout call") == said.count("\nshown") == 2
    assert "not shown" not in said
    assert "UserWarning: heard" in said
    assert len((tmp_path / "made").read_text().split()) == 2, "fixtures of a module are made once"


def test_death_of_a_lane_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(DIES)
    code, said = ran(tmp_path)
    assert code == pytest.ExitCode.INTERRUPTED
    assert "the process of test_one.py::test_dies ended" in said


def test_error_of_collection_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("import nothing_like_it\n")
    assert ran(tmp_path)[0] == pytest.ExitCode.INTERRUPTED
