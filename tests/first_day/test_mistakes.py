"""Every mistake of a new user has its exact screen. New wording: python -m tests.first_day.replay"""

from pathlib import Path

import pytest

from tests.first_day.mistakes import MISTAKES, Mistake
from tests.first_day.replay import read_screens, replay

SCREENS = read_screens()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
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
    assert len(screen.splitlines()) <= (7 if screen.startswith("$ gpurack") else 12)  # pyinfra has lines of its own
