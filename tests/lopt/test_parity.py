"""Twenty training steps of every method, compared with plain loops that are written here, in fp64 with sdpa.

The code under test is `lopt.training.Trial`. The reference takes from it only the token ids of the batches and the
initial values of the factors. It has its own model, input, loss, gradient, clipping, optimiser and schedule. For prompt
methods torch computes the gradient at the model's input only. From there to the factors, NumPy code below applies the
chain rule. PEFT is a second, complete reference for prompt tuning and LoRA.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopt.config import TrialConfig
from lopt.training import Trial
from tests.lopt.training_by_hand import (
    BATCH,
    CLIP,
    LENGTH,
    SEED,
    STEPS,
    TOKENS,
    ULPT,
    DePT,
    LoPT1,
    LoPT2,
    PromptTuning,
    adafactor,
    arrays_of,
    batches_of,
    constant,
    linear,
    loss_of_text,
    train_by_hand,
    train_in_torch,
)
from tests.tiny_models import FAMILIES, make_model

TOLERANCE = 1e-8


# Both sides use norms in fp64. With norms in fp32, differences of 1e-16, which any two orders of a sum have, become
# 1e-8 where a value rounds to its neighbour (measured with T5: 1e-7 after twenty steps).
pytestmark = pytest.mark.usefixtures("fp64_norms")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


# --- the code under test ---------------------------------------------------------------------------------------


def make_trial(folders, family, method, **changes):
    options = {"length": LENGTH, **changes} if method not in ("lora", "fine_tuning") else changes
    config = TrialConfig(
        method=method, task="toy", backbone=str(folders[family]), seed=SEED, precision="fp64", batch_size=BATCH,
        max_steps=STEPS, eval_every=STEPS, max_tokens=TOKENS, clip_norm=CLIP, **options,
    )  # fmt: skip
    return Trial(config, phase="search")


def factor_values(trial):
    return {name: factor.detach().numpy().copy() for name, factor in trial.factors.items()}


def train(trial):
    """Return the losses of all steps, and the factors after them."""
    losses = [float(trial.update()) for _ in range(STEPS)]
    return np.array(losses), factor_values(trial)


def assert_equal(result, reference, initial):
    """Losses and factors must be equal, and the training must be one in which they could differ."""
    (losses, factors), (expected_losses, expected_factors, norms) = result, reference
    assert (norms > CLIP).any(), "no gradient was clipped"
    assert np.ptp(losses) > 1e-2, "the losses do not move"
    assert set(factors) == set(expected_factors) == set(initial)
    largest_change = max(np.abs(factors[name] - initial[name]).max() for name in factors)
    assert largest_change > 1e-3, "nothing is trained"
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=TOLERANCE)
    for name, value in factors.items():
        np.testing.assert_allclose(value, expected_factors[name], rtol=0, atol=TOLERANCE, err_msg=name)


# --- prompt methods against NumPy ------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
@pytest.mark.parametrize("method", ["prompt_tuning", "lopt1"])
def test_prompt_tuning_and_lopt1_equal_the_reference(folders, family, method, placement):
    rank = {} if method == "prompt_tuning" else {"rank": 2}
    trial = make_trial(folders, family, method, **rank, learning_rate=0.1, options={"placement": placement})
    initial, formulas = factor_values(trial), PromptTuning() if method == "prompt_tuning" else LoPT1()
    reference = train_by_hand(
        family,
        formulas,
        initial,
        batches_of(trial),
        lambda factors: adafactor(list(factors.values()), 0.1),
        constant,
        placement,
    )
    assert_equal(train(trial), reference, initial)


@pytest.mark.parametrize("activation", ["elu", "relu", "gelu"])
def test_lopt2_equals_the_reference(folders, family, activation):
    trial = make_trial(
        folders, family, "lopt2", rank=2, learning_rate=0.03, options={"activation": activation, "x0_seed": 7}
    )
    initial = factor_values(trial)
    reference = train_by_hand(
        family,
        LoPT2(activation, 7),
        initial,
        batches_of(trial),
        lambda factors: adafactor(list(factors.values()), 0.03),
        constant,
    )
    assert_equal(train(trial), reference, initial)


@pytest.mark.parametrize(
    ("tokens", "placement"),
    [(12, "prefix"), (48, "prefix"), (48, "suffix")],
    ids=["text-cut", "text-shorter", "suffix"],
)
def test_dept_equals_the_reference(folders, family, tokens, placement):
    """The update has fewer rows than the longest text, which is then cut, or more rows than every text. Rows beyond the
    text get no gradient."""
    options = {"update_tokens": tokens, "update_learning_rate": 0.02, "alpha": 5.0, "placement": placement}
    trial = make_trial(folders, family, "dept", rank=3, learning_rate=0.1, warmup=0.1, options=options)
    initial, batches = factor_values(trial), batches_of(trial)
    longest = max(int(lengths.max()) for _, lengths, _ in batches)
    assert longest == min(tokens, TOKENS)

    def make_optimizer(factors):
        groups = [
            {"params": [factors["P"]], "lr": 0.1},
            {"params": [factors["A"], factors["B"]], "lr": 0.02},
        ]
        return torch.optim.AdamW(groups, weight_decay=0.0)

    reference = train_by_hand(family, DePT(5.0, 3), initial, batches, make_optimizer, linear(2), placement)
    result = train(trial)
    assert_equal(result, reference, initial)
    for name in ("P", "A", "B"):
        assert np.abs(result[1][name] - initial[name]).max() > 1e-3
    np.testing.assert_array_equal(result[1]["A"][longest:], initial["A"][longest:])


def test_ulpt_equals_the_reference(folders, family):
    trial = make_trial(
        folders, family, "ulpt", rank=3, learning_rate=0.2, warmup=0.15, options={"projection_seed": 11}
    )  # fmt: skip
    initial = factor_values(trial)
    reference = train_by_hand(
        family, ULPT(3, 11), initial, batches_of(trial),
        lambda factors: torch.optim.AdamW(factors.values(), lr=0.2, weight_decay=0.0), linear(3),
    )  # fmt: skip
    result = train(trial)
    assert_equal(result, reference, initial)
    assert all(np.abs(result[1][name] - initial[name]).max() > 1e-3 for name in ("Z", "s", "b"))


# --- against PEFT, and a plain loop ----------------------------------------------------------------------------


def test_prompt_tuning_equals_peft(folders, family):
    peft = pytest.importorskip("peft")
    trial = make_trial(folders, family, "prompt_tuning", learning_rate=0.1)
    initial, batches = factor_values(trial), batches_of(trial)
    task_arguments = (
        {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 1} if family == "t5" else {"task_type": "CAUSAL_LM"}
    )
    config = peft.PromptTuningConfig(num_virtual_tokens=LENGTH, **task_arguments)
    wrapped = peft.get_peft_model(make_model(family), config).double().eval()  # PEFT makes its own weights in fp32
    weight = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(torch.tensor(initial["X"]))
    optimizer = adafactor([weight], 0.1)
    losses, norms = train_in_torch(
        [weight], lambda batch: loss_of_text(family, wrapped, batch, LENGTH), batches, optimizer, constant(optimizer)
    )
    assert_equal(train(trial), (losses, {"X": weight.detach().numpy()}, norms), initial)


def test_lora_equals_peft(folders, family):
    peft = pytest.importorskip("peft")
    trial = make_trial(
        folders, family, "lora", rank=3, learning_rate=5e-3, weight_decay=0.1, warmup=0.1, options={"alpha": 7.0}
    )
    initial, batches = factor_values(trial), batches_of(trial)
    config = peft.LoraConfig(r=3, lora_alpha=7.0, lora_dropout=0.0, bias="none", fan_in_fan_out=family == "gpt2")
    wrapped = peft.get_peft_model(make_model(family), config).eval()
    trained = ((name, parameter) for name, parameter in wrapped.named_parameters() if parameter.requires_grad)
    parameters = {name.removeprefix("base_model.model."): parameter for name, parameter in trained}
    assert set(parameters) == set(initial)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float64}
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == initial[name].shape
            parameter.copy_(torch.tensor(initial[name]))
    optimizer = torch.optim.AdamW(parameters.values(), lr=5e-3, weight_decay=0.1)
    losses, norms = train_in_torch(
        list(parameters.values()), lambda batch: loss_of_text(family, wrapped, batch), batches, optimizer,
        linear(2)(optimizer),
    )  # fmt: skip
    result = train(trial)
    assert_equal(result, (losses, arrays_of(parameters), norms), initial)
    assert all((value != initial[name]).any() for name, value in result[1].items())


def test_fine_tuning_equals_a_plain_loop(folders, family):
    trial = make_trial(folders, family, "fine_tuning", learning_rate=1e-3, weight_decay=0.01, warmup=0.1)
    initial, batches, model = factor_values(trial), batches_of(trial), make_model(family)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.detach().numpy(), initial[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    losses, norms = train_in_torch(
        list(model.parameters()), lambda batch: loss_of_text(family, model, batch), batches, optimizer,
        linear(2)(optimizer),
    )  # fmt: skip
    assert_equal(train(trial), (losses, arrays_of(parameters), norms), initial)
