"""After a sweep, and after the sweep is continued, Optuna's studies agree with the store."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from optuna.storages import InMemoryStorage

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
    """Every trial queue that is built, in a list."""
    queues = []

    class RecordedQueue(sweeps.search.queue.TrialQueue):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            queues.append(self)

    monkeypatch.setattr(sweeps.search.queue, "TrialQueue", RecordedQueue)
    return queues


@pytest.fixture
def failure_and_divergence(monkeypatch):
    """Let the first point of one method fail and that of another method diverge."""
    update, loss = Trial.update, Trial.loss

    def failing_update(self):
        if self.config.method == "lopt2" and self.config.learning_rate == 0.3 and self.step == 1:
            raise RuntimeError("on purpose")
        return update(self)

    def diverging_loss(self, positions):
        diverges = self.config.method == "lopt1" and self.config.learning_rate == 0.3
        return loss(self, positions) * (float("nan") if diverges else 1.0)

    monkeypatch.setattr(Trial, "update", failing_update)
    monkeypatch.setattr(Trial, "loss", diverging_loss)


def trials_of_studies(queue):
    """Count the trials of all studies, without points that wait.

    A trial is its cell, learning rate, state, value (if complete) and intermediate values (if stopped).
    """
    counts = Counter()
    for cell_search in queue._turns.cell_searches:
        for trial in InMemoryStorage.get_all_trials(cell_search.study._storage, cell_search.study._study_id):
            state, intermediate_values = trial.state.name, ()
            value = trial.value if state == "COMPLETE" else None
            if state == "PRUNED":
                intermediate_values = tuple(sorted(trial.intermediate_values.items()))
            if state != "WAITING":
                rate = round(trial.params["learning_rate"], 12)
                counts[cell_search.cell.name, rate, state, value, intermediate_values] += 1
    return counts


def trials_of_store(store):
    """Count the search trials of a store in the same form."""
    counts = Counter()
    for record in store.records():
        if record.phase != "search":
            continue
        state, intermediate_values = STATES[record.status], ()
        value = record.selection_accuracy if state == "COMPLETE" else None
        if state == "PRUNED":
            best_accuracies = accumulate((e.selection_accuracy for e in record.evaluations), max)
            steps = (evaluation.step for evaluation in record.evaluations)
            intermediate_values = tuple(zip(steps, best_accuracies, strict=True))
        counts[record.cell, round(record.config["learning_rate"], 12), state, value, intermediate_values] += 1
    return counts


def test_studies_agree_with_the_store_also_in_a_continued_sweep(tmp_path, queues, failure_and_divergence):
    store = Store(tmp_path, "smoke-paper")
    assert main([*COMMAND, "--out", str(tmp_path), "--max-trials", "15"]) == 4
    assert trials_of_studies(queues[-1]) == trials_of_store(store)

    assert main([*COMMAND, "--out", str(tmp_path)]) == 3
    statuses = Counter(record.status for record in store.records() if record.phase == "search")
    assert all(statuses[status] for status in STATES), f"{statuses}: the test needs a trial of every status"
    assert sum(statuses.values()) == 21
    failed_key = next(record.key for record in store.records() if record.status == "failed")
    assert (store.folder / "trials" / f"{failed_key}.failed-1.json").is_file()
    # The studies have the trial that failed under both commands twice.
    only_in_studies = trials_of_studies(queues[-1]) - trials_of_store(store)
    failures = [(cell, rate, state) for cell, rate, state, _, _ in only_in_studies.elements()]
    assert failures == [("lopt2 n=4 r=1", 0.3, "FAIL")]
    assert not trials_of_store(store) - trials_of_studies(queues[-1])
    for cell_search in queues[-1]._turns.cell_searches:
        accuracies = [record.selection_accuracy for record in cell_search.records if record.status == "complete"]
        assert cell_search.study._study.best_value == max(accuracies), "early scores of stopped trials do not count"

    (group,) = groups(load([store.folder]))
    confirmed = {record.stratum: record.test_accuracy for record in store.records() if record.phase == "confirm"}
    on_frontier = {point.label: point.accuracy.mean for point in pareto.compute(group).points}
    assert sorted(on_frontier.values()) == sorted(confirmed.values()), "only confirmed trials are on the frontier"
