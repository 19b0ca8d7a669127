"""Every cell of the run: what was tried, what came of it, and its confirmed result."""

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count, interval, number, percent
from analysis.stats import BOLD, describe, standing_out

_ENDS = ("complete", "stopped", "diverged", "failed")
_FALL = 0.1  # of selection accuracy, from the search to its confirmation, that is worth a note


def compute(group: Group) -> Info[Cell] | Missing:
    cells = sorted(group.cells, key=lambda c: (c.method, c.length or 0, c.rank or 0, c.name))
    return Info(group=group, rows=tuple(cells)) if cells else Missing("the run has no cells")


def render(info: Info[Cell]) -> Table:
    notes = [
        "Searched: complete / stopped early / diverged / failed. Best search: selection accuracy of the best search "
        "trial. Learning rate and selection accuracy are those of the confirmed configuration, the latter in the mean "
        "over its seeds; before one is confirmed, of the best search trial.",
        "Optimism: selection accuracy less test accuracy of the same seeds. The best step and learning rate were "
        "chosen by the former, which flatters it; no table or figure reports it as a result.",
        describe([cell.accuracy for cell in info.rows if cell.accuracy]),
    ]
    best = standing_out([cell.accuracy for cell in info.rows])
    notes.append("" if best is None else BOLD)
    lost = [f"{cell.label}: {cell.lost}" for cell in info.rows if cell.lost]
    if lost:
        notes.append(f"Confirm trials that did not finish, so that the mean is over the others: {', '.join(lost)}.")
    fallen = [
        f"{cell.label} ({percent(cell.best_search)} to {percent(cell.selection_score)})"
        for cell in info.rows
        if cell.accuracy and (cell.best_search or 0.0) - (cell.selection_score or 0.0) > _FALL
    ]
    if fallen:
        notes.append(
            f"What the search found does not hold with other seeds, whose selection accuracy is more than "
            f"{100 * _FALL:.0f} pp below the best search trial's: {', '.join(fallen)}."
        )
    return Table.of(
        info.rows,
        caption=f"All cells: {info.group.title}",
        columns=(
            Column(title="method", align="left", text=lambda cell: method_label(cell.method)),
            Column(title="n", text=lambda cell: count(cell.length)),
            Column(title="r", text=lambda cell: count(cell.rank)),
            Column(title="params", text=lambda cell: count(cell.trainable_parameters)),
            Column(title="searched", text=lambda cell: " / ".join(str(cell.count(status)) for status in _ENDS)),
            Column(title="learning rate", text=lambda cell: number(getattr(cell.best_trial, "learning_rate", None))),
            Column(title="best search %", text=lambda cell: percent(cell.best_search)),
            Column(title="selection %", text=lambda cell: percent(cell.selection_score)),
            Column(title="test % [95 % CI] (N)", text=lambda cell: interval(cell.accuracy, cell.unconfirmed)),
            Column(title="optimism, pp", text=_optimism),
        ),
        notes=tuple(notes),
        bold=frozenset() if best is None else frozenset({(best, 8)}),
    )


def _optimism(cell: Cell) -> str:
    if cell.accuracy is None or cell.selection_accuracy is None:
        return "–"
    return f"{100 * (cell.selection_accuracy - cell.accuracy.mean):+z.1f}"


SPEC = TableSpec(name="cells", title="All cells", info=compute, render=render, place=130)
