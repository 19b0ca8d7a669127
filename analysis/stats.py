"""Means and 95 % intervals of accuracies, over seeds that were scored on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Z95 = 1.959963984540054
_FEW_EXAMPLES = 5  # with fewer right or fewer wrong examples a normal approximation does not hold


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean accuracy (fraction) over `seeds` runs on `test_n` examples, with its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    test_n: int

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion seen on `n` examples.

    Args:
        accuracy: the proportion, a fraction.
        n: number of examples.

    Returns:
        Low and high end, fractions.

    Raises:
        ValueError: `accuracy` is not in [0, 1], or there are no examples.
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy {accuracy} of {n} examples: need a fraction in [0, 1] and at least one example")
    shrink = 1 / (1 + Z95**2 / n)
    centre = shrink * (accuracy + Z95**2 / (2 * n))
    half = shrink * Z95 * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n * n))
    # At the ends, rounding could otherwise leave the proportion outside its interval.
    return max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))


def estimate(accuracies: Sequence[float], test_n: int) -> Estimate:
    """Mean over seeds with a 95 % interval.

    With one seed it is the Wilson interval of that run over its examples; the variance between seeds is unknown.
    With N >= 2 seeds it is p ± t(v) · sqrt(a + b), where p is the mean, a = s²/N with the variance s² between seeds,
    and b = p(1-p)/n. The seeds share their n test examples. So b, the variance of having drawn these examples, is not
    divided by N. v is Welch and Satterthwaite's degrees of freedom, (a+b)² / (a²/(N-1) + b²/(n-1)). With it, few seeds
    make the quantile large only in so far as the variance comes from the seeds. The interval always contains the Wilson
    interval of p on n examples, because near 0 and 1 an estimated variance is too small, and at 0 and 1 it is 0.

    Args:
        accuracies: accuracy of each seed, fractions.
        test_n: number of examples on which all seeds were scored.

    Returns:
        Mean and interval, fractions, cut to [0, 1].

    Raises:
        ValueError: there is no seed, or `wilson` raises it.
    """
    if not accuracies:
        raise ValueError("no accuracies: need at least one seed")
    seeds = len(accuracies)
    mean = min(1.0, math.fsum(accuracies) / seeds)
    low, high = wilson(mean, test_n)
    if seeds > 1:
        between = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / (seeds - 1)
        half = _half_width(between / seeds, mean * (1 - mean) / test_n, seeds, test_n)
        low, high = max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))
    return Estimate(mean=mean, low=low, high=high, seeds=seeds, test_n=test_n)


def _half_width(a: float, b: float, seeds: int, n: int) -> float:
    """Return t(v) · sqrt(a + b), with v by Welch and Satterthwaite.

    Args:
        a: variance of the mean that comes from the seeds.
        b: variance of the mean that comes from the examples.
        seeds, n: numbers of seeds and of examples.
    """
    from scipy.special import stdtrit

    share = a / (a + b) if a + b else 0.0
    freedom = 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / max(1, n - 1))
    return float(stdtrit(freedom, 0.975)) * math.sqrt(a + b)


def spread(correct_SN: np.ndarray) -> tuple[float, float]:
    """Return how much several seeds differ that were scored on the same examples.

    Args:
        correct_SN: 1 where a seed was right on an example, `[seeds, examples]`; at least two seeds.

    Returns:
        The variance of the accuracy between seeds, and the variance between seeds of being right on one example. The
        former is at least what the latter implies: accuracies of seeds may be equal by chance although seeds matter.
    """
    within = float(correct_SN.var(axis=0, ddof=1).mean())
    return max(float(correct_SN.mean(axis=1).var(ddof=1)), within / correct_SN.shape[1]), within


def variance_of_examples(values_N: np.ndarray) -> float:
    """Return the variance between examples; 0 for a single example, which shows none."""
    return float(values_N.var(ddof=1)) if len(values_N) > 1 else 0.0


def estimate_from_predictions(correct_SN: np.ndarray) -> Estimate:
    """Mean over seeds with a 95 % interval, from the examples that each seed got right, `[seeds, examples]`.

    Seeds and examples are both drawn, and they are crossed. So Var = a + b: a = s²/S with the variance s² between the
    accuracies of the S seeds; b is the variance between the examples' rates of being right, without the seeds' part in
    it, divided by n. The half width is t(v) · sqrt(a + b) in logits, with v by Welch and Satterthwaite as in
    `estimate`, whose b is larger because it does not see single examples. Where fewer than five examples are wrong, or
    fewer than five are right, in the mean over seeds, b is underestimated. Then the interval also contains the Wilson
    interval of the mean on n examples.
    """
    seeds, n = correct_SN.shape
    mean = float(correct_SN.mean())
    wilson_low, wilson_high = wilson(mean, n)
    if seeds == 1 or mean in (0.0, 1.0):  # there is no variance to estimate; the number of examples decides
        return Estimate(mean=mean, low=wilson_low, high=wilson_high, seeds=seeds, test_n=n)
    from scipy.special import expit, logit  # slow to import: --help does without it

    between, within = spread(correct_SN)
    b = max(0.0, variance_of_examples(correct_SN.mean(axis=0)) - within / seeds) / n
    half = _half_width(between / seeds, b, seeds, n) / (mean * (1 - mean))
    low, high = float(expit(logit(mean) - half)), float(expit(logit(mean) + half))
    if n * min(mean, 1 - mean) < _FEW_EXAMPLES:
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Estimate(mean=mean, low=low, high=high, seeds=seeds, test_n=n)


def interquartile(estimates: Sequence[Estimate], draws: int = 4000) -> tuple[float, float, float]:
    """Interquartile mean over tasks, with the low and high end of its 95 % interval.

    This is the mean without the lowest and the highest quarter of the tasks (with five tasks, one of each), so that
    neither a hopeless task nor an easy one decides it. For the interval, each task's mean is drawn from its own
    interval, as a normal variable. The tasks themselves are fixed, not a sample.
    Source: Agarwal et al. 2021, arXiv 2108.13264. They resample runs, for which three seeds are too few.
    """
    import numpy as np
    from scipy.stats import trim_mean

    means = np.array([task.mean for task in estimates])
    errors = np.array([task.high - task.low for task in estimates]) / (2 * Z95)
    drawn = np.random.default_rng(0).normal(means, errors, (draws, len(means)))
    low, high = np.quantile(trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(trim_mean(means, 0.25)), max(0.0, float(low)), min(1.0, float(high))


BOLD_NOTE = "Bold: the one whose interval lies above those of all others."


def standing_out(estimates: Sequence[Estimate | None]) -> int | None:
    """Return the index of the estimate whose interval lies above those of all others; None if there is no such
    estimate, or only one estimate."""
    known = [(i, value) for i, value in enumerate(estimates) if value is not None]
    if len(known) < 2:
        return None
    best_index, best = max(known, key=lambda pair: pair[1].mean)
    return best_index if all(best.low > value.high for _, value in known if value is not best) else None


def intervals_note(estimates: Sequence[Estimate]) -> str:
    """Return a caption's sentence about the intervals of these estimates."""
    parts = []
    if any(value.seeds == 1 for value in estimates):
        parts.append(
            "for one seed, the 95 % Wilson interval over its test examples; the variation between seeds is unknown"
        )
    if any(value.seeds > 1 for value in estimates):
        parts.append(
            "for two seeds and more, a 95 % t interval, which includes the variation between seeds and between test "
            "examples"
        )
    return "Intervals: " + "; ".join(parts) + "." if parts else ""
