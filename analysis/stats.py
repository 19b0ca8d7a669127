"""Means and 95 % intervals of scores such as accuracies, over seeds that were scored on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_MIN_EXAMPLES = 5  # a normal approximation needs at least so many right and so many wrong examples


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean accuracy (fraction) over this number of seeds on `test_n` examples, with its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    test_n: int

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


def wilson_interval(accuracy: float, test_n: int, level: float = 0.025) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion seen on `test_n` examples.

    Args:
        accuracy: the proportion, a fraction.
        test_n: number of examples.
        level: the probability beyond each end; 0.025 gives the 95 % interval.

    Returns:
        Low and high end of the interval, as fractions.

    Raises:
        ValueError: `accuracy` is not in [0, 1], or there are no examples.
    """
    if test_n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(
            f"accuracy {accuracy} of {test_n} examples: need a fraction in [0, 1] and at least one example"
        )
    quantile = Z95 if level == 0.025 else NormalDist().inv_cdf(1 - level)
    shrink = 1 / (1 + quantile**2 / test_n)
    interval_centre = shrink * (accuracy + quantile**2 / (2 * test_n))
    half_width = shrink * quantile * math.sqrt(accuracy * (1 - accuracy) / test_n + quantile**2 / (4 * test_n**2))
    # Near 0 and 1, rounding could otherwise leave the proportion outside its interval.
    return max(0.0, min(accuracy, interval_centre - half_width)), min(1.0, max(accuracy, interval_centre + half_width))


def critical_value(
    level: ArrayLike, seed_share: ArrayLike, seed_degrees: ArrayLike, example_degrees: ArrayLike
) -> np.ndarray:
    """Return how many standard errors an estimate must lie from 0 to be significant in a one-sided test.

    The variance of an estimate has two parts: that of the seeds and that of the examples. Each part is estimated with
    its own number of degrees of freedom, and each has its own quantile of Student's t distribution. The critical value
    is the mean of these two quantiles, weighted by the parts of the variance (Cochran and Cox 1957). Welch's method
    takes one quantile for the sum, with degrees of freedom that are estimated as well. It is too optimistic for two or
    three seeds, above all at small levels: in simulations with 40 cells and two seeds, one verdict in five was wrong.

    Args:
        level: the probability of a wrong rejection, 0.025 for a two-sided interval of 95 %. All four may be arrays.
        seed_share: the part of the variance that comes from the seeds, as a fraction.
        seed_degrees, example_degrees: degrees of freedom of the two parts. They may be infinite.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit  # imported here, because they are slow and --help does not need them

    def quantile(degrees: ArrayLike) -> np.ndarray:
        finite_degrees = np.where(np.isinf(degrees), 1.0, degrees)
        return np.where(np.isinf(degrees), -ndtri(level), -stdtrit(finite_degrees, level))

    seed_share = np.asarray(seed_share)
    return seed_share * quantile(seed_degrees) + (1 - seed_share) * quantile(example_degrees)


def upper_tail(
    statistic: ArrayLike, seed_share: ArrayLike, seed_degrees: ArrayLike, example_degrees: ArrayLike
) -> np.ndarray:
    """Return the one-sided p value for "the true value is above 0": the level at which `critical_value` is reached.

    Args:
        statistic: the estimate divided by its standard error. The other arguments are those of `critical_value`. All
            may be arrays.

    Returns:
        p values, not below 1e-15.
    """
    import numpy as np
    from scipy.special import ndtr, stdtr

    distance = np.abs(np.asarray(statistic, dtype=float))

    def tail(degrees: ArrayLike) -> np.ndarray:
        finite_degrees = np.where(np.isinf(degrees), 1.0, degrees)
        return np.where(np.isinf(degrees), ndtr(-distance), stdtr(finite_degrees, -distance))

    # The level lies between those of the two distributions. It is bisected on a logarithmic scale.
    tails = np.log(np.clip(np.stack(np.broadcast_arrays(tail(seed_degrees), tail(example_degrees))), 1e-15, 0.5))
    low, high = tails.min(axis=0), tails.max(axis=0)
    while np.max(high - low, initial=0.0) > 1e-9:
        middle = (low + high) / 2
        is_reached = critical_value(np.exp(middle), seed_share, seed_degrees, example_degrees) <= distance
        low, high = np.where(is_reached, low, middle), np.where(is_reached, middle, high)
    p_value = np.exp(high)
    return np.where(np.asarray(statistic) > 0, p_value, 1 - p_value)


def estimate(accuracies: Sequence[float], test_n: int, level: float = 0.025) -> Estimate:
    """Return the mean over seeds with a 95 % interval, if only the accuracy of each seed is known.

    With one seed, it is the Wilson interval of that seed's accuracy. The variance between seeds is then unknown.
    With S >= 2 seeds, it is p ± c · sqrt(a + b). Here p is the mean, a = s²/S with the variance s² between seeds,
    and b = p(1-p)/n is the variance from the choice of the n test examples. The seeds share these examples, so b is not
    divided by S. c is the `critical_value` for a share a/(a + b) of the seeds with S-1 degrees of freedom, and n-1
    degrees of freedom of the examples. So c is large for few seeds only if most of the variance is between seeds. The
    interval always contains the Wilson interval of p on n examples, because near 0 and 1 an estimated variance is too
    small, and at 0 and 1 it is 0.

    Args:
        accuracies: accuracy of each seed, as a fraction.
        test_n: number of examples on which each seed was scored.
        level: the probability beyond each end; 0.025 gives the 95 % interval.

    Returns:
        Mean and interval as fractions. The interval is cut to [0, 1].

    Raises:
        ValueError: there is no seed, or `wilson_interval` raises it.
    """
    if not accuracies:
        raise ValueError("no accuracies: need at least one seed")
    seed_count = len(accuracies)
    mean = min(1.0, math.fsum(accuracies) / seed_count)
    low, high = wilson_interval(mean, test_n, level)
    if seed_count > 1:
        seed_variance = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / (seed_count - 1)
        half_width = _half_width(seed_variance / seed_count, mean * (1 - mean) / test_n, seed_count, test_n, level)
        low, high = max(0.0, min(low, mean - half_width)), min(1.0, max(high, mean + half_width))
    return Estimate(mean=mean, low=low, high=high, seeds=seed_count, test_n=test_n)


def _half_width(seed_part: float, example_part: float, seed_count: int, test_n: int, level: float) -> float:
    """Return c · sqrt(a + b) as in `estimate`.

    Args:
        seed_part: the part of the variance of the mean that comes from the seeds, a in `estimate`.
        example_part: the part that comes from the choice of the examples, b in `estimate`.
    """
    variance = seed_part + example_part
    seed_share = seed_part / variance if variance else 0.0
    quantile = critical_value(level, seed_share, max(1, seed_count - 1), max(1, test_n - 1))
    return float(quantile) * math.sqrt(variance)


def check_scores(scores_SN: np.ndarray, span: float) -> None:
    """Check a matrix of scores.

    Raises:
        ValueError: it is not a matrix `[seeds, examples]` of finite numbers, it is empty, or two of its scores differ
            by more than `span`.
    """
    import numpy as np

    if scores_SN.ndim != 2 or not scores_SN.size:
        raise ValueError(f"scores of shape {scores_SN.shape}: need [seeds, examples] with at least one of both")
    if not np.isfinite(scores_SN).all():
        raise ValueError("some scores are not finite numbers: leave out these examples, or mend the scores")
    if (score_range := float(np.ptp(scores_SN))) > span * (1 + 1e-9):
        raise ValueError(f"scores differ by {score_range:g}, but span, the largest possible difference, is {span:g}")


def seed_variances(scores_SN: np.ndarray) -> tuple[float, float]:
    """Return two variances between seeds that were scored on the same examples.

    Args:
        scores_SN: the score of a seed on an example, `[seeds, examples]`, for at least two seeds.

    Returns:
        The variance of the mean score between seeds, and the variance between seeds on one example (the mean over the
        examples). The first is at least the second divided by the number of examples, because the mean scores of seeds
        may be equal by chance.
    """
    variance_on_one_example = float(scores_SN.var(axis=0, ddof=1).mean())
    mean_variance = float(scores_SN.mean(axis=1).var(ddof=1))
    return max(mean_variance, variance_on_one_example / scores_SN.shape[1]), variance_on_one_example


def variance_between_examples(values_N: np.ndarray) -> float:
    """Return the variance of these values, one for each example, or 0 if there is only one example."""
    return float(values_N.var(ddof=1)) if len(values_N) > 1 else 0.0


def guard_variance(example_count: int, span: float = 1.0) -> float:
    """Return the variance of a mean over examples that is assumed at least, although no variance is seen.

    If scores agree on all n examples, they may still differ on others: by Wilson's interval, on a share z²/n of them.
    So the variance of one example is taken as z²/n · span², and that of the mean as 1/n of this.
    """
    return (Z95 * span / example_count) ** 2


def estimate_from_scores(scores_SN: np.ndarray, *, span: float = 1.0, level: float = 0.025) -> Estimate:
    """Return the mean over seeds with a 95 % interval.

    Seeds and examples are both random, and every seed is scored on every example. So the variance of the mean is a + b.
    Here a = s²/S, with the variance s² between the mean scores of the S seeds. For b, take the mean score of each
    example, and the variance of these between examples. Subtract the part that comes from the seeds, and divide by n.
    The half width of the interval is c · sqrt(a + b), with c as in `estimate`. The b of `estimate` is larger, because
    it knows only the accuracies.

    If all scores are 0 or 1, the interval is computed in logits, so that it stays between 0 and 1. If fewer than five
    examples are wrong or fewer than five are right, in the mean over seeds, b is underestimated. Then the interval is
    widened to contain the Wilson interval of the mean on n examples. For one seed it is the Wilson interval. For other
    scores, b is increased by `guard_variance`. With one seed of such scores, a is unknown and left out.

    Args:
        scores_SN: the score of a seed on an example, `[seeds, examples]`. It is 1 for right and 0 for wrong, or any
            real number.
        span: the largest possible difference between two scores.
        level: the probability beyond each end; 0.025 gives the 95 % interval.

    Raises:
        ValueError: `check_scores` raises it.
    """
    check_scores(scores_SN, span)
    seed_count, test_n = scores_SN.shape
    mean = float(scores_SN.mean())
    seed_variance, variance_on_one_example = seed_variances(scores_SN) if seed_count > 1 else (0.0, 0.0)
    noise_of_seeds = variance_on_one_example / seed_count
    example_variance = max(0.0, variance_between_examples(scores_SN.mean(axis=0)) - noise_of_seeds) / test_n
    if not ((scores_SN == 0) | (scores_SN == 1)).all() or span != 1:
        half_width = _half_width(
            seed_variance / seed_count, example_variance + guard_variance(test_n, span), seed_count, test_n, level
        )
        return Estimate(mean=mean, low=mean - half_width, high=mean + half_width, seeds=seed_count, test_n=test_n)
    wilson_low, wilson_high = wilson_interval(mean, test_n, level)
    if seed_count == 1 or mean in (0.0, 1.0):  # there is no variance to estimate
        return Estimate(mean=mean, low=wilson_low, high=wilson_high, seeds=seed_count, test_n=test_n)
    from scipy.special import expit, logit  # imported here, because it is slow and --help does not need it

    half_width = _half_width(seed_variance / seed_count, example_variance, seed_count, test_n, level)
    half_width /= mean * (1 - mean)  # in logits
    low, high = float(expit(logit(mean) - half_width)), float(expit(logit(mean) + half_width))
    if test_n * min(mean, 1 - mean) < _MIN_EXAMPLES:
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Estimate(mean=mean, low=low, high=high, seeds=seed_count, test_n=test_n)


BOLD_NOTE = "Bold: the result whose interval lies above the intervals of all others."


def clear_best_index(estimates: Sequence[Estimate | None]) -> int | None:
    """Return the index of the estimate whose interval lies above the intervals of all others. Return None if there is
    no such estimate or fewer than two estimates."""
    known_estimates = [(i, value) for i, value in enumerate(estimates) if value is not None]
    if len(known_estimates) < 2:
        return None
    best_index, best = max(known_estimates, key=lambda pair: pair[1].mean)
    return best_index if all(best.low > value.high for _, value in known_estimates if value is not best) else None


def intervals_note(estimates: Sequence[Estimate]) -> str:
    """Return a sentence for a caption: what the intervals of these estimates are."""
    parts = []
    if any(value.seeds == 1 for value in estimates):
        parts.append(
            "for one seed, the 95 % Wilson interval over its test examples; the variation between seeds is unknown"
        )
    if any(value.seeds > 1 for value in estimates):
        parts.append(
            "for two or more seeds, a 95 % t interval, which includes the variation between seeds and between test "
            "examples, each with its own degrees of freedom"
        )
    return "Intervals: " + "; ".join(parts) + "." if parts else ""
