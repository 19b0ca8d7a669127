"""Rules that every method of `lopt/methods/` that changes weights must keep."""

from __future__ import annotations

import pytest
import torch

from lopt import backbones, count_parameters, load_prompt, methods
from lopt.training import Trial
from tests.contracts.methods_under_test import WEIGHT_METHODS, WIDTH, config_for, dimensions, shape_for, train_trial


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_training_changes_the_declared_weights_of_a_copy_and_nothing_else(name):
    shared = backbones.load("tiny", "fp32")
    checksum = shared.checksum()
    trial = Trial(config_for(name))
    copy = trial.backbone
    assert copy is not shared
    assert not {parameter.data_ptr() for parameter in copy.model.parameters()} & {
        parameter.data_ptr() for parameter in shared.model.parameters()
    }
    before = {weight_name: weight.detach().clone() for weight_name, weight in copy.model.named_parameters()}
    trained = {weight_name for weight_name, weight in copy.model.named_parameters() if weight.requires_grad}
    assert trained == set(trial.factors)
    for _ in trial:
        pass
    assert trial.soft_prompt() is None
    for parameter, value in copy.model.named_parameters():
        assert torch.equal(value, before[parameter]) == (parameter not in trial.factors), parameter
    assert shared.checksum() == checksum
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in shared.model.parameters())
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
