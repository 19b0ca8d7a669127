"""Customary forms of methods within a budget, and DePT's two learning rates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopt import count_parameters, methods
from lopt.config import TrialConfig
from lopt.training import Trial


def _lopt_form(rank):
    """Return length and rank of LoPT's customary form: n = 4r, but at least 20."""
    return max(20, 4 * rank), rank


NEXT_FORM = {  # the form that is one step larger; None for the largest form
    "prompt_tuning": lambda n, r: (n + 1, None) if n < 100 else None,
    "lopt1": lambda n, r: _lopt_form(r + 1) if r < 25 else None,
    "lopt2": lambda n, r: _lopt_form(r + 1) if r < 25 else None,
    "dept": lambda n, r: (n, r + 1),
    "ulpt": lambda n, r: (100, r + 1) if r < 256 else None,
}
SMALLEST_FORM = {"prompt_tuning": (1, None), "lopt1": (20, 1), "lopt2": (20, 1), "dept": (1, 1), "ulpt": (100, 1)}


@pytest.mark.parametrize("method", NEXT_FORM)
@given(budget=st.integers(1, 400_000), width=st.integers(8, 4096))
@settings(max_examples=100, deadline=None)
def test_no_larger_form_than_the_one_returned_fits_into_the_budget(method, budget, width):
    def count(form):
        return count_parameters(method=method, length=form[0], rank=form[1], width=width)

    form = methods.get(method).usual_size_within(budget, width)
    if form is None:
        assert count(SMALLEST_FORM[method]) > budget
    else:
        assert count(form) <= budget
        next_form = NEXT_FORM[method](*form)
        assert next_form is None or count(next_form) > budget


@given(budget=st.integers(1, 400_000), width=st.integers(512, 4096))
@settings(max_examples=60, deadline=None)
def test_a_customary_low_rank_form_is_smaller_than_the_prompt_it_makes(budget, width):
    for name in ("lopt1", "lopt2"):
        form = methods.get(name).usual_size_within(budget, width)
        if form is not None:
            length, rank = form
            assert count_parameters(method=name, length=length, rank=rank, width=width) < length * width


def test_forms_at_the_papers_budgets():
    assert methods.get("prompt_tuning").usual_size_within(76_800, 768) == (100, None)
    assert methods.get("lopt1").usual_size_within(3_940, 768) == (20, 5)
    assert methods.get("lopt2").usual_size_within(7_680, 768) == (20, 5)
    assert methods.get("ulpt").usual_size_within(27_136, 768) == (100, 256)
    length, rank = methods.get("dept").usual_size_within(76_800, 768)
    assert 40 <= length <= 60
    assert 30 <= rank <= 45
    assert methods.get("lopt1").usual_size_within(768, 768) is None


def test_dept_trains_prompt_and_update_at_two_rates_with_one_schedule(tiny):
    config = TrialConfig(
        method="dept", task="toy", backbone="tiny", length=4, rank=2, max_steps=200, batch_size=4, precision="fp32",
        options={"update_learning_rate": 5e-3},
    )  # fmt: skip
    assert (config.learning_rate, config.optimizer, config.schedule, config.warmup) == (0.3, "adamw", "linear", 0.017)
    trial = Trial(config)
    groups = trial.optimizer.param_groups
    assert isinstance(trial.optimizer, torch.optim.AdamW)
    factors_and_rates = [
        (
            {name for name, factor in trial.factors.items() if any(factor is trained for trained in group["params"])},
            group["rate"],
        )
        for group in groups
    ]
    assert factors_and_rates == [({"P"}, 0.3), ({"A", "B"}, 5e-3)]
    for step, share in enumerate((0, 1 / 3, 2 / 3, 1, 196 / 197)):  # 3 = round(0.017 · 200) warm-up steps
        trial.update()
        assert [group["lr"] for group in groups] == pytest.approx([0.3 * share, 5e-3 * share], rel=1e-12), step
