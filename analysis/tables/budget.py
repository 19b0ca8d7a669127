"""Which cell to use within a budget of trainable parameters, and the line that loads its prompt."""

import json
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import best_within, round_budgets
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count, interval, parameters_column, percent, score_column
from analysis.stats import intervals_note
from lopt.locations import to_location


@dataclass(frozen=True, kw_only=True)
class Row:
    budget: int
    cell: Cell
    trial_key: str
    load_line: str
    has_artifact: bool  # whether the artifact that the line loads exists


def compute(group: Group) -> Info[Row] | Missing:
    cells = [cell for cell in group.confirmed_cells if group.is_above_no_prompt(cell)]
    if not group.confirmed_cells:
        return Missing("no trial is confirmed yet, so there is nothing to recommend")
    if not cells:
        return Missing(f"no confirmed cell is above the {group.score_name} without a prompt")
    parameter_counts = [cell.trainable_parameters or 0 for cell in cells]
    rows: list[Row] = []
    for budget in round_budgets(min(parameter_counts), max(parameter_counts)):
        cell = best_within(cells, budget)
        trial = cell.best_trial if cell else None
        if cell is None or trial is None or (rows and rows[-1].cell is cell):
            continue  # a larger budget that leads to the same cell needs no row
        artifact_path = f"{trial.run}/artifacts/{trial.key}"
        rows.append(
            Row(
                budget=budget,
                cell=cell,
                trial_key=trial.key,
                load_line=f"load_prompt({json.dumps(artifact_path, ensure_ascii=False)})",
                has_artifact=(to_location(trial.run) / "artifacts" / trial.key).is_dir(),
            )
        )
    missing = Missing(f"no confirmed trial has a held-out {group.score_name}")
    return Info(group=group, rows=tuple(rows)) if rows else missing


def render(info: Info[Row]) -> Table:
    missing_keys = ", ".join(row.trial_key for row in info.rows if not row.has_artifact)
    return Table.from_rows(
        info.rows,
        caption=f"What to use within a budget of parameters: {info.group.title}",
        columns=(
            Column(title="budget of parameters", csv_name="at most", text=lambda row: count(row.budget)),
            Column(title="cell to use", csv_name="use", align="left", text=lambda row: row.cell.label),
            parameters_column(lambda row: count(row.cell.trainable_parameters)),
            Column(
                title=f"held-out {info.group.score_name}, %",
                csv_name="selection %",
                text=lambda row: percent(row.cell.selection_score),
            ),
            score_column(info.group.score_name, lambda row: interval(row.cell.accuracy)),
            Column(title="load it with", align="left", code=True, text=lambda row: row.load_line),
        ),
        notes=(
            f"The cell and its seed are chosen by the held-out {info.group.score_name}, not by the test one. A cell "
            "whose "
            f"mean test {info.group.score_name} is not above that without a prompt is not considered. A larger budget "
            "that leads to the same "
            "cell has no row.",
            intervals_note([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
            f"These trials have no folder in artifacts/, so their lines load nothing: {missing_keys}."
            if missing_keys
            else "",
        ),
    )


SPEC = TableSpec(name="budget", title="What to use within a budget", info=compute, render=render, place=20)
