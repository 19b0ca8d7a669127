"""Every look of a run that adds seeds until it is decided: the tests, their levels, and what came out."""

from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.comparisons import courses
from analysis.looks import CellCourse, Look
from analysis.looks_text import design_sentences
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One look at one smaller cell. `result` is what followed from it."""

    label: str
    look: Look
    margin: float
    result: str


def compute(group: Group) -> Info[Row] | Missing:
    all_courses = courses(group)
    if all_courses is None:
        return Missing("the run has a fixed number of seeds", quiet=True)
    rows = tuple(
        Row(label=course.cell.label, look=look, margin=group.margin, result=_result(course, i))
        for course in all_courses.all
        for i, look in enumerate(course.looks)
    )
    return Info(group=group, rows=rows) if rows else Missing("no look has been possible yet")


def _result(course: CellCourse[Cell], index: int) -> str:
    if index + 1 < len(course.looks) or course.is_open:
        return "more seeds"
    return course.outcome if course.outcome != "undecided" else f"open: {course.reason}"


def render(info: Info[Row]) -> Table:
    return Table.from_rows(
        info.rows,
        caption=f"Looks until it is decided: {info.group.title}",
        columns=(
            Column(title="smaller cell", align="left", text=lambda row: row.label),
            Column(title="seeds", text=_seeds_text),
            Column(title="difference, pp", text=lambda row: str(row.look.difference)),
            Column(
                title="p, non-inferior",
                text=lambda row: _number(row.look.difference.p_non_inferior(row.margin)),
            ),
            Column(title="level", csv_name="level_non_inferior", text=lambda row: _number(row.look.level_non_inferior)),
            Column(title="p, inferior", text=lambda row: _number(row.look.difference.p_inferior(row.margin))),
            Column(title="level ", csv_name="level_inferior", text=lambda row: _number(row.look.level_inferior)),
            Column(title="then", align="left", text=lambda row: row.result),
        ),
        notes=tuple(design_sentences(info.group)),
    )


def _seeds_text(row: Row) -> str:
    """Return the seeds of the look; in brackets those of the cell and the reference that did not diverge, if fewer."""
    counts = row.look.difference.seed_count_a, row.look.difference.seed_count_b
    return str(row.look.seeds) + (f" ({counts[0]}, {counts[1]})" if min(counts) < row.look.seeds else "")


def _number(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


SPEC = TableSpec(name="looks", title="Looks until it is decided", info=compute, render=render, place=51)
