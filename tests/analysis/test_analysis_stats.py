"""Intervals compared with known values and with scipy, and properties that every interval must have."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, trim_mean
from scipy.stats import t as student

from analysis.stats import (
    Estimate,
    clear_best_index,
    estimate,
    estimate_from_predictions,
    interquartile_mean,
    intervals_note,
    wilson_interval,
)

fractions = st.floats(0, 1)
sizes = st.integers(1, 100_000)


def test_wilson_equals_scipy():
    for hits, n in [(0, 10), (5, 10), (10, 10), (809, 872), (54, 56)]:
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson_interval(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_seed_is_the_wilson_interval():
    one = estimate([0.9], 100)
    assert (one.low, one.high) == pytest.approx((0.82563, 0.94477), abs=1e-5)
    assert one.seeds == 1
    assert "the variation between seeds is unknown" in intervals_note([one])


def test_several_seeds_follow_the_stated_formula():
    accuracies = [0.80, 0.82, 0.87]
    mean, variance = 0.83, (0.03**2 + 0.01**2 + 0.04**2) / 2
    a, b = variance / 3, mean * (1 - mean) / 500
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 499)
    half_width = student.ppf(0.975, freedom) * math.sqrt(a + b)
    three = estimate(accuracies, 500)
    assert three.mean == pytest.approx(mean)
    assert three.high - three.mean == pytest.approx(min(half_width, 1 - mean))
    assert three.mean - three.low == pytest.approx(half_width)


def test_two_seeds_that_agree_do_not_widen_the_interval():
    # The variance comes from the examples alone, so the quantile is that of the normal distribution, not t(1) = 12.7.
    two = estimate([0.8, 0.8], 1000)
    assert two.high - 0.8 == pytest.approx(1.962 * math.sqrt(0.16 / 1000), rel=1e-3)


def test_equal_seeds_keep_the_variance_of_the_examples():
    # The seeds share the examples, so their agreement does not make the accuracy certain.
    assert estimate([0.8] * 50, 100).high - 0.8 > 0.07


@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
@pytest.mark.parametrize("n", [1, 2, 28, 872])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_right_or_all_wrong_is_not_certain(accuracy, n, seeds):
    """The seeds share their examples, so several seeds that agree show no more than one seed does."""
    expected = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    for result in (estimate([accuracy] * seeds, n), estimate_from_predictions(np.full((seeds, n), accuracy))):
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(fractions, min_size=1, max_size=8), sizes)
def test_the_interval_contains_the_binomial_interval(accuracies, n):
    result = estimate(accuracies, n)
    low, high = wilson_interval(result.mean, n)
    assert result.low <= low and high <= result.high


@given(st.integers(1, 60), st.integers(1, 8), st.data())
def test_seeds_that_agree_on_every_example_know_no_more_than_one(n, seeds, data):
    correct_N = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=float)
    result, one_seed = (
        estimate_from_predictions(np.tile(correct_N, (seeds, 1))),
        estimate_from_predictions(correct_N[None]),
    )
    assert result.low <= one_seed.low and one_seed.high <= result.high


@given(st.integers(1, 40), st.integers(2, 8), st.data())
def test_single_predictions_never_exclude_what_the_binomial_allows(n, seeds, data):
    """The interval contains the binomial interval of all outcomes, and of the examples alone if hardly any is wrong."""
    wrong = data.draw(st.lists(st.integers(0, seeds * n - 1), max_size=seeds * n, unique=True))
    correct = np.ones(seeds * n)
    correct[wrong] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = estimate_from_predictions(correct.reshape(seeds, n))
    low, high = wilson_interval(result.mean, seeds * n)
    assert result.low <= low + 1e-9 and high - 1e-9 <= result.high
    if len(wrong) / seeds < 5:
        low, high = wilson_interval(result.mean, n)
        assert result.low <= low and high <= result.high


@given(st.lists(fractions, min_size=1, max_size=8), sizes)
def test_the_interval_is_in_bounds_and_contains_the_mean(accuracies, n):
    result = estimate(accuracies, n)
    assert 0 <= result.low <= result.mean <= result.high <= 1


@given(fractions, st.integers(1, 10_000), st.integers(2, 20))
def test_more_examples_narrow_the_interval(accuracy, n, factor):
    for seeds in (1, 3):
        few, many = estimate([accuracy] * seeds, n), estimate([accuracy] * seeds, n * factor)
        assert many.high - many.low <= few.high - few.low + 1e-12


@pytest.mark.parametrize(("accuracy", "n"), [(1.1, 10), (-0.1, 10), (0.5, 0)])
def test_a_value_that_is_not_a_proportion_is_refused(accuracy, n):
    with pytest.raises(ValueError, match="fraction"):
        wilson_interval(accuracy, n)
    if n == 0:
        with pytest.raises(ValueError, match="at least one"):
            estimate([accuracy] * 2, n)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([], 10)


def estimates(means, half_width=0.02):
    return [Estimate(mean=mean, low=mean - half_width, high=mean + half_width, seeds=3, test_n=400) for mean in means]


def test_the_interquartile_mean_is_scipys_and_leaves_out_the_extremes():
    means = [0.5, 0.7, 0.8, 0.9, 1.0]
    mean, low, high = interquartile_mean(estimates(means))
    assert mean == pytest.approx(trim_mean(means, 0.25)) == pytest.approx(0.8)
    assert interquartile_mean(estimates([0.0, 0.7, 0.8, 0.9, 1.0]))[0] == pytest.approx(0.8)
    # The three tasks in the middle are independent, so the half width of their mean is 0.02 / sqrt(3).
    assert high - low == pytest.approx(2 * 0.02 / math.sqrt(3), rel=0.1)


def test_the_interval_of_the_interquartile_mean_covers_the_truth():
    generator, true_accuracies, n, covered = np.random.default_rng(0), [0.6, 0.75, 0.8, 0.85, 0.95], 400, 0
    for _ in range(150):
        runs = [
            (generator.random((3, n)) < generator.normal(accuracy, 0.01, (3, 1))).astype(float)
            for accuracy in true_accuracies
        ]
        _, low, high = interquartile_mean([estimate_from_predictions(run) for run in runs], draw_count=800)
        covered += low <= 0.8 <= high
    assert covered / 150 >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 150)


@pytest.mark.parametrize(
    ("means", "half_width", "expected"),
    [
        ([0.7, 0.9, 0.8], 0.02, 1),
        ([0.7, 0.9, 0.87], 0.02, None),
        ([0.9], 0.02, None),  # there is no other estimate to stand out from
        ([0.9, 0.9], 0.0, None),
        ([], 0.02, None),
    ],
)
def test_the_estimate_that_stands_out_lies_above_all_others(means, half_width, expected):
    values = estimates(means, half_width)
    assert clear_best_index(values) == expected
    assert clear_best_index([None, *values]) == (None if expected is None else expected + 1)


@given(st.integers(1, 5000), st.data())
def test_wilson_equals_statsmodels(n, data):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    correct = data.draw(st.integers(0, n))
    assert wilson_interval(correct / n, n) == pytest.approx(
        proportion.proportion_confint(correct, n, method="wilson"), abs=1e-12
    )
