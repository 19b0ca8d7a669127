from __future__ import annotations

import numpy as np
import pytest
import torch

from lopt import count_parameters, methods
from lopt.methods import Shape


@pytest.mark.parametrize(
    ("method", "length", "rank", "width", "expected"),
    [  # Table 1 (GPT-2 large), Table 2 (T5-base)
        ("prompt_tuning", 10, None, 1280, 12_800),
        ("lopt1", 10, 2, 1280, 2_580),
        ("lopt2", 10, 2, 1280, 5_120),
        ("lopt1", 20, 5, 768, 3_940),
        ("lopt2", 20, 5, 768, 7_680),
        ("prompt_tuning", 100, None, 768, 76_800),
    ],
)
def test_counts_of_the_papers_tables(method, length, rank, width, expected):
    assert count_parameters(method=method, length=length, rank=rank, width=width) == expected


@pytest.mark.parametrize(
    ("length", "rank", "delta_percent"),
    [
        (10, 1, -89.92), (10, 2, -79.84), (10, 5, -49.61),
        (20, 1, -89.84), (20, 2, -79.69), (20, 5, -49.22),
        (30, 1, -89.77), (30, 2, -79.53), (30, 5, -48.83),
    ],
)  # fmt: skip
def test_all_nine_deltas_of_table_3(length, rank, delta_percent):
    count = count_parameters(method="lopt1", length=length, rank=rank, width=1280)
    assert 100 * (count / 12_800 - 1) == pytest.approx(delta_percent, abs=0.005)


@pytest.mark.parametrize(
    "values",
    [
        {"length": 10, "rank": 0, "width": 8},
        {"length": 10, "rank": 11, "width": 8},
        {"length": 0, "rank": 1, "width": 8},
        {"length": 10, "rank": 1, "width": -8},
        {"length": 10, "width": 8},
        {"length": 10, "rank": 1, "width": 8, "rnk": 2},
    ],
)
def test_wrong_shapes_are_refused(values):
    with pytest.raises(ValueError, match=r"rank|length|width|rnk"):
        count_parameters(method="lopt1", **values)


def _factors(method, length, rank, width):
    options = method.check(length=length, rank=rank, options={})
    shape = Shape(length=length, rank=rank, width=width, options=options)
    return method.initial_values(shape, 7), options


def test_lopt1_is_the_product_of_its_factors():
    method = methods.get("lopt1")
    values, options = _factors(method, 6, 2, 24)
    by_hand = np.array(
        [[sum(values["U"][i, k] * values["V"][k, j] for k in range(2)) for j in range(24)] for i in range(6)]
    )
    prompt = method.prompt({n: torch.tensor(v) for n, v in values.items()}, options)
    np.testing.assert_allclose(prompt.numpy(), by_hand, rtol=0, atol=1e-14)
    assert np.linalg.matrix_rank(by_hand) == 2


def test_lopt2_is_elu_between_two_projections():
    method = methods.get("lopt2")
    values, options = _factors(method, 6, 2, 24)
    hidden = values["X0"] @ values["U"]
    by_hand = np.where(hidden > 0, hidden, np.exp(hidden) - 1) @ values["V"]
    prompt = method.prompt({n: torch.tensor(v) for n, v in values.items()}, options)
    assert (hidden < 0).any()
    assert (hidden > 0).any()
    np.testing.assert_allclose(prompt.numpy(), by_hand, rtol=0, atol=1e-14)


def test_x0_depends_on_its_own_seed_alone():
    method = methods.get("lopt2")
    options = method.check(length=6, rank=2, options={})
    shape = Shape(length=6, rank=2, width=24, options=options)
    other = Shape(length=6, rank=2, width=24, options={**options, "x0_seed": 1})
    assert np.array_equal(method.initial_values(shape, 1)["X0"], method.initial_values(shape, 2)["X0"])
    assert not np.array_equal(method.initial_values(shape, 1)["X0"], method.initial_values(other, 1)["X0"])
    assert np.array_equal(method.initial_values(shape, 1)["U"], method.initial_values(other, 1)["U"])


def test_the_streams_of_initial_values_are_these():
    """NumPy froze RandomState's streams; if these bits ever change, stored X0-less prompts could not be re-made."""
    values, _ = _factors(methods.get("lopt2"), 3, 1, 4)
    np.testing.assert_allclose(values["X0"][0], np.random.RandomState([0, 2, 0]).uniform(-0.5, 0.5, 4), rtol=0)
