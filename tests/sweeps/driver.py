"""A sweep without training, for tests of what is run and in which order."""

from __future__ import annotations

import math

from ray.tune.search import Searcher

from lopt.config import TrialConfig
from sweeps.search import SweepSearcher
from sweeps.trial import METRIC
from tests.sweeps.records import make_record


class Driver:
    """A sweep without training: `outcome(job)` says how each trial ends."""

    def __init__(self, made, outcome, finished=(), failed=(), lessons=(), interrupted=()):
        self.records = {r.key: r for r in finished}
        self.outcome, self.jobs, self.number = outcome, [], 0
        self.searcher = SweepSearcher(
            made,
            settle=lambda config: config,
            place={"out": "o", "run": "r"},
            finished=list(finished),
            failed=list(failed),
            interrupted=interrupted,
            read=self.records.get,
            lessons=lessons,
        )

    def start(self):
        self.number += 1
        job = self.searcher.suggest(f"t{self.number}")
        if isinstance(job, dict):
            self.jobs.append((f"t{self.number}", job))
            return f"t{self.number}", job
        return job

    def end(self, trial_id, job):
        config = TrialConfig.from_dict(job["config"])
        ended = self.outcome(job)
        if ended is not None:
            status, accuracy = ended
            self.records[config.key] = make_record(config, status, accuracy, job["phase"], job["cell"], job["stratum"])
        shown = "running" if ended is None or ended[0] == "stopped" else ended[0]
        self.searcher.on_trial_complete(
            trial_id, {"status": shown, METRIC: ended[1] if ended else 0}, error=ended is None
        )

    def run(self):
        while isinstance(found := self.start(), tuple):
            self.end(*found)
        assert found == Searcher.FINISHED
        return self


def by_rate(job):
    """Best at a learning rate of 0.1."""
    return "complete", 0.9 - abs(math.log10(job["config"]["learning_rate"]) + 1) / 10
