"""The cost of a trial in its record: seconds on its device, and memory."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from lopt import memory
from lopt.engine import Engine
from lopt.train_alone import train
from lopt.training import Trial


def test_a_trial_that_trains_alone_records_its_times_and_its_memory(tiny):
    record = train(tiny)
    parts = (record.train_time_s, record.evaluation_time_s, record.test_time_s)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= record.wall_time_s
    assert record.peak_memory_bytes > 10**8, "torch alone takes more"


def test_the_time_of_an_evaluation_counts_as_evaluation_time(tiny, monkeypatch):
    import lopt.training

    real_predict = lopt.training.predict_split
    monkeypatch.setattr(lopt.training, "predict_split", lambda *arguments: time.sleep(0.2) or real_predict(*arguments))
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
    total = time.perf_counter() - began
    times = [trial.train_time_s + trial.evaluation_time_s for trial in trials]
    assert sum(times) <= total
    assert sum(times) > 0.5 * total, "nearly all of the time is spent in steps and evaluations"
    assert trials[1].train_time_s > 1.5 * trials[0].train_time_s, "its batches are three times as large"
    assert all(trial.finish().peak_memory_bytes is None for trial in trials), "shared memory belongs to no trial"


def test_a_restored_trial_keeps_its_earlier_times(tiny):
    trial = Trial(tiny, phase="search")
    next(iter(trial))
    trial.train_time_s, trial.evaluation_time_s = 100.0, 50.0
    restored = Trial(tiny, phase="search")
    restored.restore(trial.to_checkpoint())
    assert (restored.train_time_s, restored.evaluation_time_s) == (100.0, 50.0)


@pytest.mark.skipif(memory.peak_bytes(torch.device("cpu")) is None, reason="needs /proc of Linux, which gives the peak")
def test_the_peak_can_be_reset():
    device = torch.device("cpu")
    memory.reset_peak(device)
    before = memory.peak_bytes(device)
    array = np.ones(40_000_000)
    peak = memory.peak_bytes(device)
    assert peak - before > 0.9 * array.nbytes
    del array
    memory.reset_peak(device)
    assert memory.peak_bytes(device) < peak - 200_000_000


def test_exceptions_that_mean_that_memory_ran_out_are_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    messages = (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA",
    )
    assert all(memory.is_out_of_memory(error) for error in (raised.value, MemoryError(), *map(RuntimeError, messages)))
    assert not memory.is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
