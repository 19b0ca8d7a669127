"""Is a smaller prompt as good as a larger one, within a margin that was declared beforehand?

Several seeds of two methods are scored on the same examples. The difference of their accuracies depends on the seeds of
both methods and on the examples that were drawn. Because the methods share the examples, the difference is known better
than either accuracy. Two one-sided tests ask whether a method is worse by less than the margin ("non-inferior"), or by
more ("inferior"). Each of these two kinds of verdict has a level of 2.5 %, which its tests share by Holm's method (Holm
1979). So the probability that any verdict is wrong, over both kinds and all methods, is at most 5 %. With one method,
the verdicts agree with the 95 % interval of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.stats import (
    check_scores,
    critical_value,
    guard_variance,
    seed_variances,
    upper_tail,
    variance_between_examples,
)

if TYPE_CHECKING:
    import numpy as np

KIND_LEVEL = 0.025  # the probability of a wrong verdict of each kind, over all tests of that kind
DEFAULT_MARGIN = 0.01  # the default of --margin, as a fraction


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean score (accuracy) of method a minus that of method b, as fractions, with the 95 % interval.

    Attributes:
        standard_error: standard error of `mean`.
        seed_share: the part of the variance of `mean` that comes from the seeds, as a fraction.
        seed_degrees, example_degrees: degrees of freedom of the two parts of the variance, for the quantiles of t.
        seed_variance_a, seed_variance_b: variance of the mean score between the seeds of each method.
        example_variance: the part of the variance of `mean` that comes from the choice of test examples.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    seed_share: float
    seed_degrees: float
    example_degrees: float
    seed_count_a: int
    seed_count_b: int
    seed_variance_a: float
    seed_variance_b: float
    example_variance: float

    def __str__(self) -> str:
        """Return the difference in percentage points, with the interval."""
        return f"{100 * self.mean:+z.1f} [{100 * self.low:+z.1f}, {100 * self.high:+z.1f}]"

    def p_non_inferior(self, margin: float) -> float:
        """Return the p value of the test for non-inferiority. A small p shows "not worse by more than the margin"."""
        return self._p_above(self.mean + margin)

    def p_inferior(self, margin: float) -> float:
        """Return the p value of the test for inferiority. A small p shows "worse by more than the margin"."""
        return self._p_above(-(self.mean + margin))

    def _p_above(self, distance: float) -> float:
        statistic = distance / self.standard_error
        return float(upper_tail(statistic, self.seed_share, self.seed_degrees, self.example_degrees))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict of the two tests.

    Attributes:
        outcome: "non-inferior" (worse by less than the margin), "inferior" (worse by more) or "undecided".
        p_non_inferior, p_inferior: p values of the two tests, corrected by Holm's method within their kind. They may be
            compared with `KIND_LEVEL` directly.
    """

    outcome: str
    difference: Difference
    margin: float
    p_non_inferior: float
    p_inferior: float

    def __str__(self) -> str:
        return self.outcome


def estimate_difference(scores_a_SN: np.ndarray, scores_b_SN: np.ndarray, *, span: float = 1.0) -> Difference:
    """Return the difference of the mean scores of methods a and b.

    The variance of the difference has two parts. The part of the seeds is s²/S of method a plus that of method b, with
    the degrees of freedom of Welch and Satterthwaite. The part of the examples is the variance between examples of the
    difference of the two methods' mean scores, without the noise of the seeds, divided by n, plus `guard_variance`. It
    has n-1 degrees of freedom. The interval is the difference ± `critical_value` standard errors.

    Args:
        scores_a_SN, scores_b_SN: the score of a seed on an example, such as 1 for right and 0 for wrong, or any real
            number, `[seeds, examples]`. Both methods have the same examples in the same order.
        span: the largest possible difference between two scores. The interval is cut to [-span, span].

    Raises:
        ValueError: the numbers of examples differ, a method has fewer than two seeds, or `check_scores` raises it.
    """
    for scores_SN in (scores_a_SN, scores_b_SN):
        check_scores(scores_SN, span)
    if scores_a_SN.shape[1] != scores_b_SN.shape[1] or min(len(scores_a_SN), len(scores_b_SN)) < 2:
        raise ValueError(
            f"shapes {scores_a_SN.shape} and {scores_b_SN.shape}: need the same examples and two seeds of each method"
        )
    example_count = scores_a_SN.shape[1]
    (seed_variance_a, noise_a), (seed_variance_b, noise_b) = seed_variances(scores_a_SN), seed_variances(scores_b_SN)
    seed_count_a, seed_count_b = len(scores_a_SN), len(scores_b_SN)
    # The variance between examples, as observed, also contains noise of the seeds. This noise is subtracted, because it
    # is already a part of the variance between seeds.
    seed_noise = noise_a / seed_count_a + noise_b / seed_count_b
    observed_variance = max(0.0, variance_between_examples(scores_a_SN.mean(0) - scores_b_SN.mean(0)) - seed_noise)
    example_variance = observed_variance / example_count + guard_variance(example_count, span)
    part_a, part_b = seed_variance_a / seed_count_a, seed_variance_b / seed_count_b
    seed_degrees = seed_degrees_of_freedom(part_a, part_b, seed_count_a, seed_count_b)
    variance = part_a + part_b + example_variance
    seed_share, example_degrees = (part_a + part_b) / variance, float(max(1, example_count - 1))
    standard_error, mean = math.sqrt(variance), float(scores_a_SN.mean() - scores_b_SN.mean())
    half_width = float(critical_value(KIND_LEVEL, seed_share, seed_degrees, example_degrees)) * standard_error
    return Difference(
        mean=mean,
        low=max(-span, mean - half_width),
        high=min(span, mean + half_width),
        standard_error=standard_error,
        seed_share=seed_share,
        seed_degrees=seed_degrees,
        example_degrees=example_degrees,
        seed_count_a=seed_count_a,
        seed_count_b=seed_count_b,
        seed_variance_a=seed_variance_a,
        seed_variance_b=seed_variance_b,
        example_variance=example_variance,
    )


def seed_degrees_of_freedom(part_a: float, part_b: float, seed_count_a: int, seed_count_b: int) -> float:
    """Return the degrees of freedom of the seeds' part of the variance, by the formula of Welch and Satterthwaite.

    Args:
        part_a, part_b: s²/S of the two methods, with the variance s² between S seeds.
        seed_count_a, seed_count_b: the number S of each method.
    """
    if not part_a + part_b:
        return float(min(seed_count_a, seed_count_b) - 1)
    share_a = part_a / (part_a + part_b)
    return 1 / (share_a**2 / (seed_count_a - 1) + (1 - share_a) ** 2 / (seed_count_b - 1))


def verdicts(differences: Sequence[Difference], margin: float = DEFAULT_MARGIN) -> list[Verdict]:
    """Return a verdict for each difference.

    The differences are one family of tests. The probability that any verdict is wrong is at most 5 %: 2.5 % for
    "non-inferior" and 2.5 % for "inferior".
    """
    p_non_inferior = correct_p_values([difference.p_non_inferior(margin) for difference in differences])
    p_inferior = correct_p_values([difference.p_inferior(margin) for difference in differences])
    return [
        _verdict(difference, margin, *p_values)
        for difference, *p_values in zip(differences, p_non_inferior, p_inferior, strict=True)
    ]


def _verdict(difference: Difference, margin: float, p_non_inferior: float, p_inferior: float) -> Verdict:
    """Return the verdict that follows from a difference and its corrected p values."""
    outcome = (
        "non-inferior" if p_non_inferior <= KIND_LEVEL else "inferior" if p_inferior <= KIND_LEVEL else "undecided"
    )
    return Verdict(
        outcome=outcome, difference=difference, margin=margin, p_non_inferior=p_non_inferior, p_inferior=p_inferior
    )


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's method. Each of them may then be compared with the level of significance directly."""
    adjusted_p_values, highest_p_value = [0.0] * len(p_values), 0.0
    for smaller_count, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest_p_value = max(highest_p_value, min(1.0, (len(p_values) - smaller_count) * p_values[i]))
        adjusted_p_values[i] = highest_p_value
    return adjusted_p_values
