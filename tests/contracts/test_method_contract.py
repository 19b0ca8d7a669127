"""Rules that every method of `lopt/methods/` must keep: all methods, prompt methods, and weight methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lopt import backbones, count_parameters, load_prompt, methods, train
from lopt.config import TrialConfig
from lopt.methods import PromptMethod, Recipe, Shape, WeightMethod
from lopt.ranges import Choice, Real, Whole
from lopt.training import Trial

METHODS = methods.names()
PROMPT_METHODS = [name for name in METHODS if isinstance(methods.get(name), PromptMethod)]
WEIGHT_METHODS = [name for name in METHODS if isinstance(methods.get(name), WeightMethod)]
WIDTH = 32  # of the tiny backbone


def dimensions(name, length=6, rank=2):
    """Length and rank; None for what the method does not have."""
    method = methods.get(name)
    return {"length": length if method.uses_length else None, "rank": rank if method.uses_rank else None}


def shape_for(name, length=6, rank=2, width=WIDTH):
    sizes = dimensions(name, length, rank)
    options = methods.get(name).check(**sizes, options={})
    return Shape(width=width, **sizes, options=options, model=backbones.facts("tiny"))


def config_for(name, **changes):
    rate = 0.1 if name in PROMPT_METHODS else 1e-3
    base = {"task": "toy", "backbone": "tiny", **dimensions(name), "learning_rate": rate, "batch_size": 8}
    return TrialConfig(method=name, **{**base, "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes})


def vocabulary():
    return backbones.load("tiny", "fp32").vocabulary((" bad", " great"))


def initial_values(name, seed=0, **changes):
    return methods.get(name).initial_values(shape_for(name, **changes), seed, vocabulary())


def train_trial(config):
    trial = Trial(config)
    for _ in trial:
        pass
    return trial


def tensors_of_optimiser(trial):
    return {id(tensor): tensor for group in trial._optimizer.param_groups for tensor in group["params"]}


# --- every method ----------------------------------------------------------------------------------------------


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
    assert [(e.selection_loss, e.train_loss) for e in first.evaluations] == [
        (e.selection_loss, e.train_loss) for e in second.evaluations
    ]
    assert set(factors_1) == set(factors_2)
    assert all(torch.equal(factors_1[factor], factors_2[factor]) for factor in factors_1)
    np.testing.assert_array_equal(logits_1, logits_2)
    assert (logits_1 != logits_3).any()


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_another_seed_draws_every_random_matrix_anew(name):
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
    assert predictions.macro_f1 == record.test_macro_f1
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
    length_and_rank = method.within(budget, width)
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
    used = {id(tensor): group["rate"] for group in trial._optimizer.param_groups for tensor in group["params"]}
    default = trial.config.learning_rate
    assert used == {id(factor): rates.get(factor_name, default) for factor_name, factor in trial.factors.items()}


# --- prompt methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPT_METHODS)
@given(length=st.integers(1, 60), rank=st.integers(1, 60), width=st.integers(1, 300))
@settings(max_examples=25)
def test_closed_form_equals_the_count(name, length, rank, width):
    method = methods.get(name)
    shape = shape_for(name, length, min(rank, length), width)
    counts = method.counts(shape)
    assert counts.trainable == method.closed_form(shape)
    assert counts.stored == counts.trainable
    soft_prompt = method.soft_prompt({n: torch.zeros(f.shape) for n, f in method.factors(shape).items()}, shape.options)
    assert soft_prompt.prompt.shape == (length, width)
    assert counts.materialised == length * width + (0 if soft_prompt.update is None else soft_prompt.update.numel())


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_prompt_and_update_are_computed_for_one_trial_and_for_stacked_trials(name):
    method, options = methods.get(name), shape_for(name).options
    generator = np.random.RandomState(0)  # not the initial values, because zeros among them would hide a factor
    declared = method.factors(shape_for(name))
    values = {n: torch.tensor(generator.uniform(-0.5, 0.5, f.shape)) for n, f in declared.items()}
    stacked = {n: torch.stack([v, 2 * v]) for n, v in values.items()}
    for function in (method.prompt, method.update):
        alone = function(values, options)
        if alone is None:
            assert function(stacked, options) is None
            continue
        assert alone.shape[-1] == WIDTH
        together = function(stacked, options)
        torch.testing.assert_close(together[0], alone)
        torch.testing.assert_close(together[1], function({n: 2 * v for n, v in values.items()}, options))
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
    assert any(np.ptp(v) > 0 and declared[n].trainable for n, v in first.items())


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_frozen_matrices_are_drawn_alone_and_without_a_vocabulary(name):
    method, shape = methods.get(name), shape_for(name)
    all_values, alone = initial_values(name, 5), method.initial_values(shape, 5, frozen_only=True)
    assert set(alone) == {n for n, f in method.factors(shape).items() if not f.trainable}
    for factor, value in alone.items():
        np.testing.assert_array_equal(value, all_values[factor])


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_training_changes_the_declared_matrices_and_nothing_else(name):
    trial = Trial(config_for(name))
    assert trial.backbone is backbones.load("tiny", "fp32")
    before = {n: f.detach().clone() for n, f in trial.factors.items()}
    drawn = initial_values(name, trial.config.seed)
    checksum = trial.backbone.checksum()
    for _ in trial:
        pass
    assert trial.backbone.checksum() == checksum
    assert not any(p.requires_grad or p.grad is not None for p in trial.backbone.model.parameters())
    assert set(trial.factors) == {n for n, f in trial.method.factors(shape_for(name)).items() if f.trainable}
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


# --- methods that change weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_training_changes_the_declared_weights_of_a_copy_and_nothing_else(name):
    shared = backbones.load("tiny", "fp32")
    checksum = shared.checksum()
    trial = Trial(config_for(name))
    copy = trial.backbone
    assert copy is not shared
    assert not {p.data_ptr() for p in copy.model.parameters()} & {p.data_ptr() for p in shared.model.parameters()}
    before = {n: t.detach().clone() for n, t in copy.model.named_parameters()}
    assert {n for n, p in copy.model.named_parameters() if p.requires_grad} == set(trial.factors)
    for _ in trial:
        pass
    assert trial.soft_prompt() is None
    for parameter, value in copy.model.named_parameters():
        assert torch.equal(value, before[parameter]) == (parameter not in trial.factors), parameter
    assert shared.checksum() == checksum
    assert not any(p.requires_grad or p.grad is not None for p in shared.model.parameters())
    assert backbones.load("tiny", "fp32") is shared


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_with_bf16_the_model_computes_in_bf16_and_the_factors_stay_fp32(name, tmp_path):
    def record_dtypes(backbone):
        dtypes = set()
        for module in backbone.model.modules():
            if type(module).__name__.endswith(("Linear", "Conv1D")):
                module.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
        return dtypes

    trial = Trial(config_for(name, precision="bf16"))
    dtypes = record_dtypes(trial.backbone)
    assert trial.update().dtype == torch.float32
    assert dtypes == {torch.bfloat16}
    assert {factor.grad.dtype for factor in trial.factors.values()} == {torch.float32}
    for _ in trial:
        pass
    record = trial.finish(artifact=tmp_path)
    prompt = load_prompt(tmp_path)
    dtypes = record_dtypes(prompt.backbone)
    assert prompt.evaluate().accuracy == record.test_accuracy
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_the_reported_weights_are_those_of_the_best_evaluation(name, tmp_path):
    trial = train_trial(config_for(name))
    prompt = trial.best_prompt()
    assert prompt.soft_prompt is None
    with pytest.raises(ValueError, match=f"method {name} has no prompt"):
        _ = prompt.prompt_PH
    prompt.save(tmp_path)
    backbone = load_prompt(tmp_path).backbone
    weights = dict(backbone.model.named_parameters())
    for factor, value in trial._best_factors.items():
        assert torch.equal(weights[factor].detach(), value), factor
    assert backbone is not backbones.load("tiny", "fp32")


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_counting_weights_needs_a_model(name):
    with pytest.raises(ValueError, match="give backbone, not width"):
        count_parameters(method=name, **dimensions(name), width=WIDTH)
    counts = methods.get(name).counts(shape_for(name))
    assert (counts.stored, counts.materialised) == (counts.trainable, 0)


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_weights_of_another_method_are_refused(name):
    method, config = methods.get(name), config_for(name)
    with pytest.raises(ValueError, match=f"these weights are not those of {name} on backbone tiny"):
        method.begin(backbones.load("tiny", "fp32"), config, {"lm_head.other": torch.zeros(1)})
