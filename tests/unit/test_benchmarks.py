"""What the benchmarks compute and write, without measuring anything."""

import subprocess

import pytest
import yaml

from benchmarks.__main__ import ALL, PAGE, with_figures
from benchmarks.measure import CHECKOUT, Row


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        (Row("snapshot", 0.15, "s", 0.15), False),
        (Row("snapshot", 0.16, "s", 0.15), True),
        (Row("run", 1.2, "s", 1.25, "exec", 1.0), False),
        (Row("run", 1.3, "s", 1.25, "exec", 1.0), True),
        (Row("run", 1.0, "s", 1 / 8, "Ansible", 8.5), False),
    ],
)
def test_goal_is_of_the_ratio_where_something_is_beside(row: Row, missed: bool) -> None:
    assert row.missed == missed


def test_figures_replace_what_is_between_the_marks_only() -> None:
    page = PAGE.read_text()
    written = with_figures(page, [Row("run", 1.2, "s", 1.25, "exec", 1.0)], "a machine")
    assert "| run | 1.20 s; exec 1.00 s (1.20, goal ≤ 1.25) |" in written
    assert "Not measured yet" not in written
    assert with_figures(written, [], "a machine").startswith(page.partition("<!-- begin")[0])
    assert written.endswith(page.partition("<!-- end")[2])


def test_every_benchmark_is_run() -> None:
    files = {path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")}
    assert files == {*ALL, "__init__", "__main__", "measure", "recorded", "without_ssh"}


def test_what_it_is_compared_with_can_be_read() -> None:
    subprocess.run(["sh", "-n", str(CHECKOUT / "benchmarks" / "by_hand.sh")], check=True)
    (play,) = yaml.safe_load((CHECKOUT / "benchmarks" / "ansible" / "site.yml").read_text())
    assert len(play["tasks"]) == 15
