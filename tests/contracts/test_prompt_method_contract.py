"""Rules that every prompt method of `lopt/methods/` must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopt import backbones, load_prompt, methods, train
from lopt.training import Trial
from tests.contracts.methods_under_test import PROMPT_METHODS, WIDTH, config_for, initial_values, shape_for


@pytest.mark.parametrize("name", PROMPT_METHODS)
@given(length=st.integers(1, 60), rank=st.integers(1, 60), width=st.integers(1, 300))
@settings(max_examples=25)
def test_closed_form_equals_the_count(name, length, rank, width):
    method = methods.get(name)
    shape = shape_for(name, length, min(rank, length), width)
    counts = method.counts(shape)
    assert counts.trainable == method.closed_form(shape)
    assert counts.stored == counts.trainable
    zeros = {factor_name: torch.zeros(factor.shape) for factor_name, factor in method.factors(shape).items()}
    soft_prompt = method.soft_prompt(zeros, shape.options)
    assert soft_prompt.prompt.shape == (length, width)
    assert counts.materialised == length * width + (0 if soft_prompt.update is None else soft_prompt.update.numel())


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_prompt_and_update_are_computed_for_one_trial_and_for_stacked_trials(name):
    method, options = methods.get(name), shape_for(name).options
    generator = np.random.RandomState(0)  # not the initial values, because zeros among them would hide a factor
    declared = method.factors(shape_for(name))
    values = {
        factor_name: torch.tensor(generator.uniform(-0.5, 0.5, factor.shape))
        for factor_name, factor in declared.items()
    }
    stacked = {factor_name: torch.stack([value, 2 * value]) for factor_name, value in values.items()}
    for function in (method.prompt, method.update):
        alone = function(values, options)
        if alone is None:
            assert function(stacked, options) is None
            continue
        assert alone.shape[-1] == WIDTH
        together = function(stacked, options)
        torch.testing.assert_close(together[0], alone)
        doubled = {factor_name: 2 * value for factor_name, value in values.items()}
        torch.testing.assert_close(together[1], function(doubled, options))
    assert method.prompt(values, options).shape == (6, WIDTH)


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_initial_values_are_a_function_of_the_seed(name):
    first, same_seed, other_seed = (initial_values(name, seed) for seed in (3, 3, 4))
    declared = methods.get(name).factors(shape_for(name))
    assert list(first) == list(declared)
    for factor, value in first.items():
        np.testing.assert_array_equal(value, same_seed[factor])
        assert value.shape == declared[factor].shape
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
        if np.ptp(value) > 0:  # zeros and ones are not random
            own_seed = declared[factor].seed is not None
            assert (value == other_seed[factor]).all() if own_seed else (value != other_seed[factor]).any()
    assert any(np.ptp(value) > 0 and declared[factor_name].trainable for factor_name, value in first.items())


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_frozen_matrices_are_drawn_alone_and_without_a_vocabulary(name):
    method, shape = methods.get(name), shape_for(name)
    all_values, alone = initial_values(name, 5), method.initial_values(shape, 5, frozen_only=True)
    assert set(alone) == {factor_name for factor_name, factor in method.factors(shape).items() if not factor.trainable}
    for factor, value in alone.items():
        np.testing.assert_array_equal(value, all_values[factor])


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_training_changes_the_declared_matrices_and_nothing_else(name):
    trial = Trial(config_for(name))
    assert trial.backbone is backbones.load("tiny", "fp32")
    before = {factor_name: factor.detach().clone() for factor_name, factor in trial.factors.items()}
    drawn = initial_values(name, trial.config.seed)
    checksum = trial.backbone.checksum()
    for _ in trial:
        pass
    assert trial.backbone.checksum() == checksum
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in trial.backbone.model.parameters()
    )
    assert set(trial.factors) == {
        factor_name for factor_name, factor in trial.method.factors(shape_for(name)).items() if factor.trainable
    }
    for factor, value in trial.factors.items():
        torch.testing.assert_close(before[factor], torch.tensor(drawn[factor]).float(), rtol=0, atol=0)
        assert (value.detach() != before[factor]).any(), factor
    # The frozen matrices are still those of their seed: with them the factors give the current prompt.
    frozen_factors = trial.method.frozen_factors(trial.config, WIDTH, dtype=torch.float32)
    remade = trial.method.soft_prompt({**frozen_factors, **trial.factors}, trial.config.options)
    current = trial.soft_prompt()
    assert torch.equal(remade.prompt, current.prompt)
    assert (remade.update is None) == (current.update is None)
    assert remade.update is None or torch.equal(remade.update, current.update)


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_every_prompt_method_trains_as_prefix_and_as_suffix(name, tmp_path):
    record = train(config_for(name, options={"placement": "suffix"}), artifact=tmp_path)
    prompt = load_prompt(tmp_path)
    assert prompt.soft_prompt.placement.name == "suffix"
    assert prompt.evaluate().accuracy == record.test_accuracy
    placements = ("prefix", "suffix")
    trials = {placement: Trial(config_for(name, options={"placement": placement})) for placement in placements}
    losses = {placement: trial.loss(np.arange(8)).item() for placement, trial in trials.items()}
    assert losses["prefix"] != losses["suffix"]
    default = Trial(config_for(name))
    assert default.loss(np.arange(8)).item() == losses["prefix"]
    assert trials["prefix"].config.key == default.config.key != trials["suffix"].config.key
    with pytest.raises(ValueError, match=r"placement is 'sufix'; valid: prefix, suffix\. Did you mean 'suffix'"):
        config_for(name, options={"placement": "sufix"})
