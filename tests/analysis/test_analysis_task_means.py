"""Measures over several tasks, compared with scipy and with the truth of simulated runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm, rankdata, trim_mean

from analysis.task_means import mean_ranks, probability_of_improvement, trimmed_mean

runs = st.lists(st.integers(0, 5).map(lambda k: k / 5), min_size=1, max_size=5)


def test_the_trimmed_mean_is_scipys_and_leaves_out_the_extremes():
    values = [0.5, 0.7, 0.8, 0.9, 1.0]
    assert trimmed_mean(values, None) == pytest.approx(trim_mean(values, 0.25)) == pytest.approx(0.8)
    assert trimmed_mean([0.0, *values[1:]], None) == pytest.approx(0.8)
    draws_DT = np.random.default_rng(0).normal(values, 0.01, (20_000, 5))
    result = trimmed_mean(values, draws_DT)
    # The three tasks in the middle are independent, so the standard error of their mean is 0.01 / sqrt(3).
    assert (result.value, result.high - result.low) == pytest.approx((0.8, 2 * 1.96 * 0.01 / np.sqrt(3)), rel=0.05)


@given(st.lists(st.tuples(runs, runs), min_size=1, max_size=4))
def test_the_probability_of_improvement_is_mann_whitneys_statistic(runs_by_task):
    expected = np.mean([mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in runs_by_task])
    result = probability_of_improvement(runs_by_task)
    assert result.value == pytest.approx(expected)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert result.high - result.low > 0.01, "never certain"
    reverse = probability_of_improvement([(y, x) for x, y in runs_by_task])
    assert (reverse.low, reverse.high) == pytest.approx((1 - result.high, 1 - result.low))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("lead", [0.0, 1.0, 2.0])
def test_the_interval_of_the_probability_of_improvement_contains_the_truth(seeds, lead):
    """Tasks differ in the lead of X, which is their mean lead plus or minus one half."""
    generator, covered, leads = np.random.default_rng(seeds), 0, [lead - 0.5, lead + 0.5] * 2
    truth = np.mean([norm.cdf(task_lead / np.sqrt(2)) for task_lead in leads])
    for _ in range(200):
        result = probability_of_improvement(
            [(generator.normal(task_lead, 1, seeds), generator.normal(0, 1, seeds)) for task_lead in leads]
        )
        covered += result.low <= truth <= result.high
    assert covered / 200 >= 0.94 - 2.5 * np.sqrt(0.06 * 0.94 / 200)


@pytest.mark.parametrize("true_TM", [np.zeros((4, 3)), np.array([[0.0, 1.0, 3.0]] * 4), np.eye(4, 3) * 5])
def test_the_interval_of_a_mean_rank_contains_the_true_rank(true_TM):
    generator, covered = np.random.default_rng(0), 0
    true_ranks = rankdata(-true_TM, axis=1).mean(axis=0)
    for _ in range(100):
        values_TM = generator.normal(true_TM, 1)
        draws = [generator.normal(values_M, 1, (400, 3)) for values_M in values_TM]
        results = mean_ranks(values_TM, draws)
        assert [result.value for result in results] == pytest.approx(rankdata(-values_TM, axis=1).mean(axis=0))
        covered += sum(result.low <= rank <= result.high for result, rank in zip(results, true_ranks, strict=True))
    assert covered / 300 >= 0.94 - 2.5 * np.sqrt(0.06 * 0.94 / 300)


def test_a_clear_order_of_methods_has_its_ranks():
    values_TM = np.array([[0.9, 0.5, 0.1]] * 4)
    draws = [np.random.default_rng(task).normal(values_TM[task], 0.01, (500, 3)) for task in range(4)]
    assert [(result.low, result.value, result.high) for result in mean_ranks(values_TM, draws)] == [
        (1, 1, 1),
        (2, 2, 2),
        (3, 3, 3),
    ]
    assert mean_ranks(values_TM, None) == [1, 2, 3]
