"""The score of a cell on the test examples, by the metric that its trials were selected by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analysis import predictions
from analysis.noninferiority import Difference, estimate_difference
from analysis.pseudo_values import value_span
from analysis.records import Trial
from analysis.stats import Estimate, critical_value, estimate, estimate_from_scores
from lopt import metrics

if TYPE_CHECKING:
    from analysis.runs import PlannedCell


def common_metric(members: Iterable[Trial | PlannedCell]) -> str:
    """Return the metric of most confirmed trials; if there are none, of most trials; if there are none, of the plan."""
    members = list(members)
    trials = [member for member in members if isinstance(member, Trial)]
    confirmed_trials = [trial for trial in trials if trial.is_confirmed]
    names = [trial.metric for trial in confirmed_trials or trials]
    names = names or [str(_planned_metric(member)) for member in members if not isinstance(member, Trial)]
    return Counter(names).most_common(1)[0][0] if names else metrics.ACCURACY


def _planned_metric(planned: PlannedCell) -> Any:
    return planned.config.get("metric") or metrics.ACCURACY


def estimate_score(trials: Sequence[Trial], metric: str, level: float = 0.025) -> Estimate | None:
    """Estimate the score of confirmed trials from their predictions, if all of them have predictions.

    Otherwise estimate it from the scores of the seeds alone, with a wider interval: the variance between examples is
    taken as the largest that a mean over examples can have. Without a score of every trial there is no estimate.

    Args:
        trials: confirmed trials of one cell, one for each seed.
        metric: name of the metric.
        level: as in `stats.estimate`.
    """
    scores = [score for trial in trials if (score := trial.test_score(metric)) is not None]
    is_accuracy = metric == metrics.ACCURACY
    values_SU = predictions.values_by_trial(trials, metric) if trials and (len(trials) > 1 or not is_accuracy) else None
    if values_SU is not None:
        if is_accuracy and values_SU.shape[1] == trials[0].test_n:  # not clusters of examples
            return estimate_from_scores(values_SU, level=level)
        return _cut(
            estimate_from_scores(values_SU, span=value_span(metrics.get(metric), values_SU), level=level), metric
        )
    if not scores or (len(scores) < len(trials) and not is_accuracy):
        return None
    if is_accuracy:
        return estimate(scores, trials[0].test_n or 0, level)
    return _cut(_estimate_from_seeds(scores, trials[0].test_n or 1, metric, level), metric)


def _estimate_from_seeds(scores: Sequence[float], test_n: int, metric: str, level: float) -> Estimate:
    seed_count, span = len(scores), _span(metric)
    mean = math.fsum(scores) / seed_count
    seed_part = math.fsum((score - mean) ** 2 for score in scores) / max(1, seed_count - 1) / seed_count
    variance = seed_part + span**2 / 4 / test_n
    quantile = critical_value(level, seed_part / variance, max(1, seed_count - 1), max(1, test_n - 1))
    half_width = float(quantile) * math.sqrt(variance)
    return Estimate(mean=mean, low=mean - half_width, high=mean + half_width, seeds=seed_count, test_n=test_n)


def _cut(value: Estimate, metric: str) -> Estimate:
    """Cut an interval to the possible scores."""
    try:
        lowest, highest = metrics.get(metric).lowest, metrics.get(metric).highest
    except ValueError:  # a metric that this program does not have
        return value
    return replace(value, low=max(lowest, value.low), high=min(highest, value.high))


def _span(metric: str) -> float:
    """Return the largest possible difference of two scores; 2 for a metric that this program does not have."""
    try:
        return metrics.get(metric).span
    except ValueError:
        return 2.0


def score_difference(trials_a: Sequence[Trial], trials_b: Sequence[Trial], metric: str) -> Difference | None:
    """Return the score of the trials a minus that of the trials b. Return None unless both are two seeds or more, with
    predictions of the same examples."""
    has_seeds = min(len(trials_a), len(trials_b)) > 1
    pair = predictions.values_by_group(trials_a, trials_b, metric=metric) if has_seeds else None
    if pair is None:
        return None
    return estimate_difference(pair[0], pair[1], span=value_span(metrics.get(metric), *pair))
