"""Budgets of a sweep in this process: trials, time, GPU hours."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lopt.training import Trial
from sweeps.options import Options
from sweeps.run import main
from sweeps.store import Store
from sweeps.sweep import Sweep
from tests.sweeps.test_sweep_local import SMALL, keys, sweep


def test_a_budget_stops_cleanly_and_the_same_command_continues(tmp_path, capsys):
    assert sweep(tmp_path, "--max-trials", "4") == 4
    assert len(keys(tmp_path)) == 4
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "stopped"
    before = keys(tmp_path)
    assert sweep(tmp_path) == 0
    assert len(keys(tmp_path)) == 9
    assert {name: keys(tmp_path)[name] for name in before} == before


def test_a_budget_of_time(tmp_path):
    assert sweep(tmp_path, "--max-wall-time=0.001s") == 4


@pytest.mark.parametrize("step", [2, 9, 40])
def test_a_budget_of_time_ends_the_running_trial_at_its_next_evaluation(tmp_path, monkeypatch, capsys, step):
    """It leaves a checkpoint and no record, and comes out as if never stopped. Step 40 is a confirm trial's."""
    honest, steps = Trial.update, []

    def update(self):
        steps.append(self.step)
        return honest(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        patch.setattr(Sweep, "_over_budget", lambda self: len(steps) >= step)
        assert sweep(tmp_path, "--max-wall-time", "9h") == 4
    assert len(steps) <= step + 1, "an evaluation at every second step"
    run = tmp_path / "smoke-paper"
    assert {r.status for r in Store(tmp_path, "smoke-paper").records()} <= {"complete", "stopped"}
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert json.loads((run / "manifest.json").read_text())["status"] == "stopped"
    assert "stopped at the budget, can go on" in capsys.readouterr().out
    assert sweep(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("continues at") == 1
    assert not (run / "checkpoints").exists()
    assert main([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    found, whole = (
        {r.key: (r.phase, r.status, r.steps, r.selection_loss) for r in Store(out, "smoke-paper").records()}
        for out in (tmp_path, tmp_path / "whole")
    )
    assert found == whole


def test_gpu_hours_count_running_trials_and_not_what_another_command_has_spent(tmp_path):
    made = Sweep(None, Store(tmp_path, "r"), Options(max_gpu_hours=10 / 3600), [])
    made.store.check = lambda: None
    made.progress = SimpleNamespace(reported=lambda trial_id, report: None)
    made._gpus |= {"a": 1.0, "b": 0.5}

    def report(trial_id, seconds, restored=False):
        made._on_report(trial_id, {"record": json.dumps({"wall_time_s": seconds}), "restored": restored})

    report("a", 100.0, restored=True)
    report("a", 103.0)
    report("a", 105.0)
    assert made._gpu_s == 5.0
    report("b", 8.0)
    assert made._gpu_s == 9.0
    assert not made._over_budget()
    report("a", 104.0, restored=True)  # its worker has died: what it does again costs again
    report("a", 105.0)
    assert made._gpu_s == 10.0
    assert made._over_budget()


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_trial_in_this_process_has_its_gpu_alone(tmp_path, monkeypatch, gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    made = Sweep(None, Store(tmp_path, "r"), Options(local_mode=True), [])
    assert made._gpus_of({"config": {"method": "lopt1"}}) == gpus
