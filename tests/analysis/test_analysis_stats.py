"""Intervals compared with known values and with scipy, and properties that every interval must have."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp, ttest_ind
from scipy.stats import t as student

from analysis.noninferiority import correct_p_values, estimate_difference
from analysis.stats import (
    Z95,
    Estimate,
    clear_best_index,
    critical_value,
    estimate,
    estimate_from_scores,
    intervals_note,
    upper_tail,
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
    quantile = (a * student.ppf(0.975, 2) + b * student.ppf(0.975, 499)) / (a + b)
    half_width = quantile * math.sqrt(a + b)
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
    for result in (estimate([accuracy] * seeds, n), estimate_from_scores(np.full((seeds, n), accuracy))):
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
        estimate_from_scores(np.tile(correct_N, (seeds, 1))),
        estimate_from_scores(correct_N[None]),
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
        result = estimate_from_scores(correct.reshape(seeds, n))
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


@pytest.mark.parametrize("offset", [0.0, -3.0])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_other_scores_have_a_t_interval_that_moves_and_scales_with_them(seeds, offset):
    generator = np.random.default_rng(seeds)
    scores_SN = generator.beta(2, 1, 80) + 0.1 * generator.random((seeds, 80))
    plain, scaled = estimate_from_scores(scores_SN, span=1.1), estimate_from_scores(10 * scores_SN + offset, span=11.0)
    for end in ("mean", "low", "high"):
        assert getattr(scaled, end) == pytest.approx(10 * getattr(plain, end) + offset)
    if seeds == 1:
        variance = scores_SN[0].var(ddof=1) / 80 + (1.1 * Z95 / 80) ** 2
        assert plain.high - plain.mean == pytest.approx(student.ppf(0.975, 79) * math.sqrt(variance))


@given(st.integers(1, 30), st.integers(1, 4), st.sampled_from([0.0, 0.3, 1.0, 5.0]), st.sampled_from([1.0, 5.0]))
def test_no_interval_has_zero_width(n, seeds, score, span):
    """Not even if all scores are equal, or there is one seed or one example."""
    scores_SN = np.full((seeds, n), score)
    result = estimate_from_scores(scores_SN, span=span)
    assert result.low < result.high and result.low <= result.mean <= result.high
    if seeds > 1:
        gap = estimate_difference(scores_SN, scores_SN, span=span)
        assert gap.low < gap.mean < gap.high and gap.high == -gap.low <= span


def test_scores_that_cannot_be_used_are_refused():
    for scores, message in (
        (np.zeros(3), "shape"),
        (np.zeros((2, 0)), "shape"),
        (np.array([[0.0, np.nan]]), "finite"),
        (np.array([[0.0, 2.0]]), "span"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_from_scores(scores)


def test_a_critical_value_lies_between_the_quantiles_of_scipys_t():
    assert critical_value(0.025, 0.0, 1, 50) == pytest.approx(student.ppf(0.975, 50))
    assert critical_value(0.025, 1.0, 3, 50) == pytest.approx(student.ppf(0.975, 3))
    assert critical_value(0.001, 0.25, 2, math.inf) == pytest.approx(0.25 * student.ppf(0.999, 2) + 0.75 * 3.090232306)


@given(st.floats(-30, 30), st.floats(0, 1), st.floats(1, 9), st.integers(1, 9000))
def test_a_p_value_is_the_level_at_which_the_critical_value_is_reached(statistic, share, seed_degrees, n):
    p_value = float(upper_tail(statistic, share, seed_degrees, n))
    assert p_value + float(upper_tail(-statistic, share, seed_degrees, n)) == pytest.approx(1)
    level = min(p_value, 1 - p_value)
    if level > 1e-12:
        assert critical_value(level, share, seed_degrees, n) == pytest.approx(abs(statistic), abs=1e-6, rel=1e-6)


def test_a_difference_of_constant_seeds_has_the_p_value_of_a_paired_t_test():
    """If the seeds of a method agree on every example, only the examples vary, except for the guard."""
    generator = np.random.default_rng(0)
    a_N, b_N = generator.random((2, 3000))
    gap = estimate_difference(np.tile(a_N, (2, 1)), np.tile(b_N, (2, 1)))
    expected = ttest_1samp(a_N - b_N, -0.01, alternative="greater").pvalue
    assert gap.p_non_inferior(0.01) == pytest.approx(expected, rel=0.01)
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    _, lower, _ = weightstats.ttost_paired(a_N, b_N, -0.01, 1.0)
    assert gap.p_non_inferior(0.01) == pytest.approx(lower[1], rel=0.01)


def test_a_difference_of_many_examples_has_the_p_value_of_welch_over_seeds():
    """If all examples are alike, only the seeds vary."""
    a_S, b_S = np.array([0.80, 0.83, 0.79]), np.array([0.84, 0.86, 0.81, 0.85])
    gap = estimate_difference(np.tile(a_S[:, None], 100_000), np.tile(b_S[:, None], 100_000))
    expected = ttest_ind(a_S, b_S, equal_var=False, alternative="less").pvalue
    assert gap.p_inferior(0.0) == pytest.approx(expected, rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_p_values_are_those_of_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert correct_p_values(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])
