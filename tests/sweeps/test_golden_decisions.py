"""What runs next and what is stopped, on recorded streams of reports: every space, trials that fail, diverge, are
interrupted or audited. A change that means to decide otherwise records them anew, in a commit that names it:

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
AT_ONCE = 4  # trials side by side
SCENARIOS = {
    # name: (space, what goes wrong, share of audits, events until the command is interrupted)
    **{name: (name, (), 0.0, None) for name in ("smoke", "table1", "table2", "ablation", "frontier", "search")},
    "ablation-audited": ("ablation", (), 0.4, None),
    "ablation-with-failures": ("ablation", ("failed", "diverged"), 0.0, None),
    "ablation-interrupted": ("ablation", (), 0.4, 60),
    "search-with-failures": ("search", ("failed", "diverged"), 0.0, None),
    "search-interrupted": ("search", ("failed",), 0.0, 45),
}


class World:
    """Trains nothing: what a configuration reaches is a function of its settings, to four digits."""

    def __init__(self, wrong):
        self.wrong = wrong

    def draw(self, config, *more):
        values = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in self.settings(config).values())
        digest = hashlib.sha256(" ".join([*values, *map(str, more)]).encode()).hexdigest()
        return int(digest[:8], 16) / 16**8

    def settings(self, config):
        named = {name: getattr(config, name) for name in ("method", "task", "length", "rank", "seed", "learning_rate")}
        return {**named, **{n: v for n, v in config.options.items() if n in ("update_learning_rate",)}}

    def score(self, config, step):
        near = math.exp(-((math.log10(config.learning_rate) + 1) ** 2))
        grown = 1 - math.exp(-3 * step / config.max_steps)
        return round(0.5 + 0.4 * near * grown + 0.1 * (self.draw(config, step) - 0.5), 3)

    def fate(self, config):
        """How a trial ends that is not stopped, and after how many evaluations, if it goes wrong."""
        for number, status in enumerate(self.wrong):
            if self.draw(config, status) < 0.15:
                return status, 1 + number
        return "complete", None


def to_six_digits(config):
    """Keys, which decide who is audited, must not hang on the last digits of a processor's logarithm."""
    return config.replace(learning_rate=float(f"{config.learning_rate:.6g}"))


class Play:
    """One command: queue and early stopping, and what they say to each other's reports."""

    def __init__(self, swept, world, lines, audit, earlier=None):
        self.space, self.world, self.lines, self.running = swept, world, lines, {}
        records, audited, interrupted = earlier or ({}, {}, [])
        self.records, self.audited, self.number = records, audited, 0
        finished = [r for r in records.values() if r.status != "failed"]
        failed = [records.pop(r.key) for r in list(records.values()) if r.status == "failed"]
        self.restored = {config.key: evaluations for config, _, evaluations in interrupted}
        self.queue = TrialQueue(
            swept, resolve=to_six_digits, finished=finished, failed=failed,
            interrupted=[(config, cell) for config, cell, _ in interrupted],
        )  # fmt: skip
        self.early_stopping = EarlyStopping(swept.stopping_rule, audit=audit, audited=audited)
        self.early_stopping.replay(finished)

    def run(self, most=None):
        """Until all is done, or for so many events."""
        while most is None or len(self.lines) < most:
            while len(self.running) < AT_ONCE and (queued := self.queue.next()):
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
            queued=queued, config=config, evaluations=evaluations, came_back=bool(evaluations)
        )
        searched = {**self.world.settings(config), "warmup": config.warmup}
        values = (f"{n}={v:.6g}" if isinstance(v, float) else f"{n}={v}" for n, v in searched.items())
        self.lines.append(" ".join(["start", name, queued.phase, queued.cell.name.replace(" ", "_"), *values]))

    def report(self, name):
        trial = self.running[name]
        config, done = trial.config, len(trial.evaluations)
        status, after = self.world.fate(config)
        if after is not None and done >= after:
            return self.end(name, status)
        step = min((done + 1) * config.eval_every, config.max_steps)
        trial.evaluations.append(
            Evaluation(
                step=step,
                selection_accuracy=self.world.score(config, step),
                selection_loss=0.5,
                train_loss=0.5,
                top_class_share=0.5,
                wall_time_s=1.0,
            )
        )
        if step >= config.max_steps:
            return self.end(name, "complete")
        best = max(e.selection_accuracy for e in trial.evaluations)
        self.queue.report(trial.queued, step, best)
        stops = trial.queued.phase == "search" and self.is_stopped(name, trial, step, best)
        self.lines.append(f"report {name} {step} {best:.3f} {'stop' if stops else 'continue'}")
        return self.end(name, "stopped") if stops else None

    def is_stopped(self, name, trial, step, best):
        if trial.came_back:
            trial.came_back = False
            self.early_stopping.restore(self.record(trial, "stopped"))
        decision = self.early_stopping.report(trial.queued.stratum, trial.config.key, step, best)
        if decision is Decision.AUDIT:
            self.lines.append(f"audit {name}")
            self.audited[trial.config.key] = step
        return decision is Decision.STOP

    def end(self, name, status):
        trial = self.running.pop(name)
        record = self.records[trial.config.key] = self.record(trial, status)
        self.lines.append(f"end {name} {status}")
        self.queue.end(trial.queued, record)

    def record(self, trial, status):
        best = max(trial.evaluations, key=lambda e: e.selection_accuracy, default=None)
        return TrialRecord(
            key=trial.config.key, config=trial.config.to_dict(), phase=trial.queued.phase, status=status,
            cell=trial.queued.cell.name, stratum=trial.queued.stratum, width=32, trainable_parameters=72,
            stored_parameters=72, materialised_parameters=128, steps=trial.evaluations[-1].step,
            max_steps=trial.config.max_steps, evaluations=tuple(trial.evaluations),
            selection_accuracy=best.selection_accuracy, selection_loss=0.5, selection_step=best.step,
            started_at=f"2026-01-01T00:00:00.{len(self.records):06}",
        )  # fmt: skip

    def cut_off(self):
        """What the next command finds: records, audits, and search trials with a checkpoint."""
        interrupted = [
            (t.config, t.queued.cell.name, t.evaluations)
            for t in sorted(self.running.values(), key=lambda t: t.config.key)
            if t.queued.phase == "search" and t.evaluations
        ]
        return self.records, self.audited, interrupted


def played(scenario):
    name, wrong, audit, interrupted_after = SCENARIOS[scenario]
    swept = spaces.load(name, "paper" if name == "smoke" else "demo")
    swept = dataclasses.replace(swept, confirm_seeds=2)
    lines, world = [], World(wrong)
    command = Play(swept, world, lines, audit)
    command.run(interrupted_after)
    if interrupted_after is not None:
        lines.append("interrupted")
        earlier = command.cut_off()
        command = Play(swept, world, lines, audit, earlier)
        command.number = 1000
        command.run()
    assert command.queue.next() is None and not command.queue._running
    return lines


def words(line):
    """The words of a line; a number as a number, whose last digits differ between processors."""
    for word in line.split():
        name, _, value = word.rpartition("=")
        try:
            yield name, pytest.approx(float(value), rel=1e-4)
        except ValueError:
            yield name, value


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_decisions(scenario):
    expected = (GOLDEN / f"{scenario}.txt").read_text().splitlines()
    lines = played(scenario)
    for number, (line, other) in enumerate(zip(lines, expected, strict=False), start=1):
        assert [*words(line)] == [*words(other)], f"event {number}: {line}, recorded: {other}"
    assert len(lines) == len(expected)


def test_the_streams_have_every_kind_of_event():
    every = {scenario: (GOLDEN / f"{scenario}.txt").read_text() for scenario in SCENARIOS}
    for words_of_it in (" stop\n", " continue\n", " failed\n", " diverged\n", "audit ", "interrupted\n", " confirm "):
        assert any(words_of_it in text for text in every.values()), words_of_it


if __name__ == "__main__":
    for scenario in SCENARIOS:
        (GOLDEN / f"{scenario}.txt").write_text("\n".join(played(scenario)) + "\n")
