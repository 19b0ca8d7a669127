"""Which cells are on the frontier, how certain that is, and by which count of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cells import Cell, Group
from analysis.frontier import (
    DRAW_COUNT,
    Interval,
    draw_accuracies,
    drawn_hypervolumes,
    frontier_shares,
    has_draws,
    hypervolume,
    hypervolume_reference,
    interval_from_draws,
    is_near_zero,
    largest_hypervolume,
    pareto_indices,
)
from analysis.methods import FULL_PROMPT, method_label
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, interval, percent, score_column, with_minus_signs
from analysis.stats import intervals_note
from lopt.metrics import ACCURACY

_LEAST_SHARE = 0.05  # a cell that is on the frontier in a smaller share of the draws has no row


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell, with three counts of its parameters: trainable, stored, and at the model's input.

    Attributes:
        parameter_counts: the three counts. A count that is not known is None.
        frontier_shares: for each count, the share of the draws in which the cell is on the frontier by that count. It
            is None if the cell has fewer than two seeds, or if the count is not known for every cell.
        is_always: for each count, whether the cell is on every frontier, because it alone has the fewest parameters and
            the accuracy without a prompt is not known.
        is_on_frontier: whether the cell is on the frontier of the mean accuracies, by trainable parameters.
    """

    cell: Cell
    parameter_counts: tuple[int | None, ...]
    frontier_shares: tuple[float | None, ...]
    is_always: tuple[bool, ...]
    is_on_frontier: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    """The table's content.

    Attributes:
        hypervolume: the hypervolume of all cells. Its interval is None if a cell has fewer than two seeds, or if the
            draws do not vary.
        gains: for each other method, the hypervolume of its cells minus that of prompt tuning's cells. Only cells with
            two seeds count. A method is missing if the draws do not vary.
        reference: the most parameters and the lowest accuracy that count in the hypervolume.
        lone_cells: the cells with fewer than two seeds. They have no share. In the draws, they keep their mean.
    """

    group: Group
    rows: tuple[Row, ...]
    hypervolume: float
    hypervolume_interval: Interval | None
    gains: dict[str, Interval]
    reference: tuple[float, float]
    lone_cells: tuple[Cell, ...]


def compute(group: Group) -> Info | Missing:
    cells = [cell for cell in group.confirmed_cells if cell.accuracy]
    if len(cells) < 2:
        return Missing("it needs two confirmed cells")
    drawn_cells = [cell for cell in cells if has_draws(cell)]
    accuracies_DC = draw_accuracies(drawn_cells) if drawn_cells else None
    counts_by_cell = [_parameter_counts(cell) for cell in cells]
    shares_by_count: list[list[float | None]] = []
    is_always_by_count: list[list[bool]] = []
    for counts_of_cells in zip(*counts_by_cell, strict=True):  # each of the three counts, for all cells
        known_counts = [number for number in counts_of_cells if number is not None]
        is_always_by_count.append(
            [
                group.zero_shot_accuracy is None and known_counts.count(number) == 1 and number == min(known_counts)
                for number in counts_of_cells
            ]
        )
        shares_by_count.append(_shares(cells, counts_of_cells, accuracies_DC, group.zero_shot_accuracy))
    points = _points(cells)
    frontier_indices = set(pareto_indices(points, group.zero_shot_accuracy))
    shares_by_cell = zip(*shares_by_count, strict=True)
    is_always_by_cell = zip(*is_always_by_count, strict=True)
    rows = tuple(
        Row(
            cell=cell,
            parameter_counts=counts,
            frontier_shares=cell_shares,
            is_always=is_always,
            is_on_frontier=i in frontier_indices,
        )
        for i, (cell, counts, cell_shares, is_always) in enumerate(
            zip(cells, counts_by_cell, shares_by_cell, is_always_by_cell, strict=True)
        )
        if i in frontier_indices or None in cell_shares or any((share or 0) >= _LEAST_SHARE for share in cell_shares)
    )
    reference = hypervolume_reference(group)
    return Info(
        group=group,
        rows=rows,
        hypervolume=hypervolume(points, reference),
        hypervolume_interval=_hypervolume_interval(cells, accuracies_DC, reference),
        gains={} if accuracies_DC is None else _gains(drawn_cells, accuracies_DC, reference),
        reference=reference,
        lone_cells=tuple(cell for cell in cells if not has_draws(cell)),
    )


def _points(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    return [(float(cell.trainable_parameters or 1), cell.accuracy.mean) for cell in cells if cell.accuracy]


def _shares(
    cells: Sequence[Cell],
    counts_of_cells: Sequence[int | None],
    accuracies_DC: np.ndarray | None,
    no_prompt_accuracy: float | None,
) -> list[float | None]:
    """Return the share of each cell by one count of parameters, as in `Row.frontier_shares`.

    A cell with one seed cannot be drawn. It keeps its mean in all draws, so that it can still beat others.
    """
    known_counts = [number for number in counts_of_cells if number is not None]
    if accuracies_DC is None or len(known_counts) < len(cells):
        return [None] * len(cells)
    all_accuracies_DC = np.tile([cell.accuracy.mean for cell in cells if cell.accuracy], (len(accuracies_DC), 1))
    all_accuracies_DC[:, [has_draws(cell) for cell in cells]] = accuracies_DC
    shares = frontier_shares(known_counts, all_accuracies_DC, no_prompt_accuracy)
    return [share if has_draws(cell) else None for cell, share in zip(cells, shares, strict=True)]


def _hypervolume_interval(
    cells: Sequence[Cell], accuracies_DC: np.ndarray | None, reference: tuple[float, float]
) -> Interval | None:
    if accuracies_DC is None or accuracies_DC.shape[1] < len(cells):
        return None
    points = _points(cells)
    sizes = [parameters for parameters, _ in points]
    draws_D = drawn_hypervolumes(sizes, accuracies_DC, reference)
    limits = 0.0, largest_hypervolume(sizes, reference)
    return interval_from_draws(hypervolume(points, reference), draws_D, limits, is_reflected=not is_near_zero(draws_D))


def _gains(
    drawn_cells: Sequence[Cell], accuracies_DC: np.ndarray, reference: tuple[float, float]
) -> dict[str, Interval]:
    """Return, by method, the hypervolume of its cells minus that of prompt tuning's cells, from the same draws."""

    methods = dict.fromkeys(cell.method for cell in drawn_cells)
    if accuracies_DC is None or FULL_PROMPT not in methods:
        return {}

    def value_and_draws(method: str, accuracies_DC: np.ndarray) -> tuple[float, np.ndarray]:
        indices = [i for i, cell in enumerate(drawn_cells) if cell.method == method]
        points = _points([drawn_cells[i] for i in indices])
        sizes = [parameters for parameters, _ in points]
        return hypervolume(points, reference), drawn_hypervolumes(sizes, accuracies_DC[:, indices], reference)

    full_value, full_draws_D = value_and_draws(FULL_PROMPT, accuracies_DC)
    largest = largest_hypervolume([float(cell.trainable_parameters or 1) for cell in drawn_cells], reference)
    gains = {}
    for method in methods:
        if method != FULL_PROMPT:
            value, draws_D = value_and_draws(method, accuracies_DC)
            is_reflected = not (is_near_zero(draws_D) or is_near_zero(full_draws_D))
            gain = interval_from_draws(
                value - full_value, draws_D - full_draws_D, (-largest, largest), is_reflected=is_reflected
            )
            if gain:
                gains[method] = gain
    return gains


def _parameter_counts(cell: Cell) -> tuple[int | None, int | None, int | None]:
    trial = cell.best_trial
    stored, at_input = (trial.stored_parameters, trial.materialised_parameters) if trial else (None, None)
    return cell.trainable_parameters, stored, at_input


def render(info: Info) -> Table:
    most_parameters, lowest_accuracy = info.reference
    scores = "accuracies" if info.group.metric == ACCURACY else f"scores ({info.group.score_name})"
    return Table.from_rows(
        info.rows,
        caption=f"The frontier, and how sure it is: {info.group.title}",
        columns=(
            Column(
                title="cell", align="left", text=lambda row: f"{row.cell.label}{' *' if row.is_on_frontier else ''}"
            ),
            Column(
                title="trainable parameters", csv_name="params trained", text=lambda row: count(row.parameter_counts[0])
            ),
            Column(title="stored", text=lambda row: count(row.parameter_counts[1])),
            Column(title="at input", text=lambda row: count(row.parameter_counts[2])),
            score_column(info.group.score_name, lambda row: interval(row.cell.accuracy)),
            Column(
                title="on the frontier, trainable",
                csv_name="on the frontier by parameters trained",
                text=lambda row: _format_share(row, 0),
            ),
            Column(
                title="on the frontier, stored",
                csv_name="by parameters stored",
                text=lambda row: _format_share(row, 1),
            ),
            Column(
                title="on the frontier, at input",
                csv_name="by parameters at input",
                text=lambda row: _format_share(row, 2),
            ),
        ),
        notes=(
            f"A star (*) marks a cell on the frontier of the mean {scores}. "
            + (
                f"The smallest cell is always on it, whatever its {info.group.score_name}. "
                if info.group.zero_shot_accuracy is None
                else f"No prompt is a point of zero parameters with {percent(info.group.zero_shot_accuracy)} % "
                f"{info.group.score_name}. A cell that is not above it is not on the frontier; the smallest cell "
                "above it always is. "
            )
            + f"The last three columns say in what share of {DRAW_COUNT:,} random draws a cell is on the frontier. A "
            f"draw is the mean {info.group.score_name} plus an error of the seeds, from Student's t distribution for "
            "each cell on its "
            "own, and an error of the examples, which are resampled once for all cells. (If predictions are missing, "
            "the examples of each cell are drawn on their own.) A cell without a star has no row if all three shares "
            f"are below {100 * _LEAST_SHARE:.0f} %.",
            _lone_cells_text(info),
            "The parameters of a prompt are counted in three ways. Training changes the trainable parameters. Stored "
            "parameters are those on disk; a frozen random matrix is not stored, because it is made again from its "
            "seed. Parameters at input are the numbers that the model gets as input. Which count matters depends on "
            "the use.",
            f"Hypervolume: {_format_hypervolume(info)}. This is the area between the frontier of the mean {scores} "
            f"and {percent(lowest_accuracy)} % {info.group.score_name}, over log2 of the trainable parameters. The "
            "area ends at "
            f"{most_parameters:,.0f} parameters, twice those of the largest cell.",
            _gains_text(info),
            intervals_note([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
        ),
    )


def _format_share(row: Row, count_index: int) -> str:
    share = row.frontier_shares[count_index]
    return "–" if share is None else "smallest" if row.is_always[count_index] else f"{100 * share:.0f} %"


def _format_hypervolume(info: Info) -> str:
    ends = info.hypervolume_interval
    return f"{info.hypervolume:.3f}" + (f" [{ends.low:.3f}, {ends.high:.3f}]" if ends else "")


def _lone_cells_text(info: Info) -> str:
    if not info.lone_cells:
        return ""
    names = ", ".join(cell.label for cell in info.lone_cells)
    return (
        f"Cells with one seed have no share (–), because the variation between their seeds is unknown: {names}. In "
        "the draws of the others they keep their one accuracy. The hypervolume has no interval, and differences "
        "between methods leave these cells out."
    )


def _gains_text(info: Info) -> str:
    """Say how the hypervolume of each method differs from that of prompt tuning, and how intervals are computed."""
    if info.hypervolume_interval is None and not info.gains:
        return ""
    gains = "; ".join(
        f"{method_label(method)} {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        for method, gain in info.gains.items()
    )
    gains_text = f"The hypervolume of a method's cells minus that of prompt tuning's cells: {gains}. " if gains else ""
    return with_minus_signs(gains_text) + (
        "Intervals of hypervolumes are 95 % intervals from the same draws. They are reflected at the observed value, "
        "because the best of several noisy accuracies is higher than the best of the true ones. Near 0 they contain "
        "the unreflected interval as well."
    )


SPEC = TableSpec(name="frontier", title="The frontier, and how sure it is", info=compute, render=render, place=30)
