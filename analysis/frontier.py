"""Fewer parameters against higher accuracy: the Pareto front, how sure it is, and what to use within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import predictions
from analysis.cells import Cell, Group

if TYPE_CHECKING:
    import numpy as np

DRAWS = 2000


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (parameters, accuracy) points that no other beats, by parameters.

    A point is beaten when another has no more parameters and no less accuracy, and is better in one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that (parameters, accuracy) points dominate, up to a reference of more parameters and less accuracy; in
    doublings of the parameters times accuracy. A point beyond the reference adds nothing."""
    most, least = math.log2(reference[0]), reference[1]
    known = [(math.log2(n), a) for n, a in points if n < reference[0] and a > least]
    area, height = 0.0, least
    for size, accuracy in (known[i] for i in pareto(known)):
        area += (most - size) * max(0.0, accuracy - height)
        height = max(height, accuracy)
    return area


def reference_of(group: Group) -> tuple[float, float]:
    """For the hypervolume: twice the largest confirmed cell's parameters, and the accuracy without training (else of
    the commonest class, else 0)."""
    most = max(cell.trainable_parameters or 1 for cell in group.confirmed)
    floors = (group.zero_shot_accuracy, group.majority_accuracy, 0.0)
    return 2.0 * most, next(floor for floor in floors if floor is not None)


def accuracies(cells: Sequence[Cell], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Accuracies that other seeds and test examples might have given, `[draws, cells]`.

    Where all cells left predictions of the same examples: a bootstrap over the seeds of each, and over the examples of
    all at once. Else each cell's own interval, as a normal variable.
    """
    import numpy as np

    draw = np.random.default_rng(seed)
    matrices = predictions.common(*(cell.confirmed for cell in cells))
    if matrices is None:
        means = [cell.accuracy.mean if cell.accuracy else math.nan for cell in cells]
        halves = [(cell.accuracy.high - cell.accuracy.low) / 2 if cell.accuracy else math.nan for cell in cells]
        return draw.normal(means, np.asarray(halves) / 1.96, (draws, len(cells)))
    examples = matrices[0].shape[1]
    weights_DN = draw.multinomial(examples, np.full(examples, 1 / examples), draws) / examples
    made = []
    for matrix_SN in matrices:
        seeds = len(matrix_SN)
        shares_DS = draw.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
        made.append((shares_DS * (weights_DN @ matrix_SN.T)).sum(axis=1))
    return np.stack(made, axis=1)


def membership(sizes: Sequence[float], accuracies_DC: np.ndarray) -> list[float]:
    """How often each cell is on the frontier, over the draws."""
    import numpy as np

    unique, place_C = np.unique(sizes, return_inverse=True)
    best_DU = np.stack([accuracies_DC[:, place_C == u].max(axis=1) for u in range(len(unique))], axis=1)
    smaller_DU = np.full_like(best_DU, -np.inf)  # the best of all smaller sizes
    smaller_DU[:, 1:] = np.maximum.accumulate(best_DU, axis=1)[:, :-1]
    on_DC = (accuracies_DC == best_DU[:, place_C]) & (accuracies_DC > smaller_DU[:, place_C])
    return [float(share) for share in on_DC.mean(axis=0)]


def best_within(cells: Sequence[Cell], budget: int) -> Cell | None:
    """The confirmed cell of at most `budget` parameters with the highest selection accuracy.

    Chosen on held-out training data and never on the reported split, so that the accuracy reported
    for the choice is not inflated by the choosing. Equal ones: the smaller.
    """
    known = [c for c in cells if c.accuracy and c.selection_score is not None]
    usable = [c for c in known if c.trainable_parameters is not None and c.trainable_parameters <= budget]
    return min(usable, key=lambda c: (-(c.selection_score or 0.0), c.trainable_parameters or 0, c.name), default=None)


def budgets(smallest: int, largest: int) -> list[int]:
    """Round budgets (1, 2 or 5 times a power of ten), from the first that holds `smallest` to one for `largest`."""
    rounded = [step * 10**power for power in range(len(str(largest)) + 1) for step in (1, 2, 5)]
    last = next(budget for budget in rounded if budget >= largest)
    return [budget for budget in rounded if smallest <= budget <= last]
