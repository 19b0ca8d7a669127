"""Smaller cells compared with the reference, seed by seed and example by example.

A run with a fixed number of seeds is tested once. A run that adds seeds until it is decided is tested at each look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis.cells import Cell, Group
from analysis.looks import CellCourse, Courses, run_looks
from analysis.methods import FULL_PROMPT, method_label
from analysis.noninferiority import Difference, Verdict, verdicts
from analysis.records import Trial
from analysis.registry import Missing
from analysis.scores import score_difference


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell compared with the reference.

    Attributes:
        ratio: how many times fewer parameters the cell trains.
        course: the looks at the cell, if the run adds seeds until it is decided; else None.
    """

    cell: Cell
    reference: Cell
    ratio: float
    verdict: Verdict
    course: CellCourse[Cell] | None = None


def reference_cell(group: Group) -> Cell | None:
    """Return the confirmed reference of a group; None if it is not confirmed.

    The reference is the cell that has the values that the space declares. If several cells have them, it is the one
    with the most trainable parameters, confirmed or not. Accuracy plays no part in the choice.
    """
    cell = _declared_cell(group)
    return cell if cell and cell.accuracy else None


def pending_reference(group: Group) -> Cell | None:
    """Return the reference if it is planned but not confirmed, else None."""
    cell = _declared_cell(group)
    return cell if cell and not cell.accuracy else None


def _declared_cell(group: Group) -> Cell | None:
    """Return the reference. A cell counts if it is confirmed or planned."""
    candidates = [
        cell
        for cell in group.cells
        if (cell.accuracy or cell.is_planned)
        and all(cell.config.get(name) == value for name, value in group.reference_fields.items())
    ]
    # Of equal sizes a confirmed cell is preferred, then the first by name.
    candidates.sort(key=lambda cell: (-(cell.trainable_parameters or 0), cell.accuracy is None, cell.name))
    return next(iter(candidates), None)


def cell_name(cell: Cell) -> str:
    """Return a cell's name for a sentence, such as "full prompt tuning (n = 10, 5,760 parameters)"."""
    method = "full prompt tuning" if cell.method == FULL_PROMPT else method_label(cell.method)
    numbers = {"n": cell.length, "r": cell.rank}
    parts = [f"{symbol} = {number}" for symbol, number in numbers.items() if number is not None]
    parts += [f"{cell.trainable_parameters:,} parameters"] if cell.trainable_parameters else []
    return f"{method} ({', '.join(parts)})" if parts else method


def declared_text(group: Group) -> str:
    """Describe the values by which the space declares its reference, such as "prompt tuning with length = 10"."""
    values = {**group.reference_fields}
    method = method_label(str(values.pop("method"))) if "method" in values else "a cell"
    settings = " and ".join(f"{name} = {value}" for name, value in values.items())
    return f"{method} with {settings}" if settings else method


def smaller_cells(group: Group) -> list[Cell]:
    """Return the confirmed cells with fewer trainable parameters than the reference, smallest first.

    Of equally small cells, the one with the better held-out score comes first.
    """
    reference = reference_cell(group)
    most_parameters = (reference.trainable_parameters or 0) if reference else 0
    cells = [cell for cell in group.confirmed_cells if 0 < (cell.trainable_parameters or 0) < most_parameters]
    return sorted(cells, key=lambda cell: (cell.trainable_parameters or 0, -(cell.selection_score or 0.0), cell.name))


@lru_cache(maxsize=64)
def comparisons(group: Group) -> tuple[Comparison, ...] | Missing:
    """Compare the reference with each confirmed cell that has fewer trainable parameters, smallest first.

    All these tests are one family, which means that their p values are corrected together. A cell without predictions
    of the same examples, or with one seed, has no test.
    """
    reference, cells = reference_cell(group), smaller_cells(group)
    if reference is None:
        return Missing("the reference is not confirmed")
    if not cells:
        return Missing("it needs a confirmed cell with fewer parameters than the reference")
    if len(reference.confirmed_trials) < 2 or all(len(cell.confirmed_trials) < 2 for cell in cells):
        return Missing("it needs at least two confirm seeds of the reference and of a smaller cell (--seeds 3)")
    family = _compare_at_looks(group) if group.design else _compare_once(cells, reference, group.margin)
    return family or Missing("it needs predictions of confirmed trials on the same test examples")


@lru_cache(maxsize=64)
def courses(group: Group) -> Courses[Cell] | None:
    """Return the looks at each smaller cell, if the run adds seeds until it is decided; else None.

    The same seeds give the same looks, whether the run is still going on or has ended. Cells of equal size are in the
    order of their names.
    """
    reference = reference_cell(group)
    if group.design is None or reference is None:
        return None
    cells = [
        cell
        for cell in group.cells
        if (cell.accuracy or cell.is_planned)
        and 0 < (cell.trainable_parameters or 0) < (reference.trainable_parameters or 0)
    ]
    return run_looks(
        group.design,
        sorted(cells, key=lambda cell: (cell.trainable_parameters or 0, cell.name)),
        size_of=lambda cell: cell.trainable_parameters or 0,
        is_confirmed=lambda cell: bool(cell.confirmed_trials) or _awaits_first_seeds(cell),
        is_ready=lambda cell, seeds: None not in (_trials_at(cell, seeds), _trials_at(reference, seeds)),
        difference_at=lambda cell, seeds: _difference_at(cell, reference, seeds),
    )


def _awaits_first_seeds(cell: Cell) -> bool:
    """Return whether the first confirm trials of a planned cell are still to come, after its search."""
    is_search_lost = bool(cell.trials) and cell.best_trial is None
    return cell.is_planned and not is_search_lost and all(trial.phase == "search" for trial in cell.trials)


def _trials_at(cell: Cell, seeds: int) -> list[Trial] | None:
    """Return the confirmed trials with the first so many seeds; None if not all of these seeds have ended.

    A seed has ended if its trial has diverged, too, but not if it has failed, because it is tried again.
    """
    configurations = {trial.configuration for trial in cell.confirmed_trials}
    ended_seeds = {
        trial.seed
        for trial in cell.trials
        if trial.phase == "confirm" and trial.configuration in configurations and trial.status != "failed"
    }
    if not ended_seeds.issuperset(range(1, seeds + 1)):
        return None
    return [trial for trial in cell.confirmed_trials if (trial.seed or 0) <= seeds]


def _difference_at(cell: Cell, reference: Cell, seeds: int) -> Difference | None:
    """Return the difference with the first so many seeds of both cells; None if it cannot be known."""
    return score_difference(_trials_at(cell, seeds) or [], _trials_at(reference, seeds) or [], cell.metric)


def _compare_at_looks(group: Group) -> tuple[Comparison, ...]:
    """Return the verdicts of the looks, for the cells that have been looked at."""
    reference, all_courses = reference_cell(group), courses(group)
    assert reference and all_courses
    return tuple(
        Comparison(
            cell=course.cell,
            reference=reference,
            ratio=(reference.trainable_parameters or 1) / (course.cell.trainable_parameters or 1),
            verdict=verdict,
            course=course,
        )
        for course in all_courses.all
        if (verdict := course.verdict(group.margin))
    )


def _compare_once(cells: Sequence[Cell], reference: Cell, margin: float) -> tuple[Comparison, ...]:
    """Test, as one family, the cells that have predictions of the same examples as the reference."""
    cells_with_differences = [
        (cell, difference) for cell in cells if (difference := accuracy_difference(cell, reference)) is not None
    ]
    return tuple(
        Comparison(
            cell=cell,
            reference=reference,
            ratio=(reference.trainable_parameters or 1) / (cell.trainable_parameters or 1),
            verdict=verdict,
        )
        for (cell, _), verdict in zip(
            cells_with_differences,
            verdicts([difference for _, difference in cells_with_differences], margin),
            strict=True,
        )
    )


def accuracy_difference(cell: Cell, reference: Cell) -> Difference | None:
    """Return the cell's score minus that of the reference. Return None unless both have at least two seeds and
    predictions of the same examples, and the same metric."""
    if cell.metric != reference.metric:
        return None
    return score_difference(cell.confirmed_trials, reference.confirmed_trials, cell.metric)
