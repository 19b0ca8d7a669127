"""Means and 95 % intervals of accuracies, over seeds that were scored on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

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


def wilson_interval(accuracy: float, test_n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion seen on `test_n` examples.

    Args:
        accuracy: the proportion, a fraction.
        test_n: number of examples.

    Returns:
        Low and high end of the interval, as fractions.

    Raises:
        ValueError: `accuracy` is not in [0, 1], or there are no examples.
    """
    if test_n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(
            f"accuracy {accuracy} of {test_n} examples: need a fraction in [0, 1] and at least one example"
        )
    shrink = 1 / (1 + Z95**2 / test_n)
    interval_centre = shrink * (accuracy + Z95**2 / (2 * test_n))
    half_width = shrink * Z95 * math.sqrt(accuracy * (1 - accuracy) / test_n + Z95**2 / (4 * test_n * test_n))
    # Near 0 and 1, rounding could otherwise leave the proportion outside its interval.
    return max(0.0, min(accuracy, interval_centre - half_width)), min(1.0, max(accuracy, interval_centre + half_width))


def estimate(accuracies: Sequence[float], test_n: int) -> Estimate:
    """Return the mean over seeds with a 95 % interval.

    With one seed, it is the Wilson interval of that seed's accuracy. The variance between seeds is then unknown.
    With N >= 2 seeds, it is p ± t(v) · sqrt(a + b). Here p is the mean, a = s²/N with the variance s² between seeds,
    and b = p(1-p)/n is the variance from the choice of the n test examples. The seeds share these examples, so b is not
    divided by N. t(v) is the 97.5 % quantile of Student's t distribution. Its number of degrees of freedom is that of
    Welch and Satterthwaite, v = (a+b)² / (a²/(N-1) + b²/(n-1)). So t(v) is large for few seeds only if most of the
    variance is between seeds. The interval always contains the Wilson interval of p on n examples, because near 0 and 1
    an estimated variance is too small, and at 0 and 1 it is 0.

    Args:
        accuracies: accuracy of each seed, as a fraction.
        test_n: number of examples on which each seed was scored.

    Returns:
        Mean and interval as fractions. The interval is cut to [0, 1].

    Raises:
        ValueError: there is no seed, or `wilson_interval` raises it.
    """
    if not accuracies:
        raise ValueError("no accuracies: need at least one seed")
    seed_count = len(accuracies)
    mean = min(1.0, math.fsum(accuracies) / seed_count)
    low, high = wilson_interval(mean, test_n)
    if seed_count > 1:
        seed_variance = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / (seed_count - 1)
        half_width = _half_width(seed_variance / seed_count, mean * (1 - mean) / test_n, seed_count, test_n)
        low, high = max(0.0, min(low, mean - half_width)), min(1.0, max(high, mean + half_width))
    return Estimate(mean=mean, low=low, high=high, seeds=seed_count, test_n=test_n)


def _half_width(seed_part: float, example_part: float, seed_count: int, test_n: int) -> float:
    """Return t(v) · sqrt(a + b) as in `estimate`.

    Args:
        seed_part: the part of the variance of the mean that comes from the seeds, a in `estimate`.
        example_part: the part that comes from the choice of the examples, b in `estimate`.
    """
    from scipy.special import stdtrit

    seed_share = seed_part / (seed_part + example_part) if seed_part + example_part else 0.0
    degrees_of_freedom = 1 / (seed_share**2 / (seed_count - 1) + (1 - seed_share) ** 2 / max(1, test_n - 1))
    return float(stdtrit(degrees_of_freedom, 0.975)) * math.sqrt(seed_part + example_part)


def seed_variances(correct_SN: np.ndarray) -> tuple[float, float]:
    """Return two variances between seeds that were scored on the same examples.

    Args:
        correct_SN: 1 where a seed was right on an example, else 0, `[seeds, examples]`, for at least two seeds.

    Returns:
        The variance of the accuracy between seeds, and the variance between seeds on one example (the mean over the
        examples). The first is at least the second divided by the number of examples, because the accuracies of seeds
        may be equal by chance.
    """
    variance_on_one_example = float(correct_SN.var(axis=0, ddof=1).mean())
    accuracy_variance = float(correct_SN.mean(axis=1).var(ddof=1))
    return max(accuracy_variance, variance_on_one_example / correct_SN.shape[1]), variance_on_one_example


def variance_between_examples(values_N: np.ndarray) -> float:
    """Return the variance of these values, one for each example, or 0 if there is only one example."""
    return float(values_N.var(ddof=1)) if len(values_N) > 1 else 0.0


def estimate_from_predictions(correct_SN: np.ndarray) -> Estimate:
    """Return the mean over seeds with a 95 % interval.

    Args:
        correct_SN: 1 where a seed was right on an example, else 0, `[seeds, examples]`.

    Seeds and examples are both random, and every seed is scored on every example. So the variance of the mean is a + b.
    Here a = s²/S, with the variance s² between the accuracies of the S seeds. For b, take the share of seeds that are
    right on each example, and the variance of these shares between examples. Subtract the part that comes from the
    seeds, and divide by n. The half width of the interval is t(v) · sqrt(a + b) in logits, with v as in `estimate`. The
    b of `estimate` is larger, because it knows only the accuracies. If fewer than five examples are wrong or fewer than
    five are right, in the mean over seeds, b is underestimated. Then the interval is widened to contain the Wilson
    interval of the mean on n examples.
    """
    seed_count, test_n = correct_SN.shape
    mean = float(correct_SN.mean())
    wilson_low, wilson_high = wilson_interval(mean, test_n)
    if seed_count == 1 or mean in (0.0, 1.0):  # there is no variance to estimate
        return Estimate(mean=mean, low=wilson_low, high=wilson_high, seeds=seed_count, test_n=test_n)
    from scipy.special import expit, logit  # imported here, because it is slow and --help does not need it

    seed_variance, variance_on_one_example = seed_variances(correct_SN)
    noise_of_seeds = variance_on_one_example / seed_count
    example_variance = max(0.0, variance_between_examples(correct_SN.mean(axis=0)) - noise_of_seeds) / test_n
    half_width = _half_width(seed_variance / seed_count, example_variance, seed_count, test_n)
    half_width /= mean * (1 - mean)  # in logits
    low, high = float(expit(logit(mean) - half_width)), float(expit(logit(mean) + half_width))
    if test_n * min(mean, 1 - mean) < _MIN_EXAMPLES:
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Estimate(mean=mean, low=low, high=high, seeds=seed_count, test_n=test_n)


def interquartile_mean(estimates: Sequence[Estimate], draw_count: int = 4000) -> tuple[float, float, float]:
    """Return the interquartile mean over tasks, with the low and high end of its 95 % interval.

    This is the mean without the lowest and the highest quarter of the tasks (with five tasks, one at each end), so that
    neither a hopeless task nor an easy one decides it. For the interval, the mean of each task is drawn many times from
    a normal distribution as wide as the interval of that task. The tasks themselves are not drawn.
    Source: Agarwal et al. 2021, arXiv 2108.13264. They resample runs, for which three seeds are too few.
    """
    import numpy as np
    from scipy.stats import trim_mean

    means = np.array([task.mean for task in estimates])
    standard_errors = np.array([task.high - task.low for task in estimates]) / (2 * Z95)
    drawn_means = np.random.default_rng(0).normal(means, standard_errors, (draw_count, len(means)))
    low, high = np.quantile(trim_mean(drawn_means, 0.25, axis=1), [0.025, 0.975])
    return float(trim_mean(means, 0.25)), max(0.0, float(low)), min(1.0, float(high))


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
            "examples"
        )
    return "Intervals: " + "; ".join(parts) + "." if parts else ""
