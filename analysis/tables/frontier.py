"""Which cells are on the frontier, how certain that is, and by which count of parameters."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import DRAWS, draw_accuracies, frontier_shares, hypervolume, hypervolume_reference, pareto
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, accuracy_column, count, interval, percent
from analysis.stats import intervals_note

_LEAST_SHARE = 0.05  # cells that are on the frontier more rarely have no row


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell on the frontier, by three counts of its parameters: trained, stored, and at the model's input.

    Attributes:
        counts: the three counts; None where one is not known.
        shares: how often the cell is on the frontier by each count; None where a cell's count is not known.
        is_smallest: whether the cell alone has the fewest parameters by each count, and so always is on the frontier.
        is_on_frontier: whether it is on the frontier of the mean accuracies, by trained parameters.
    """

    cell: Cell
    counts: tuple[int | None, ...]
    shares: tuple[float | None, ...]
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
    counts = [_counts(cell) for cell in cells]
    drawn_accuracies = draw_accuracies(cells)
    shares_by_count: list[list[float | None]] = []
    is_smallest_by_count: list[list[bool]] = []
    for sizes in zip(*counts, strict=True):
        known = [size for size in sizes if size is not None]
        is_smallest_by_count.append([known.count(size) == 1 and size == min(known) for size in sizes])
        is_complete = len(known) == len(cells)
        shares_by_count.append([*frontier_shares(known, drawn_accuracies)] if is_complete else [None] * len(cells))
    points = [(float(cell.trainable_parameters or 1), cell.accuracy.mean) for cell in cells if cell.accuracy]
    frontier, reference = set(pareto(points)), hypervolume_reference(group)
    shares_by_cell = zip(*shares_by_count, strict=True)
    is_smallest_by_cell = zip(*is_smallest_by_count, strict=True)
    rows = tuple(
        Row(cell=cell, counts=sizes, shares=shares, is_smallest=is_smallest, is_on_frontier=i in frontier)
        for i, (cell, sizes, shares, is_smallest) in enumerate(
            zip(cells, counts, shares_by_cell, is_smallest_by_cell, strict=True)
        )
        if i in frontier or any((share or 0) >= _LEAST_SHARE for share in shares)
    )
    return Info(group=group, rows=rows, hypervolume=hypervolume(points, reference), reference=reference)


def _counts(cell: Cell) -> tuple[int | None, int | None, int | None]:
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
            Column(title="parameters trained", csv_name="params trained", text=lambda row: count(row.counts[0])),
            Column(title="parameters stored", csv_name="stored", text=lambda row: count(row.counts[1])),
            Column(title="parameters at input", csv_name="at input", text=lambda row: count(row.counts[2])),
            accuracy_column(lambda row: interval(row.cell.accuracy)),
            Column(title="on the frontier by parameters trained", text=lambda row: _format_share(row, 0)),
            Column(
                title="on the frontier by parameters stored",
                csv_name="by parameters stored",
                text=lambda row: _format_share(row, 1),
            ),
            Column(
                title="on the frontier by parameters at input",
                csv_name="by parameters at input",
                text=lambda row: _format_share(row, 2),
            ),
        ),
        notes=(
            "* This cell is on the frontier of the mean accuracies. The last three columns say how often a cell is on "
            f"the frontier in {DRAWS:,} random draws of the seeds and of the test examples (where predictions are "
            "missing, in draws from each cell's own interval). The smallest cell is always on it, whatever its "
            f"accuracy. Cells that are on it in less than {100 * _LEAST_SHARE:.0f} % of the draws have no row.",
            "The parameters of a prompt can be counted in three ways: those that are trained, those that are stored "
            "(frozen random matrices are not, since their seed gives them again), and those at the input of the model. "
            "Which count matters depends on the use.",
            f"Hypervolume {info.hypervolume:.3f}: the area between the frontier of the mean accuracies and "
            f"{percent(lowest_accuracy)} % accuracy, over log2 of the trained parameters. It ends at "
            f"{most_parameters:,.0f} parameters, twice those of the largest cell.",
            intervals_note([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
        ),
    )


def _format_share(row: Row, which_count: int) -> str:
    share = row.shares[which_count]
    return "–" if share is None else "smallest" if row.is_smallest[which_count] else f"{100 * share:.0f} %"


SPEC = TableSpec(name="frontier", title="The frontier, and how sure it is", info=compute, render=render, place=30)
