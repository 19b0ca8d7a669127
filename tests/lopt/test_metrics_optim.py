"""Metrics against their definitions, and Adafactor against its formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from lopt.config import TrialConfig, key_of_values
from lopt.metrics import Predictions
from lopt.optim import make_optimizer, rate_factor

BASE = {"method": "prompt_tuning", "task": "toy", "backbone": "tiny", "learning_rate": 0.3}


def test_accuracy_loss_and_top_class_share_follow_their_definitions():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    predictions = Predictions(np.arange(3), np.array([0, 1, 1]), logits)
    assert predictions.accuracy == pytest.approx(2 / 3)
    expected_loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor([0, 1, 1]))
    assert predictions.loss == pytest.approx(float(expected_loss), abs=1e-12)
    assert predictions.top_class_share == pytest.approx(2 / 3)


def test_adafactor_follows_its_formulas():
    """Shazeer and Stern 2018, algorithm 4 with an external step size: factored second moments, update clipped to
    root mean square 1, no scaling by the parameter's size."""
    generator = np.random.RandomState(0)
    start, gradients = generator.randn(4, 6), generator.randn(5, 4, 6)
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = make_optimizer(TrialConfig(**BASE), {"X": parameter}, {})
    value, rows, columns = start.copy(), np.zeros(4), np.zeros(6)
    for step, gradient in enumerate(gradients, start=1):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        beta = 1.0 - step**-0.8
        square = gradient**2 + 1e-30
        rows = beta * rows + (1 - beta) * square.mean(axis=1)
        columns = beta * columns + (1 - beta) * square.mean(axis=0)
        update = gradient / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1.0, np.sqrt((update**2).mean()))
        value -= 0.3 * update
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-9)


def test_schedules_give_their_share_of_the_rate():
    constant, linear = (TrialConfig(**BASE, schedule=name, max_steps=10) for name in ("constant", "linear"))
    assert [rate_factor(constant, step) for step in (0, 9)] == [1.0, 1.0]
    assert [rate_factor(linear, step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    assert isinstance(
        make_optimizer(TrialConfig(**BASE, optimizer="adamw"), {"X": torch.zeros(1)}, {}), torch.optim.AdamW
    )


def test_dept_has_an_option_for_the_eps_of_adamw_whose_default_changes_no_key():
    shape = {"method": "dept", "task": "toy", "backbone": "tiny", "length": 4, "rank": 2}
    default = TrialConfig(**shape)
    changed = default.replace(options={**default.options, "adam_eps": 1e-6})
    factors = {name: torch.zeros(2, requires_grad=True) for name in ("P", "A", "B")}
    assert {group["eps"] for group in make_optimizer(default, factors, {}).param_groups} == {1e-8}
    assert {group["eps"] for group in make_optimizer(changed, factors, {}).param_groups} == {1e-6}
    older = default.to_dict()
    del older["options"]["adam_eps"]
    assert key_of_values(older) == default.key == TrialConfig.from_dict(older).key != changed.key
    with pytest.raises(ValueError, match="adam_eps is 0; give a number above 0"):
        default.replace(options={**default.options, "adam_eps": 0})


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_schedules_with_warm_up_are_those_of_transformers(schedule, steps, warmup):
    config = TrialConfig(**BASE, optimizer="adamw", schedule=schedule, warmup=warmup, max_steps=steps)
    optimizer = make_optimizer(config, {"X": torch.zeros(1, requires_grad=True)}, {})
    reference = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.3)
    warmup_steps = round(warmup * steps)
    scheduler = (
        get_linear_schedule_with_warmup(reference, warmup_steps, steps)
        if schedule == "linear"
        else get_constant_schedule_with_warmup(reference, warmup_steps)
    )
    for step in range(steps):
        rate = optimizer.param_groups[0]["rate"] * rate_factor(config, step)
        assert rate == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        reference.step()
        scheduler.step()


def test_factors_of_one_rate_share_a_group_and_weight_decay_is_passed_on():
    factors = {name: torch.zeros(2, requires_grad=True) for name in ("P", "A", "B")}
    for optimizer in ("adamw", "adafactor"):
        config = TrialConfig(**BASE, optimizer=optimizer, weight_decay=0.25)
        groups = make_optimizer(config, factors, {"A": 1e-3, "B": 1e-3}).param_groups
        assert [group["rate"] for group in groups] == [group["lr"] for group in groups] == [0.3, 1e-3]
        assert [[id(tensor) for tensor in group["params"]] for group in groups] == [
            [id(factors["P"])],
            [id(factors["A"]), id(factors["B"])],
        ]
        assert {group["weight_decay"] for group in groups} == {0.25}
