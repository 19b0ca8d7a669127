"""A sweep without training, for tests of which trials run and in which order."""

from __future__ import annotations

import math

from sweeps.search.queue import TrialQueue
from tests.sweeps.records import make_record


class Driver:
    """A sweep without training.

    `outcome(trial)` returns how a trial ends: the first arguments of `make_record`, or None if it leaves no record.
    """

    def __init__(self, space, outcome, finished=(), failed=(), warm_start_records=(), interrupted=()):
        self.outcome, self.trials = outcome, []
        self.records = {record.key: record for record in finished}
        self.queue = TrialQueue(
            space,
            resolve=lambda config: config,
            finished=list(finished),
            failed=list(failed),
            interrupted=interrupted,
            warm_start_records=warm_start_records,
        )

    @property
    def cell_searches(self):
        return self.queue._turns.cells

    def start(self):
        trial = self.queue.begin_next_trial()
        if trial is not None:
            self.trials.append(trial)
        return trial

    def end(self, trial):
        outcome, record = self.outcome(trial), None
        if outcome is not None:
            record = make_record(trial.config, *outcome, trial.phase, trial.cell.name, trial.stratum)
            self.records[trial.config.key] = record
        self.queue.end(trial, record)

    def run(self):
        while trial := self.start():
            self.end(trial)
        assert not self.queue.has_waiting_trial and not self.queue._search_by_running_trial
        return self


def by_rate(trial):
    """Return the outcome of a complete trial that is best at a learning rate of 0.1."""
    return "complete", 0.9 - abs(math.log10(trial.config.learning_rate) + 1) / 10
