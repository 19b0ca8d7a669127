"""Intervals of metrics that are not means over examples, and of examples in clusters.

The long form takes hours: LOPT_LONG_SIMULATIONS=1 pytest -s tests/analysis/test_analysis_metric_intervals.py
"""

from __future__ import annotations

import math
import os
from itertools import product

import numpy as np
import pytest

from analysis.noninferiority import estimate_difference
from analysis.pseudo_values import pseudo_values, value_span
from analysis.stats import estimate_from_scores
from lopt import metrics
from lopt.metrics import Answers
from tests.analysis.metric_worlds import MetricWorld

IS_LONG = bool(os.environ.get("LOPT_LONG_SIMULATIONS"))
REPEATS = 1000 if IS_LONG else 150
NAMES = ["f1", "macro_f1", "matthews", "pearson", "spearman", "f1a", "exact_match"]
LONG_DESIGNS = list(product([3, 5, 10], [0.005, 0.02, 0.04], [277, 872, 2022]))
SHORT_DESIGNS = [(3, 0.02, 277)]


def test_pseudo_values_of_a_mean_are_the_scores_of_the_examples():
    generator = np.random.default_rng(0)
    answers = Answers(gold=generator.integers(0, 2, 50), predicted=generator.integers(0, 2, 50), class_count=2)
    accuracy = metrics.get("accuracy")
    score, without_N = accuracy.score(answers), accuracy.scores_without_each(answers)
    values = pseudo_values(accuracy, answers)
    np.testing.assert_allclose(values, answers.gold == answers.predicted)
    np.testing.assert_allclose(values, score + 49 * (without_N.mean() - without_N), atol=1e-12)


@pytest.mark.parametrize("name", [*NAMES, "accuracy"])
def test_the_mean_of_the_pseudo_values_is_the_score(name):
    world = MetricWorld(name, 0.02)
    (answers,) = world.draw(1, 300)
    values = pseudo_values(world.metric, answers)
    assert values.mean() == pytest.approx(world.metric.score(answers), abs=1e-12)
    cluster_count = 300 if answers.groups is None else len(np.unique(answers.groups[:, 0]))
    assert len(values) == cluster_count, "a cluster is one unit"
    assert pseudo_values(world.metric, answers.take(np.arange(1))).tolist() == [
        world.metric.score(answers.take(np.arange(1)))
    ]


def test_the_variance_of_a_correlation_is_that_of_the_textbook():
    """For normal numbers the variance of Pearson's r is (1 - r²)² / n."""
    generator, count = np.random.default_rng(1), 20_000
    x, noise = generator.normal(size=(2, count))
    classes = np.zeros(count, dtype=int)
    answers = Answers(
        gold=classes, predicted=classes, class_count=2, gold_numbers=x, predicted_numbers=0.6 * x + 0.8 * noise
    )
    assert pseudo_values(metrics.get("pearson"), answers).var() == pytest.approx((1 - 0.6**2) ** 2, rel=0.05)


@pytest.mark.parametrize(("seeds", "spread", "count"), LONG_DESIGNS if IS_LONG else SHORT_DESIGNS)
@pytest.mark.parametrize("name", NAMES)
def test_the_interval_contains_the_truth_in_94_percent_of_cases(name, seeds, spread, count):
    """The bound allows for the chance of the simulation itself: two and a half standard errors."""
    world, missed, missed_difference = MetricWorld(name, spread, draw_seed=seeds), 0, 0
    for _ in range(REPEATS):
        examples = world.draw_examples(count)
        values_of_cells = [
            np.stack(
                [
                    pseudo_values(world.metric, world.answers(examples, skill))
                    for skill in world.generator.normal(0, world.spread, seeds)
                ]
            )
            for _ in range(2)
        ]
        span = value_span(world.metric, *values_of_cells)
        interval = estimate_from_scores(values_of_cells[0], span=span)
        difference = estimate_difference(*values_of_cells, span=span)
        missed += not interval.low <= world.truth <= interval.high
        missed_difference += not difference.low <= 0 <= difference.high
    print(
        f"{name} {seeds} {spread} {count} {1 - missed / REPEATS:.3f} {1 - missed_difference / REPEATS:.3f}", flush=True
    )
    allowed = 0.06 + 2.5 * math.sqrt(0.06 * 0.94 / REPEATS)
    assert max(missed, missed_difference) / REPEATS <= allowed
