"""The machine's clock is set back during a run: durations, budgets and results stay the same."""

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
def readings_of_backward_clock(monkeypatch):
    """Make the clock show an hour less at each reading, and return the list of readings."""
    start, readings = time.time(), []

    def read_clock():
        readings.append(None)
        return start - 3600 * len(readings)

    clock = SimpleNamespace(now=lambda zone: datetime.datetime.fromtimestamp(read_clock(), zone))
    monkeypatch.setattr(records, "datetime", SimpleNamespace(datetime=clock, UTC=datetime.UTC))
    monkeypatch.setattr(time, "time", read_clock)
    return readings


def results(out):
    """Return the results of a run that do not depend on time."""
    return {
        record.key: (
            record.phase,
            record.status,
            record.steps,
            record.selection_accuracy,
            record.selection_loss,
            record.test_accuracy,
        )
        for record in Store(out, "smoke-paper").records()
    }


def test_a_clock_that_runs_backwards_changes_no_result_and_no_duration(tmp_path, request, monkeypatch):
    assert main([*COMMAND, "--out", str(tmp_path / "usual")]) == 0
    readings = request.getfixturevalue("readings_of_backward_clock")
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert len(readings) > 24
    assert results(tmp_path) == results(tmp_path / "usual")
    for record in Store(tmp_path, "smoke-paper").records():
        times = [0.0, *(evaluation.wall_time_s for evaluation in record.evaluations), record.wall_time_s]
        assert times == sorted(times)
        assert record.wall_time_s < 60


def test_an_interrupted_run_goes_on_when_the_clock_is_set_back(tmp_path, request, monkeypatch):
    original_update, step_keys = Trial.update, []  # the key of the trial that makes each step

    def update(self):
        step_keys.append(self.config.key)
        if len(step_keys) == 67:
            raise KeyboardInterrupt
        return original_update(self)

    monkeypatch.setattr(Trial, "update", update)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 130
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "smoke-paper" / "trials").iterdir()}
    assert before
    request.getfixturevalue("readings_of_backward_clock")
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    all_records = Store(tmp_path, "smoke-paper").records()
    assert len(all_records) == 12
    manifest = Store(tmp_path, "smoke-paper").manifest()
    assert manifest["status"] == "complete"
    assert [record.started_at for record in all_records] == sorted(record.started_at for record in all_records)
    continued = next(record for record in all_records if record.key == step_keys[66])
    assert continued.wall_time_s == pytest.approx(continued.evaluations[-1].wall_time_s, abs=5)
    assert len(step_keys) <= 12 * 12 + 2 + 1, "only the steps since the last evaluation are repeated"
