"""Much smaller prompts beside the full one, seed by seed and example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis import predictions
from analysis.cells import Cell, Group
from analysis.methods import FULL_PROMPT
from analysis.noninferiority import Difference, Verdict, difference, verdicts
from analysis.registry import Missing

RATIO = 5  # times fewer parameters than the full prompt


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell beside the full prompt; ratio: how many times fewer parameters it trains."""

    cell: Cell
    full: Cell
    ratio: float
    verdict: Verdict


def full_prompt(group: Group) -> Cell | None:
    """The confirmed cell of prompt tuning with the best selection accuracy."""
    return group.best(FULL_PROMPT)


@lru_cache(maxsize=64)
def comparisons(group: Group) -> tuple[Comparison, ...] | Missing:
    """Every confirmed cell of at least five times fewer parameters beside the full prompt, smallest first; the tests
    count as one family."""
    full = full_prompt(group)
    if full is None or not full.trainable_parameters:
        return Missing(f"it needs a confirmed full prompt ({FULL_PROMPT})")
    small = [c for c in group.confirmed if 0 < (c.trainable_parameters or 0) * RATIO <= full.trainable_parameters]
    if not small:
        return Missing(f"it needs a confirmed cell of {RATIO} times fewer parameters than the full prompt")
    if len(full.confirmed) < 2 or all(len(cell.confirmed) < 2 for cell in small):
        return Missing("it needs two confirm seeds at least, of the full prompt and of a smaller cell (--seeds 3)")
    found = _compared(small, full, group.margin)
    return found or Missing("it needs the predictions of confirmed trials on the same test examples")


def beside_full(group: Group, cell: Cell) -> Comparison | None:
    """A smaller cell beside the full prompt: as the family has it, else by a test of its own; None where seeds or
    predictions are too few."""
    family, full = comparisons(group), full_prompt(group)
    for each in () if isinstance(family, Missing) else family:
        if each.cell is cell:
            return each
    return next(iter(_compared([cell], full, group.margin)), None) if full else None


def _compared(cells: Sequence[Cell], full: Cell, margin: float) -> tuple[Comparison, ...]:
    """Those cells whose predictions are of the full prompt's examples, as one family of tests."""
    known = [(cell, gap) for cell in cells if (gap := difference_of(cell, full)) is not None]
    return tuple(
        Comparison(
            cell=cell,
            full=full,
            ratio=(full.trainable_parameters or 1) / (cell.trainable_parameters or 1),
            verdict=verdict,
        )
        for (cell, _), verdict in zip(known, verdicts([gap for _, gap in known], margin), strict=True)
    )


def difference_of(cell: Cell, other: Cell) -> Difference | None:
    """Of two cells' accuracies; None unless both have two seeds and predictions of the same examples."""
    several = min(len(cell.confirmed), len(other.confirmed)) > 1
    both = predictions.common(cell.confirmed, other.confirmed) if several else None
    return difference(*both) if both else None
