"""The values whose mean is a metric: scores of the examples, or jackknife pseudo-values of examples or clusters.

A metric such as F1 or a correlation is not a mean over examples. The jackknife turns it into one: without unit i, the
score is s_i, and the value of the unit is s + (U - 1) (m - s_i), where s is the score of all U units and m the mean of
the s_i (Efron and Tibshirani 1993, chapter 11; centred, so that the mean of the values is s). The variance of the
values, divided by U, estimates the variance of the score that comes from the choice of the units. So the crossed model
of seeds and examples (`stats.estimate_from_scores`) holds for every metric. For a mean over examples, the values are
the scores of the examples themselves.

A unit is an example. If examples belong to clusters, such as the questions on a paragraph, a unit is a cluster, because
its examples are not independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from lopt.metrics import Answers, Metric


def pseudo_values(metric: Metric, answers: Answers) -> np.ndarray:
    """Return the value of each unit, `[U]`. Their mean is the score."""
    import numpy as np

    score = metric.score(answers)
    if answers.groups is None:
        if (example_scores := metric.example_scores(answers)) is not None:
            return example_scores
        if len(answers) == 1:
            return np.array([score])
        without_U = metric.scores_without_each(answers)
    else:
        clusters, cluster_N = np.unique(answers.groups[:, 0], return_inverse=True)
        if len(clusters) == 1:
            return np.array([score])
        without_U = np.array([metric.score(answers.take(cluster_N != i)) for i in range(len(clusters))])
    return score + (len(without_U) - 1) * (without_U.mean() - without_U)


def value_span(metric: Metric, *values_of_cells: np.ndarray) -> float:
    """Return the largest possible difference of two values: that of two scores, or a larger one that occurs."""
    lowest = min(float(values.min()) for values in values_of_cells)
    highest = max(float(values.max()) for values in values_of_cells)
    return max(metric.span, highest - lowest)
