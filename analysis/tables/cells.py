"""Every cell of the run: what was tried, what came of it, and its confirmed result."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, interval, number, numbers, percent
from analysis.stats import BOLD, describe, standing_out

_FALL = 0.1  # of selection accuracy, from the search to its confirmation, that is worth a note


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    cells: tuple[Cell, ...]


def compute(group: Group) -> Info | Missing:
    cells = sorted(group.cells, key=lambda c: (c.method, c.length or 0, c.rank or 0, c.name))
    return Info(group=group, cells=tuple(cells)) if cells else Missing("the run has no cells")


def render(info: Info) -> Table:
    notes = [
        "Searched: complete / stopped early / diverged / failed. Best search: selection accuracy of the best search "
        "trial. Learning rate and selection accuracy are those of the confirmed configuration, the latter in the mean "
        "over its seeds; before one is confirmed, of the best search trial.",
        "Optimism: selection accuracy less test accuracy of the same seeds. The best step and learning rate were "
        "chosen by the former, which flatters it; no table or figure reports it as a result.",
        describe([cell.accuracy for cell in info.cells if cell.accuracy]),
    ]
    best = standing_out([cell.accuracy for cell in info.cells])
    if best is not None:
        notes.append(BOLD)
    lost = [f"{cell.label}: {cell.lost}" for cell in info.cells if cell.lost]
    if lost:
        notes.append(f"Confirm trials that did not finish, so that the mean is over the others: {', '.join(lost)}.")
    fallen = [
        f"{cell.label} ({percent(cell.best_search)} to {percent(cell.selection_score)})"
        for cell in info.cells
        if cell.accuracy and (cell.best_search or 0.0) - (cell.selection_score or 0.0) > _FALL
    ]
    if fallen:
        notes.append(
            f"What the search found does not hold with other seeds, whose selection accuracy is more than "
            f"{100 * _FALL:.0f} pp below the best search trial's: {', '.join(fallen)}."
        )
    return Table(
        caption=f"All cells: {info.group.title}",
        columns=(
            Column(title="method", align="left"),
            *numbers(
                "n",
                "r",
                "params",
                "searched",
                "learning rate",
                "best search %",
                "selection %",
                "test % [95 % CI] (N)",
                "optimism, pp",
            ),
        ),
        rows=tuple(
            (
                method_label(cell.method),
                count(cell.length),
                count(cell.rank),
                count(cell.trainable_parameters),
                " / ".join(str(cell.count(status)) for status in ("complete", "stopped", "diverged", "failed")),
                number(cell.best_trial.learning_rate if cell.best_trial else None),
                percent(cell.best_search),
                percent(cell.selection_score),
                interval(cell.accuracy, "not run" if not cell.trials else "not confirmed"),
                _optimism(cell),
            )
            for cell in info.cells
        ),
        notes=tuple(filter(None, notes)),
        bold=frozenset() if best is None else frozenset({(best, 8)}),
    )


def _optimism(cell: Cell) -> str:
    if cell.accuracy is None or cell.selection_accuracy is None:
        return "–"
    return f"{100 * (cell.selection_accuracy - cell.accuracy.mean):+z.1f}"


SPEC = TableSpec(name="cells", title="All cells", info=compute, render=render, place=130)
