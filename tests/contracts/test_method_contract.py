"""Rules that every method of `lopt/methods/` must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lopt import count_parameters, load_prompt, methods, metrics
from lopt.config import TrialConfig
from lopt.methods import Recipe
from lopt.ranges import Choice, Real, Whole
from lopt.training import Trial
from tests.contracts.methods_under_test import (
    METHODS,
    PROMPT_METHODS,
    WEIGHT_METHODS,
    config_for,
    dimensions,
    initial_values,
    tensors_of_optimiser,
    train_trial,
)


def test_every_method_is_a_prompt_method_or_a_weight_method():
    assert sorted(PROMPT_METHODS + WEIGHT_METHODS) == METHODS
    assert PROMPT_METHODS
    assert WEIGHT_METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_count_of_parameters_is_that_of_the_optimiser(name, tmp_path):
    """The counts come from the facts alone, the trial, the optimiser, the record and the files."""
    trial = Trial(config_for(name))
    optimised = tensors_of_optimiser(trial)
    assert set(optimised) == {id(factor) for factor in trial.factors.values()}
    assert sum(tensor.numel() for tensor in optimised.values()) == trial.counts.trainable
    assert methods.counts_of(trial.config) == trial.counts
    assert count_parameters(method=name, **dimensions(name), backbone="tiny") == trial.counts.trainable
    record = trial.finish()
    assert (record.trainable_parameters, record.stored_parameters) == (trial.counts.trainable, trial.counts.stored)
    trial.best_prompt().save(tmp_path)
    tensors = load_file(tmp_path / "prompt.safetensors")
    stored = [tensor for tensor_name, tensor in tensors.items() if tensor_name.startswith("factors.")]
    assert sum(tensor.numel() for tensor in stored) == trial.counts.stored


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name):
    results = []
    for seed in (0, 0, 1):
        trial = train_trial(config_for(name, seed=seed))
        results.append((trial.finish(), trial.best_prompt().factors, trial.predictions.logits))
    (first, factors_1, logits_1), (second, factors_2, logits_2), (_, _, logits_3) = results
    assert [(evaluation.selection_loss, evaluation.train_loss) for evaluation in first.evaluations] == [
        (evaluation.selection_loss, evaluation.train_loss) for evaluation in second.evaluations
    ]
    assert set(factors_1) == set(factors_2)
    assert all(torch.equal(factors_1[factor], factors_2[factor]) for factor in factors_1)
    np.testing.assert_array_equal(logits_1, logits_2)
    assert (logits_1 != logits_3).any()


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_another_seed_draws_every_random_matrix_again(name):
    """This includes frozen matrices. Otherwise an interval over seeds would leave out their draw and be too narrow."""
    first, second = initial_values(name, seed=1), initial_values(name, seed=2)
    for factor, values in first.items():
        if np.ptp(values):  # not a constant
            assert (values != second[factor]).any(), factor


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_artifact_gives_exactly_the_recorded_accuracy(name, tmp_path):
    trial = train_trial(config_for(name))
    record = trial.finish(artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    predictions = prompt.evaluate()
    assert predictions.accuracy == record.test_accuracy == prompt.test_accuracy
    assert metrics.get("macro_f1").score(predictions.answers) == record.test_macro_f1
    assert predictions.loss == record.test_loss
    np.testing.assert_array_equal(predictions.logits, trial.predictions.logits)
    assert set(prompt.factors) == set(trial.factors)
    for factor, value in prompt.factors.items():
        assert torch.equal(value, trial._best_factors[factor].cpu()), factor
        assert not torch.equal(value, Trial(trial.config).factors[factor].cpu()), "the loaded factors are not trained"


@pytest.mark.parametrize("name", METHODS)
def test_the_factors_are_fp32_over_a_bf16_model(name):
    trial = train_trial(config_for(name, precision="bf16"))
    assert {factor.dtype for factor in trial.factors.values()} == {torch.float32}
    assert len(trial.evaluations) == 2
    assert not trial.diverged


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_are_not_given_come_from_the_recipe(name):
    method = methods.get(name)
    fields = ("learning_rate", "optimizer", "schedule", "warmup", "weight_decay")
    assert isinstance(method.recipe, Recipe)
    config = TrialConfig(method=name, task="toy", backbone="tiny", rank=dimensions(name)["rank"])
    assert {field: getattr(config, field) for field in fields} == {
        field: getattr(method.recipe, field) for field in fields
    }
    changed = {
        "learning_rate": 0.0123,
        "optimizer": "adafactor",
        "schedule": "constant",
        "warmup": 0.5,
        "weight_decay": 0.7,
    }
    changed_config = config.replace(**changed)
    assert {field: getattr(changed_config, field) for field in fields} == changed
    zero = config.replace(warmup=0.0, weight_decay=0.0)
    assert (zero.warmup, zero.weight_decay) == (0.0, 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_ranges_of_the_free_search_contain_the_recipe_and_pass_the_checks(name):
    method = methods.get(name)
    assert set(method.ranges) <= {"learning_rate", "length", "rank", *method.OPTIONS}
    assert ("length" in method.ranges) == method.uses_length
    assert ("rank" in method.ranges) == method.uses_rank
    rate = method.ranges["learning_rate"]
    assert isinstance(rate, Real)
    assert rate.low <= method.recipe.learning_rate <= rate.high
    for option, values in method.ranges.items():
        if option in method.OPTIONS:
            ends = values.values if isinstance(values, Choice) else (values.low, values.high)
            assert len(ends) > 1
            for value in ends:
                assert method.check(**dimensions(name), options={option: value})[option] == value
        elif option != "learning_rate":
            assert isinstance(values, Whole)


@pytest.mark.parametrize("name", METHODS)
def test_lengths_and_ranks_that_do_not_fit_the_method_are_refused(name):
    method, sizes = methods.get(name), dimensions(name)
    wrong = [{**sizes, "length": None}] if method.uses_length else [{**sizes, "length": 4}]
    wrong += [{**sizes, "rank": None}, {**sizes, "rank": 0}] if method.uses_rank else [{**sizes, "rank": 1}]
    for values in wrong:
        with pytest.raises(ValueError, match=r"length|rank") as caught:
            method.check(**values, options={})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"unknown option 'no_such' of method {name}"):
        method.check(**sizes, options={"no_such": 1})
    if not method.uses_rank:
        return
    assert method.check(length=sizes["length"], rank=1, options={}) == dict(method.OPTIONS)
    for length in (1, 6, 50) if method.uses_length else (None,):
        largest_rank = method.largest_rank(length)
        method.check(length=length, rank=largest_rank or 500, options={})
        if largest_rank is not None:
            with pytest.raises(ValueError, match=f"rank is {largest_rank + 1}"):
                method.check(length=length, rank=largest_rank + 1, options={})


@pytest.mark.parametrize("name", METHODS)
@given(budget=st.integers(1, 300_000), width=st.sampled_from((32, 576, 768, 1280)))
@settings(max_examples=40)
def test_the_length_and_rank_for_a_budget_are_valid_and_within_it(name, budget, width):
    method = methods.get(name)
    length_and_rank = method.usual_size_within(budget, width)
    if name in WEIGHT_METHODS:
        assert length_and_rank is None
    elif length_and_rank is not None:
        length, rank = length_and_rank
        assert (rank is not None) == method.uses_rank
        assert count_parameters(method=name, length=length, rank=rank, width=width) <= budget


@pytest.mark.parametrize("name", METHODS)
def test_special_learning_rates_belong_to_factors_of_the_method(name):
    trial = Trial(config_for(name))
    rates = trial.method.learning_rates(trial.config)
    assert set(rates) <= set(trial.factors)
    used = {id(tensor): group["rate"] for group in trial.optimizer.param_groups for tensor in group["params"]}
    default = trial.config.learning_rate
    assert used == {id(factor): rates.get(factor_name, default) for factor_name, factor in trial.factors.items()}
