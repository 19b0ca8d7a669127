"""The machine's clock is set back during a run: durations, budgets and results do not notice."""

from __future__ import annotations

import datetime
import time
from types import SimpleNamespace

import pytest

from lopt import records
from lopt.training import Trial
from sweeps.results.store import Store
from sweeps.run import main

COMMAND = ["--space", "smoke", "--local-mode", "--max-wall-time", "1h"]


@pytest.fixture
def backwards(monkeypatch):
    """Each look at the clock says an hour less than the one before."""
    start, looks = time.time(), []

    def back(*zone):
        looks.append(None)
        return start - 3600 * len(looks)

    clock = SimpleNamespace(now=lambda zone: datetime.datetime.fromtimestamp(back(), zone))
    monkeypatch.setattr(records, "datetime", SimpleNamespace(datetime=clock, UTC=datetime.UTC))
    monkeypatch.setattr(time, "time", back)
    return looks


def results(out):
    """What was found, without what depends on time."""
    return {
        r.key: (r.phase, r.status, r.steps, r.selection_accuracy, r.selection_loss, r.test_accuracy)
        for r in Store(out, "smoke-paper").records()
    }


def test_a_clock_that_runs_backwards_changes_no_result_and_no_duration(tmp_path, request, monkeypatch):
    assert main([*COMMAND, "--out", str(tmp_path / "usual")]) == 0
    looks = request.getfixturevalue("backwards")
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert len(looks) > 24
    assert results(tmp_path) == results(tmp_path / "usual")
    for record in Store(tmp_path, "smoke-paper").records():
        times = [0.0, *(evaluation.wall_time_s for evaluation in record.evaluations), record.wall_time_s]
        assert times == sorted(times)
        assert record.wall_time_s < 60


def test_an_interrupted_run_goes_on_under_an_earlier_clock(tmp_path, request, monkeypatch):
    honest, steps = Trial.update, []

    def update(self):
        steps.append(self.config.key)
        if len(steps) == 67:
            raise KeyboardInterrupt
        return honest(self)

    monkeypatch.setattr(Trial, "update", update)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 130
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "smoke-paper" / "trials").iterdir()}
    assert before
    request.getfixturevalue("backwards")
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = Store(tmp_path, "smoke-paper").records()
    assert len(found) == 12
    manifest = Store(tmp_path, "smoke-paper").manifest()
    assert manifest["status"] == "complete"
    assert [r.started_at for r in found] == sorted(r.started_at for r in found)
    late = next(r for r in found if r.key == steps[66])
    assert late.wall_time_s == pytest.approx(late.evaluations[-1].wall_time_s, abs=5), "a trial that went on"
    assert len(steps) <= 12 * 12 + 2 + 1, "no more than the steps since the last evaluation were made twice"
