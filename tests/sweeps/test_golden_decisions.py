"""The decisions of queue and early stopping are those of recorded event streams.

The streams cover every space, and trials that fail, diverge, are interrupted or audited. A change that intends other
decisions records the streams again, in a commit that says so:

    python tests/sweeps/test_golden_decisions.py
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import pytest

from lopt.records import Evaluation, TrialRecord
from sweeps import spaces
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.queue import TrialQueue

GOLDEN = Path(__file__).parent / "golden"
MAX_CONCURRENT = 4  # number of trials that run at once
SCENARIOS = {
    # name: (space, what goes wrong, share of audits, number of events after which the command is interrupted)
    **{name: (name, (), 0.0, None) for name in ("smoke", "table1", "table2", "ablation", "frontier", "search")},
    "ablation-audited": ("ablation", (), 0.4, None),
    "ablation-with-failures": ("ablation", ("failed", "diverged"), 0.0, None),
    "ablation-interrupted": ("ablation", (), 0.4, 60),
    "search-with-failures": ("search", ("failed", "diverged"), 0.0, None),
    "search-interrupted": ("search", ("failed",), 0.0, 45),
}


class FakeTraining:
    """Trains nothing: scores and failures are functions of a configuration's settings, rounded to four digits.

    Args:
        failures: statuses other than complete with which trials may end.
    """

    def __init__(self, failures):
        self.failures = failures

    def draw(self, config, *key):
        """Return a number in [0, 1) that depends on the settings and the key alone."""
        settings = self.settings(config).values()
        values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in settings)
        digest = hashlib.sha256(" ".join([*values, *map(str, key)]).encode()).hexdigest()
        return int(digest[:8], 16) / 16**8

    def settings(self, config):
        fields = {name: getattr(config, name) for name in ("method", "task", "length", "rank", "seed", "learning_rate")}
        return {**fields, **{name: value for name, value in config.options.items() if name == "update_learning_rate"}}

    def score(self, config, step):
        rate_score = math.exp(-((math.log10(config.learning_rate) + 1) ** 2))
        progress = 1 - math.exp(-3 * step / config.max_steps)
        return round(0.5 + 0.4 * rate_score * progress + 0.1 * (self.draw(config, step) - 0.5), 3)

    def failure(self, config):
        """Return a status and the number of evaluations before it, or None for a trial in which nothing goes wrong."""
        for number, status in enumerate(self.failures):
            if self.draw(config, status) < 0.15:
                return status, 1 + number
        return None


def round_learning_rate(config):
    """Round to six digits, so that keys, which decide on audits, do not depend on a processor's last digits."""
    return config.replace(learning_rate=float(f"{config.learning_rate:.6g}"))


class Command:
    """One command: a queue and early stopping, and the events that follow from their decisions.

    Args:
        events: the list to which the events are added, one line each.
        earlier: what `interrupt` of the earlier command has returned.
    """

    def __init__(self, space, training, events, audit, earlier=None):
        self.space, self.training, self.events, self.running = space, training, events, {}
        records, audited_steps, interrupted = earlier or ({}, {}, [])
        self.records, self.audited_steps, self.number = records, audited_steps, 0
        finished = [record for record in records.values() if record.status != "failed"]
        failed = [records.pop(record.key) for record in list(records.values()) if record.status == "failed"]
        self.restored = {config.key: evaluations for config, _, evaluations in interrupted}
        self.queue = TrialQueue(
            space, resolve=round_learning_rate, finished=finished, failed=failed,
            interrupted=[(config, cell) for config, cell, _ in interrupted],
        )  # fmt: skip
        self.early_stopping = EarlyStopping(space.stopping_rule, audit_share=audit, audited_steps=audited_steps)
        self.early_stopping.replay(finished)

    def run(self, max_events=None):
        """Run until no trial is left or there are `max_events` events."""
        while max_events is None or len(self.events) < max_events:
            while len(self.running) < MAX_CONCURRENT and (queued := self.queue.begin_next_trial()):
                self.begin(queued)
            if not self.running:
                return
            for name in list(self.running):
                self.report(name)

    def begin(self, queued):
        name, config = f"t{self.number}", queued.config
        self.number += 1
        evaluations = list(self.restored.pop(config.key, []))
        self.running[name] = SimpleNamespace(
            queued=queued, config=config, evaluations=evaluations, was_restored=bool(evaluations)
        )
        settings = {**self.training.settings(config), "warmup": config.warmup}
        words = (
            f"{field}={value:.6g}" if isinstance(value, float) else f"{field}={value}"
            for field, value in settings.items()
        )
        self.events.append(" ".join(["start", name, queued.phase, queued.cell.name.replace(" ", "_"), *words]))

    def report(self, name):
        trial = self.running[name]
        config, evaluations_done = trial.config, len(trial.evaluations)
        failure = self.training.failure(config)
        if failure is not None and evaluations_done >= failure[1]:
            return self.end(name, failure[0])
        step = min((evaluations_done + 1) * config.eval_every, config.max_steps)
        trial.evaluations.append(
            Evaluation(
                step=step,
                selection_accuracy=self.training.score(config, step),
                selection_loss=0.5,
                train_loss=0.5,
                top_class_share=0.5,
                wall_time_s=1.0,
            )
        )
        if step >= config.max_steps:
            return self.end(name, "complete")
        best = max(evaluation.selection_accuracy for evaluation in trial.evaluations)
        self.queue.report(trial.queued, step, best)
        stops = trial.queued.phase == "search" and self.is_stopped(name, trial, step, best)
        self.events.append(f"report {name} {step} {best:.3f} {'stop' if stops else 'continue'}")
        return self.end(name, "stopped") if stops else None

    def is_stopped(self, name, trial, step, best):
        if trial.was_restored:
            trial.was_restored = False
            self.early_stopping.restore(self.record(trial, "stopped"))
        decision = self.early_stopping.report(trial.queued.stratum, trial.config.key, step, best)
        if decision is Decision.AUDIT:
            self.events.append(f"audit {name}")
            self.audited_steps[trial.config.key] = step
        return decision is Decision.STOP

    def end(self, name, status):
        trial = self.running.pop(name)
        record = self.records[trial.config.key] = self.record(trial, status)
        self.events.append(f"end {name} {status}")
        self.queue.end(trial.queued, record)

    def record(self, trial, status):
        best = max(trial.evaluations, key=lambda evaluation: evaluation.selection_accuracy, default=None)
        return TrialRecord(
            key=trial.config.key, config=trial.config.to_dict(), phase=trial.queued.phase, status=status,
            cell=trial.queued.cell.name, stratum=trial.queued.stratum, width=32, trainable_parameters=72,
            stored_parameters=72, materialised_parameters=128, steps=trial.evaluations[-1].step,
            max_steps=trial.config.max_steps, evaluations=tuple(trial.evaluations),
            selection_accuracy=best.selection_accuracy, selection_loss=0.5, selection_step=best.step,
            started_at=f"2026-01-01T00:00:00.{len(self.records):06}",
        )  # fmt: skip

    def interrupt(self):
        """Return what the next command finds: records, audits, and search trials with a checkpoint."""
        interrupted = [
            (trial.config, trial.queued.cell.name, trial.evaluations)
            for trial in sorted(self.running.values(), key=lambda trial: trial.config.key)
            if trial.queued.phase == "search" and trial.evaluations
        ]
        return self.records, self.audited_steps, interrupted


def events_of(scenario):
    """Run a scenario and return its events."""
    name, failures, audit, max_events = SCENARIOS[scenario]
    space = spaces.load(name, "paper" if name == "smoke" else "demo")
    space = dataclasses.replace(space, confirm_seeds=2)
    events, training = [], FakeTraining(failures)
    command = Command(space, training, events, audit)
    command.run(max_events)
    if max_events is not None:
        events.append("interrupted")
        command = Command(space, training, events, audit, command.interrupt())
        command.number = 1000
        command.run()
    assert command.queue.begin_next_trial() is None and not command.queue._search_by_running_trial
    return events


def comparable_words(event):
    """Yield the words of an event as names and values; numbers are approximate, since their last digits may differ
    between processors."""
    for word in event.split():
        name, _, value = word.rpartition("=")
        try:
            yield name, pytest.approx(float(value), rel=1e-4)
        except ValueError:
            yield name, value


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_decisions_are_those_of_the_recorded_stream(scenario):
    recorded_events = (GOLDEN / f"{scenario}.txt").read_text().splitlines()
    events = events_of(scenario)
    for number, (event, recorded) in enumerate(zip(events, recorded_events, strict=False), start=1):
        assert [*comparable_words(event)] == [*comparable_words(recorded)], (
            f"event {number}: {event}, recorded: {recorded}"
        )
    assert len(events) == len(recorded_events)


def test_the_recorded_streams_have_every_kind_of_event():
    streams = [(GOLDEN / f"{scenario}.txt").read_text() for scenario in SCENARIOS]
    for part in (" stop\n", " continue\n", " failed\n", " diverged\n", "audit ", "interrupted\n", " confirm "):
        assert any(part in stream for stream in streams), part


if __name__ == "__main__":
    for scenario in SCENARIOS:
        (GOLDEN / f"{scenario}.txt").write_text("\n".join(events_of(scenario)) + "\n")
