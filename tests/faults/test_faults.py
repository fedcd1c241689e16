"""Every fault, every deploy and every stage at least once, from a seeded sample; the trials run side by side."""

from __future__ import annotations

import pytest

from tests.faults.bench import Results, all_benches, carry_out
from tests.faults.points import SEED, Trial, load, sample
from tests.faults.strike import FAULTS

TRIALS = sample(load(), tuple(FAULTS), SEED)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The cells of the chosen trials, which are being carried out."""
    chosen = [item.callspec.params["trial"] for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    return carry_out(chosen, all_benches(tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_next_run_converges(results: Results, trial: Trial) -> None:
    """One plain run reaches the manifest of an undisturbed one, and the screen of the run that was hit is useful."""
    cell = results[trial].result()
    assert (cell.runs, cell.wrong) == (1, ""), cell
