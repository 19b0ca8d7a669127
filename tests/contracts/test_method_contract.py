"""What every method of `lopt/methods/` must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopt import methods
from lopt.config import TrialConfig
from lopt.methods import Shape
from lopt.training import Trial

METHODS = methods.names()


def shape_for(method, length=6, rank=2, width=32):
    rank = rank if method.uses_rank else None
    return Shape(length=length, rank=rank, width=width, options=method.check(length=length, rank=rank, options={}))


def config_for(name, **changes):
    rank = 2 if methods.get(name).uses_rank else None
    base = {"task": "toy", "backbone": "tiny", "length": 6, "rank": rank, "learning_rate": 0.1, "batch_size": 8}
    return TrialConfig(method=name, **{**base, "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes})


@pytest.mark.parametrize("name", METHODS)
@given(length=st.integers(1, 60), rank=st.integers(1, 60), width=st.integers(1, 300))
@settings(max_examples=25)
def test_closed_form_equals_the_count(name, length, rank, width):
    method = methods.get(name)
    shape = shape_for(method, length, min(rank, length), width)
    counts = method.counts(shape)
    assert counts.trainable == method.closed_form(shape)
    assert counts.materialised == length * width
    assert counts.stored <= counts.trainable + counts.materialised


@pytest.mark.parametrize("name", METHODS)
def test_prompt_has_its_shape_alone_and_for_many_trials_at_once(name):
    method = methods.get(name)
    shape = shape_for(method)
    values = {n: torch.tensor(v) for n, v in method.initial_values(shape, 0).items()}
    prompt_PH = method.prompt(values, shape.options)
    assert prompt_PH.shape == (6, 32)
    stacked = {n: torch.stack([v, 2 * v]) for n, v in values.items()}
    prompt_KPH = method.prompt(stacked, shape.options)
    torch.testing.assert_close(prompt_KPH[0], prompt_PH)
    torch.testing.assert_close(prompt_KPH[1], method.prompt({n: 2 * v for n, v in values.items()}, shape.options))


@pytest.mark.parametrize("name", METHODS)
def test_initial_values_are_the_same_bits_for_a_seed_and_others_for_another(name):
    method = methods.get(name)
    shape = shape_for(method)
    first, again, other = (method.initial_values(shape, seed) for seed in (3, 3, 4))
    for factor, declared in method.factors(shape).items():
        np.testing.assert_array_equal(first[factor], again[factor])
        assert first[factor].shape == declared.shape
        assert np.abs(first[factor]).max() <= declared.bound
        if declared.trainable:
            assert (first[factor] != other[factor]).any()


@pytest.mark.parametrize("name", METHODS)
def test_training_changes_the_declared_parameters_and_nothing_else(name):
    trial = Trial(config_for(name))
    before = {n: f.detach().clone() for n, f in trial.factors.items()}
    frozen = {n: f.clone() for n, f in trial._frozen.items()}
    checksum = trial.backbone.checksum()
    for _ in trial:
        pass
    assert trial.backbone.checksum() == checksum
    assert not any(p.requires_grad for p in trial.backbone.model.parameters())
    for factor, value in trial.factors.items():
        assert (value.detach() != before[factor]).any(), factor
    for factor, value in trial._frozen.items():
        torch.testing.assert_close(value, frozen[factor], rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_the_counted_parameters_are_those_the_optimiser_holds(name):
    trial = Trial(config_for(name))
    held = sum(p.numel() for group in trial._optimizer.param_groups for p in group["params"])
    assert held == trial.counts.trainable


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name):
    records = []
    for _ in range(2):
        trial = Trial(config_for(name))
        for _ in trial:
            pass
        records.append((trial.finish(), trial.best_prompt().prompt_PH, trial.predictions.logits))
    (one, prompt_1, logits_1), (two, prompt_2, logits_2) = records
    assert [(e.selection_loss, e.train_loss) for e in one.evaluations] == [
        (e.selection_loss, e.train_loss) for e in two.evaluations
    ]
    assert torch.equal(prompt_1, prompt_2)
    np.testing.assert_array_equal(logits_1, logits_2)


@pytest.mark.parametrize("name", METHODS)
def test_a_reloaded_prompt_gives_exactly_the_recorded_accuracy(name, tmp_path):
    from lopt import load_prompt, train

    record = train(config_for(name), artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    found = prompt.evaluate()
    assert found.accuracy == record.test_accuracy == prompt.test_accuracy
    assert found.macro_f1 == record.test_macro_f1
    assert set(prompt.factors) == {
        n for n, f in methods.get(name).factors(methods.shape_of(prompt.config, 32)).items() if f.trainable
    }
