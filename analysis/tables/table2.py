"""Table 2 of the LoPT paper: six methods on T5-base, one column a task, over all tasks of one backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import peers, published
from analysis.beside_published import VERDICTS, Beside, set_beside, verdicts
from analysis.cells import Cell, Group, best
from analysis.methods import FULL_PROMPT
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, bounds, count, numbers, percent
from analysis.stats import BOLD, Estimate, describe, standing_out


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method on one task; what there is not is None or empty."""

    published_percent: float | None
    ours: Estimate | None
    parameters: int | None
    size: str  # the setting of ours, where the paper's is not stated
    beside: Beside | None
    differences: dict[str, str]  # of ours from a published run that it is compared with, a word each


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
    """The paper's five tasks, then those of our own on which two of the methods (full prompts aside) were planned."""
    points = {(point.cell, point.task): point for point in published.table("table2")}
    first = {name: points[name, "sst2"] for name, _ in points}
    by_task = {group.task: group for group in groups}
    telling = [point for point in first.values() if point.method != FULL_PROMPT]
    several = [task for task, g in by_task.items() if sum(_ours(g, point) is not None for point in telling) > 1]
    if not several:
        return Missing("no task with two of fine-tuning, LoRA, DePT and LoPT at n=20 r=5", quiet=True)
    tasks = published.T5_TASKS | {task: by_task[task].task_title for task in several if task not in published.T5_TASKS}
    rows = tuple(
        Row(
            cell=name,
            published_parameters=point.trainable_parameters,
            entries=tuple(_entry(by_task.get(task), point, points.get((name, task))) for task in tasks),
        )
        for name, point in first.items()
    )
    return Info(backbone=groups[0].backbone_name, tasks=tuple(tasks.values()), rows=rows)


def _ours(group: Group, point: published.Point) -> Cell | None:
    """Our cell of a row: the paper's setting; where it states none, the one best on selection accuracy."""
    if point.length is not None or point.rank is not None:
        return group.find(point.method, point.length, point.rank)
    return best(cell for cell in group.cells if cell.method == point.method)


def _entry(group: Group | None, row: published.Point, point: published.Point | None) -> Entry:
    cell = _ours(group, row) if group else None
    ours = cell.accuracy if cell else None
    beside = set_beside(group, cell, point) if point else None
    compared = beside is not None and beside.difference is not None
    return Entry(
        published_percent=point.accuracy_percent if point else None,
        ours=ours,
        parameters=cell.trainable_parameters if cell and ours else None,
        size=cell.size if cell and ours and row.length is None else "",
        beside=beside,
        differences=peers.differences(cell.confirmed, point.task) if cell and point and compared else {},
    )


def render(info: Info) -> Table:
    rows: list[tuple[str, ...]] = []
    bests = [standing_out([row.entries[task].ours for row in info.rows]) for task in range(len(info.tasks))]
    bold: set[tuple[int, int]] = set()
    said, obstacle = verdicts(entry.beside for row in info.rows for entry in row.entries)
    for number, row in enumerate(info.rows):
        own = said[number * len(info.tasks) : (number + 1) * len(info.tasks)]
        shown = [f"{e.published_percent:.1f}" if e.published_percent is not None else "" for e in row.entries]
        rows.append((row.cell, "published", _printed(row.published_parameters), *shown))
        bold |= {(len(rows), 3 + task) for task, which in enumerate(bests) if which == number}
        ours = [e.ours for e in row.entries]
        rows.append((row.cell, "ours (N)", _span(row), *(f"{percent(e.mean)} ({e.seeds})" if e else "" for e in ours)))
        if any(ours):
            rows.append((row.cell, "95 % CI", "", *(bounds(e) if e else "" for e in ours)))
        if any(gaps := [e.beside.points if e.beside and e.beside.difference is not None else "" for e in row.entries]):
            rows.append((row.cell, "difference, pp", "", *gaps))
        if any(e.beside for e in row.entries):
            rows.append((row.cell, "verdict", "", *own))
        if any(differing := [", ".join(e.differences) for e in row.entries]):
            rows.append((row.cell, "differs in", "", *differing))
    estimates = [e.ours for row in info.rows for e in row.entries if e.ours]
    return Table(
        caption=f"Table 2 of the paper (T5-base) beside {info.backbone}",
        columns=(
            Column(title="method", align="left", once=True),
            Column(title="what", align="left"),
            *numbers("params", *(f"{task} %" for task in info.tasks)),
        ),
        rows=tuple(rows),
        notes=(
            "Ours: means over N seeds. " + describe(estimates) if estimates else "",
            _settings(info),
            _scored(info),
            obstacle or VERDICTS,
            BOLD if bold else "",
            *_differences(info),
            published.MIXED_PROTOCOLS,
            published.UNDER_TUNED,
            published.NOT_ONE_RUN,
            published.NOISE,
        ),
        bold=frozenset(bold),
    )


def _printed(parameters: int) -> str:
    """A count as the paper prints it: above a million it is rounded."""
    return f"{parameters / 1e6:g}M" if parameters >= 1e6 else count(parameters)


def _span(row: Row) -> str:
    sizes = sorted({e.parameters for e in row.entries if e.parameters is not None})
    return " to ".join(dict.fromkeys(map(count, (*sizes[:1], *sizes[-1:]))))


def _settings(info: Info) -> str:
    """Which setting ours are of, where the paper states none."""
    parts = []
    for row in info.rows:
        tasks: dict[str, list[str]] = {}
        for task, entry in zip(info.tasks, row.entries, strict=True):
            if entry.size:
                tasks.setdefault(entry.size, []).append(task)
        if tasks:
            parts.append(f"{row.cell} " + ", ".join(f"{size} ({', '.join(on)})" for size, on in tasks.items()))
    return f"Settings of ours, of several the best on selection accuracy: {'; '.join(parts)}." if parts else ""


def _differences(info: Info) -> list[str]:
    """What the words of "differs in" stand for, and DePT's released runs where ours stand beside them."""
    said: dict[str, list[str]] = {}  # tasks by difference
    for row in info.rows:
        for task, entry in zip(info.tasks, row.entries, strict=True):
            for word, text in entry.differences.items():
                of_dept = "" if word in peers.COMMON else "of DePT, "
                tasks = said.setdefault(f"{of_dept}{word}: {text}", [])
                tasks += [task] if of_dept else []
    if not said:
        return []
    parts = [f"{text} ({', '.join(tasks)})" if tasks else text for text, tasks in said.items()]
    compared = any(entry.differences for row in info.rows if row.cell == "DePT" for entry in row.entries)
    return [
        f"What ours differs in from the published runs, the rates aside, which are searched: {'; '.join(parts)}.",
        *([peers.released(published.T5_TASKS)] if compared else []),
    ]


def _scored(info: Info) -> str:
    parts = []
    for i, task in enumerate(info.tasks):
        if sizes := sorted({e.test_n for row in info.rows if (e := row.entries[i].ours)}):
            parts.append(f"{task} {' or '.join(map(count, sizes))}")
    return f"Examples that ours are scored on: {', '.join(parts)}." if parts else ""


SPEC = TableSpec(
    name="table2",
    title="Six methods on five tasks (Table 2)",
    info=compute,
    render=render,
    across=True,
    place=80,
    published=True,
)
