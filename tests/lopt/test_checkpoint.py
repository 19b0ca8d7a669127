"""A trial that goes on from a checkpoint against the same trial uninterrupted: bit for bit."""

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
    uses = methods.get(method)
    shape = {"length": 4 if uses.uses_length else None, "rank": 2 if uses.uses_rank else None}
    return tiny.replace(
        method=method, options={}, optimizer=optimizer, warmup=0.2, schedule="linear", **shape, **changes
    )


def assert_same(one, other):
    def evaluations(trial):
        return [dataclasses.replace(e, wall_time_s=0) for e in trial.evaluations]

    assert (one.step, one.tokens, one.diverged) == (other.step, other.tokens, other.diverged)
    assert evaluations(one) == evaluations(other)
    assert dataclasses.replace(one.best, wall_time_s=0) == dataclasses.replace(other.best, wall_time_s=0)
    for name, factor in one.factors.items():
        assert torch.equal(factor, other.factors[name])
        assert torch.equal(one._best_factors[name], other._best_factors[name])


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("method", methods.names())
def test_a_restored_trial_ends_as_if_it_had_never_stopped(tiny, method, optimizer):
    config = config_of(tiny, method, optimizer, max_steps=12, weight_decay=0.01)
    whole = Trial(config)
    list(whole)
    first = Trial(config)
    for _ in range(5):  # in the middle of an interval, so that losses wait for their evaluation
        first.update()
        if first.evaluation_due():
            first.record_evaluation(first_predictions(first))
    second = Trial(config)
    second.restore(first.saved())
    assert (second.step, len(second.evaluations), second.started_at) == (5, 1, first.started_at)
    list(second)
    assert_same(second, whole)


def first_predictions(trial):
    from lopt.evaluation import predict_split

    with torch.no_grad():
        soft_prompt = trial.soft_prompt()
    return predict_split(trial.backbone, soft_prompt, trial.data.selection, trial.label_ids)


def test_a_finished_record_of_a_restored_trial(tiny):
    trial = Trial(tiny)
    next(iter(trial))
    trial._began -= 100
    again = Trial(tiny)
    again.restore(trial.saved())
    list(again)
    record = again.finish()
    assert (record.status, record.steps) == ("complete", tiny.max_steps)
    assert record.wall_time_s > 100, "what went before counts"


def test_a_trial_before_its_first_step(tiny):
    whole, again = Trial(tiny), Trial(tiny)
    again.restore(Trial(tiny).saved())
    list(whole)
    list(again)
    assert_same(again, whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_checkpoint_that_is_damaged_or_another_trials_is_refused_and_changes_nothing(tiny, damage):
    trial = Trial(tiny.replace(seed=7) if damage == "other" else tiny)
    next(iter(trial))
    saved = trial.saved()
    content = {"cut": saved[:-20], "empty": b"", "text": b"no checkpoint at all, only text", "other": saved}[damage]
    fresh, whole = Trial(tiny), Trial(tiny)
    with pytest.raises(ValueError, match="belongs to trial" if damage == "other" else "is damaged"):
        fresh.restore(content)
    list(fresh)
    list(whole)
    assert_same(fresh, whole)


@pytest.mark.parametrize("skip", [0, 1, 6, 7, 8, 23])
def test_skipped_batches_are_those_that_would_have_come(tiny, skip):
    lengths = Trial(tiny).data.train.lengths[:59]
    whole, rest = training_batches(lengths, 8, 3), training_batches(lengths, 8, 3, skip)
    for _ in range(skip):
        next(whole)
    for _ in range(20):
        assert (next(whole) == next(rest)).all()
