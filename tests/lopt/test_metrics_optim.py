"""Metrics against their definitions; Adafactor against its formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lopt.config import TrialConfig
from lopt.metrics import Predictions, macro_f1
from lopt.optim import learning_rate_at, make_optimizer

BASE = {"method": "prompt_tuning", "task": "toy", "backbone": "tiny", "learning_rate": 0.3}


def test_accuracy_loss_and_share():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    found = Predictions(np.arange(3), np.array([0, 1, 1]), logits)
    assert found.accuracy == pytest.approx(2 / 3)
    by_torch = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor([0, 1, 1]))
    assert found.loss == pytest.approx(float(by_torch), abs=1e-12)
    assert found.top_class_share == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_macro_f1_is_the_mean_of_the_classes(pairs):
    gold, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    scores = []
    for label in range(3):
        tp = sum(g == p == label for g, p in pairs)
        precision = tp / max(1, sum(p == label for _, p in pairs))
        recall = tp / max(1, sum(g == label for g, _ in pairs))
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert macro_f1(gold, predicted, 3) == pytest.approx(np.mean(scores))


def test_adafactor_is_the_recipes():
    """Shazeer and Stern 2018, algorithm 4 with an external step size: factored second moments, update clipped to
    root mean square 1, no scaling by the parameter's size."""
    generator = np.random.RandomState(0)
    start, grads = generator.randn(4, 6), generator.randn(5, 4, 6)
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = make_optimizer(TrialConfig(**BASE), [parameter])
    value, rows, columns = start.copy(), np.zeros(4), np.zeros(6)
    for step, grad in enumerate(grads, start=1):
        parameter.grad = torch.tensor(grad)
        optimizer.step()
        beta = 1.0 - step**-0.8
        square = grad**2 + 1e-30
        rows = beta * rows + (1 - beta) * square.mean(axis=1)
        columns = beta * columns + (1 - beta) * square.mean(axis=0)
        update = grad / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1.0, np.sqrt((update**2).mean()))
        value -= 0.3 * update
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-9)


def test_schedules():
    constant, linear = (TrialConfig(**BASE, schedule=s, max_steps=10) for s in ("constant", "linear"))
    assert [learning_rate_at(constant, s) for s in (0, 9)] == [0.3, 0.3]
    assert [learning_rate_at(linear, s) for s in (0, 5, 10)] == pytest.approx([0.3, 0.15, 0.0])
    assert isinstance(make_optimizer(TrialConfig(**BASE, optimizer="adamw"), [torch.zeros(1)]), torch.optim.AdamW)
