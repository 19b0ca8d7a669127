"""Budgets of a sweep in this process: trials, time, GPU hours."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.training import Trial
from sweeps.budget import Budget, GpuTime
from sweeps.options import Options
from sweeps.results.store import Store
from sweeps.run import main
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
        patch.setattr(Budget, "over", lambda self: len(steps) >= step)
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


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def gpu_time(clock):
    return GpuTime(lambda: clock[0])


def test_a_gpu_counts_once_however_many_trials_share_it(clock, gpu_time):
    for trial in "abc":
        gpu_time.reserves(trial, 0.25)
    clock[0] = 5.0
    assert gpu_time.seconds == 0, "they wait for a place"
    for trial in "abc":
        gpu_time.began(trial)
    clock[0] = 7.0
    for trial in "abc":
        gpu_time.is_on(trial, "node 0")
    gpu_time.ended("a")
    gpu_time.ended("b")
    clock[0] = 10.0
    assert gpu_time.seconds == 5, "one that is alone has all of it"
    gpu_time.ended("c")
    clock[0] = 20.0
    assert gpu_time.seconds == 5


def test_gpus_count_each_and_what_is_done_twice_costs_twice(clock, gpu_time):
    for trial, gpus in {"a": 0.5, "b": 0.5, "c": 1.0, "on a processor": 0.0}.items():
        gpu_time.reserves(trial, gpus)
        gpu_time.began(trial)
    clock[0] = 1.0
    assert gpu_time.seconds == 2, "as many as they need at least"
    for trial, device in {"a": "node 0", "b": "node 1", "c": "node 2", "on a processor": "node"}.items():
        gpu_time.is_on(trial, device)
    clock[0] = 2.0
    assert gpu_time.seconds == 2 + 3
    gpu_time.ended("c")  # its process has died
    clock[0] = 3.0
    gpu_time.began("c")
    clock[0] = 4.0
    assert gpu_time.seconds == 5 + 2 + 2, "as many as they need at least"
    gpu_time.is_on("c", "node 3")
    clock[0] = 5.0
    assert gpu_time.seconds == 9 + 3


def test_parts_that_make_one_gpu_are_one(clock, gpu_time):
    for trial, part in zip("abcd", (0.2, 0.4, 0.3, 0.1), strict=True):  # 1.0000000000000002
        gpu_time.reserves(trial, part)
        gpu_time.began(trial)
    clock[0] = 3.0
    assert gpu_time.seconds == 3


@given(
    st.lists(
        st.tuples(st.floats(0, 9), st.sampled_from("abcd"), st.sampled_from(["began", "0", "1", "ended"])), max_size=30
    )
)
def test_gpu_time_is_between_one_gpu_and_all_while_there_are_trials(events):
    clock, running, least, most = [0.0], set(), 0.0, 0.0
    gpu_time = GpuTime(lambda: clock[0])
    for trial in "abcd":
        gpu_time.reserves(trial, 0.5)
    for seconds, trial, what in events:
        clock[0] += seconds
        least, most = least + seconds * bool(running), most + seconds * min(len(running), 2)
        if what == "began":
            gpu_time.began(trial)
            running.add(trial)
        elif what == "ended":
            gpu_time.ended(trial)
            running.discard(trial)
        else:
            gpu_time.is_on(trial, what)
    assert least - 1e-9 <= gpu_time.seconds <= most + 1e-9


def test_beyond_the_gpu_hours_nothing_starts_and_what_runs_ends(clock, gpu_time):
    budget = Budget(Options(max_gpu_hours=10 / 3600), lambda: 0.0)
    budget.gpu_time = gpu_time
    gpu_time.reserves("a", 0.1)
    gpu_time.began("a")
    clock[0] = 9.9
    assert budget.may_start() and not budget.over()
    clock[0] = 10.0
    assert budget.over() and not budget.may_start()


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_trial_in_this_process_has_its_gpu_alone(tmp_path, monkeypatch, gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    plan = SimpleNamespace(space=SimpleNamespace(all_examples=[]))
    made = Sweep(plan, Store(tmp_path, "r"), Options(local_mode=True), [])
    assert made._gpus_of({"shared": True}) == gpus
