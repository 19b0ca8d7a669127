"""Table 2 of the LoPT paper: six methods on T5-base, with one column for each task, over all tasks of one backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import published, released_runs
from analysis.cells import Cell, Group, best_cell
from analysis.compare_published import VERDICT_NOTE, PublishedComparison, compare_with_published, verdict_texts
from analysis.methods import FULL_PROMPT
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, bounds, count, number_columns, percent
from analysis.stats import BOLD_NOTE, Estimate, clear_best_index, intervals_note


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method on one task. A missing value is None or empty.

    Attributes:
        our_size: the length and rank of our cell as a text, if the paper states neither for this method.
        differences: how our run differs from the published one that it is compared with
            (`released_runs.differences`).
    """

    published_percent: float | None
    our_accuracy: Estimate | None
    our_parameters: int | None
    our_size: str
    comparison: PublishedComparison | None
    differences: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str  # as in the paper
    published_parameters: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    backbone: str
    task_titles: tuple[str, ...]
    rows: tuple[Row, ...]


def compute(groups: Sequence[Group]) -> Info | Missing:
    """Compute a column for each of the paper's five tasks, and for each other task on which we have two of its methods.

    The full prompt does not count as one of the two methods, because it is part of other tables as well.
    """
    point_by_row_and_task = {(point.row_name, point.task): point for point in published.table_points("table2")}
    row_point_by_name = {name: point_by_row_and_task[name, "sst2"] for name, _ in point_by_row_and_task}
    groups_by_task = {group.task: group for group in groups}
    counted_points = [point for point in row_point_by_name.values() if point.method != FULL_PROMPT]
    tasks_with_two_methods = [
        task
        for task, group in groups_by_task.items()
        if sum(_our_cell(group, point) is not None for point in counted_points) > 1
    ]
    if not tasks_with_two_methods:
        return Missing("no task has two of fine-tuning, LoRA, DePT, LoPT-1 n=20 r=5 and LoPT-2 n=20 r=5", quiet=True)
    other_tasks = [task for task in tasks_with_two_methods if task not in published.T5_TASKS]
    title_by_task = published.T5_TASKS | {task: groups_by_task[task].task_title for task in other_tasks}
    rows = tuple(
        Row(
            name=name,
            published_parameters=point.trainable_parameters,
            entries=tuple(
                _make_entry(groups_by_task.get(task), point, point_by_row_and_task.get((name, task)))
                for task in title_by_task
            ),
        )
        for name, point in row_point_by_name.items()
    )
    return Info(backbone=groups[0].backbone_title, task_titles=tuple(title_by_task.values()), rows=rows)


def _our_cell(group: Group, point: published.Point) -> Cell | None:
    """Return our cell for a row of the paper.

    It has the length and rank of that row. If the paper states neither, it is the method's best cell by held-out
    accuracy.
    """
    if point.length is not None or point.rank is not None:
        return group.find(point.method, point.length, point.rank)
    return best_cell(cell for cell in group.cells if cell.method == point.method)


def _make_entry(group: Group | None, row_point: published.Point, point: published.Point | None) -> Entry:
    """Return one method on one task.

    Args:
        row_point: a point of the row on any task; its length and rank are those of the row.
        point: the point of the row on this task; None if the paper has none.
    """
    cell = _our_cell(group, row_point) if group else None
    our_accuracy = cell.plain_accuracy if cell else None
    comparison = compare_with_published(group, cell, point) if point else None
    is_compared = comparison is not None and comparison.difference is not None
    return Entry(
        published_percent=point.accuracy_percent if point else None,
        our_accuracy=our_accuracy,
        our_parameters=cell.trainable_parameters if cell and our_accuracy else None,
        our_size=cell.shape_text if cell and our_accuracy and row_point.length is None else "",
        comparison=comparison,
        differences=released_runs.differences(cell.confirmed_trials, point.task)
        if cell and point and is_compared
        else {},
    )


def render(info: Info) -> Table:
    task_count = len(info.task_titles)
    bold_rows = [clear_best_index([row.entries[i].our_accuracy for row in info.rows]) for i in range(task_count)]
    verdicts, obstacle_note = verdict_texts(entry.comparison for row in info.rows for entry in row.entries)
    lines: list[tuple[str, ...]] = []
    bold_cells: set[tuple[int, int]] = set()
    for row_index, row in enumerate(info.rows):
        # The second line of a method has our accuracies, and the first three columns belong to no task.
        bold_cells |= {(len(lines) + 1, 3 + i) for i, bold_row in enumerate(bold_rows) if bold_row == row_index}
        lines += _row_lines(row, verdicts[row_index * task_count : (row_index + 1) * task_count])
    estimates = [entry.our_accuracy for row in info.rows for entry in row.entries if entry.our_accuracy]
    return Table(
        caption=f"Table 2 of the paper (T5-base), and our results with {info.backbone}",
        columns=(
            Column(title="method", align="left", once=True),
            Column(title="quantity", csv_name="what", align="left"),
            Column(title="trainable parameters", csv_name="params"),
            *number_columns(*(f"{title} %" for title in info.task_titles)),
        ),
        rows=tuple(lines),
        notes=(
            "All accuracies are test accuracies in percent. Ours are means over N seeds. CI means confidence interval, "
            "and pp percentage points. " + intervals_note(estimates)
            if estimates
            else "",
            _settings_note(info),
            _examples_note(info),
            obstacle_note or VERDICT_NOTE,
            BOLD_NOTE if bold_cells else "",
            *_differences_notes(info),
            published.MIXED_PROTOCOLS,
            published.UNDER_TUNED,
            published.UNKNOWN_SPLITS,
            published.SAMPLING_NOISE,
        ),
        bold=frozenset(bold_cells),
    )


def _row_lines(row: Row, verdicts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the lines of one method. The first two are always there: the published accuracies, and ours."""
    published_texts, our_texts, interval_texts, difference_texts, differing_settings = [], [], [], [], []
    for entry in row.entries:
        our_accuracy, comparison = entry.our_accuracy, entry.comparison
        published_texts.append("" if entry.published_percent is None else f"{entry.published_percent:.1f}")
        our_texts.append(f"{percent(our_accuracy.mean)} ({our_accuracy.seeds})" if our_accuracy else "")
        interval_texts.append(bounds(our_accuracy) if our_accuracy else "")
        has_difference = comparison is not None and comparison.difference is not None
        difference_texts.append(comparison.difference_text if comparison and has_difference else "")
        differing_settings.append(", ".join(entry.differences))
    lines: list[tuple[str, ...]] = [
        (row.name, "published", _format_published_count(row.published_parameters), *published_texts),
        (row.name, "ours (N)", _our_parameters_text(row), *our_texts),
    ]
    if any(interval_texts):
        lines.append((row.name, "95 % CI", "", *interval_texts))
    if any(difference_texts):
        lines.append((row.name, "difference, pp", "", *difference_texts))
    if any(entry.comparison for entry in row.entries):
        lines.append((row.name, "verdict", "", *verdicts))
    if any(differing_settings):
        lines.append((row.name, "differs in", "", *differing_settings))
    return lines


def _format_published_count(parameters: int) -> str:
    """Write a count as the paper prints it: above a million it is rounded."""
    return f"{parameters / 1e6:g}M" if parameters >= 1e6 else count(parameters)


def _our_parameters_text(row: Row) -> str:
    """Write the fewest and the most parameters of our cells, such as "586 to 1,172"."""
    parameter_counts = sorted({entry.our_parameters for entry in row.entries if entry.our_parameters is not None})
    return " to ".join(dict.fromkeys(map(count, (*parameter_counts[:1], *parameter_counts[-1:]))))


def _settings_note(info: Info) -> str:
    """Name the length and rank of our results for methods whose length and rank the paper does not state."""
    method_texts = []
    for row in info.rows:
        tasks_by_size: dict[str, list[str]] = {}
        for task, entry in zip(info.task_titles, row.entries, strict=True):
            if entry.our_size:
                tasks_by_size.setdefault(entry.our_size, []).append(task)
        if tasks_by_size:
            size_texts = (f"{size} ({', '.join(tasks)})" for size, tasks in tasks_by_size.items())
            method_texts.append(f"{row.name} {', '.join(size_texts)}")
    if not method_texts:
        return ""
    return f"If the paper states no length and rank, ours have the best held-out accuracy: {'; '.join(method_texts)}."


def _differences_notes(info: Info) -> list[str]:
    """Explain the words in the lines "differs in", and describe DePT's released runs if ours are compared with them."""
    tasks_by_difference: dict[tuple[str, str], list[str]] = {}
    for row in info.rows:
        for task, entry in zip(info.task_titles, row.entries, strict=True):
            for word, text in entry.differences.items():
                tasks_by_difference.setdefault((word, text), []).append(task)
    if not tasks_by_difference:
        return []
    difference_texts = []
    for (word, text), tasks in tasks_by_difference.items():
        dept_text = "" if word in released_runs.COMMON_DIFFERENCES else f" of DePT on {', '.join(tasks)}"
        difference_texts.append(f'"{word}"{dept_text}: {text}')
    has_dept = any(entry.differences for row in info.rows if row.name == "DePT" for entry in row.entries)
    return [
        'The lines "differs in" say how our runs (here) differ from the published ones (there). Learning rates are not '
        f"among them, because they are searched. {'; '.join(difference_texts)}.",
        *([released_runs.released_runs_note(published.T5_TASKS)] if has_dept else []),
    ]


def _examples_note(info: Info) -> str:
    """Say how many examples our results are scored on."""
    task_texts = []
    for i, task in enumerate(info.task_titles):
        estimates = [row.entries[i].our_accuracy for row in info.rows]
        if example_counts := sorted({estimate.test_n for estimate in estimates if estimate}):
            task_texts.append(f"{task} {' or '.join(map(count, example_counts))}")
    return f"Our results are scored on these numbers of examples: {', '.join(task_texts)}." if task_texts else ""


SPEC = TableSpec(
    name="table2",
    title="Six methods on five tasks (Table 2)",
    info=compute,
    render=render,
    across=True,
    place=80,
    published=True,
)
