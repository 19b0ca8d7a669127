"""Table 2 of the LoPT paper: six methods on T5-base, with one column for each task, over all tasks of one backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import published, released_runs
from analysis.cells import Cell, Group, best_cell
from analysis.compare_published import VERDICTS, PublishedComparison, compare_with_published, verdict_texts
from analysis.methods import FULL_PROMPT
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, bounds, count, numbers, percent
from analysis.stats import BOLD_NOTE, Estimate, clear_best_index, intervals_note


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method on one task; what is missing is None or empty.

    Attributes:
        size: the length and rank of our cell, where the paper states none.
        differences: how our run differs from the published one that it is compared with
            (`released_runs.differences`).
    """

    published_percent: float | None
    ours: Estimate | None
    parameters: int | None
    size: str
    comparison: PublishedComparison | None
    differences: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Row:
    cell: str
    published_parameters: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    backbone: str
    tasks: tuple[str, ...]  # titles of the columns
    rows: tuple[Row, ...]


def compute(groups: Sequence[Group]) -> Info | Missing:
    """Compute the columns of the paper's five tasks, then of our other tasks with two of the methods.

    Full prompts do not count among these two, since they are part of other tables as well.
    """
    points = {(point.cell, point.task): point for point in published.table_points("table2")}
    rows_by_name = {name: points[name, "sst2"] for name, _ in points}
    by_task = {group.task: group for group in groups}
    telling = [point for point in rows_by_name.values() if point.method != FULL_PROMPT]
    with_two_methods = [
        task for task, group in by_task.items() if sum(_our_cell(group, point) is not None for point in telling) > 1
    ]
    if not with_two_methods:
        return Missing("no task with two of fine-tuning, LoRA, DePT and LoPT at n=20 r=5", quiet=True)
    further_tasks = [task for task in with_two_methods if task not in published.T5_TASKS]
    tasks = published.T5_TASKS | {task: by_task[task].task_title for task in further_tasks}
    rows = tuple(
        Row(
            cell=name,
            published_parameters=point.trainable_parameters,
            entries=tuple(_entry(by_task.get(task), point, points.get((name, task))) for task in tasks),
        )
        for name, point in rows_by_name.items()
    )
    return Info(backbone=groups[0].backbone_name, tasks=tuple(tasks.values()), rows=rows)


def _our_cell(group: Group, point: published.Point) -> Cell | None:
    """Return our cell of a row: of the paper's setting; where it states none, the best by held-out accuracy."""
    if point.length is not None or point.rank is not None:
        return group.find(point.method, point.length, point.rank)
    return best_cell(cell for cell in group.cells if cell.method == point.method)


def _entry(group: Group | None, row_point: published.Point, point: published.Point | None) -> Entry:
    """Return one method on one task.

    Args:
        row_point: the row's point on any task, which states its setting. point: the one on this task, if published.
    """
    cell = _our_cell(group, row_point) if group else None
    ours = cell.accuracy if cell else None
    comparison = compare_with_published(group, cell, point) if point else None
    is_compared = comparison is not None and comparison.difference is not None
    return Entry(
        published_percent=point.accuracy_percent if point else None,
        ours=ours,
        parameters=cell.trainable_parameters if cell and ours else None,
        size=cell.shape_text if cell and ours and row_point.length is None else "",
        comparison=comparison,
        differences=released_runs.differences(cell.confirmed_trials, point.task)
        if cell and point and is_compared
        else {},
    )


def render(info: Info) -> Table:
    columns = range(len(info.tasks))
    best_rows = [clear_best_index([row.entries[column].ours for row in info.rows]) for column in columns]
    verdicts, obstacle_note = verdict_texts(entry.comparison for row in info.rows for entry in row.entries)
    lines: list[tuple[str, ...]] = []
    bold: set[tuple[int, int]] = set()
    for number, row in enumerate(info.rows):
        bold |= {(len(lines) + 1, 3 + column) for column in columns if best_rows[column] == number}
        lines += _lines(row, verdicts[number * len(info.tasks) : (number + 1) * len(info.tasks)])
    estimates = [entry.ours for row in info.rows for entry in row.entries if entry.ours]
    return Table(
        caption=f"Table 2 of the paper (T5-base), and our results with {info.backbone}",
        columns=(
            Column(title="method", align="left", once=True),
            Column(title="quantity", csv_name="what", align="left"),
            Column(title="trainable parameters", csv_name="params"),
            *numbers(*(f"{task} %" for task in info.tasks)),
        ),
        rows=tuple(lines),
        notes=(
            "Published and our accuracies are percentages; ours are means over N seeds. CI: confidence interval. pp: "
            "percentage points. " + intervals_note(estimates)
            if estimates
            else "",
            _settings_note(info),
            _examples_note(info),
            obstacle_note or VERDICTS,
            BOLD_NOTE if bold else "",
            *_differences_notes(info),
            published.MIXED_PROTOCOLS,
            published.UNDER_TUNED,
            published.NOT_ONE_RUN,
            published.NOISE,
        ),
        bold=frozenset(bold),
    )


def _lines(row: Row, verdicts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the lines of one method. The first two are always there: the published accuracies, and ours."""
    published_texts, our_texts, intervals, differences, differing = [], [], [], [], []
    for entry in row.entries:
        ours, comparison = entry.ours, entry.comparison
        published_texts.append("" if entry.published_percent is None else f"{entry.published_percent:.1f}")
        our_texts.append(f"{percent(ours.mean)} ({ours.seeds})" if ours else "")
        intervals.append(bounds(ours) if ours else "")
        differences.append(comparison.points if comparison and comparison.difference is not None else "")
        differing.append(", ".join(entry.differences))
    lines: list[tuple[str, ...]] = [
        (row.cell, "published", _printed_count(row.published_parameters), *published_texts),
        (row.cell, "ours (N)", _our_parameters(row), *our_texts),
    ]
    if any(intervals):
        lines.append((row.cell, "95 % CI", "", *intervals))
    if any(differences):
        lines.append((row.cell, "difference, pp", "", *differences))
    if any(entry.comparison for entry in row.entries):
        lines.append((row.cell, "verdict", "", *verdicts))
    if any(differing):
        lines.append((row.cell, "differs in", "", *differing))
    return lines


def _printed_count(parameters: int) -> str:
    """Write a count as the paper prints it: above a million it is rounded."""
    return f"{parameters / 1e6:g}M" if parameters >= 1e6 else count(parameters)


def _our_parameters(row: Row) -> str:
    """Write the fewest and the most parameters of our cells."""
    sizes = sorted({entry.parameters for entry in row.entries if entry.parameters is not None})
    return " to ".join(dict.fromkeys(map(count, (*sizes[:1], *sizes[-1:]))))


def _settings_note(info: Info) -> str:
    """Say which setting our results have, where the paper states none."""
    parts = []
    for row in info.rows:
        tasks_by_size: dict[str, list[str]] = {}
        for task, entry in zip(info.tasks, row.entries, strict=True):
            if entry.size:
                tasks_by_size.setdefault(entry.size, []).append(task)
        if tasks_by_size:
            sizes = (f"{size} ({', '.join(tasks)})" for size, tasks in tasks_by_size.items())
            parts.append(f"{row.cell} {', '.join(sizes)}")
    if not parts:
        return ""
    return f"Where the paper states no setting, ours is the best by held-out accuracy: {'; '.join(parts)}."


def _differences_notes(info: Info) -> list[str]:
    """Explain the words of the lines "differs in", and describe DePT's released runs if ours are compared to them."""
    tasks_by_difference: dict[str, list[str]] = {}
    for row in info.rows:
        for task, entry in zip(info.tasks, row.entries, strict=True):
            for word, values in entry.differences.items():
                is_common = word in released_runs.COMMON_DIFFERENCES
                tasks = tasks_by_difference.setdefault(f"{'' if is_common else 'of DePT, '}{word}: {values}", [])
                tasks += [] if is_common else [task]
    if not tasks_by_difference:
        return []
    parts = [f"{text} ({', '.join(tasks)})" if tasks else text for text, tasks in tasks_by_difference.items()]
    has_dept = any(entry.differences for row in info.rows if row.cell == "DePT" for entry in row.entries)
    return [
        "How our runs (here) differ from the published ones (there), apart from the learning rates, which are "
        f"searched: {'; '.join(parts)}.",
        *([released_runs.released_runs_note(published.T5_TASKS)] if has_dept else []),
    ]


def _examples_note(info: Info) -> str:
    """Say how many examples our results are scored on."""
    parts = []
    for column, task in enumerate(info.tasks):
        estimates = [row.entries[column].ours for row in info.rows]
        if sizes := sorted({estimate.test_n for estimate in estimates if estimate}):
            parts.append(f"{task} {' or '.join(map(count, sizes))}")
    return f"Numbers of examples that our results are scored on: {', '.join(parts)}." if parts else ""


SPEC = TableSpec(
    name="table2",
    title="Six methods on five tasks (Table 2)",
    info=compute,
    render=render,
    across=True,
    place=80,
    published=True,
)
