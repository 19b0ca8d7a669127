"""How many trials are packed on a device."""

from __future__ import annotations

import math

import pytest

from lopt.training import Trial
from sweeps.work.packing import choose_pack_size, choose_solo_count, solo_count_here, tokens_in_memory, tokens_per_step


@pytest.mark.parametrize(
    ("step_tokens", "pass_tokens", "memory_tokens", "pack_size"),
    [
        (16 * (10 + 30), 2048, math.inf, 3),  # 3.2 trials fill a pass: a fourth trial would need another pass
        (640, 1920, math.inf, 3),
        (100, 16384, math.inf, 16),  # never more than 16 on a CPU
        (5000, 2048, math.inf, 1),
        (640, 16384, 3000, 4),  # not more than fit into memory
        (640, 16384, 100, 1),
    ],
)
def test_how_many_trials_fill_a_pass(step_tokens, pass_tokens, memory_tokens, pack_size):
    assert choose_pack_size(step_tokens, pass_tokens, memory_tokens) == pack_size


def test_a_gpu_takes_more_trials():
    assert choose_pack_size(640, 16384, device_type="cuda") == 25
    assert choose_pack_size(100, 16384, device_type="cuda") == 64, "never more than 64"


@pytest.mark.parametrize(
    ("trials_per_device", "pack_size"),
    [
        (3, 10),  # all of them fit into one pass
        (12, 12),  # not ten and two
        (14, 14),
        (15, 8),  # two rounds
        (24, 12),
        (40, 10),
        (1000, 10),
        (math.inf, 10),  # the number of devices is not known
    ],
)
def test_trials_are_divided_evenly(trials_per_device, pack_size):
    assert choose_pack_size(200, 2048, trials_per_device=trials_per_device) == pack_size


def test_dividing_evenly_takes_no_more_than_fit_into_memory():
    assert choose_pack_size(200, 2048, memory_tokens=2300, trials_per_device=14) == 11


def test_the_tokens_of_a_step_are_those_that_the_backbone_computes(tiny):
    trial = Trial(tiny)
    lengths = trial.data.train.token_counts
    batch_size = min(tiny.batch_size, len(lengths))
    prefix_tokens = tokens_per_step(trial.backbone, tiny, trial.data)
    assert prefix_tokens == pytest.approx(batch_size * lengths.mean())  # all rows share the computation of the prompt
    suffix_tokens = tokens_per_step(trial.backbone, tiny.replace(options={"placement": "suffix"}), trial.data)
    assert suffix_tokens < batch_size * (
        tiny.length + lengths.mean() / 7
    )  # the computation of texts is read from the cache


def test_memory_sets_no_limit_on_a_cpu(tiny):
    trial = Trial(tiny)
    assert tokens_in_memory(trial.backbone, trial.data, 4) == math.inf


@pytest.mark.parametrize(("weight_gb", "memory_gb", "count"), [(1.5, 140, 4), (1.5, 40, 2), (7, 80, 1), (30, 80, 1)])
def test_trials_that_train_alone_share_a_gpu_as_far_as_memory_goes(weight_gb, memory_gb, count):
    assert choose_solo_count(weight_gb * 1e9, memory_gb * 1e9) == count


def test_without_a_gpu_one_trial_trains_alone_at_a_time(tiny):
    assert solo_count_here(Trial(tiny).backbone) == 1
