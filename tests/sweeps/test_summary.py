"""The last words of a sweep."""

from __future__ import annotations

import pytest

from sweeps import spaces, summary
from sweeps.planning.plan import make_plan
from sweeps.results.store import Store
from tests.sweeps.records import make_record


@pytest.fixture
def made():
    return spaces.load("smoke", "paper")


def record(made, cell, status="complete", phase="search", accuracy=0.7, **point):
    config = made.config(cell, {"learning_rate": 0.1, **point}, seed=0 if phase == "search" else 1)
    return make_record(config, status, accuracy, phase=phase, cell=cell.name)


def test_a_winner_of_today_whose_confirm_trial_diverged_is_not_confirmed_by_an_earlier_one(tmp_path, made):
    store = Store(tmp_path, "run")
    for cell in made.cells:
        for phase in ("search", "confirm"):
            store.write(record(made, cell, phase=phase))
    assert summary.of(make_plan(made), store, "complete", seconds=1)[1] == 0
    first = made.cells[0]
    store.write(record(made, first, accuracy=0.99, learning_rate=0.2))
    store.write(record(made, first, "diverged", "confirm", learning_rate=0.2))
    text, code = summary.of(make_plan(made), store, "complete", seconds=1)
    assert (code, f"no confirmed trial: {first.name}" in text) == (3, True)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [("complete", 3, "no confirmed trial"), ("stopped", 4, "stopped at a budget"), ("interrupted", 130, "continues")],
)
def test_failures_are_grouped_however_the_sweep_has_ended(tmp_path, made, status, code, words):
    store = Store(tmp_path, "run")
    for number, cell in enumerate(made.cells[:2]):
        failed = record(made, cell, "failed")
        object.__setattr__(failed, "error", {"type": "OSError", "message": f"no {number}", "traceback": ""})
        store.write(failed)
    text, found = summary.of(make_plan(made), store, status, seconds=61)
    again, _ = summary.of(make_plan(made), store, status, seconds=61, fresh=True)
    assert "; the same command tries them again" in text
    assert "; the same command without --fresh tries them again" in again
    assert ("the same command continues" in again) is False
    assert found == code
    assert words in text
    assert "2 × OSError: no" in text
    assert "python -m lopt run --config" in text
    assert f"{status}: 2 trials (2 failed) in 1:01" in text
