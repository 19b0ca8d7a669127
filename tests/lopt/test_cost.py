"""What a record says a trial has cost: its device's time, and memory."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from lopt import memory
from lopt.engine import Engine
from lopt.training import Trial, train


def test_a_trial_alone_counts_its_steps_evaluations_and_memory(tiny):
    record = train(tiny)
    parts = (record.train_time_s, record.evaluation_time_s, record.test_time_s)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= record.wall_time_s
    assert record.peak_memory_bytes > 10**8, "torch alone takes more"


def test_an_evaluation_that_takes_longer_counts_as_evaluation(tiny, monkeypatch):
    import lopt.training

    real = lopt.training.predict_split
    monkeypatch.setattr(lopt.training, "predict_split", lambda *given: time.sleep(0.2) or real(*given))
    trial = Trial(tiny, phase="search")
    for _ in trial:
        pass
    assert trial.evaluation_time_s >= 0.2 * len(trial.evaluations)
    assert trial.train_time_s < trial.evaluation_time_s


def test_packed_trials_share_their_time_by_tokens(tiny, monkeypatch):
    trials = [Trial(tiny.replace(seed=seed, batch_size=size), phase="search") for seed, size in ((1, 2), (2, 6))]
    engine, began = Engine(), time.perf_counter()
    for trial in trials:
        engine.admit(trial)
    for _ in engine:
        pass
    whole = time.perf_counter() - began
    times = [trial.train_time_s + trial.evaluation_time_s for trial in trials]
    assert sum(times) <= whole
    assert sum(times) > 0.5 * whole, "nearly all of it is steps and evaluations"
    assert trials[1].train_time_s > 1.5 * trials[0].train_time_s, "batches of three times the size"
    assert all(trial.finish().peak_memory_bytes is None for trial in trials), "nobody knows whose memory it is"


def test_a_trial_that_goes_on_keeps_what_it_has_cost(tiny):
    trial = Trial(tiny, phase="search")
    next(iter(trial))
    trial.train_time_s, trial.evaluation_time_s = 100.0, 50.0
    again = Trial(tiny, phase="search")
    again.restore(trial.saved())
    assert (again.train_time_s, again.evaluation_time_s) == (100.0, 50.0)


@pytest.mark.skipif(memory.peak_bytes(torch.device("cpu")) is None, reason="no /proc of Linux, which says the peak")
def test_the_peak_begins_anew():
    device = torch.device("cpu")
    memory.reset_peak(device)
    before = memory.peak_bytes(device)
    held = np.ones(40_000_000)
    high = memory.peak_bytes(device)
    assert high - before > 0.9 * held.nbytes
    del held
    memory.reset_peak(device)
    assert memory.peak_bytes(device) < high - 200_000_000


def test_what_says_that_memory_ran_out():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    said = (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA",
    )
    assert all(memory.ran_out(error) for error in (raised.value, MemoryError(), *map(RuntimeError, said)))
    assert not memory.ran_out(RuntimeError("CUDA error: device-side assert triggered"))
