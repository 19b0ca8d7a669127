"""Two runs side by side: the cells that both or only one of them confirmed, and the area under their frontiers."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import accuracy_difference
from analysis.frontier import (
    Interval,
    draw_accuracies,
    drawn_hypervolumes,
    has_draws,
    hypervolume,
    hypervolume_reference,
    interval_from_draws,
    is_near_zero,
)
from analysis.noninferiority import Difference
from analysis.notes import examples_text
from analysis.records import grouped
from analysis.render import Column, Table, count, interval, number_columns, with_minus_signs


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell as both runs confirmed it.

    `difference` is the accuracy in the second run minus that in the first. It is None unless both runs have at least
    two seeds and predictions of the same examples.
    """

    first: Cell
    second: Cell
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """Two runs on one backbone and task.

    Attributes:
        title: what the report calls the task with its backbone.
        run_names: the names of the two runs.
        pairs: the cells that both runs confirmed.
        unpaired_cells: the cells that only the first run confirmed, and those that only the second confirmed.
        hypervolumes: the area under each run's frontier; None if one of the runs has no confirmed cell.
        hypervolume_difference: the second area minus the first, with its 95 % interval. None if an area is None, or if
            a cell has fewer than two seeds.
        reference: the corner of both areas: the most parameters and the lowest accuracy that count.
    """

    title: str
    run_names: tuple[str, str]
    pairs: tuple[Pair, ...]
    unpaired_cells: tuple[tuple[Cell, ...], tuple[Cell, ...]]
    hypervolumes: tuple[float, float] | None
    hypervolume_difference: Interval | None
    reference: tuple[float, float] | None


def compare_groups(
    first: Sequence[Group], second: Sequence[Group], run_names: tuple[str, str]
) -> list[GroupComparison]:
    """Compare two runs on every backbone, task and number of shots that either of them has."""
    first_groups, second_groups = (
        {(group.backbone, group.task, group.shots): group for group in groups} for groups in (first, second)
    )
    keys = dict.fromkeys([*first_groups, *second_groups])
    return [_compare_group(first_groups.get(key), second_groups.get(key), run_names) for key in keys]


def _compare_group(first: Group | None, second: Group | None, run_names: tuple[str, str]) -> GroupComparison:
    first_cells, second_cells = (
        {_cell_key(cell): cell for cell in group.confirmed_cells} if group else {} for group in (first, second)
    )
    pairs = tuple(
        Pair(
            first=cell,
            second=second_cells[key],
            difference=accuracy_difference(second_cells[key], cell),
        )
        for key, cell in first_cells.items()
        if key in second_cells
    )
    only_in_first = tuple(cell for key, cell in first_cells.items() if key not in second_cells)
    only_in_second = tuple(cell for key, cell in second_cells.items() if key not in first_cells)
    hypervolumes, hypervolume_difference, reference = None, None, None
    if first and second and first.confirmed_cells and second.confirmed_cells:
        most_parameters, lowest_accuracies = zip(
            hypervolume_reference(first), hypervolume_reference(second), strict=True
        )
        reference = max(most_parameters), min(lowest_accuracies)
        hypervolumes = _group_hypervolume(first, reference), _group_hypervolume(second, reference)
        hypervolume_difference = _hypervolume_difference(first, second, reference)
    title = next(group.title for group in (first, second) if group is not None)
    return GroupComparison(
        title=title,
        run_names=run_names,
        pairs=pairs,
        unpaired_cells=(only_in_first, only_in_second),
        hypervolumes=hypervolumes,
        hypervolume_difference=hypervolume_difference,
        reference=reference,
    )


def _cell_key(cell: Cell) -> tuple[str, int | None, int | None, str]:
    return cell.method, cell.length, cell.rank, cell.name


def _group_hypervolume(group: Group, reference: tuple[float, float]) -> float:
    cells = group.confirmed_cells
    points = [(float(cell.trainable_parameters or 1), cell.accuracy.mean) for cell in cells if cell.accuracy]
    return hypervolume(points, reference)


def _hypervolume_difference(first: Group, second: Group, reference: tuple[float, float]) -> Interval | None:
    """Return the hypervolume of the second run minus that of the first, from draws of all cells together."""
    cells = [*first.confirmed_cells, *second.confirmed_cells]
    if not all(map(has_draws, cells)):
        return None
    accuracies_DC, first_count = draw_accuracies(cells), len(first.confirmed_cells)
    sizes = [float(cell.trainable_parameters or 1) for cell in cells]
    first_draws_D = drawn_hypervolumes(sizes[:first_count], accuracies_DC[:, :first_count], reference)
    second_draws_D = drawn_hypervolumes(sizes[first_count:], accuracies_DC[:, first_count:], reference)
    difference = _group_hypervolume(second, reference) - _group_hypervolume(first, reference)
    return interval_from_draws(
        difference,
        second_draws_D - first_draws_D,
        is_reflected=not (is_near_zero(first_draws_D) or is_near_zero(second_draws_D)),
    )


def comparison_table(comparison: GroupComparison) -> Table:
    """Lay out first the cells that both runs confirmed, then those that only one confirmed."""
    first_name, second_name = comparison.run_names
    rows = []
    for pair in comparison.pairs:
        accuracies = interval(pair.first.accuracy), interval(pair.second.accuracy)
        parameters = count(pair.first.trainable_parameters)
        rows.append((pair.first.label, parameters, *accuracies, _difference_text(pair)))
    for is_second, cells in enumerate(comparison.unpaired_cells):
        for cell in cells:
            accuracy = interval(cell.accuracy)
            accuracies = ("not confirmed", accuracy) if is_second else (accuracy, "not confirmed")
            rows.append((cell.label, count(cell.trainable_parameters), *accuracies, "–"))
    notes = [
        f"Difference: the accuracy of {second_name} minus that of {first_name}, in percentage points, with its 95 % "
        "interval over seeds and over the test examples, which both runs share. There is no interval if a run has only "
        "one seed, if predictions are missing, or if the examples differ.",
    ]
    notes += _notes_on_different_examples(comparison)
    if comparison.hypervolumes and comparison.reference:
        most_parameters, lowest_accuracy = comparison.reference
        first_hypervolume, second_hypervolume = comparison.hypervolumes
        difference = comparison.hypervolume_difference
        ends = f" [{difference.low:+.3f}, {difference.high:+.3f}]" if difference else ""
        interval_text = (
            " The interval of the difference is a 95 % interval from random draws of seeds and examples."
            if difference
            else " The difference has no interval, because a cell has only one seed."
        )
        notes.append(
            f"Hypervolume up to {most_parameters:,.0f} parameters and above {100 * lowest_accuracy:.1f} %: "
            f"{first_name} {first_hypervolume:.3f}, {second_name} {second_hypervolume:.3f} "
            f"({with_minus_signs(f'{second_hypervolume - first_hypervolume:+.3f}{ends}')}).{interval_text}"
        )
    accuracy_titles = [f"{name}: test % [95 % CI] (N)" for name in comparison.run_names]
    titles = ("params", *accuracy_titles, "difference, pp [95 % CI]")
    return Table(
        caption=f"{first_name} and {second_name}: {comparison.title}",
        columns=(Column(title="cell", align="left"), *number_columns(*titles)),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _notes_on_different_examples(comparison: GroupComparison) -> list[str]:
    """Return notes that name the cells that the two runs scored on different examples."""
    first_name, second_name = comparison.run_names
    differing_pairs = [
        pair
        for pair in comparison.pairs
        if pair.first.confirmed_trials[0].scored_on != pair.second.confirmed_trials[0].scored_on
    ]

    def examples_of_both_runs(pair: Pair) -> str:
        first, second = examples_text(pair.first.confirmed_trials[0]), examples_text(pair.second.confirmed_trials[0])
        return f"{first_name} on {first}; {second_name} on {second}"

    return [
        f"Not scored on the same test examples: {', '.join(pair.first.label for pair in pairs)} ({examples}). A "
        "difference may come from that alone."
        for examples, pairs in grouped(differing_pairs, examples_of_both_runs).items()
    ]


def _difference_text(pair: Pair) -> str:
    if pair.difference is not None:
        return str(pair.difference)
    first_accuracy, second_accuracy = pair.first.accuracy, pair.second.accuracy
    return f"{100 * (second_accuracy.mean - first_accuracy.mean):+.1f}" if first_accuracy and second_accuracy else "–"
