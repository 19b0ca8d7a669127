"""What to use: the smallest cell that is shown to be as good as the reference, or what there is in place of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.cells import Cell, Group
from analysis.comparisons import Comparison, comparisons, pending_reference, reference_cell, smaller_cells
from analysis.noninferiority import KIND_LEVEL, correct_p_values
from analysis.registry import Missing
from analysis.scores import estimate_score

Outcome = Literal[
    "nothing confirmed",
    "reference pending",  # it is planned, but not confirmed
    "no reference",  # no cell is the declared one
    "no prompt",  # the reference is not above "no prompt", and neither is any other cell for sure
    "weak reference",  # the reference is not above "no prompt", but other cells are
    "nothing smaller",
    "untested",
    "smaller cell",
    "reference",
]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended cell of a group, and what the tests showed.

    A cell is recommended because a test shows that it is as good as the reference within the margin. All smaller cells
    are tested as one family, so the chance to recommend a cell that is worse by more than the margin is at most
    `KIND_LEVEL`.

    Attributes:
        outcome: why there is this recommendation, or none.
        cell: the recommended cell. None if no prompt is recommended, or if there is no recommendation.
        reference: the confirmed reference; None if there is none.
        as_good, worse, undecided: the comparisons of smaller cells by their verdict, smallest first.
        better: the comparisons of the cells that are shown to be better than the reference, by a test of their own,
            at `KIND_LEVEL` over all cells.
        untested: the smaller cells without a test.
        clearly_above: the confirmed cells that are shown to be above "no prompt", by tests at `KIND_LEVEL` over all
            confirmed cells. Empty if "no prompt" is not known.
        missing_reason: why no test was possible, or None.
    """

    outcome: Outcome
    cell: Cell | None
    reference: Cell | None
    as_good: tuple[Comparison, ...]
    worse: tuple[Comparison, ...]
    undecided: tuple[Comparison, ...]
    better: tuple[Comparison, ...]
    untested: tuple[Cell, ...]
    clearly_above: tuple[Cell, ...]
    missing_reason: str | None

    @property
    def tested(self) -> tuple[Comparison, ...]:
        return (*self.as_good, *self.worse, *self.undecided)


def recommend(group: Group) -> Recommendation:
    """Recommend the smallest cell that is shown to be non-inferior to the reference and is above "no prompt".

    If there is none, recommend the reference. If the reference is not above "no prompt", a smaller cell has to be above
    it by a test, and without such a cell no prompt is recommended.
    """
    reference = reference_cell(group)
    family = comparisons(group)
    tests = () if isinstance(family, Missing) else family
    tested_cells = [comparison.cell for comparison in tests]
    clearly_above = _shown_above_no_prompt(group)
    as_good = tuple(comparison for comparison in tests if comparison.verdict.outcome == "non-inferior")
    worse = tuple(comparison for comparison in tests if comparison.verdict.outcome == "inferior")
    outcome, cell = _choose(group, reference, as_good, clearly_above, bool(tests))
    return Recommendation(
        outcome=outcome,
        cell=cell,
        reference=reference,
        as_good=as_good,
        worse=worse,
        undecided=tuple(comparison for comparison in tests if comparison not in (*as_good, *worse)),
        better=_shown_better(tests),
        untested=tuple(cell for cell in smaller_cells(group) if cell not in tested_cells),
        clearly_above=clearly_above,
        missing_reason=family.reason if isinstance(family, Missing) else None,
    )


def _choose(
    group: Group,
    reference: Cell | None,
    as_good: tuple[Comparison, ...],
    clearly_above: tuple[Cell, ...],
    has_tests: bool,
) -> tuple[Outcome, Cell | None]:
    if reference is None:
        if not group.confirmed_cells:
            return "nothing confirmed", None
        return "reference pending" if pending_reference(group) else "no reference", None
    is_reference_above = group.is_above_no_prompt(reference)
    for comparison in as_good:
        cell = comparison.cell
        if group.is_above_no_prompt(cell) and (is_reference_above or cell in clearly_above):
            return "smaller cell", cell
    if not is_reference_above:
        return "weak reference" if clearly_above else "no prompt", None
    if not smaller_cells(group):
        return "nothing smaller", reference
    return ("reference" if has_tests else "untested"), reference


def _shown_above_no_prompt(group: Group) -> tuple[Cell, ...]:
    """Return the confirmed cells that are shown to be above "no prompt".

    Bonferroni's method shares the level among the cells, and among the looks if seeds are added until it is decided.

    A cell is shown to be above it if the interval that leaves out its part of the level at each end is above it.
    """
    no_prompt, cells = group.zero_shot_accuracy, group.confirmed_cells
    if no_prompt is None or not cells:
        return ()
    test_count = len(cells) * (len(group.design.looks) if group.design else 1)
    estimates = [estimate_score(cell.confirmed_trials, cell.metric, KIND_LEVEL / test_count) for cell in cells]
    return tuple(cell for cell, value in zip(cells, estimates, strict=True) if value and value.low > no_prompt)


def _shown_better(tests: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """Return the comparisons that show a difference above 0, by one-sided tests that Holm's method corrects.

    A run that adds seeds until it is decided has no such tests, because its looks have no level for them.
    """
    if any(comparison.course for comparison in tests):
        return ()
    p_values = correct_p_values([comparison.verdict.difference.p_non_inferior(0.0) for comparison in tests])
    return tuple(comparison for comparison, p in zip(tests, p_values, strict=True) if p <= KIND_LEVEL)
