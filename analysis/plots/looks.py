"""The difference of each smaller cell from the reference at every look, with its repeated confidence interval."""

import math
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Cell, Group
from analysis.comparisons import courses
from analysis.looks import CellCourse
from analysis.registry import Missing, PlotSpec, Row

_COLUMNS, _MOST_PANELS = 3, 12


@dataclass(frozen=True, kw_only=True)
class Info:
    """`courses` are those of the smallest cells that have been looked at; `cell_count` counts the others as well."""

    group: Group
    courses: tuple[CellCourse[Cell], ...]
    cell_count: int


def compute(group: Group) -> Info | Missing:
    all_courses = courses(group)
    if all_courses is None:
        return Missing("the run has a fixed number of seeds", quiet=True)
    seen_courses = [course for course in all_courses.all if course.looks]
    if not seen_courses:
        return Missing("no look has been possible yet")
    return Info(group=group, courses=tuple(seen_courses[:_MOST_PANELS]), cell_count=len(seen_courses))


@style.in_style
def draw(info: Info) -> Figure:
    columns = min(_COLUMNS, len(info.courses))
    rows = math.ceil(len(info.courses) / columns)
    figure = Figure(figsize=(2.5 * columns + 0.4, 1.75 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    margin_pp = 100 * info.group.margin
    looks = [look for course in info.courses for look in course.looks]
    most_seeds = max(look.seeds for look in looks)
    least_seeds = min(look.seeds for look in looks)
    means = [100 * look.difference.mean for look in looks]
    # An interval of the first look may be very wide. The axis shows at least three margins and all differences.
    low = min([-3 * margin_pp, *(mean - margin_pp for mean in means)])
    high = max([2 * margin_pp, *(mean + margin_pp for mean in means)])
    for axes in grid.flat[len(info.courses) :]:
        axes.set_visible(False)
    for axes, course in zip(grid.flat, info.courses, strict=False):
        colour, marker = style.method_style(course.cell.method)
        axes.axhspan(low, -margin_pp, color=style.MUTED, alpha=0.12, linewidth=0)
        axes.axhline(-margin_pp, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=1)
        axes.axhline(0, color=style.INK, linewidth=0.8)
        for look in course.looks:
            ends = [max(low, 100 * look.difference.low), min(high, 100 * look.difference.high)]
            axes.plot([look.seeds] * 2, ends, color=colour, linewidth=1.2)
        axes.plot(
            [look.seeds for look in course.looks],
            [100 * look.difference.mean for look in course.looks],
            marker=marker,
            color=colour,
            linewidth=0.8,
            markersize=4.5,
        )
        outcome = course.outcome if course.outcome != "undecided" else "open"
        axes.set_title(f"{course.cell.label}: {outcome}", fontsize=8.5, loc="left")
        axes.set_ylim(low, high)
        axes.set_xlim(least_seeds - 0.8, most_seeds + 0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("seeds of the cell and of the reference", fontsize=9)
    figure.supylabel("difference, pp", fontsize=9)
    return figure


def caption(info: Info) -> str:
    text = (
        f"The test {info.group.score_name} of each smaller cell minus that of the reference on {info.group.title}, at "
        "every look of "
        "the run. Bars are repeated 95 % intervals: all intervals of a cell together miss the true difference with a "
        "chance of 5 %. Bars that leave the figure are cut at its edge. In the shaded area a cell is worse than the "
        "reference by more than the margin. A verdict is reached when a bar, at the level that the cells share, lies "
        "wholly on one side of the margin."
    )
    if info.cell_count > len(info.courses):
        text += f" Of {info.cell_count} cells, the {len(info.courses)} smallest are shown."
    return text


def data(info: Info) -> list[Row]:
    rows: list[Row] = []
    for course in info.courses:
        for look in course.looks:
            difference, is_last = look.difference, look is course.looks[-1]
            rows.append(
                {
                    "cell": course.cell.label,
                    "parameters": course.cell.trainable_parameters,
                    "seeds": look.seeds,
                    "difference_pp": 100 * difference.mean,
                    "difference_pp_low": 100 * difference.low,
                    "difference_pp_high": 100 * difference.high,
                    "outcome": course.outcome if is_last else "",
                    "reason": course.reason if is_last else "",
                }
            )
    return rows


SPEC = PlotSpec(name="looks", title="The looks", info=compute, draw=draw, caption=caption, data=data, place=41)
