"""A sweep without training, for tests of what is run and in which order."""

from __future__ import annotations

import math

from sweeps.search.queue import TrialQueue
from tests.sweeps.records import make_record


class Driver:
    """A sweep without training: `outcome(trial)` says how each trial ends."""

    def __init__(self, space, outcome, finished=(), failed=(), warm_start_records=(), interrupted=()):
        self.outcome, self.trials = outcome, []
        self.records = {r.key: r for r in finished}
        self.queue = TrialQueue(
            space,
            resolve=lambda config: config,
            finished=list(finished),
            failed=list(failed),
            interrupted=interrupted,
            warm_start_records=warm_start_records,
        )

    @property
    def cells(self):
        return self.queue._turns.cells

    def start(self):
        trial = self.queue.next()
        if trial is not None:
            self.trials.append(trial)
        return trial

    def end(self, trial):
        ended, record = self.outcome(trial), None
        if ended is not None:
            record = make_record(trial.config, *ended, trial.phase, trial.cell.name, trial.stratum)
            self.records[trial.config.key] = record
        self.queue.end(trial, record)

    def run(self):
        while trial := self.start():
            self.end(trial)
        assert not self.queue.waits and not self.queue._running
        return self


def by_rate(trial):
    """Best at a learning rate of 0.1."""
    return "complete", 0.9 - abs(math.log10(trial.config.learning_rate) + 1) / 10
