"""Every mistake of a new user has its exact screen. New wording: python -m tests.first_day.replay"""

from pathlib import Path

import pytest

from tests.first_day.mistakes import MISTAKES, Mistake
from tests.first_day.replay import read_screens, replay
from tests.sampling import sample

SCREENS = read_screens()


def kind(mistake: Mistake) -> tuple[object, ...]:
    """The command without its arguments, what is wrong with the host, and where the mistake is."""
    places = bool(mistake.lab[0]), bool(mistake.python), tuple(mistake.files)
    return " ".join(mistake.command.split()[:2]), mistake.ssh, mistake.snapshot, places


@pytest.mark.parametrize("mistake", sample(MISTAKES, "mistakes", kind), ids=lambda mistake: mistake.name)
def test_mistake_is_answered_with_its_screen(mistake: Mistake, tmp_path: Path) -> None:
    assert replay(mistake, tmp_path) == SCREENS[mistake.name]


def test_has_forty_mistakes_and_no_other_screens() -> None:
    assert len(MISTAKES) >= 40
    assert list(SCREENS) == [mistake.name for mistake in MISTAKES]


@pytest.mark.parametrize("name", SCREENS)
def test_screen_is_short_and_has_no_traceback(name: str) -> None:
    """What went wrong is visible at a glance."""
    screen = SCREENS[name]
    assert "Traceback" not in screen
    short = screen.startswith("$ gpurack") and not screen.endswith("exit code 0")
    assert len(screen.splitlines()) <= (7 if short else 16)  # pyinfra has lines of its own, and a plan its GPUs
