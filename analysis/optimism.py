"""Optimism: how far the accuracy on the held-out examples lies above the accuracy on the test examples.

The held-out examples choose the step and the learning rate, so their accuracy is a little too high. A large difference
in either direction says that something else is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, variance

from analysis.cells import Cell, Group
from analysis.stats import Z95, wilson_interval

SURPRISE = 3.0  # a difference of more standard errors than this is a surprise


@dataclass(frozen=True, kw_only=True)
class Optimism:
    """Held-out accuracy minus test accuracy of the confirmed seeds, as fractions, with its 95 % interval.

    `standard_error` is that of `mean`, and at least that of Newcombe's interval on the side of 0. With one seed it
    leaves out the variance between seeds, which is not known.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    seed_count: int

    @property
    def is_surprise(self) -> bool:
        """Whether the mean lies more than three standard errors from 0."""
        return abs(self.mean) > SURPRISE * self.standard_error

    def __str__(self) -> str:
        """Return the difference in percentage points, with the interval."""
        return f"{100 * self.mean:+z.1f} [{100 * self.low:+z.1f}, {100 * self.high:+z.1f}]"


def optimism(cell: Cell) -> Optimism | None:
    """Return the optimism of a confirmed cell. Return None if it has no accuracy, or seeds of different examples.

    The held-out examples and the test examples are independent, so the variances of the two proportions add up:
    b = p(1-p)/n for each, as all seeds share the examples. Seeds add a = s²/S, with the variance s² of their
    differences. The interval is mean ± t(v) · sqrt(a + b), with the degrees of freedom v of Welch and Satterthwaite. It
    always contains the interval of Newcombe (1998, method 10), which combines the Wilson intervals of the proportions,
    because near 0 and 1 the variances are too small.
    """
    pairs = [
        (trial.selection_accuracy, trial.test_accuracy)
        for trial in cell.confirmed_trials
        if trial.selection_accuracy is not None and trial.test_accuracy is not None
    ]
    sizes = {(trial.selection_n, trial.test_n) for trial in cell.confirmed_trials}
    selection_n, test_n = sizes.pop() if len(sizes) == 1 else (None, None)
    if not selection_n or not test_n or len(pairs) < len(cell.confirmed_trials):
        return None
    return difference_of_proportions([pair[0] for pair in pairs], selection_n, [pair[1] for pair in pairs], test_n)


def difference_of_proportions(
    first_shares: list[float], first_n: int, second_shares: list[float], second_n: int
) -> Optimism:
    """Return the first proportion minus the second, which the same seeds have on other examples.

    Args:
        first_shares, second_shares: the proportion of each seed, as a fraction, in the same order.
        first_n, second_n: the numbers of examples, which all seeds share.
    """
    from scipy.special import stdtrit  # imported here, because it is slow and --help does not need it

    seed_count = len(first_shares)
    first, second = min(1.0, fmean(first_shares)), min(1.0, fmean(second_shares))
    mean = first - second
    example_part = first * (1 - first) / first_n + second * (1 - second) / second_n
    differences = [a - b for a, b in zip(first_shares, second_shares, strict=True)]
    seed_part = variance(differences) / seed_count if seed_count > 1 else 0.0
    (first_low, first_high), (second_low, second_high) = (
        wilson_interval(first, first_n),
        wilson_interval(second, second_n),
    )
    low = mean - math.hypot(first - first_low, second_high - second)
    high = mean + math.hypot(first_high - first, second - second_low)
    half_width_towards_0 = mean - low if mean > 0 else high - mean
    standard_error = max(math.sqrt(seed_part + example_part), half_width_towards_0 / Z95)
    seed_share = seed_part / (seed_part + example_part) if seed_part else 0.0
    least_n = max(1, min(first_n, second_n) - 1)
    degrees = 1 / (seed_share**2 / max(1, seed_count - 1) + (1 - seed_share) ** 2 / least_n)
    half_width = float(stdtrit(degrees, 0.975)) * math.sqrt(seed_part + example_part)
    return Optimism(
        mean=mean,
        low=max(-1.0, min(low, mean - half_width)),
        high=min(1.0, max(high, mean + half_width)),
        standard_error=standard_error,
        seed_count=seed_count,
    )


def surprise_texts(group: Group) -> list[str]:
    """Name the cells whose optimism is a surprise, in either direction, and say what may be wrong."""
    falls: list[str] = []
    rises: list[str] = []
    for cell in group.confirmed_cells:
        difference = optimism(cell)
        if difference and difference.is_surprise and cell.accuracy:
            text = f"{cell.label} ({100 * (cell.selection_accuracy or 0.0):.1f} % and {100 * cell.accuracy.mean:.1f} %)"
            (falls if difference.mean > 0 else rises).append(text)
    beginning = f"On {group.title}, the test accuracy of these cells is far"
    ending = "the held-out accuracy (held-out, then test; more than 3 standard errors apart)"
    texts = []
    if falls:
        texts.append(
            f"{beginning} below {ending}: {', '.join(falls)}. The choice of steps and settings may have fitted the "
            "held-out examples, copies of them may be among the training examples, or the test examples may be of "
            "another kind."
        )
    if rises:
        texts.append(
            f"{beginning} above {ending}: {', '.join(rises)}. The test examples may be easier or of another kind, "
            "their texts may be among the training examples, or the held-out examples may have wrong labels."
        )
    return texts
