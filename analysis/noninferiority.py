"""Is a smaller prompt as good as a larger one, within a margin that was declared beforehand?

Two methods are scored with several seeds each on the same examples. Their difference varies with the seeds of either
and with the examples that were drawn; the latter they share, which is why the difference is known better than either
accuracy. Verdicts are one-sided tests at 5 %, Holm's way over several (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.stats import Z95, spread, variance_of_examples

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.05
MARGIN = 0.01
_POWER_Z = 0.8416212335729143  # 80 % power
_MOST_SEEDS = 50


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Accuracy of one method less that of another, as fractions, with its 95 % interval.

    between_a, between_b: variance of the accuracy between seeds of either; examples: variance of the mean difference
    that comes from having drawn these examples.
    """

    mean: float
    low: float
    high: float
    error: float  # standard
    freedom: float
    seeds_a: int
    seeds_b: int
    between_a: float
    between_b: float
    examples: float

    def __str__(self) -> str:
        """In percentage points, with the interval."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def p_inferior(self, margin: float) -> float:
        """p of "worse by more than the margin", which a small p speaks against."""
        return _upper_tail(self.mean + margin, self.error, self.freedom)

    def p_noninferior(self, margin: float) -> float:
        """p of "worse by the margin at most", which a small p speaks against."""
        return _upper_tail(-(self.mean + margin), self.error, self.freedom)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """non-inferior, inferior or inconclusive.

    p_better, p_worse: Holm's, of the tests that it is non-inferior and inferior. more_seeds: seeds of each method,
    beyond those there are, that would settle an inconclusive one, whichever way it leans, in four of five cases if the
    difference is as seen; None where no number of seeds would, since the examples are too few.
    """

    outcome: str
    difference: Difference
    margin: float
    p_better: float
    p_worse: float
    more_seeds: int | None = None

    def __str__(self) -> str:
        if self.outcome != "inconclusive":
            return self.outcome
        if self.more_seeds is None:
            return "inconclusive: more seeds would not settle it, more test examples might"
        towards = "non-inferior" if self.difference.mean + self.margin > 0 else "inferior"
        return f"inconclusive: about {self.more_seeds} more seeds of each would likely show it {towards}"


def difference(a_SN: np.ndarray, b_SN: np.ndarray) -> Difference:
    """Difference of two methods, from which examples each of their seeds got right.

    Args:
        a_SN, b_SN: 1 where a seed was right on an example, `[seeds, examples]`; the same examples in the same order.

    Raises:
        ValueError: other examples, or fewer than two seeds of either.
    """
    if a_SN.shape[1] != b_SN.shape[1] or min(len(a_SN), len(b_SN)) < 2:
        raise ValueError(f"shapes {a_SN.shape} and {b_SN.shape}: need the same examples and two seeds of each")
    n = a_SN.shape[1]
    parts = [spread(each) for each in (a_SN, b_SN)]
    (between_a, within_a), (between_b, within_b) = parts
    seeds_a, seeds_b = len(a_SN), len(b_SN)
    noise = within_a / seeds_a + within_b / seeds_b  # of an example's difference, which the seeds' variance has already
    seen = max(0.0, variance_of_examples(a_SN.mean(0) - b_SN.mean(0)) - noise)
    # Methods that agree on all n examples may differ on z²/n of all others, by Wilson's interval: so much is added.
    examples = (seen + Z95**2 / n) / n
    shares = [(between_a / seeds_a, seeds_a - 1), (between_b / seeds_b, seeds_b - 1), (examples, max(1, n - 1))]
    variance = sum(share for share, _ in shares)
    freedom = variance**2 / sum(share**2 / degrees for share, degrees in shares)
    error, mean = math.sqrt(variance), float(a_SN.mean() - b_SN.mean())
    half = _quantile(0.975, freedom) * error
    return Difference(
        mean=mean,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
        error=error,
        freedom=freedom,
        seeds_a=seeds_a,
        seeds_b=seeds_b,
        between_a=between_a,
        between_b=between_b,
        examples=examples,
    )


def verdicts(differences: Sequence[Difference], margin: float = MARGIN) -> list[Verdict]:
    """A verdict for each comparison; all together err in one of twenty cases at most."""
    better = holm([each.p_inferior(margin) for each in differences])
    worse = holm([each.p_noninferior(margin) for each in differences])
    return [
        Verdict(
            outcome="non-inferior" if p_better <= LEVEL else "inferior" if p_worse <= LEVEL else "inconclusive",
            difference=each,
            margin=margin,
            p_better=p_better,
            p_worse=p_worse,
            more_seeds=_more_seeds(each, margin) if min(p_better, p_worse) > LEVEL else None,
        )
        for each, p_better, p_worse in zip(differences, better, worse, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values that may be compared with the level one by one, whatever their number."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _more_seeds(found: Difference, margin: float) -> int | None:
    room = abs(found.mean + margin)
    for seeds in range(max(found.seeds_a, found.seeds_b) + 1, _MOST_SEEDS + 1):
        error = math.sqrt((found.between_a + found.between_b) / seeds + found.examples)
        if (_quantile(1 - LEVEL, 2 * (seeds - 1)) + _POWER_Z) * error <= room:
            return seeds - min(found.seeds_a, found.seeds_b)
    return None


def _quantile(share: float, freedom: float) -> float:
    from scipy.special import ndtri, stdtrit  # takes longer than --help

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def _upper_tail(value: float, error: float, freedom: float) -> float:
    from scipy.special import ndtr, stdtr

    if not error:
        return 0.0 if value > 0 else 1.0
    return float(ndtr(-value / error) if math.isinf(freedom) else stdtr(freedom, -value / error))
