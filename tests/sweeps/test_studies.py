"""Optuna's studies after a sweep say what the store says: a real sweep in this process, continued."""

from __future__ import annotations

from collections import Counter

import pytest

import sweeps.search.queue
from analysis.cells import groups
from analysis.load import load
from analysis.plots import pareto
from lopt.training import Trial
from sweeps.results.store import Store
from sweeps.run import main

COMMAND = ["--space", "smoke", "--local-mode", "--set", "trials=7", "--set", "grace_steps=2"]
STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}


@pytest.fixture
def queues(monkeypatch):
    """Every queue that is made."""
    made = []

    class Kept(sweeps.search.queue.TrialQueue):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(sweeps.search.queue, "TrialQueue", Kept)
    return made


@pytest.fixture
def troubled(monkeypatch):
    """The first point of one method fails, that of another diverges."""
    update, loss = Trial.update, Trial.loss

    def failing(self):
        if self.config.method == "lopt2" and self.config.learning_rate == 0.3 and self.step == 1:
            raise RuntimeError("on purpose")
        return update(self)

    def diverging(self, positions):
        bad = self.config.method == "lopt1" and self.config.learning_rate == 0.3
        return loss(self, positions) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(Trial, "update", failing)
    monkeypatch.setattr(Trial, "loss", diverging)


def told(queue):
    """What each study holds, but for points that wait: cell, learning rate, state, value of complete trials,
    intermediate values of stopped ones."""
    found = Counter()
    for state in queue._turns.cells:
        for trial in state.study._study.get_trials():
            name, steps = trial.state.name, ()
            value = trial.value if name == "COMPLETE" else None
            if name == "PRUNED":
                steps = tuple(sorted(trial.intermediate_values.items()))
            if name != "WAITING":
                found[state.cell.name, round(trial.params["learning_rate"], 12), name, value, steps] += 1
    return found


def stored(store, status=None):
    found = Counter()
    for record in store.records():
        if record.phase != "search":
            continue
        state, steps = STATES[record.status], ()
        value = record.selection_accuracy if state == "COMPLETE" else None
        if state == "PRUNED":
            seen = [evaluation.selection_accuracy for evaluation in record.evaluations]
            steps = tuple((e.step, max(seen[: place + 1])) for place, e in enumerate(record.evaluations))
        found[record.cell, round(record.config["learning_rate"], 12), state, value, steps] += 1
    return found


def test_states_are_those_of_the_store_also_after_going_on(tmp_path, queues, troubled):
    run = Store(tmp_path, "smoke-paper")
    assert main([*COMMAND, "--out", str(tmp_path), "--max-trials", "15"]) == 4
    assert told(queues[-1]) == stored(run)

    assert main([*COMMAND, "--out", str(tmp_path)]) == 3
    statuses = Counter(record.status for record in run.records() if record.phase == "search")
    assert all(statuses[status] for status in STATES), f"{statuses}: the test needs each"
    assert sum(statuses.values()) == 21
    tried_again = run.path(next(r.key for r in run.records() if r.status == "failed")).stem
    assert (run.folder / "trials" / f"{tried_again}.failed-1.json").is_file()
    # The trial that failed under both commands is there twice.
    twice = told(queues[-1]) - stored(run)
    assert [(cell, rate, state) for cell, rate, state, _, _ in twice.elements()] == [("lopt2 n=4 r=1", 0.3, "FAIL")]
    assert not stored(run) - told(queues[-1])
    for state in queues[-1]._turns.cells:
        complete = [r.selection_accuracy for r in state.records if r.status == "complete"]
        assert state.study._study.best_value == max(complete), "no early value of a stopped trial"

    (group,) = groups(load([run.folder]))
    confirmed = {r.stratum: r.test_accuracy for r in run.records() if r.phase == "confirm"}
    shown = {point.label: point.accuracy.mean for point in pareto.compute(group).points}
    assert sorted(shown.values()) == sorted(confirmed.values()), "only confirmed trials are on the front"
