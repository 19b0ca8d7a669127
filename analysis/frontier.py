"""Fewer parameters against higher accuracy: the frontier, how certain it is, and what to use within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import predictions
from analysis.cells import Cell, Group
from analysis.pseudo_values import value_span
from analysis.stats import Z95, guard_variance, seed_variances, wilson_interval
from lopt import metrics
from lopt.metrics import ACCURACY

if TYPE_CHECKING:
    import numpy as np

_REFLECTED_QUANTILES = 0.01, 0.99
DRAW_COUNT = 2000  # number of random draws that show how certain the frontier is


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def pareto_indices(points: Sequence[tuple[float, float]], no_prompt_accuracy: float | None = None) -> list[int]:
    """Return the indices of the (parameters, accuracy) points that no other point beats, sorted by parameters.

    A point beats another if it has no more parameters and no less accuracy, and is better in one of the two.

    Args:
        points: parameters and accuracy of each point.
        no_prompt_accuracy: accuracy without a prompt, at zero parameters, if it is known. Only points above it count.
    """
    indices_by_size = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    frontier_indices: list[int] = []
    for i in indices_by_size:
        if no_prompt_accuracy is not None and points[i][1] <= no_prompt_accuracy:
            continue
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


def has_draws(cell: Cell) -> bool:
    """Whether the accuracy of a cell can be drawn: it has two confirmed seeds, so that their variance is known."""
    return cell.accuracy is not None and cell.accuracy.seeds > 1


def draw_accuracies(cells: Sequence[Cell], draw_count: int = DRAW_COUNT, seed: int = 0) -> np.ndarray:
    """Draw accuracies that other seeds and other test examples might have given.

    If all cells have predictions of the same examples, `draw_mean_scores` draws them. Otherwise the examples of each
    cell are drawn on their own, from a normal distribution as wide as the Wilson interval of the cell's accuracy. Then
    differences between cells are more uncertain than they would be with predictions.

    Args:
        cells: confirmed cells with at least two seeds (see `has_draws`).
        draw_count: number of draws.
        seed: seed of the random draws. It makes the report the same each time.

    Returns:
        Accuracies as fractions, `[draws, cells]`.

    Raises:
        ValueError: a cell has fewer than two seeds, so the variance between its seeds is unknown.
    """
    import numpy as np

    if lone := [cell.label for cell in cells if not has_draws(cell)]:
        raise ValueError(f"{', '.join(lone)}: need two confirmed seeds of every cell")
    generator = np.random.default_rng(seed)
    metric = cells[0].metric if cells else ACCURACY
    matrices = predictions.values_by_group(*(cell.confirmed_trials for cell in cells), metric=metric)
    if matrices is not None:
        return draw_mean_scores(matrices, generator, draw_count, value_span(metrics.get(metric), *matrices))
    columns = []
    for cell in cells:
        scores_S = np.array([trial.test_score(metric) or 0.0 for trial in cell.confirmed_trials])
        mean, test_n = float(scores_S.mean()), cell.confirmed_trials[0].test_n or 1
        errors_of_seeds = _seed_errors(len(scores_S), generator, draw_count)
        standard_error_of_seeds = scores_S.std(ddof=1) / math.sqrt(len(scores_S))
        if metric == ACCURACY:
            low, high = wilson_interval(mean, test_n)
            error_of_examples = (high - low) / (2 * Z95)
        else:  # the largest error that a mean of such scores can have
            error_of_examples = metrics.get(metric).span / 2 / math.sqrt(test_n)
        errors_of_examples = generator.normal(0, error_of_examples, draw_count)
        columns.append(mean + standard_error_of_seeds * errors_of_seeds + errors_of_examples)
    return np.stack(columns, axis=1)


def draw_mean_scores(
    score_matrices: Sequence[np.ndarray],
    generator: np.random.Generator,
    draw_count: int = DRAW_COUNT,
    span: float = 1.0,
) -> np.ndarray:
    """Draw mean scores of cells that other seeds and other examples might have given.

    A draw of a cell is its mean over S seeds and n examples, plus two errors. The error of the examples comes from
    resampling the examples, once for all cells. It contains the noise of single predictions. To it half of
    `guard_variance` is added for each cell, so that two cells that agree on all n examples are not taken to be equal on
    all others. The error of the seeds is t · √(s²/S), where s² is the variance between seeds without that noise, and t
    is drawn for each cell on its own from Student's distribution with 1.5 · (S-1) degrees of freedom. (Resampling the
    seeds would give draws that vary too little, by the factor √((S-1)/S), and would leave out that s² is uncertain.)
    Cells are compared with one another. For the difference of two, S-1 degrees of freedom are right if the seeds of
    only one vary, and 2 · (S-1) if those of both vary equally; 1.5 · (S-1) lies between. In simulations, of two equal
    cells with two to ten seeds, the larger one has a share of the frontier of 95 % or more in 1 to 5 % of cases.

    Args:
        score_matrices: the scores of each cell, `[seeds, examples]`, for at least two seeds. All cells have the same
            examples in the same order.
        generator: source of the random draws.
        draw_count: number of draws.
        span: the largest possible difference between two scores.

    Returns:
        Mean scores, `[draws, cells]`.
    """
    import numpy as np

    scores_CN = np.stack([scores_SN.mean(axis=0) for scores_SN in score_matrices])
    example_count = scores_CN.shape[1]
    weights_DN = np.stack(
        [
            np.bincount(generator.integers(example_count, size=example_count), minlength=example_count)
            for _ in range(draw_count)
        ]
    )
    mean_scores_DC = weights_DN @ scores_CN.T / example_count
    for i, scores_SN in enumerate(score_matrices):
        seed_count = len(scores_SN)
        seed_variance, variance_on_one_example = seed_variances(scores_SN)
        variance = (seed_variance - variance_on_one_example / example_count) / seed_count
        mean_scores_DC[:, i] += math.sqrt(max(0.0, variance)) * _seed_errors(seed_count, generator, draw_count)
    guard = generator.normal(0, math.sqrt(guard_variance(example_count, span) / 2), mean_scores_DC.shape)
    return mean_scores_DC + guard


def _seed_errors(seed_count: int, generator: np.random.Generator, draw_count: int) -> np.ndarray:
    """Draw errors of a mean over seeds, in units of its standard error, `[draws]`. See `draw_mean_scores`."""
    return generator.standard_t(1.5 * (seed_count - 1), draw_count)


def frontier_shares(
    sizes: Sequence[float], accuracies_DC: np.ndarray, no_prompt_accuracy: float | None = None
) -> list[float]:
    """Return the share of the draws in which each cell is on the frontier.

    Args:
        sizes: number of parameters of each cell.
        accuracies_DC: drawn accuracies, `[draws, cells]`.
        no_prompt_accuracy: accuracy without a prompt, at zero parameters, if it is known. In a draw, only cells above
            it are on the frontier.
    """
    import numpy as np

    distinct_sizes, size_index_C = np.unique(sizes, return_inverse=True)
    best_DU = np.stack(
        [accuracies_DC[:, size_index_C == size_index].max(axis=1) for size_index in range(len(distinct_sizes))], axis=1
    )
    # The best accuracy of all smaller sizes. The first column stands for zero parameters.
    best_smaller_DU = np.full_like(best_DU, -np.inf if no_prompt_accuracy is None else no_prompt_accuracy)
    best_smaller_DU[:, 1:] = np.maximum(best_smaller_DU[:, :1], np.maximum.accumulate(best_DU, axis=1)[:, :-1])
    is_on_frontier_DC = (accuracies_DC == best_DU[:, size_index_C]) & (accuracies_DC > best_smaller_DU[:, size_index_C])
    return [float(share) for share in is_on_frontier_DC.mean(axis=0)]


def drawn_hypervolumes(sizes: Sequence[float], accuracies_DC: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Return the `hypervolume` of each draw, `[draws]`.

    Args:
        sizes: number of parameters of each cell.
        accuracies_DC: drawn accuracies, `[draws, cells]`.
        reference: as in `hypervolume`.
    """
    import numpy as np

    order_C = np.argsort(sizes, kind="stable")
    log2_sizes_C = np.minimum(np.log2(np.asarray(sizes, dtype=float)[order_C]), math.log2(reference[0]))
    heights_DC = np.maximum.accumulate(np.maximum(accuracies_DC[:, order_C] - reference[1], 0.0), axis=1)
    widths_C = np.diff(log2_sizes_C, append=math.log2(reference[0]))
    return heights_DC @ widths_C


def is_near_zero(hypervolumes_D: np.ndarray) -> bool:
    """Return whether so many of the drawn hypervolumes are 0 that their interval may not be reflected."""
    import numpy as np

    return bool(np.quantile(hypervolumes_D, _REFLECTED_QUANTILES[0]) <= 0)


def largest_hypervolume(sizes: Sequence[float], reference: tuple[float, float]) -> float:
    """Return the hypervolume of cells of these sizes if all of them had an accuracy of 100 %."""
    return hypervolume([(size, 1.0) for size in sizes], reference)


def interval_from_draws(
    value: float,
    draws_D: np.ndarray,
    limits: tuple[float, float] = (-math.inf, math.inf),
    *,
    is_reflected: bool = True,
) -> Interval | None:
    """Return an estimate with the 95 % interval that its draws give by the basic (reflected) bootstrap.

    The best of several noisy accuracies is on average higher than the best of the true ones, and a draw adds noise once
    more. So the draws lie above the estimate, nearly as far as the estimate lies above the truth. The interval is
    therefore reflected at the estimate: from 2 · value minus an upper quantile, to 2 · value minus a lower one (Davison
    and Hinkley 1997, section 5.2). The quantiles are 1 % and 99 % instead of 2.5 % and 97.5 %, because the draws show
    the bias of nearly equal cells only in part. In simulations of five cells, with quantiles of 2.5 % and 97.5 % the
    interval contained the truth in only 91 % of cases, and without reflection in 70 %.

    A hypervolume cannot be negative. Near 0, draws that would be below it are 0, and the reflected interval is too
    narrow: in simulations of three cells at the accuracy without a prompt, it contained the truth in 79 to 92 % of
    cases. There the interval has to contain the two quantiles themselves as well (99 %).

    Args:
        value: the estimate from the observed accuracies.
        draws_D: the same quantity in each draw, `[draws]`.
        limits: the lowest and the highest possible value. The interval is cut to them.
        is_reflected: whether the reflected interval is enough (see `is_near_zero`).

    Returns:
        The interval, or None if it would have no width, because all draws are equal.
    """
    import numpy as np

    lower_quantile, upper_quantile = map(float, np.quantile(draws_D, _REFLECTED_QUANTILES))
    low, high = 2 * value - upper_quantile, 2 * value - lower_quantile
    if not is_reflected:
        low, high = min(low, lower_quantile), max(high, upper_quantile)
    low, high = max(low, limits[0]), min(high, limits[1])
    return Interval(value=value, low=low, high=high) if low < high else None


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
