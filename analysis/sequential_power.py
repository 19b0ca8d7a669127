"""What a sequential design can decide, before a sweep runs: the chance that it ends decided, and with how many seeds.

Whole sweeps are simulated: the mean scores of seeds and examples are drawn from normal distributions, and the rules of
`analysis.looks` are applied to many sweeps at once. All draws are fixed, so the same design has the same chances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.group_sequential import SequentialDesign
from analysis.looks import FUTILE_CHANCE, HOPELESS_CHANCE, HOPELESS_LOOK, SMALL_POWER
from analysis.noninferiority import KIND_LEVEL
from analysis.power import Noise
from analysis.stats import critical_value, guard_variance

if TYPE_CHECKING:
    import numpy as np

SWEEPS = 400  # simulated sweeps for the plan of a sweep


@dataclass(frozen=True, kw_only=True)
class Chances:
    """What simulated sweeps showed. All are fractions.

    Attributes:
        decided: chance that a sweep ends decided.
        power: chance of a right verdict of one cell, the mean over cells.
        wrong: chance that a sweep has at least one wrong verdict.
        seeds: mean seeds, over the reference and all cells, as a fraction of the most seeds.
        looks: mean number of looks until the sweep ends.
        within_three_looks: share of the sweeps that end within three looks.
    """

    decided: float
    power: float
    wrong: float
    seeds: float
    looks: float
    within_three_looks: float


def simulate_sweeps(
    design: SequentialDesign,
    *,
    gaps: Sequence[float],
    examples: int,
    noise: Noise,
    sweeps: int = SWEEPS,
    random_seed: int = 0,
) -> Chances:
    """Simulate sweeps whose smaller cells, smallest first, are truly worse than the reference by these gaps.

    Args:
        gaps: fractions. A negative gap is a cell that is better.
        examples: number of test examples.
        noise: how much scores vary in the simulated sweeps.
    """
    import numpy as np

    gaps_C, cell_count = np.asarray(gaps, dtype=float), len(gaps)
    draws = _Draws(design, gaps_C, examples, noise, sweeps, random_seed)
    shape = (sweeps, cell_count)
    good, worse, closed = (np.zeros(shape, dtype=bool) for _ in range(3))
    last_seeds, look_counts = np.zeros(shape), np.zeros(sweeps)
    # Nominal levels at each look, by the number of cells that share the level.
    levels_ML = np.array([design.levels(KIND_LEVEL / count) for count in range(1, cell_count + 1)])
    for index, seeds in enumerate(design.looks):
        is_open = ~(good | worse | closed)
        if not is_open.any():
            break
        last_seeds[is_open] = seeds
        look_counts[is_open.any(axis=1)] = index + 1
        look = draws.at(seeds)
        for decided, sign in ((good, 1.0), (worse, -1.0)):
            for _ in range(cell_count):  # Holm's method: each decided cell leaves more of the level to the others
                shared_by = np.maximum(1, cell_count - decided.sum(axis=1))[:, None]
                bound = look.bound(np.broadcast_to(levels_ML[shared_by - 1, index], shape))
                newly = is_open & ~good & ~worse & (sign * look.distance >= bound)
                if not newly.any():
                    break
                # The first step of a sweep takes its most significant cell only; the others follow in the next steps.
                rank = np.where(newly, sign * look.distance / bound, -np.inf)
                decided |= newly & (rank == rank.max(axis=1, keepdims=True))
        undecided = is_open & ~good & ~worse
        final_level = levels_ML[-1, -1]
        unlimited = look.chance(math.inf, final_level)
        hopeless = (
            (unlimited < HOPELESS_CHANCE) & (look.power_of_examples(final_level) < SMALL_POWER)
            if index + 1 >= HOPELESS_LOOK
            else np.zeros(shape, dtype=bool)
        )
        futile = look.chance(design.most_seeds, final_level) < FUTILE_CHANCE
        closed |= undecided & ((unlimited < FUTILE_CHANCE) | hopeless | futile)
        closed |= ~good & ~worse & (np.cumsum(good, axis=1) > 0)  # a smaller cell is as good
    is_answered = np.cumsum(good, axis=1) > 0
    is_decided = (worse | is_answered).all(axis=1)
    right = (good & (gaps_C < design.margin)) | (worse & (gaps_C > design.margin))
    total_seeds = last_seeds.sum(axis=1) + last_seeds.max(axis=1)
    return Chances(
        decided=float(is_decided.mean()),
        power=float(right.mean()),
        wrong=float(((good | worse) & ~right).any(axis=1).mean()),
        seeds=float(total_seeds.mean()) / (cell_count + 1) / design.most_seeds,
        looks=float(look_counts.mean()),
        within_three_looks=float((look_counts <= 3).mean()),
    )


class _Draws:
    """The mean scores of all seeds of the simulated sweeps, and the part of the examples. The reference comes last."""

    def __init__(
        self,
        design: SequentialDesign,
        gaps_C: np.ndarray,
        examples: int,
        noise: Noise,
        sweeps: int,
        random_seed: int,
    ) -> None:
        import numpy as np

        generator = np.random.default_rng(random_seed)
        self._margin, self._examples, self._noise = design.margin, examples, noise
        cell_count = len(gaps_C)
        seed_sd = math.sqrt(noise.seed_variance(examples))
        # The examples' part of a difference is one half from each of its two cells, since the reference is in all.
        example_sd = noise.example_sd / math.sqrt(2 * examples)
        self._scores_DCS = generator.normal(0, seed_sd, (sweeps, cell_count + 1, design.most_seeds))
        self._scores_DCS += generator.normal(0, example_sd, (sweeps, cell_count + 1, 1))
        self._scores_DCS[:, :-1] -= gaps_C[:, None]
        self._normal_of_variance_DC = generator.standard_normal((sweeps, cell_count))

    def at(self, seeds: int) -> _Look:
        """Return what a look at so many seeds shows of each cell, as `estimate_difference` would."""
        import numpy as np

        noise, examples, scores_DCS = self._noise, self._examples, self._scores_DCS[:, :, :seeds]
        means_DC = scores_DCS.mean(axis=2)
        parts_DC = np.maximum(scores_DCS.var(axis=2, ddof=1), noise.seed_disagreement / 2 / examples) / seeds
        seed_parts = parts_DC[:, :-1] + parts_DC[:, -1:]
        degrees = seed_parts**2 / (parts_DC[:, :-1] ** 2 + parts_DC[:, -1:] ** 2) * (seeds - 1)
        # The variance between examples is estimated from means over seeds, and the noise of the seeds is subtracted.
        observed = noise.example_sd**2 + noise.seed_disagreement / seeds
        estimated = noise.example_sd**2 + observed * math.sqrt(2 / examples) * self._normal_of_variance_DC
        return _Look(
            seeds=seeds,
            margin=self._margin,
            distance=means_DC[:, :-1] - means_DC[:, -1:] + self._margin,
            seed_parts=seed_parts,
            example_parts=np.maximum(0.0, estimated) / examples + guard_variance(examples),
            seed_degrees=degrees,
            example_degrees=max(1, examples - 1),
        )


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One look at all cells of all simulated sweeps. Arrays have the shape `[sweeps, cells]`.

    Attributes:
        distance: the difference from the reference plus the margin.
        seed_parts, example_parts: the two parts of its estimated variance.
    """

    seeds: int
    margin: float
    distance: np.ndarray
    seed_parts: np.ndarray
    example_parts: np.ndarray
    seed_degrees: np.ndarray
    example_degrees: int

    def bound(self, level: np.ndarray) -> np.ndarray:
        """Return the distance from which a test at this level is significant."""
        import numpy as np

        variance = self.seed_parts + self.example_parts
        share = self.seed_parts / variance
        return critical_value(level, share, self.seed_degrees, self.example_degrees) * np.sqrt(variance)

    def chance(self, later_seeds: float, final_level: float) -> np.ndarray:
        """Return the chance of a verdict with more seeds, as `analysis.looks.chance_of_verdict`."""
        import numpy as np
        from scipy.special import ndtr

        later_parts = self.seed_parts * (self.seeds / later_seeds)
        variance = later_parts + self.example_parts
        degrees = self.seed_degrees * ((later_seeds - 1) / (self.seeds - 1))
        quantile = critical_value(final_level, later_parts / variance, degrees, self.example_degrees)
        bound, sd = quantile * np.sqrt(variance), np.sqrt(np.maximum(self.seed_parts - later_parts, 1e-24))
        return ndtr((self.distance - bound) / sd) + ndtr((-self.distance - bound) / sd)

    def power_of_examples(self, final_level: float) -> np.ndarray:
        """Return the chance that unlimited seeds show a cell that equals the reference, as in `analysis.looks`."""
        import numpy as np
        from scipy.special import ndtr, ndtri

        return ndtr(self.margin / np.sqrt(self.example_parts) + ndtri(final_level))
