"""Every cell of the run: how its search trials ended, and its confirmed result."""

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, accuracy_column, count, interval, number, parameters_column, percent
from analysis.stats import BOLD_NOTE, clear_best_index, intervals_note

_STATUSES = ("complete", "stopped", "diverged", "failed")
_FALL = 0.1  # a note names cells whose held-out accuracy is lower by more than this once confirmed


def compute(group: Group) -> Info[Cell] | Missing:
    cells = sorted(group.cells, key=lambda cell: (cell.method, cell.length or 0, cell.rank or 0, cell.name))
    return Info(group=group, rows=tuple(cells)) if cells else Missing("the run has no cells")


def render(info: Info[Cell]) -> Table:
    notes = [
        "A cell is one method at one prompt length n and rank r. Search trials: how many are complete / stopped early "
        "/ diverged / failed. Best search trial: its accuracy on the held-out examples. Learning rate and held-out "
        "accuracy are those of the confirmed configuration, the latter as the mean over its seeds; in a cell that is "
        "not confirmed, those of the best search trial.",
        "Optimism: held-out accuracy minus test accuracy of the same seeds. The best step and learning rate are chosen "
        "by held-out accuracy, which is therefore too high; no table or figure reports it as a result.",
        intervals_note([cell.accuracy for cell in info.rows if cell.accuracy]),
    ]
    best = clear_best_index([cell.accuracy for cell in info.rows])
    notes.append("" if best is None else BOLD_NOTE)
    lost = [f"{cell.label}: {cell.lost_count}" for cell in info.rows if cell.lost_count]
    if lost:
        notes.append(f"Confirm trials that did not finish, so the mean is over the other seeds: {', '.join(lost)}.")
    fallen = [
        f"{cell.label} ({percent(cell.best_search_score)} to {percent(cell.selection_score)})"
        for cell in info.rows
        if cell.accuracy and (cell.best_search_score or 0.0) - (cell.selection_score or 0.0) > _FALL
    ]
    if fallen:
        notes.append(
            "The winner of the search does not do as well with other seeds; their held-out accuracy is lower by more "
            f"than {100 * _FALL:.0f} percentage points: {', '.join(fallen)}."
        )
    return Table.from_rows(
        info.rows,
        caption=f"All cells: {info.group.title}",
        columns=(
            Column(title="method", align="left", text=lambda cell: method_label(cell.method)),
            Column(title="n", text=lambda cell: count(cell.length)),
            Column(title="r", text=lambda cell: count(cell.rank)),
            parameters_column(lambda cell: count(cell.trainable_parameters)),
            Column(
                title="search trials",
                csv_name="searched",
                text=lambda cell: " / ".join(str(cell.count(status)) for status in _STATUSES),
            ),
            Column(title="learning rate", text=lambda cell: number(getattr(cell.best_trial, "learning_rate", None))),
            Column(
                title="best search trial, %",
                csv_name="best search %",
                text=lambda cell: percent(cell.best_search_score),
            ),
            Column(
                title="held-out accuracy, %", csv_name="selection %", text=lambda cell: percent(cell.selection_score)
            ),
            accuracy_column(lambda cell: interval(cell.accuracy, cell.missing_accuracy_text)),
            Column(title="optimism, percentage points", csv_name="optimism, pp", text=_optimism),
        ),
        notes=tuple(notes),
        bold=frozenset() if best is None else frozenset({(best, 8)}),
    )


def _optimism(cell: Cell) -> str:
    if cell.accuracy is None or cell.selection_accuracy is None:
        return "–"
    return f"{100 * (cell.selection_accuracy - cell.accuracy.mean):+z.1f}"


SPEC = TableSpec(name="cells", title="All cells", info=compute, render=render, place=130)
