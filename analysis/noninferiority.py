"""Is a smaller prompt as good as a larger one, within a margin that was declared beforehand?

Several seeds of two methods are scored on the same examples. The difference of their accuracies depends on the seeds of
both methods and on the examples that were drawn. Because the methods share the examples, the difference is known better
than either accuracy. Verdicts are one-sided tests at 5 %, corrected for their number by Holm's method (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.stats import Z95, seed_variances, variance_between_examples

if TYPE_CHECKING:
    import numpy as np

SIGNIFICANCE_LEVEL = 0.05
KIND_LEVEL = 0.025  # the chance of a wrong verdict of one kind, over all cells
DEFAULT_MARGIN = 0.01  # the default of --margin, as a fraction
_POWER_Z = 0.8416212335729143  # the 80 % quantile of the normal distribution, for 80 % power
_MAX_SEEDS = 50  # the largest number of seeds that a report suggests


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Accuracy of method a minus that of method b, as fractions, with the 95 % interval.

    Attributes:
        standard_error: standard error of `mean`.
        degrees_of_freedom: the parameter of the t distribution from which the interval and the tests are computed.
        seed_variance_a, seed_variance_b: variance of the accuracy between the seeds of each method.
        example_variance: the part of the variance of `mean` that comes from the choice of test examples.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    seed_count_a: int
    seed_count_b: int
    seed_variance_a: float
    seed_variance_b: float
    example_variance: float

    def __str__(self) -> str:
        """Return the difference in percentage points, with the interval."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def p_non_inferior(self, margin: float) -> float:
        """Return the p value of the test for non-inferiority. A small p shows "not worse by more than the margin"."""
        return _upper_tail(self.mean + margin, self.standard_error, self.degrees_of_freedom)

    def p_inferior(self, margin: float) -> float:
        """Return the p value of the test for inferiority. A small p shows "worse by more than the margin"."""
        return _upper_tail(-(self.mean + margin), self.standard_error, self.degrees_of_freedom)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict of the two tests.

    Attributes:
        outcome: "non-inferior", "inferior" or "inconclusive".
        p_non_inferior, p_inferior: p values of the two tests, corrected by Holm's method.
        more_seeds: how many more seeds of each method give a conclusive verdict with a probability of 80 %, if the true
            difference is the observed one. None if the verdict is conclusive already, or if even `_MAX_SEEDS` seeds
            would not suffice, because there are too few examples.
    """

    outcome: str
    difference: Difference
    margin: float
    p_non_inferior: float
    p_inferior: float
    more_seeds: int | None = None

    def __str__(self) -> str:
        if self.outcome != "inconclusive":
            return self.outcome
        if self.more_seeds is None:
            return "inconclusive: more seeds would not settle it, but more test examples might"
        expected_outcome = "non-inferior" if self.difference.mean + self.margin > 0 else "inferior"
        seeds = f"{self.more_seeds} more seed{'s' * (self.more_seeds != 1)}"
        return f"inconclusive: about {seeds} of each would probably show it to be {expected_outcome}"


def estimate_difference(correct_a_SN: np.ndarray, correct_b_SN: np.ndarray) -> Difference:
    """Return the difference of the accuracies of methods a and b.

    Args:
        correct_a_SN, correct_b_SN: 1 where a seed was right on an example, else 0, `[seeds, examples]`. Both methods
            have the same examples in the same order.

    Raises:
        ValueError: the numbers of examples differ, or a method has fewer than two seeds.
    """
    if correct_a_SN.shape[1] != correct_b_SN.shape[1] or min(len(correct_a_SN), len(correct_b_SN)) < 2:
        raise ValueError(
            f"shapes {correct_a_SN.shape} and {correct_b_SN.shape}: need the same examples and two seeds of each method"
        )
    example_count = correct_a_SN.shape[1]
    (seed_variance_a, noise_a), (seed_variance_b, noise_b) = seed_variances(correct_a_SN), seed_variances(correct_b_SN)
    seed_count_a, seed_count_b = len(correct_a_SN), len(correct_b_SN)
    # The variance between examples, as observed, also contains noise of the seeds. This noise is subtracted, because it
    # is already a part of the variance between seeds.
    seed_noise = noise_a / seed_count_a + noise_b / seed_count_b
    observed_variance = max(0.0, variance_between_examples(correct_a_SN.mean(0) - correct_b_SN.mean(0)) - seed_noise)
    # Methods that agree on all n examples may still differ on others: by Wilson's interval, on a share z²/n of them. So
    # z²/n is added to the variance.
    example_variance = (observed_variance + Z95**2 / example_count) / example_count
    variances = [seed_variance_a / seed_count_a, seed_variance_b / seed_count_b, example_variance]
    degrees_of_parts = [seed_count_a - 1, seed_count_b - 1, max(1, example_count - 1)]
    variance = sum(variances)
    degrees_of_freedom = variance**2 / sum(
        part**2 / degree for part, degree in zip(variances, degrees_of_parts, strict=True)
    )
    standard_error, mean = math.sqrt(variance), float(correct_a_SN.mean() - correct_b_SN.mean())
    half_width = _quantile(0.975, degrees_of_freedom) * standard_error
    return Difference(
        mean=mean,
        low=max(-1.0, mean - half_width),
        high=min(1.0, mean + half_width),
        standard_error=standard_error,
        degrees_of_freedom=degrees_of_freedom,
        seed_count_a=seed_count_a,
        seed_count_b=seed_count_b,
        seed_variance_a=seed_variance_a,
        seed_variance_b=seed_variance_b,
        example_variance=example_variance,
    )


def verdicts(differences: Sequence[Difference], margin: float = DEFAULT_MARGIN) -> list[Verdict]:
    """Return a verdict for each difference. The probability that any verdict is wrong is at most 5 %."""
    p_non_inferior = correct_p_values([difference.p_non_inferior(margin) for difference in differences])
    p_inferior = correct_p_values([difference.p_inferior(margin) for difference in differences])
    return [
        _verdict(difference, margin, *p_values)
        for difference, *p_values in zip(differences, p_non_inferior, p_inferior, strict=True)
    ]


def _verdict(difference: Difference, margin: float, p_non_inferior: float, p_inferior: float) -> Verdict:
    """Return the verdict that follows from a difference and its corrected p values."""
    outcome = (
        "non-inferior"
        if p_non_inferior <= SIGNIFICANCE_LEVEL
        else "inferior"
        if p_inferior <= SIGNIFICANCE_LEVEL
        else "inconclusive"
    )
    more_seeds = _more_seeds_needed(difference, margin) if outcome == "inconclusive" else None
    return Verdict(
        outcome=outcome,
        difference=difference,
        margin=margin,
        p_non_inferior=p_non_inferior,
        p_inferior=p_inferior,
        more_seeds=more_seeds,
    )


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's method. Each of them may then be compared with the level of significance directly."""
    adjusted_p_values, highest_p_value = [0.0] * len(p_values), 0.0
    for smaller_count, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest_p_value = max(highest_p_value, min(1.0, (len(p_values) - smaller_count) * p_values[i]))
        adjusted_p_values[i] = highest_p_value
    return adjusted_p_values


def _more_seeds_needed(difference: Difference, margin: float) -> int | None:
    distance = abs(difference.mean + margin)  # from the margin to the observed difference
    for seed_count in range(max(difference.seed_count_a, difference.seed_count_b) + 1, _MAX_SEEDS + 1):
        standard_error = math.sqrt(
            (difference.seed_variance_a + difference.seed_variance_b) / seed_count + difference.example_variance
        )
        if (_quantile(1 - SIGNIFICANCE_LEVEL, 2 * (seed_count - 1)) + _POWER_Z) * standard_error <= distance:
            return seed_count - min(difference.seed_count_a, difference.seed_count_b)
    return None


def _quantile(share: float, degrees_of_freedom: float) -> float:
    """Return the quantile of Student's t distribution below which this share of it lies."""
    from scipy.special import ndtri, stdtrit  # imported here, because they are slow and --help does not need them

    return float(ndtri(share) if math.isinf(degrees_of_freedom) else stdtrit(degrees_of_freedom, share))


def _upper_tail(estimate: float, standard_error: float, degrees_of_freedom: float) -> float:
    """Return the one-sided p value for "the true value is above 0", by Student's t distribution."""
    from scipy.special import ndtr, stdtr

    if not standard_error:
        return 0.0 if estimate > 0 else 1.0
    t_value = -estimate / standard_error
    return float(ndtr(t_value) if math.isinf(degrees_of_freedom) else stdtr(degrees_of_freedom, t_value))
