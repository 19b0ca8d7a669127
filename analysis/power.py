"""What a design can decide: the chance that its tests reach a verdict, before a sweep runs and after it.

Smaller cells are compared with the reference over S seeds of each on the same N test examples. Two sources of noise
limit the comparison: seeds differ, and other examples would have given another difference. More seeds reduce the first
noise only. So there is a margin below which no number of seeds helps.

The chances are simulated. Means and variances are drawn from normal and chi-squared distributions. Then the tests of
`analysis.noninferiority` are applied to them, and the cells share their level by Holm's method. All draws are fixed, so
the same design always has the same power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from analysis.noninferiority import KIND_LEVEL
from analysis.stats import Z95

if TYPE_CHECKING:
    import numpy as np

TARGET_POWER = 0.8  # the chance of a verdict that a design should have
MOST_SEEDS = 50  # the largest number of seeds that `seeds_needed` considers
MOST_EXAMPLES = 10_000_000  # the largest number of examples that `examples_needed` considers
_DRAWS, _LEAST_DRAWS = 20_000, 500  # draws of one cell, and of a whole family
_MOST_CELLS_OF_HOLM = 64  # the simulation of Holm's method takes a time that grows with the square of the cells
_GRID_SIZE = 4096  # number of degrees of freedom for which critical values are kept


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much scores vary, as fractions.

    Attributes:
        seed_sd: standard deviation between the seeds of a cell, of the mean score over all possible examples.
        seed_disagreement: mean squared difference between the scores of two seeds of a cell on one example. For scores
            of 0 and 1 it is the share of the examples on which two seeds disagree.
        example_sd: standard deviation between examples of the difference of two cells' scores, each a mean over many
            seeds. If two cells differ on a share q of the examples, and are right equally often, it is √q.
        source: where the numbers come from, for example "assumed".
    """

    seed_sd: float
    seed_disagreement: float
    example_sd: float
    source: str

    def seed_variance(self, examples: int) -> float:
        """Return the variance between seeds of the mean score on so many examples, the same for all seeds."""
        return self.seed_sd**2 + self.seed_disagreement / 2 / examples


# What is assumed where nothing has been measured.
ASSUMED_NOISE = Noise(seed_sd=0.015, seed_disagreement=0.1, example_sd=0.15, source="assumed")


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison of `cells` smaller cells with the reference. All smaller cells have the same true difference.

    Attributes:
        margin: a cell is non-inferior if it is worse by less than this (a fraction).
        examples: number of test examples N.
        seeds: number of seeds of each cell S: at least 2, or infinity.
        cells: number of smaller cells. They share the chance of a wrong verdict.

    Raises:
        ValueError: the margin or a count is too small.
    """

    margin: float
    examples: int
    seeds: float
    cells: int
    noise: Noise

    def __post_init__(self) -> None:
        if self.margin <= 0 or self.examples < 2 or self.seeds < 2 or self.cells < 1:
            raise ValueError(f"{self}: need a margin above 0, two examples, two seeds and one cell at least")

    def power(self, gap: float) -> float:
        """Return the chance that a cell is shown to be non-inferior, if every cell is truly worse by `gap`.

        The chance to show that a cell is inferior is the same at the same distance from the margin, on its other side.
        With several cells it is the expected share of them.
        """
        distances = _distances_needed(self.examples, self.seeds, self.cells, self.noise)
        return float(distances.searchsorted(self.margin - gap, side="right")) / len(distances)

    def smallest_difference(self) -> float:
        """Return the smallest distance of the true difference from the margin that is shown with 80 % power.

        A cell that is as good as the reference lies one margin away from it. So this is also the smallest margin at
        which such a cell is shown to be non-inferior with 80 % power.
        """
        distances = _distances_needed(self.examples, self.seeds, self.cells, self.noise)
        return max(0.0, float(distances[math.ceil(TARGET_POWER * len(distances)) - 1]))

    def with_seeds(self, seeds: float) -> Design:
        return replace(self, seeds=seeds)

    @property
    def with_unlimited_seeds(self) -> Design:
        return self.with_seeds(math.inf)

    def seeds_needed(self, gap: float) -> int | None:
        """Return the fewest seeds with 80 % power if every cell is truly worse by `gap`.

        Return None if `MOST_SEEDS` are too few. If `gap` is above the margin, the verdict is that a cell is inferior.
        """
        design = replace(self, margin=abs(self.margin - gap)) if gap != self.margin else None
        if design is None or design.with_seeds(MOST_SEEDS).power(0) < TARGET_POWER:
            return None
        low, high = 2, MOST_SEEDS
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if design.with_seeds(middle).power(0) >= TARGET_POWER else (middle + 1, high)
        return high

    def examples_needed(self, gap: float) -> int | None:
        """Return the fewest examples with 80 % power at any number of seeds, if every cell is truly worse by `gap`.

        With so many examples the seeds have to be many, too. Return None if `MOST_EXAMPLES` are too few.
        """
        design = self.with_unlimited_seeds
        low, high = 2, MOST_EXAMPLES
        if replace(design, examples=high).power(gap) < TARGET_POWER:
            return None
        while low < high:
            middle = (low + high) // 2
            is_enough = replace(design, examples=middle).power(gap) >= TARGET_POWER
            low, high = (low, middle) if is_enough else (middle + 1, high)
        return high


def curve(design: Design, gap: float, seeds: Sequence[int]) -> list[float]:
    """Return the power of the design at each number of seeds, if every cell is truly worse by `gap`."""
    return [design.with_seeds(count).power(gap) for count in seeds]


@lru_cache(maxsize=256)
def _distances_needed(examples: int, seeds: float, cells: int, noise: Noise) -> np.ndarray:
    """Return how far from the margin the cells must truly be to be shown, in every draw.

    Holm's method shows the k cells with the smallest p values if, for every i up to k, the i-th smallest p is at most
    the level of i. A p is at most a level if the observed distance from the margin is at least the critical value times
    the standard error. So from each draw, level and cell there follows a true distance that is enough. The i-th
    smallest of those of level i is enough for i cells, if the ones before it are as well.

    Returns:
        The distances at which a first, second, … cell of a draw is shown, sorted, `[draws · cells]`.
    """
    import numpy as np

    drawn = _draw_differences(examples, seeds, min(cells, _MOST_CELLS_OF_HOLM), noise)
    if drawn.noise_DC.shape[1] < cells:  # Bonferroni's method, which shows a little less
        return np.sort(drawn.distances_needed(KIND_LEVEL / cells).ravel())
    highest_D, distances = np.full(len(drawn.noise_DC), -math.inf), []
    for i in range(cells):
        enough_DC = drawn.distances_needed(KIND_LEVEL / (cells - i))
        highest_D = np.maximum(highest_D, np.partition(enough_DC, i, axis=1)[:, i])
        distances.append(highest_D)
    return np.sort(np.concatenate(distances))


@dataclass(frozen=True, kw_only=True)
class _Differences:
    """Draws of what `estimate_difference` of `analysis.noninferiority` returns for each smaller cell.

    Attributes:
        noise_DC: the error of the mean, `[draws, cells]`.
        seed_errors_DC, example_errors_DC: the variance of the seeds and that of the examples, each divided by the
            standard error, `[draws, cells]`. Their sum is the standard error.
        seed_grid_DC: the degrees of freedom of the seeds' part, as an index of `_quantiles`, `[draws, cells]`.
        example_degrees: the degrees of freedom of the examples' part.
    """

    noise_DC: np.ndarray
    seed_errors_DC: np.ndarray
    example_errors_DC: np.ndarray
    seed_grid_DC: np.ndarray
    example_degrees: int

    def distances_needed(self, level: float) -> np.ndarray:
        """Return the true distance from the margin from which a test at this level is significant, `[draws, cells]`.

        The critical value is the mean of two quantiles of Student's t distribution, weighted by the parts of the
        variance, as in `analysis.stats.critical_value`.
        """
        from scipy.special import stdtrit

        example_quantile = -float(stdtrit(self.example_degrees, level))
        seed_bounds_DC = _quantiles(level)[self.seed_grid_DC] * self.seed_errors_DC
        return seed_bounds_DC + example_quantile * self.example_errors_DC - self.noise_DC


def _draw_differences(examples: int, seeds: float, cells: int, noise: Noise) -> _Differences:
    """Draw the differences of smaller cells from the reference."""
    import numpy as np

    normal_DC, normal_of_variance_DC, squares_KDC = _draws(cells)
    variance_of_seeds = 0.0 if math.isinf(seeds) else noise.seed_variance(examples) / seeds
    # The examples' part of a difference is one half from each of its two cells, since the reference is in all of them.
    mean_noise_DC = math.sqrt(variance_of_seeds + noise.example_sd**2 / examples / 2) * normal_DC
    seed_parts_DC, seed_grid_DC = np.zeros((len(normal_DC), cells)), np.zeros((len(normal_DC), cells), dtype=np.int32)
    estimated_DC = np.full((len(normal_DC), cells), noise.example_sd**2)
    if not math.isinf(seeds):
        degrees = int(seeds) - 1
        chi_square_DC = (
            squares_KDC[degrees - 1]
            if degrees <= len(squares_KDC)
            else np.random.default_rng(1).chisquare(degrees, normal_DC.shape)
        )
        # An estimate is never below the part that the disagreement of seeds on single examples explains.
        least = max(noise.seed_disagreement / 2 / examples / seeds, 1e-12)
        parts_DC = np.maximum(variance_of_seeds * chi_square_DC / degrees, least)
        seed_parts_DC = parts_DC[:, :-1] + parts_DC[:, -1:]
        inverse_degrees_DC = (parts_DC[:, :-1] ** 2 + parts_DC[:, -1:] ** 2) / degrees / seed_parts_DC**2
        seed_grid_DC = np.rint(inverse_degrees_DC * (_GRID_SIZE - 1)).astype(np.int32)
        # The variance between examples is estimated from means over S seeds, and the noise of the seeds is subtracted.
        observed = noise.example_sd**2 + noise.seed_disagreement / seeds
        estimated_DC = np.maximum(0.0, estimated_DC + observed * math.sqrt(2 / examples) * normal_of_variance_DC)
    example_parts_DC = (estimated_DC + Z95**2 / examples) / examples
    standard_errors_DC = np.sqrt(seed_parts_DC + example_parts_DC)
    return _Differences(
        noise_DC=mean_noise_DC[:, :-1] - mean_noise_DC[:, -1:],
        seed_errors_DC=seed_parts_DC / standard_errors_DC,
        example_errors_DC=example_parts_DC / standard_errors_DC,
        seed_grid_DC=seed_grid_DC,
        example_degrees=max(1, examples - 1),
    )


@lru_cache(maxsize=4)
def _draws(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fixed draws of a family of smaller cells.

    Returns:
        Standard normal values for the means, `[draws, cells + 1]`, where the reference comes last; the same for the
        estimated variances of examples, `[draws, cells]`; and sums of 1, 2, … squares of normal values,
        `[MOST_SEEDS - 1, draws, cells + 1]`. With one seed more, a sum gets one square more and keeps the others, so
        power as a function of seeds is smooth.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    draw_count = max(_LEAST_DRAWS, _DRAWS // cells)
    normal_DC = generator.standard_normal((draw_count, cells + 1))
    normal_of_variance_DC = generator.standard_normal((draw_count, cells))
    squares_KDC = generator.standard_normal((MOST_SEEDS - 1, draw_count, cells + 1), dtype=np.float32) ** 2
    return normal_DC, normal_of_variance_DC, np.cumsum(squares_KDC, axis=0)


@lru_cache(maxsize=1024)
def _quantiles(level: float) -> np.ndarray:
    """Return the values that Student's t exceeds with this chance, `[_GRID_SIZE]`.

    They are for 1 / (degrees of freedom) = 0, …, 1 in equal steps. Their logarithm is smooth, so it is interpolated.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    coarse_grid = np.linspace(0, 1, 129)
    values = np.array([-ndtri(level), *stdtrit(1 / coarse_grid[1:], 1 - level)])
    return np.exp(np.interp(np.linspace(0, 1, _GRID_SIZE), coarse_grid, np.log(values)))
