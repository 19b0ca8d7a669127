"""A trial that continues from a checkpoint gives the same bits as the same trial without interruption."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch

from lopt import methods
from lopt.batches import training_batches
from lopt.training import Trial


def config_of(tiny, method, optimizer="adafactor", **changes):
    if method == "lora" and importlib.util.find_spec("peft") is None:
        pytest.skip("needs peft")
    spec = methods.get(method)
    shape = {"length": 4 if spec.uses_length else None, "rank": 2 if spec.uses_rank else None}
    return tiny.replace(
        method=method, options={}, optimizer=optimizer, warmup=0.2, schedule="linear", **shape, **changes
    )


def assert_same(trial, expected):
    def evaluations_without_times(trial):
        return [dataclasses.replace(evaluation, wall_time_s=0) for evaluation in trial.evaluations]

    assert (trial.step, trial.tokens, trial.diverged) == (expected.step, expected.tokens, expected.diverged)
    assert evaluations_without_times(trial) == evaluations_without_times(expected)
    assert dataclasses.replace(trial.best, wall_time_s=0) == dataclasses.replace(expected.best, wall_time_s=0)
    for name, factor in trial.factors.items():
        assert torch.equal(factor, expected.factors[name])
        assert torch.equal(trial._best_factors[name], expected._best_factors[name])


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("method", methods.names())
def test_a_restored_trial_ends_as_if_it_had_never_stopped(tiny, method, optimizer):
    config = config_of(tiny, method, optimizer, max_steps=12, weight_decay=0.01)
    uninterrupted = Trial(config)
    list(uninterrupted)
    interrupted = Trial(config)
    for _ in range(5):  # to the middle of an interval, so that the checkpoint holds losses without an evaluation
        interrupted.update()
        if interrupted.close_interval():
            interrupted.record_evaluation(first_predictions(interrupted))
    continued = Trial(config)
    continued.restore(interrupted.to_checkpoint())
    assert (continued.step, len(continued.evaluations), continued.started_at) == (5, 1, interrupted.started_at)
    list(continued)
    assert_same(continued, uninterrupted)


def first_predictions(trial):
    from lopt.evaluation import predict_split

    with torch.no_grad():
        soft_prompt = trial.soft_prompt()
    return predict_split(trial.backbone, soft_prompt, trial.data.selection, trial.label_ids)


def test_the_record_of_a_restored_trial_counts_the_time_before_the_checkpoint(tiny):
    trial = Trial(tiny)
    next(iter(trial))
    trial._began_at -= 100
    restored = Trial(tiny)
    restored.restore(trial.to_checkpoint())
    list(restored)
    record = restored.finish()
    assert (record.status, record.steps) == ("complete", tiny.max_steps)
    assert record.wall_time_s > 100, "the time before the checkpoint counts"


def test_a_trial_is_restored_before_its_first_step(tiny):
    uninterrupted, restored = Trial(tiny), Trial(tiny)
    restored.restore(Trial(tiny).to_checkpoint())
    list(uninterrupted)
    list(restored)
    assert_same(restored, uninterrupted)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_checkpoint_that_is_damaged_or_of_another_trial_is_refused_and_changes_nothing(tiny, damage):
    trial = Trial(tiny.replace(seed=7) if damage == "other" else tiny)
    next(iter(trial))
    checkpoint = trial.to_checkpoint()
    contents = {"cut": checkpoint[:-20], "empty": b"", "text": b"text that is not a checkpoint", "other": checkpoint}
    fresh, uninterrupted = Trial(tiny), Trial(tiny)
    with pytest.raises(ValueError, match="belongs to trial" if damage == "other" else "is damaged"):
        fresh.restore(contents[damage])
    list(fresh)
    list(uninterrupted)
    assert_same(fresh, uninterrupted)


@pytest.mark.parametrize("skip", [0, 1, 6, 7, 8, 23])
def test_skipping_batches_gives_the_batches_that_follow(tiny, skip):
    lengths = Trial(tiny).data.train.token_counts[:59]
    all_batches, later_batches = training_batches(lengths, 8, 3), training_batches(lengths, 8, 3, skip)
    for _ in range(skip):
        next(all_batches)
    for _ in range(20):
        assert (next(all_batches) == next(later_batches)).all()
