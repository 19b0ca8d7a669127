"""Much smaller prompts compared with the full prompt, seed by seed and example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis import predictions
from analysis.cells import Cell, Group
from analysis.methods import FULL_PROMPT
from analysis.noninferiority import Difference, Verdict, difference, verdicts
from analysis.registry import Missing

MIN_RATIO = 5  # a much smaller prompt trains at least this many times fewer parameters than the full prompt


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell compared with the full prompt. `ratio` is how many times fewer parameters the cell trains."""

    cell: Cell
    full: Cell
    ratio: float
    verdict: Verdict


def full_prompt(group: Group) -> Cell | None:
    """Return the confirmed cell of prompt tuning with the best held-out accuracy."""
    return group.best_cell(FULL_PROMPT)


@lru_cache(maxsize=64)
def comparisons(group: Group) -> tuple[Comparison, ...] | Missing:
    """Compare the full prompt with each confirmed cell that has at most a fifth of its parameters, smallest first.

    All these tests are one family: their p values are corrected together.
    """
    full = full_prompt(group)
    if full is None or not full.trainable_parameters:
        return Missing(f"it needs a confirmed full prompt ({FULL_PROMPT})")
    most_parameters = full.trainable_parameters // MIN_RATIO
    small_cells = [cell for cell in group.confirmed_cells if 0 < (cell.trainable_parameters or 0) <= most_parameters]
    if not small_cells:
        return Missing(f"it needs a confirmed cell at least {MIN_RATIO} times smaller than the full prompt")
    if len(full.confirmed_trials) < 2 or all(len(cell.confirmed_trials) < 2 for cell in small_cells):
        return Missing("it needs at least two confirm seeds of the full prompt and of a smaller cell (--seeds 3)")
    family = _compare_with_full(small_cells, full, group.margin)
    return family or Missing("it needs predictions of confirmed trials on the same test examples")


def comparison_with_full_prompt(group: Group, cell: Cell) -> Comparison | None:
    """Compare a smaller cell with the full prompt.

    If the cell is one of the much smaller ones, the comparison is that of `comparisons`. Otherwise the cell gets a test
    of its own. Return None if there are too few seeds or predictions.
    """
    family, full = comparisons(group), full_prompt(group)
    for comparison in () if isinstance(family, Missing) else family:
        if comparison.cell is cell:
            return comparison
    return next(iter(_compare_with_full([cell], full, group.margin)), None) if full else None


def _compare_with_full(cells: Sequence[Cell], full: Cell, margin: float) -> tuple[Comparison, ...]:
    """Test, as one family, the cells that have predictions of the same examples as the full prompt."""
    differences = [(cell, gap) for cell in cells if (gap := accuracy_difference(cell, full)) is not None]
    return tuple(
        Comparison(
            cell=cell,
            full=full,
            ratio=(full.trainable_parameters or 1) / (cell.trainable_parameters or 1),
            verdict=verdict,
        )
        for (cell, _), verdict in zip(differences, verdicts([gap for _, gap in differences], margin), strict=True)
    )


def accuracy_difference(cell: Cell, reference: Cell) -> Difference | None:
    """Return the cell's accuracy minus that of the reference. Return None unless both have at least two seeds and
    predictions of the same examples."""
    trials = cell.confirmed_trials, reference.confirmed_trials
    correct_pair = predictions.correct_by_group(*trials) if min(map(len, trials)) > 1 else None
    return difference(*correct_pair) if correct_pair else None
