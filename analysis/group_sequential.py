"""Levels for tests that are repeated while seeds are added, so that the chance of a wrong verdict stays below 5 %.

A test that is repeated at every look at the data has more chances to be wrong. Therefore each look gets a part of the
level. How much of the level is spent up to a look is a function of the information at that look, which is chosen
beforehand (Lan and DeMets 1983). From this follows the nominal level of each look: the look is significant if its own
p value is at most this level. This is the significance-level approach of Jennison and Turnbull (2000, chapter 11),
which allows tests by Student's t.

The mean difference of S seeds on fixed test examples has the variance b + v/S: a part of the examples, which more seeds
do not reduce, and a part of the seeds. The information is its inverse. It grows fast at first and then hardly at all.
Looks, information and levels are fixed before the first confirm seed, from the noise that the plan assumes. If the true
noise is another one, the levels are not exactly those that were planned. Simulations show how much this matters
(LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from analysis.power import Noise

FIRST_LOOK = 3  # the fewest seeds at which a verdict is looked for
DEFAULT_MOST_SEEDS = 20
_LEAST_GAIN = 0.09  # each look adds at least this fraction of the information at the last look
_SPENDING_SHAPE = 3.0  # the larger, the less is spent at the early looks; see `spent_level`
_LEAST_LEVEL = 1e-12  # less than this is not spent at a look; it is left for the next one
_LOWEST, _PANELS, _NODES = -9.0, 40, 10  # the grid of the integrals, in standard deviations


@dataclass(frozen=True, kw_only=True)
class SequentialDesign:
    """When smaller cells are compared with the reference, and how much of the level each look may spend.

    It is fixed before the first confirm seed, and written into the manifest of the run.

    Attributes:
        margin: a cell is non-inferior if it is worse by less than this (a fraction).
        looks: the number of seeds of each cell at each look, increasing. The last one is the most seeds.
        times: the planned information at each look, as a fraction of that at the last look. The last one is 1.

    Raises:
        ValueError: there is no look, a look has fewer than two seeds, or the numbers do not increase as they should.
    """

    margin: float
    looks: tuple[int, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = zip((0.0, *self.times), self.times, strict=False)
        if (
            not self.looks
            or len(self.times) != len(self.looks)
            or list(self.looks) != sorted(set(self.looks))
            or self.looks[0] < 2
            or not all(earlier < later for earlier, later in pairs)
            or self.times[-1] != 1
            or not 0 < self.margin < 1
        ):
            raise ValueError(
                f"{self}: need a margin in (0, 1), looks of two seeds or more, and times that grow up to 1"
            )

    @property
    def most_seeds(self) -> int:
        return self.looks[-1]

    def levels(self, level: float) -> tuple[float, ...]:
        """Return the nominal level of each look, for a one-sided test that may be wrong with the chance `level`."""
        return nominal_levels(self.times, tuple(spent_level(level, time) for time in self.times))

    def to_dict(self) -> dict[str, Any]:
        return {"margin": self.margin, "looks": list(self.looks), "times": list(self.times)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequentialDesign:
        """Return the design of a manifest. Raises ValueError if the values are not one."""
        try:
            looks, times = (tuple(values[name]) for name in ("looks", "times"))
            return cls(margin=float(values["margin"]), looks=tuple(map(int, looks)), times=tuple(map(float, times)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"`until_decided` has no margin, looks or times: {type(error).__name__} {error}") from None


def make_design(
    margin: float, *, first_look: int, most_seeds: int, examples: int | None, noise: Noise
) -> SequentialDesign:
    """Return the design with looks from `first_look` to `most_seeds` seeds.

    Args:
        examples: number of test examples. None if it is not known; then the information is taken to grow as the seeds.
        noise: what is assumed for the growth of the information.
    """
    example_part = noise.example_sd**2 / examples if examples else 0.0
    seed_part = max(1e-12, 2 * noise.seed_variance(examples or 10**9))

    def time(seeds: int) -> float:
        return round((example_part + seed_part / most_seeds) / (example_part + seed_part / seeds), 4)

    looks = [first_look] if first_look < most_seeds and time(first_look) < 1 else []
    for seeds in range(first_look + 1, most_seeds):
        if looks and time(seeds) - time(looks[-1]) >= _LEAST_GAIN and 1 - time(seeds) >= _LEAST_GAIN / 2:
            looks.append(seeds)
    looks.append(most_seeds)
    return SequentialDesign(margin=margin, looks=tuple(looks), times=tuple(map(time, looks)))


def spent_level(level: float, time: float) -> float:
    """Return how much of the level is spent when this fraction of the information is there.

    This is the function of Hwang, Shih and DeCani (1990) with γ = -3. It spends little at first, like the bounds of
    O'Brien and Fleming. Those spend still less, and need more seeds where the seeds are most of the noise.
    """
    return level * math.expm1(_SPENDING_SHAPE * time) / math.expm1(_SPENDING_SHAPE)


@lru_cache(maxsize=4096)
def nominal_levels(information: tuple[float, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """Return the level of each look at which a one-sided test is significant.

    The test statistics of the looks are taken to be normal, with the correlation √(i/j) between two looks with
    information i < j. The chance to pass a bound at a look for the first time is found by integrating over the results
    of the earlier looks, one look after the other (Armitage, McPherson and Rowe 1969).

    Args:
        information: information at each look, in any unit.
        spent: the chance of a wrong rejection up to each look.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr

    levels: list[float] = []
    spent_before, points, masses = 0.0, np.zeros(1), np.ones(1)  # the sum of scores starts at 0
    earlier_information = 0.0
    for current_information, spent_after in zip(information, spent, strict=True):
        step_sd, sd = math.sqrt(current_information - earlier_information), math.sqrt(current_information)
        to_spend = spent_after - spent_before
        bound = math.inf
        if to_spend > _LEAST_LEVEL:

            def excess(bound: float) -> float:
                """Return the chance to pass the bound at this look for the first time, less what is to be spent."""
                return float(masses @ ndtr((points - bound * sd) / step_sd)) - to_spend  # noqa: B023

            bound = float(brentq(excess, -1.0, -_LOWEST, xtol=1e-12))
            spent_before += to_spend
        levels.append(float(ndtr(-bound)))
        points, masses = _step(points, masses, step_sd, sd, min(bound, -_LOWEST))
        earlier_information = current_information
    return tuple(levels)


def _step(
    points: np.ndarray, masses: np.ndarray, step_sd: float, sd: float, bound: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid of the next look, and the chance of each of its points without a bound passed so far.

    Args:
        points, masses: the same of the look before.
        step_sd: standard deviation of what this look adds to the sum of scores.
        sd: standard deviation of the sum at this look.
        bound: the bound of this look, in standard deviations.
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(_LOWEST, bound, _PANELS + 1)
    half_widths = np.diff(edges)[:, None] / 2
    new_points = ((edges[:-1, None] + half_widths + half_widths * nodes) * sd).ravel()
    new_weights = (half_widths * weights * sd).ravel()
    density = np.exp(-(((new_points[:, None] - points) / step_sd) ** 2) / 2) / (step_sd * math.sqrt(2 * math.pi))
    return new_points, new_weights * (density @ masses)
