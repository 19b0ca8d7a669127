"""Means and 95 % intervals of an accuracy over seeds that were scored on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Z95 = 1.959963984540054
_FEW_EXAMPLES = 5  # below so many right or wrong ones a normal approximation does not hold


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
        accuracy: a fraction. n: examples that it was seen on.

    Returns:
        Low and high end, fractions.

    Raises:
        ValueError: no fraction in [0, 1], or no examples.
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy {accuracy} of {n} examples: need a fraction in [0, 1] of at least one")
    shrink = 1 / (1 + Z95**2 / n)
    centre = shrink * (accuracy + Z95**2 / (2 * n))
    half = shrink * Z95 * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n * n))
    # min and max guard the ends, where rounding could push the interval off the proportion itself
    return max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))


def estimate(accuracies: Sequence[float], test_n: int) -> Estimate:
    """Mean over seeds with a 95 % interval.

    One seed: the Wilson interval of that run over its examples; the variance between seeds is unknown.
    N >= 2 seeds: p ± t(v) · sqrt(a + b), with p the mean, a = s²/N of the variance s² between seeds, and
    b = p(1-p)/n. The seeds share their n test examples, so b, the variance of having drawn these examples, is not
    divided by N. v is Welch and Satterthwaite's degrees of freedom, (a+b)² / (a²/(N-1) + b²/(n-1)): a few seeds make
    the quantile large only as far as it is they that make the variance. The interval holds the Wilson interval of p on
    n examples, whatever the seeds: near 0 and 1 a variance that is estimated is too small, and at them it is 0.

    Args:
        accuracies: of each seed, fractions. test_n: examples that all of them were scored on.

    Returns:
        Mean and interval, fractions, cut to [0, 1].

    Raises:
        ValueError: no seed; else as `wilson`.
    """
    if not accuracies:
        raise ValueError("no accuracies: need at least one seed")
    seeds = len(accuracies)
    mean = min(1.0, math.fsum(accuracies) / seeds)
    low, high = wilson(mean, test_n)
    if seeds > 1:
        between = math.fsum((each - mean) ** 2 for each in accuracies) / (seeds - 1)
        half = _half_width(between / seeds, mean * (1 - mean) / test_n, seeds, test_n)
        low, high = max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))
    return Estimate(mean=mean, low=low, high=high, seeds=seeds, test_n=test_n)


def _half_width(a: float, b: float, seeds: int, n: int) -> float:
    """t(v) · sqrt(a + b) of the variances of a mean by seeds and by examples, v by Welch and Satterthwaite."""
    from scipy.special import stdtrit

    share = a / (a + b) if a + b else 0.0
    freedom = 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / max(1, n - 1))
    return float(stdtrit(freedom, 0.975)) * math.sqrt(a + b)


def spread(correct_SN: np.ndarray) -> tuple[float, float]:
    """How several seeds scored on the same examples differ.

    Args:
        correct_SN: 1 where a seed was right on an example, `[seeds, examples]`; two seeds at least.

    Returns:
        Variance of the accuracy between seeds, and of being right on one example. The former is not less than the
        latter makes it: seeds whose accuracies happen to agree are no sign that seeds do not matter.
    """
    within = float(correct_SN.var(axis=0, ddof=1).mean())
    return max(float(correct_SN.mean(axis=1).var(ddof=1)), within / correct_SN.shape[1]), within


def variance_of_examples(values_N: np.ndarray) -> float:
    """Variance between examples; of a single one 0, since there is none to see."""
    return float(values_N.var(ddof=1)) if len(values_N) > 1 else 0.0


def crossed(correct_SN: np.ndarray) -> Estimate:
    """Mean over seeds with a 95 % interval, from which examples each seed got right: `[seeds, examples]`.

    Seeds and examples are both drawn, and crossed: Var = a + b with a = s²/S of the variance s² between the accuracies
    of the S seeds, and b the variance between the examples' rates of being right, without what the seeds put into it,
    over n. Half width: t(v) · sqrt(a + b) in logits, v by Welch and Satterthwaite as in `estimate`, whose b is
    larger, for want of the single examples. Where fewer than five examples are missed, or are right, in the mean over
    seeds, too little of b is seen: then the interval holds the Wilson interval of the mean on n examples.
    """
    seeds, n = correct_SN.shape
    mean = float(correct_SN.mean())
    wilson_low, wilson_high = wilson(mean, n)
    if seeds == 1 or mean in (0.0, 1.0):  # without any variance to see, that of the examples' number
        return Estimate(mean=mean, low=wilson_low, high=wilson_high, seeds=seeds, test_n=n)
    from scipy.special import expit, logit  # takes longer than --help

    between, within = spread(correct_SN)
    b = max(0.0, variance_of_examples(correct_SN.mean(axis=0)) - within / seeds) / n
    half = _half_width(between / seeds, b, seeds, n) / (mean * (1 - mean))
    low, high = float(expit(logit(mean) - half)), float(expit(logit(mean) + half))
    if n * min(mean, 1 - mean) < _FEW_EXAMPLES:
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Estimate(mean=mean, low=low, high=high, seeds=seeds, test_n=n)


def interquartile(estimates: Sequence[Estimate], draws: int = 4000) -> tuple[float, float, float]:
    """Interquartile mean over tasks, and its 95 % interval: the mean without the lowest and the highest quarter (of
    five tasks one each), which neither a hopeless task nor an easy one decides.

    Each task's mean is drawn from its own interval, as a normal variable; tasks are those there are, not a sample.
    Source: Agarwal et al. 2021, arXiv 2108.13264, who draw runs again; three seeds are too few for that.
    """
    import numpy as np
    from scipy.stats import trim_mean

    means = np.array([each.mean for each in estimates])
    errors = np.array([each.high - each.low for each in estimates]) / (2 * Z95)
    drawn = np.random.default_rng(0).normal(means, errors, (draws, len(means)))
    low, high = np.quantile(trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(trim_mean(means, 0.25)), max(0.0, float(low)), min(1.0, float(high))


BOLD = "Bold: the one whose interval lies above those of all others."


def standing_out(estimates: Sequence[Estimate | None]) -> int | None:
    """Place of the estimate whose interval lies above those of all others, of which there are some."""
    known = [(each, place) for place, each in enumerate(estimates) if each is not None]
    if len(known) < 2:
        return None
    best, place = max(known, key=lambda pair: pair[0].mean)
    return place if all(best.low > each.high for each, _ in known if each is not best) else None


def describe(estimates: Sequence[Estimate]) -> str:
    """What the error bars of these estimates are, for a caption."""
    parts = []
    if any(each.seeds == 1 for each in estimates):
        parts.append(
            "where N = 1, the 95 % Wilson interval of the one run over its test examples (seed variance unknown)"
        )
    if any(each.seeds > 1 for each in estimates):
        parts.append("where N ≥ 2, the 95 % t interval over seeds with the sampling of the shared test examples added")
    return "Intervals: " + "; ".join(parts) + "." if parts else ""
