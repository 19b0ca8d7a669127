"""Which cells are on the frontier, how surely, and by which count of parameters."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import DRAWS, accuracies, hypervolume, membership, pareto, reference_of
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, interval, percent
from analysis.stats import describe

_LEAST = 0.05  # cells that are on the frontier more rarely have no row


@dataclass(frozen=True, kw_only=True)
class Row:
    """shares: how often the cell is on the frontier by parameters trained, stored, and at the input; None where a count
    is not known. smallest: by which of these it alone has the fewest, and so is on the frontier by definition."""

    cell: Cell
    counts: tuple[int | None, ...]
    shares: tuple[float | None, ...]
    smallest: tuple[bool, ...]
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rows: tuple[Row, ...]
    hypervolume: float
    reference: tuple[float, float]


def compute(group: Group) -> Info | Missing:
    cells = [cell for cell in group.confirmed if cell.accuracy]
    if len(cells) < 2:
        return Missing("it needs two confirmed cells")
    counts = [_counts(cell) for cell in cells]
    drawn = accuracies(cells)
    shares: list[list[float | None]] = []
    smallest: list[list[bool]] = []
    for sizes in zip(*counts, strict=True):
        known = [size for size in sizes if size is not None]
        smallest.append([known.count(size) == 1 and size == min(known) for size in sizes])
        shares.append([*membership(known, drawn)] if len(known) == len(cells) else [None] * len(cells))
    points = [(float(c.trainable_parameters or 1), c.accuracy.mean) for c in cells if c.accuracy]
    front, reference = set(pareto(points)), reference_of(group)
    by_cell = zip(cells, counts, zip(*shares, strict=True), zip(*smallest, strict=True), strict=True)
    rows = tuple(
        Row(cell=cell, counts=sizes, shares=often, smallest=least, on_front=i in front)
        for i, (cell, sizes, often, least) in enumerate(by_cell)
        if i in front or any((share or 0) >= _LEAST for share in often)
    )
    return Info(group=group, rows=rows, hypervolume=hypervolume(points, reference), reference=reference)


def _counts(cell: Cell) -> tuple[int | None, int | None, int | None]:
    trial = cell.best_trial
    stored, at_input = (trial.stored_parameters, trial.materialised_parameters) if trial else (None, None)
    return cell.trainable_parameters, stored, at_input


def render(info: Info) -> Table:
    most, floor = info.reference
    return Table.of(
        info.rows,
        caption=f"The frontier, and how sure it is: {info.group.title}",
        columns=(
            Column(title="cell", align="left", text=lambda row: f"{row.cell.label}{' *' if row.on_front else ''}"),
            Column(title="params trained", text=lambda row: count(row.counts[0])),
            Column(title="stored", text=lambda row: count(row.counts[1])),
            Column(title="at input", text=lambda row: count(row.counts[2])),
            Column(title="test % [95 % CI] (N)", text=lambda row: interval(row.cell.accuracy)),
            Column(title="on the frontier by parameters trained", text=lambda row: _share(row, 0)),
            Column(title="by parameters stored", text=lambda row: _share(row, 1)),
            Column(title="by parameters at input", text=lambda row: _share(row, 2)),
        ),
        notes=(
            "* on the frontier of the means. The shares say how often a cell would be on it: "
            f"{DRAWS:,} draws of the seeds and of the test examples (where predictions are missing, of each cell's own "
            f"interval). The smallest is on it by definition, whatever its accuracy. Cells below {100 * _LEAST:.0f} % "
            "have no row.",
            "Trained, stored (frozen random matrices come back from their seed) and at the input of the model: three "
            "counts of one prompt's parameters; which of them matters is the user's to say.",
            f"Hypervolume {info.hypervolume:.3f}: the area under the frontier of the means, in accuracy (1 is 100 %) "
            f"times doublings of the trained parameters, above {percent(floor)} % and up to {most:,.0f} parameters, "
            "twice the largest cell's, so that the largest counts, too.",
            describe([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
        ),
    )


def _share(row: Row, place: int) -> str:
    share = row.shares[place]
    return "–" if share is None else "smallest" if row.smallest[place] else f"{100 * share:.0f} %"


SPEC = TableSpec(name="frontier", title="The frontier, and how sure it is", info=compute, render=render, place=30)
