"""Intervals and verdicts on simulated data whose true accuracies are known."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from analysis.cells import groups
from analysis.comparisons import comparisons
from analysis.headline import headline
from analysis.load import load
from analysis.noninferiority import Difference, correct_p_values, estimate_difference, verdicts
from analysis.registry import Missing
from analysis.stats import estimate, estimate_from_scores
from tests.analysis.simulated import EXAMPLE_SPREAD, World, simulated_group


def mean_width(estimates):
    return np.mean([value.high - value.low for value in estimates])


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.04])
@pytest.mark.parametrize("n", [56, 872])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_the_truth_and_is_not_much_too_wide(seeds, n, spread):
    draws = 400
    world = World(spread, np.random.default_rng(seeds * n))
    truth = world.true_accuracy()
    runs = [world.draw_scores(seeds, world.generator.normal(0, EXAMPLE_SPREAD, n)) for _ in range(draws)]
    estimates = [estimate_from_scores(run) for run in runs]
    coverage = sum(value.low <= truth <= value.high for value in estimates) / draws
    standard_error = math.sqrt(0.93 * 0.07 / draws)
    assert coverage >= 0.93 - 2 * standard_error
    ideal_width = 2 * 1.96 * np.std([run.mean() for run in runs])
    assert mean_width(estimates) / ideal_width <= (1.5 if seeds >= 5 else 2.5)
    if seeds < 5:
        return
    from_accuracies = [estimate(list(run.mean(1)), n) for run in runs[:100]]
    assert mean_width(estimates[:100]) < 1.1 * mean_width(from_accuracies), "single predictions do not widen it"


@pytest.mark.parametrize("spread", [0.005, 0.04])
@pytest.mark.parametrize("n", [56, 872])
@pytest.mark.parametrize("seeds", [3, 10])
def test_at_most_one_verdict_in_forty_of_each_kind_is_wrong(seeds, n, spread):
    draws, margin = 250, 0.01
    world = World(spread, np.random.default_rng(seeds + n))

    def outcomes(gap):
        effect = world.effect_for(gap)
        return Counter(
            verdicts([estimate_difference(*world.pair(seeds, n, effect))], margin)[0].outcome for _ in range(draws)
        )

    outcomes_at_margin = outcomes(margin)
    allowed_count = draws * (0.025 + 2 * math.sqrt(0.025 * 0.975 / draws))
    assert outcomes_at_margin["non-inferior"] <= allowed_count
    assert outcomes_at_margin["inferior"] <= allowed_count
    assert outcomes(0.04)["non-inferior"] <= draws * 0.03, "a method truly 3 pp beyond the margin"


def test_enough_data_give_a_decisive_verdict():
    world = World(0.005, np.random.default_rng(0))
    equal = [verdicts([estimate_difference(*world.pair(10, 5000, 0.0))])[0].outcome for _ in range(40)]
    worse = [
        verdicts([estimate_difference(*world.pair(10, 872, world.effect_for(0.04)))])[0].outcome for _ in range(40)
    ]
    assert Counter(equal)["non-inferior"] > 30
    assert Counter(worse)["inferior"] > 35


def test_identical_seeds_are_not_certain_and_do_not_crash():
    correct_SN = np.tile(np.arange(56) % 3 > 0, (3, 1)).astype(float)
    gap = estimate_difference(correct_SN, correct_SN)
    assert (gap.mean, gap.standard_error) == (0.0, pytest.approx(1.96 / 56, rel=1e-4))
    assert verdicts([gap])[0].outcome == "undecided", "56 examples without a difference show little"
    assert estimate_from_scores(np.ones((3, 56))).low < 0.95
    with pytest.raises(ValueError, match="same examples and two seeds"):
        estimate_difference(correct_SN[:1], correct_SN)


@pytest.mark.parametrize("n", [1, 2, 28, 150, 200, 299, 5000])
def test_methods_that_agree_on_every_example_may_still_differ_on_others(n):
    """If none of n examples differs, the interval is at least as wide as the binomial one. So the verdict agrees."""
    gap = estimate_difference(np.ones((3, n)), np.ones((3, n)))
    exact = binomtest(0, n).proportion_ci(0.95, method="exact").high
    assert gap.low <= -min(exact, 1.0) and gap.high >= min(exact, 1.0)
    assert (gap.low, gap.high) == pytest.approx((-gap.high, -gap.low)) and gap.high <= 1
    (verdict,) = verdicts([gap], margin=0.01)
    is_refuted = binomtest(0, n, 0.01, alternative="less").pvalue <= 0.025  # the hypothesis "worse on 1 % of all"
    assert verdict.outcome == ("non-inferior" if is_refuted and n > 368 else "undecided")


@pytest.mark.parametrize("n", [150, 300, 500, 700, 1000, 2000])
def test_a_method_that_errs_only_where_the_other_is_right_is_not_called_as_good_too_often(n):
    """The hardest case: the true difference is the margin, and all examples that differ do so in one direction."""
    margin, error_rate = 0.01, 0.0
    for differing in range(n // 20):
        a, b = np.ones((3, n)), np.ones((3, n))
        a[:, :differing] = 0
        if verdicts([estimate_difference(a, b)], margin)[0].outcome == "non-inferior":
            error_rate += binom.pmf(differing, n, margin)
    assert error_rate <= 0.075


@given(st.integers(2, 5), st.integers(1, 40), st.data())
def test_a_difference_is_finite_and_in_bounds(seeds, n, data):
    bits = st.lists(st.booleans(), min_size=seeds * n, max_size=seeds * n)
    a, b = (np.array(data.draw(bits), dtype=float).reshape(seeds, n) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gap = estimate_difference(a, b)
    assert -1 <= gap.low <= gap.mean <= gap.high <= 1
    assert gap.standard_error > 0 and 0 <= gap.p_inferior(0.01) <= 1 and 0 <= gap.p_non_inferior(0.01) <= 1


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_equals_its_definition(p_values):
    adjusted = correct_p_values(p_values)
    order = np.argsort(p_values, kind="stable")
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        assert adjusted[i] == pytest.approx(running)


def test_a_method_truly_worse_is_never_called_as_good(store):
    group = simulated_group(store, [0.04], seeds=5)
    (comparison,) = comparisons(group)
    assert comparison.verdict.outcome == "inferior"
    assert "the only confirmed smaller cell is shown to be worse than the reference" in headline(group).answer


def test_every_smaller_cell_is_tested_although_it_is_hardly_smaller(store):
    world, run = World(0.005, np.random.default_rng(3)), store(test_n=4000, split_size=4000)
    examples = world.generator.normal(0, EXAMPLE_SPREAD, 4000)
    for method, rank in (("prompt_tuning", None), ("lopt1", 5)):
        for seed, correct in enumerate(world.draw_scores(5, examples)):
            run.predict(run.confirm(method, 10, rank, 0.0, config__seed=seed, selection_accuracy=0.8), correct > 0)
    (group,) = groups(load([run.write()], margin=0.02))
    assert [comparison.cell.rank for comparison in comparisons(group)] == [5], "1.97 times fewer parameters"
    assert "LoPT-1 n=10 r=5 (2,930 parameters) is shown to be as good as the reference" in headline(group).answer
    assert "It trains 2.0 times fewer parameters." in headline(group).answer
    assert any("on the same test examples" in detail for detail in headline(group).details)


def test_one_seed_gives_no_test_and_no_claim(store):
    group = simulated_group(store, [0.0], seeds=1)
    missing = comparisons(group)
    assert isinstance(missing, Missing) and "two confirm seeds" in missing.reason
    assert "exploratory" in headline(group).exploratory_warning


def test_without_predictions_there_is_no_test(store):
    run = store()
    for method, rank in (("prompt_tuning", None), ("lopt1", 1)):
        for seed in range(3):
            run.confirm(method, 10, rank, 0.8 + seed / 100, config__seed=seed)
    (group,) = groups(load([run.write()]))
    assert "predictions" in comparisons(group).reason
    assert group.confirmed_cells[0].accuracy.seeds == 3


@pytest.mark.parametrize(
    "columns",
    [
        {"example_id": [0, 1], "gold": [0, 1]},
        {"example_id": [0, 1], "gold": ["a", "b"], "predicted": ["a", "b"]},
        {"example_id": [0, 1], "gold": [0, 1], "predicted": [0, None]},
        {"example_id": [0, 1], "gold": [True, False], "predicted": [True, True]},
        {},
    ],
)
def test_predictions_of_another_form_are_not_used(store, columns):
    run = store()
    for seed in range(2):
        record = run.predict(run.confirm("lopt1", 10, 1, 0.0, config__seed=seed), np.arange(50) % 5 > 0)
        pyarrow.parquet.write_table(pyarrow.table(columns), run.path / "predictions" / f"{record['key']}.parquet")
    (group,) = groups(load([run.write()]))
    (cell,) = [cell for cell in group.cells if cell.accuracy]
    assert cell.accuracy.mean == pytest.approx(0.8) and cell.accuracy.seeds == 2


def test_predictions_that_do_not_give_the_recorded_accuracy_are_not_used(store):
    run = store()
    for seed in range(3):
        record = run.predict(run.confirm("lopt1", 10, 1, 0.0, config__seed=seed), np.arange(50) % 5 > 0)
        run.put({**record, "test_accuracy": 0.5})
    (group,) = groups(load([run.write()]))
    (cell,) = [cell for cell in group.cells if cell.accuracy]
    assert cell.accuracy.mean == pytest.approx(0.5)


def test_the_user_chooses_the_margin(store):
    group = simulated_group(store, [0.02], seeds=10, n=2000)
    run = Path(group.confirmed_cells[0].confirmed_trials[0].run)
    for margin, expected in ((0.001, "inferior"), (0.08, "non-inferior")):
        (group_with_margin,) = groups(load([run], margin))
        assert comparisons(group_with_margin)[0].verdict.outcome == expected
    assert isinstance(comparisons(group)[0].verdict.difference, Difference)
