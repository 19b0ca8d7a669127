"""Every cell of the run: how its search trials ended, and its confirmed result."""

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.optimism import optimism
from analysis.registry import Info, Missing, TableSpec
from analysis.render import (
    INTERVAL_TITLE,
    Column,
    Table,
    count,
    interval,
    number,
    parameters_column,
    percent,
    score_column,
)
from analysis.stats import BOLD_NOTE, clear_best_index, intervals_note

_STATUSES = ("complete", "stopped", "diverged", "failed")
_LARGE_CHANGE = 0.1  # a note names each cell whose held-out accuracy with fresh seeds differs by more than this
_ACCURACY_COLUMN = 8  # the index of the column with test accuracies


def compute(group: Group) -> Info[Cell] | Missing:
    cells = sorted(group.cells, key=lambda cell: (cell.method, cell.length or 0, cell.rank or 0, cell.name))
    return Info(group=group, rows=tuple(cells)) if cells else Missing("the run has no cells")


def render(info: Info[Cell]) -> Table:
    score_name = info.group.score_name
    notes = [
        "A cell is one method at one prompt length n and rank r. Search trials are counted as complete / stopped early "
        f"/ diverged / failed. The best search trial is shown with its held-out {score_name}. Learning rate and "
        "held-out "
        f"{score_name} are those of the confirmed configuration, and the {score_name} is the mean over its seeds. If a "
        "cell is not confirmed, they are those of its best search trial.",
        "Optimism is held-out accuracy minus test accuracy, both of the same seeds, with its 95 % interval. The best "
        f"step and learning rate are chosen by held-out {score_name}, so this is a little too high. It is shown for "
        "comparison and is not a result. The interval includes the choice of both sets of examples, and with two seeds "
        "or more the variation between seeds (a t interval that contains Newcombe's interval).",
        intervals_note([cell.accuracy for cell in info.rows if cell.accuracy]),
    ]
    bold_row = clear_best_index([cell.accuracy for cell in info.rows])
    notes.append("" if bold_row is None else BOLD_NOTE)
    lost_seed_texts = [
        f"{cell.label} ({cell.lost_seed_count} seed{'s' * (cell.lost_seed_count > 1)})"
        for cell in info.rows
        if cell.lost_seed_count
    ]
    if lost_seed_texts:
        notes.append(
            "In these cells some seeds did not finish their confirm trials, so the mean is over the others: "
            f"{', '.join(lost_seed_texts)}."
        )
    for verb, sign in (("fell", -1), ("rose", 1)):
        changed_cell_texts = [
            f"{cell.label} (from {percent(cell.best_search_score)} % to {percent(cell.selection_score)} %)"
            for cell in info.rows
            if cell.accuracy and sign * _change_with_fresh_seeds(cell) > _LARGE_CHANGE
        ]
        if changed_cell_texts:
            notes.append(
                f"With fresh seeds, the held-out {score_name} of these search winners {verb} by more than "
                f"{100 * _LARGE_CHANGE:.0f} percentage points: {', '.join(changed_cell_texts)}."
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
                text=lambda cell: " / ".join(str(cell.search_trial_count(status)) for status in _STATUSES),
            ),
            Column(title="learning rate", text=lambda cell: number(getattr(cell.best_trial, "learning_rate", None))),
            Column(
                title="best search trial, %",
                csv_name="best search %",
                text=lambda cell: percent(cell.best_search_score),
            ),
            Column(
                title=f"held-out {score_name}, %",
                csv_name="selection %",
                text=lambda cell: percent(cell.selection_score),
            ),
            score_column(score_name, lambda cell: interval(cell.accuracy, cell.missing_accuracy_text)),
            Column(
                title=f"optimism, pp {INTERVAL_TITLE}",
                csv_name="optimism, pp [95 % CI]",
                text=_format_optimism,
            ),
        ),
        notes=tuple(notes),
        bold=frozenset() if bold_row is None else frozenset({(bold_row, _ACCURACY_COLUMN)}),
    )


def _change_with_fresh_seeds(cell: Cell) -> float:
    """Return the mean held-out score of the confirmed seeds minus that of the search winner; 0 if one is not known."""
    winner_score, score = cell.best_search_score, cell.selection_score
    return 0.0 if winner_score is None or score is None else score - winner_score


def _format_optimism(cell: Cell) -> str:
    difference = optimism(cell)
    return "–" if difference is None else str(difference)


SPEC = TableSpec(name="cells", title="All cells", info=compute, render=render, place=130)
