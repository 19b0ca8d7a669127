"""What a command prints at its end, and its exit code."""

from __future__ import annotations

import pytest

from sweeps import spaces
from sweeps.planning.plan import make_plan
from sweeps.results.store import Store
from sweeps.summary import summarise
from tests.sweeps.records import make_record


@pytest.fixture
def space():
    return spaces.load("smoke", "paper")


def make_cell_record(space, cell, status="complete", phase="search", accuracy=0.7, **point):
    config = space.config(cell, {"learning_rate": 0.1, **point}, seed=0 if phase == "search" else 1)
    return make_record(config, status, accuracy, phase=phase, cell=cell.name)


def test_a_winner_whose_confirm_trial_diverged_is_not_confirmed_by_that_of_an_earlier_winner(tmp_path, space):
    store = Store(tmp_path, "run")
    for cell in space.cells:
        for phase in ("search", "confirm"):
            store.write(make_cell_record(space, cell, phase=phase))
    assert summarise(make_plan(space), store, "complete", elapsed_s=1)[1] == 0
    first = space.cells[0]
    store.write(make_cell_record(space, first, accuracy=0.99, learning_rate=0.2))
    store.write(make_cell_record(space, first, "diverged", "confirm", learning_rate=0.2))
    text, code = summarise(make_plan(space), store, "complete", elapsed_s=1)
    assert (code, f"no confirmed trial: {first.name}" in text) == (3, True)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [("complete", 3, "no confirmed trial"), ("stopped", 4, "stopped at a budget"), ("interrupted", 130, "continues")],
)
def test_failures_are_grouped_however_the_sweep_has_ended(tmp_path, space, status, code, words):
    store = Store(tmp_path, "run")
    for number, cell in enumerate(space.cells[:2]):
        failed = make_cell_record(space, cell, "failed")
        object.__setattr__(failed, "error", {"type": "OSError", "message": f"no {number}", "traceback": ""})
        store.write(failed)
    text, exit_code = summarise(make_plan(space), store, status, elapsed_s=61)
    text_of_fresh, _ = summarise(make_plan(space), store, status, elapsed_s=61, fresh=True)
    assert "; the same command tries them again" in text
    assert "; the same command without --fresh tries them again" in text_of_fresh
    assert ("the same command continues" in text_of_fresh) is False
    assert exit_code == code
    assert words in text
    assert "2 × OSError: no" in text
    assert "python -m lopt run --config" in text
    assert f"{status}: 2 trials (2 failed) in 1:01" in text
