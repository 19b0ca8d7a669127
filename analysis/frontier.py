"""Fewer parameters against higher accuracy: the frontier, how certain it is, and what to use within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import predictions
from analysis.cells import Cell, Group

if TYPE_CHECKING:
    import numpy as np

DRAW_COUNT = 2000  # number of random draws that show how certain the frontier is


def pareto_indices(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (parameters, accuracy) points that no other point beats, sorted by parameters.

    A point beats another if it has no more parameters and no less accuracy, and is better in one of the two.
    """
    indices_by_size = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    frontier_indices: list[int] = []
    for i in indices_by_size:
        if (
            not frontier_indices
            or points[i][1] > points[frontier_indices[-1]][1]
            or points[i] == points[frontier_indices[-1]]
        ):
            frontier_indices.append(i)
    return frontier_indices


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that (parameters, accuracy) points dominate, as log2(parameters) × accuracy.

    The area ends at the reference point, which has more parameters and less accuracy. A point beyond it adds nothing.
    """
    highest_log2, lowest_accuracy = math.log2(reference[0]), reference[1]
    points_inside = [
        (math.log2(parameters), accuracy)
        for parameters, accuracy in points
        if parameters < reference[0] and accuracy > lowest_accuracy
    ]
    area, height = 0.0, lowest_accuracy
    for log2_parameters, accuracy in (points_inside[i] for i in pareto_indices(points_inside)):
        area += (highest_log2 - log2_parameters) * max(0.0, accuracy - height)
        height = max(height, accuracy)
    return area


def hypervolume_reference(group: Group) -> tuple[float, float]:
    """Return the reference point for the hypervolume.

    Its parameters are twice those of the largest confirmed cell. Its accuracy is the zero-shot accuracy, else that of
    the majority class, else 0.
    """
    most_parameters = max(cell.trainable_parameters or 1 for cell in group.confirmed_cells)
    baselines = (group.zero_shot_accuracy, group.majority_accuracy, 0.0)
    return 2.0 * most_parameters, next(accuracy for accuracy in baselines if accuracy is not None)


def draw_accuracies(cells: Sequence[Cell], draw_count: int = DRAW_COUNT, seed: int = 0) -> np.ndarray:
    """Draw accuracies that other seeds and other test examples might have given. Return them as `[draws, cells]`.

    If all cells have predictions of the same examples, this is a bootstrap. Seeds are resampled in each cell, and
    examples are resampled once for all cells. Otherwise each cell's accuracy is drawn from a normal distribution as
    wide as its interval.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    correct_matrices = predictions.correct_by_group(*(cell.confirmed_trials for cell in cells))
    if correct_matrices is None:
        means = [cell.accuracy.mean if cell.accuracy else math.nan for cell in cells]
        half_widths = [(cell.accuracy.high - cell.accuracy.low) / 2 if cell.accuracy else math.nan for cell in cells]
        return generator.normal(means, np.asarray(half_widths) / 1.96, (draw_count, len(cells)))
    example_count = correct_matrices[0].shape[1]
    equal_shares = np.full(example_count, 1 / example_count)
    weights_DN = generator.multinomial(example_count, equal_shares, draw_count) / example_count
    cell_accuracies = []
    for correct_SN in correct_matrices:
        seed_count = len(correct_SN)
        weights_DS = generator.multinomial(seed_count, np.full(seed_count, 1 / seed_count), draw_count) / seed_count
        cell_accuracies.append((weights_DS * (weights_DN @ correct_SN.T)).sum(axis=1))
    return np.stack(cell_accuracies, axis=1)


def frontier_shares(sizes: Sequence[float], accuracies_DC: np.ndarray) -> list[float]:
    """Return the share of the draws in which each cell is on the frontier.

    Args:
        sizes: number of parameters of each cell.
        accuracies_DC: drawn accuracies, `[draws, cells]`.
    """
    import numpy as np

    distinct_sizes, size_index_C = np.unique(sizes, return_inverse=True)
    best_DU = np.stack(
        [accuracies_DC[:, size_index_C == size_index].max(axis=1) for size_index in range(len(distinct_sizes))], axis=1
    )
    best_smaller_DU = np.full_like(best_DU, -np.inf)  # best accuracy of all smaller sizes
    best_smaller_DU[:, 1:] = np.maximum.accumulate(best_DU, axis=1)[:, :-1]
    is_on_frontier_DC = (accuracies_DC == best_DU[:, size_index_C]) & (accuracies_DC > best_smaller_DU[:, size_index_C])
    return [float(share) for share in is_on_frontier_DC.mean(axis=0)]


def best_within(cells: Sequence[Cell], budget: int) -> Cell | None:
    """Return the confirmed cell of at most `budget` parameters with the highest held-out accuracy.

    The choice uses held-out training data and never the reported split, so that the accuracy reported for the chosen
    cell is not inflated by the choice. Of equal cells the smaller one is returned.
    """
    candidates = [
        cell
        for cell in cells
        if cell.accuracy
        and cell.selection_score is not None
        and cell.trainable_parameters is not None
        and cell.trainable_parameters <= budget
    ]

    def order_key(cell: Cell) -> tuple[float, int, str]:
        return -(cell.selection_score or 0.0), cell.trainable_parameters or 0, cell.name

    return min(candidates, key=order_key, default=None)


def round_budgets(smallest: int, largest: int) -> list[int]:
    """Return the round numbers (1, 2 or 5 times a power of ten) from `smallest` up. The last is the first that is not
    below `largest`."""
    round_numbers = [digit * 10**power for power in range(len(str(largest)) + 1) for digit in (1, 2, 5)]
    largest_budget = next(budget for budget in round_numbers if budget >= largest)
    return [budget for budget in round_numbers if smallest <= budget <= largest_budget]
