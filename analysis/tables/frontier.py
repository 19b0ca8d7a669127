"""Which cells are on the frontier, how certain that is, and by which count of parameters."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import (
    DRAW_COUNT,
    draw_accuracies,
    frontier_shares,
    hypervolume,
    hypervolume_reference,
    pareto_indices,
)
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, accuracy_column, count, interval, percent
from analysis.stats import intervals_note

_LEAST_SHARE = 0.05  # a cell that is on the frontier in a smaller share of the draws has no row


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell, with three counts of its parameters: trainable, stored, and at the model's input.

    Attributes:
        parameter_counts: the three counts. A count that is not known is None.
        frontier_shares: for each count, the share of the draws in which the cell is on the frontier by that count. It
            is None if the count is not known for every cell.
        is_smallest: for each count, whether the cell alone has the fewest parameters. Such a cell is on every frontier.
        is_on_frontier: whether the cell is on the frontier of the mean accuracies, by trainable parameters.
    """

    cell: Cell
    parameter_counts: tuple[int | None, ...]
    frontier_shares: tuple[float | None, ...]
    is_smallest: tuple[bool, ...]
    is_on_frontier: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rows: tuple[Row, ...]
    hypervolume: float
    reference: tuple[float, float]  # the most parameters and the lowest accuracy that count in the hypervolume


def compute(group: Group) -> Info | Missing:
    cells = [cell for cell in group.confirmed_cells if cell.accuracy]
    if len(cells) < 2:
        return Missing("it needs two confirmed cells")
    counts_by_cell = [_parameter_counts(cell) for cell in cells]
    drawn_accuracies = draw_accuracies(cells)
    shares_by_count: list[list[float | None]] = []
    is_smallest_by_count: list[list[bool]] = []
    for counts_of_cells in zip(*counts_by_cell, strict=True):  # each of the three counts, for all cells
        known_counts = [number for number in counts_of_cells if number is not None]
        is_smallest_by_count.append(
            [known_counts.count(number) == 1 and number == min(known_counts) for number in counts_of_cells]
        )
        shares = frontier_shares(known_counts, drawn_accuracies) if len(known_counts) == len(cells) else None
        shares_by_count.append([*shares] if shares else [None] * len(cells))
    points = [(float(cell.trainable_parameters or 1), cell.accuracy.mean) for cell in cells if cell.accuracy]
    frontier_indices, reference = set(pareto_indices(points)), hypervolume_reference(group)
    shares_by_cell = zip(*shares_by_count, strict=True)
    is_smallest_by_cell = zip(*is_smallest_by_count, strict=True)
    rows = tuple(
        Row(
            cell=cell,
            parameter_counts=counts,
            frontier_shares=cell_shares,
            is_smallest=is_smallest,
            is_on_frontier=i in frontier_indices,
        )
        for i, (cell, counts, cell_shares, is_smallest) in enumerate(
            zip(cells, counts_by_cell, shares_by_cell, is_smallest_by_cell, strict=True)
        )
        if i in frontier_indices or any((share or 0) >= _LEAST_SHARE for share in cell_shares)
    )
    return Info(group=group, rows=rows, hypervolume=hypervolume(points, reference), reference=reference)


def _parameter_counts(cell: Cell) -> tuple[int | None, int | None, int | None]:
    trial = cell.best_trial
    stored, at_input = (trial.stored_parameters, trial.materialised_parameters) if trial else (None, None)
    return cell.trainable_parameters, stored, at_input


def render(info: Info) -> Table:
    most_parameters, lowest_accuracy = info.reference
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
            accuracy_column(lambda row: interval(row.cell.accuracy)),
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
            "A star (*) marks a cell on the frontier of the mean accuracies. The last three columns say in what share "
            f"of {DRAW_COUNT:,} random draws a cell is on the frontier. A draw takes seeds and test examples at "
            "random. (If predictions are missing, it takes an accuracy from each cell's own interval.) The smallest "
            "cell is always on the frontier, whatever its accuracy. A cell without a star has no row if all three "
            f"shares are below {100 * _LEAST_SHARE:.0f} %.",
            "The parameters of a prompt are counted in three ways. Training changes the trainable parameters. Stored "
            "parameters are those on disk; a frozen random matrix is not stored, because it is made again from its "
            "seed. Parameters at input are the numbers that the model gets as input. Which count matters depends on "
            "the use.",
            f"Hypervolume: {info.hypervolume:.3f}. This is the area between the frontier of the mean accuracies and "
            f"{percent(lowest_accuracy)} % accuracy, over log2 of the trainable parameters. The area ends at "
            f"{most_parameters:,.0f} parameters, twice those of the largest cell.",
            intervals_note([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
        ),
    )


def _format_share(row: Row, count_index: int) -> str:
    share = row.frontier_shares[count_index]
    return "–" if share is None else "smallest" if row.is_smallest[count_index] else f"{100 * share:.0f} %"


SPEC = TableSpec(name="frontier", title="The frontier, and how sure it is", info=compute, render=render, place=30)
