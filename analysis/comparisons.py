"""Much smaller prompts compared with the full prompt, seed by seed and example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis import predictions
from analysis.cells import Cell, Group
from analysis.methods import FULL_PROMPT
from analysis.noninferiority import Difference, Verdict, estimate_difference, verdicts
from analysis.registry import Missing

MIN_RATIO = 5  # a much smaller prompt trains at least this many times fewer parameters than the full prompt


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell compared with the full prompt. `ratio` is how many times fewer parameters the cell trains."""

    cell: Cell
    full_cell: Cell
    ratio: float
    verdict: Verdict


def full_prompt(group: Group) -> Cell | None:
    """Return the confirmed cell of prompt tuning with the best held-out accuracy."""
    return group.best_cell(FULL_PROMPT)


@lru_cache(maxsize=64)
def comparisons(group: Group) -> tuple[Comparison, ...] | Missing:
    """Compare the full prompt with each confirmed cell that has at most a fifth of its parameters, smallest first.

    All these tests are one family, which means that their p values are corrected together.
    """
    full_cell = full_prompt(group)
    if full_cell is None or not full_cell.trainable_parameters:
        return Missing(f"it needs a confirmed full prompt ({FULL_PROMPT})")
    most_parameters = full_cell.trainable_parameters // MIN_RATIO
    small_cells = [cell for cell in group.confirmed_cells if 0 < (cell.trainable_parameters or 0) <= most_parameters]
    if not small_cells:
        return Missing(f"it needs a confirmed cell at least {MIN_RATIO} times smaller than the full prompt")
    if len(full_cell.confirmed_trials) < 2 or all(len(cell.confirmed_trials) < 2 for cell in small_cells):
        return Missing("it needs at least two confirm seeds of the full prompt and of a smaller cell (--seeds 3)")
    family = _compare_with_full(small_cells, full_cell, group.margin)
    return family or Missing("it needs predictions of confirmed trials on the same test examples")


def comparison_with_full_prompt(group: Group, cell: Cell) -> Comparison | None:
    """Compare a smaller cell with the full prompt.

    If the cell is one of the much smaller ones, return its comparison from `comparisons`. Otherwise test it alone.
    Return None if there are too few seeds or predictions.
    """
    family, full_cell = comparisons(group), full_prompt(group)
    for comparison in () if isinstance(family, Missing) else family:
        if comparison.cell is cell:
            return comparison
    return next(iter(_compare_with_full([cell], full_cell, group.margin)), None) if full_cell else None


def _compare_with_full(cells: Sequence[Cell], full_cell: Cell, margin: float) -> tuple[Comparison, ...]:
    """Test, as one family, the cells that have predictions of the same examples as the full prompt."""
    cells_with_differences = [
        (cell, difference) for cell in cells if (difference := accuracy_difference(cell, full_cell)) is not None
    ]
    return tuple(
        Comparison(
            cell=cell,
            full_cell=full_cell,
            ratio=(full_cell.trainable_parameters or 1) / (cell.trainable_parameters or 1),
            verdict=verdict,
        )
        for (cell, _), verdict in zip(
            cells_with_differences,
            verdicts([difference for _, difference in cells_with_differences], margin),
            strict=True,
        )
    )


def accuracy_difference(cell: Cell, reference: Cell) -> Difference | None:
    """Return the cell's accuracy minus that of the reference. Return None unless both have at least two seeds and
    predictions of the same examples."""
    trials_of_both = cell.confirmed_trials, reference.confirmed_trials
    correct_matrices = predictions.correct_by_group(*trials_of_both) if min(map(len, trials_of_both)) > 1 else None
    return estimate_difference(*correct_matrices) if correct_matrices else None
