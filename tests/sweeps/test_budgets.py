"""Budgets of a sweep in this process: trials, time and GPU-hours."""

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
from tests.sweeps.test_sweep_local import SMALL, record_times, sweep


def test_a_budget_stops_cleanly_and_the_same_command_continues(tmp_path, capsys):
    assert sweep(tmp_path, "--max-trials", "4") == 4
    assert len(record_times(tmp_path)) == 4
    assert json.loads((tmp_path / "smoke-paper" / "manifest.json").read_text())["status"] == "stopped"
    before = record_times(tmp_path)
    assert sweep(tmp_path) == 0
    assert len(record_times(tmp_path)) == 9
    assert {name: record_times(tmp_path)[name] for name in before} == before


def test_a_budget_of_time_exits_with_4(tmp_path):
    assert sweep(tmp_path, "--max-wall-time=0.001s") == 4


@pytest.mark.parametrize(("step", "precision"), [(2, "fp32"), (2, "auto"), (9, "fp32"), (40, "fp32")])
def test_a_budget_of_time_ends_the_running_trial_at_its_next_evaluation(tmp_path, monkeypatch, capsys, step, precision):
    """The trial leaves a checkpoint and no record, and its final result is that of a trial that was never stopped. Step
    40 belongs to a confirm trial."""
    original_update, steps, setting = Trial.update, [], ("--set", f"precision={precision}")

    def update(self):
        steps.append(self.step)
        return original_update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        patch.setattr(Budget, "is_spent", lambda self: len(steps) >= step)
        assert sweep(tmp_path, *setting, "--max-wall-time", "9h") == 4
    assert len(steps) <= step + 1, "an evaluation at every second step"
    run = tmp_path / "smoke-paper"
    assert {record.status for record in Store(tmp_path, "smoke-paper").records()} <= {"complete", "stopped"}
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert json.loads((run / "manifest.json").read_text())["status"] == "stopped"
    assert "stopped at the budget, can be continued" in capsys.readouterr().out
    assert sweep(tmp_path, *setting) == 0
    out = capsys.readouterr().out
    assert out.count("continues at") == 1
    assert not (run / "checkpoints").exists()
    assert main([*SMALL, *setting, "--out", str(tmp_path / "undisturbed")]) == 0
    results, undisturbed_results = (
        {
            record.key: (record.phase, record.status, record.steps, record.selection_loss)
            for record in Store(out, "smoke-paper").records()
        }
        for out in (tmp_path, tmp_path / "undisturbed")
    )
    assert results == undisturbed_results


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def gpu_time(clock):
    return GpuTime(lambda: clock[0])


def test_a_gpu_counts_once_however_many_trials_share_it(clock, gpu_time):
    for trial in "abc":
        gpu_time.reserve(trial, 0.25)
    clock[0] = 5.0
    assert gpu_time.seconds == 0, "the trials wait for a place"
    for trial in "abc":
        gpu_time.place(trial)
    clock[0] = 7.0
    for trial in "abc":
        gpu_time.locate(trial, "node 0")
    gpu_time.remove("a")
    gpu_time.remove("b")
    clock[0] = 10.0
    assert gpu_time.seconds == 5, "a GPU with one trial counts in full"
    gpu_time.remove("c")
    clock[0] = 20.0
    assert gpu_time.seconds == 5


def test_each_gpu_counts_and_work_done_twice_counts_twice(clock, gpu_time):
    for trial, gpus in {"a": 0.5, "b": 0.5, "c": 1.0, "without GPU": 0.0}.items():
        gpu_time.reserve(trial, gpus)
        gpu_time.place(trial)
    clock[0] = 1.0
    assert gpu_time.seconds == 2, "at least as many GPUs as the trials reserve"
    for trial, device in {"a": "node 0", "b": "node 1", "c": "node 2", "without GPU": "node"}.items():
        gpu_time.locate(trial, device)
    clock[0] = 2.0
    assert gpu_time.seconds == 2 + 3
    gpu_time.remove("c")  # its process has died
    clock[0] = 3.0
    gpu_time.place("c")
    clock[0] = 4.0
    assert gpu_time.seconds == 5 + 2 + 2, "at least as many GPUs as the trials reserve"
    gpu_time.locate("c", "node 3")
    clock[0] = 5.0
    assert gpu_time.seconds == 9 + 3


def test_parts_that_add_up_to_one_gpu_count_as_one(clock, gpu_time):
    for trial, part in zip("abcd", (0.2, 0.4, 0.3, 0.1), strict=True):  # their sum is 1.0000000000000002
        gpu_time.reserve(trial, part)
        gpu_time.place(trial)
    clock[0] = 3.0
    assert gpu_time.seconds == 3


@given(
    st.lists(
        st.tuples(st.floats(0, 9), st.sampled_from("abcd"), st.sampled_from(["placed", "0", "1", "removed"])),
        max_size=30,
    )
)
def test_gpu_time_is_between_one_gpu_and_all_while_there_are_trials(events):
    clock, running, lower, upper = [0.0], set(), 0.0, 0.0
    gpu_time = GpuTime(lambda: clock[0])
    for trial in "abcd":
        gpu_time.reserve(trial, 0.5)
    for seconds, trial, event in events:
        clock[0] += seconds
        lower, upper = lower + seconds * bool(running), upper + seconds * min(len(running), 2)
        if event == "placed":
            gpu_time.place(trial)
            running.add(trial)
        elif event == "removed":
            gpu_time.remove(trial)
            running.discard(trial)
        else:
            gpu_time.locate(trial, event)
    assert lower - 1e-9 <= gpu_time.seconds <= upper + 1e-9


def test_beyond_the_gpu_hours_no_trial_starts_and_running_trials_end(clock, gpu_time):
    budget = Budget(Options(max_gpu_hours=10 / 3600), lambda: 0.0)
    budget.gpu_time = gpu_time
    gpu_time.reserve("a", 0.1)
    gpu_time.place("a")
    clock[0] = 9.9
    assert budget.may_start() and not budget.is_spent()
    clock[0] = 10.0
    assert budget.is_spent() and not budget.may_start()


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_trial_in_local_mode_has_the_gpu_alone(tmp_path, monkeypatch, gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    plan = SimpleNamespace(space=SimpleNamespace(all_sample_configs=[]), design=None)
    local_sweep = Sweep(plan, Store(tmp_path, "r"), Options(local_mode=True), [])
    assert local_sweep._gpus_of({"shares_backbone": True}) == gpus
