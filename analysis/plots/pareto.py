"""Accuracy against trainable parameters, with the frontier: how few parameters are enough."""

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import published, style
from analysis.beside_published import comparable
from analysis.cells import Group
from analysis.frontier import pareto
from analysis.labels import BAR, LINE, MARKER, Labels
from analysis.methods import in_order
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import percents
from analysis.stats import Estimate, describe

_LABEL_ALL = 16  # more points than this: only the frontier is labelled
_APART_PT = 2.5  # points of nearly one size are drawn so far apart: less than the half of a marker
_LEGEND_PT = 470.0


@dataclass(frozen=True, kw_only=True)
class Point:
    parameters: int
    accuracy: Estimate
    method: str
    label: str
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    points: tuple[Point, ...]
    published: tuple[published.Point, ...]


def compute(group: Group) -> Info | Missing:
    known = [(c, c.accuracy, c.trainable_parameters) for c in group.confirmed if c.accuracy and c.trainable_parameters]
    if len(known) < 2:
        return Missing(f"it needs two confirmed cells; there {'is one' if known else 'are none'}")
    front = set(pareto([(n, a.mean) for _, a, n in known]))
    # The colour says the method; without a length, a name reads better than a rank alone.
    labels = [c.label if c.length is None else c.size for c, _, _ in known]
    points = tuple(
        Point(parameters=n, accuracy=a, method=c.method, label=labels[i], on_front=i in front)
        for i, (c, a, n) in enumerate(known)
    )
    return Info(group=group, points=points, published=comparable(group))


def _vertical(info: Info) -> tuple[list[tuple[float, str]], tuple[float, float], bool]:
    """The lines without training, the range of the points, and whether the axis is broken between them, in percent."""
    ends = [100 * e for p in info.points for e in (p.accuracy.low, p.accuracy.high)]
    ends += [p.accuracy_percent for p in info.published]
    known = (("no prompt", info.group.zero_shot_accuracy), ("majority class", info.group.majority_accuracy))
    floors = [(100 * value, f"{name} {100 * value:.1f} %") for name, value in known if value is not None]
    low, high = min(ends), max(ends)
    # Else the points would lie flat on top.
    return floors, (low, high), bool(floors) and low - max(y for y, _ in floors) > 0.8 * (high - low)


@style.in_style
def draw(info: Info) -> Figure:
    floors, (low, high), broken = _vertical(info)
    handles = _handles(info)
    legend_rows = style.legend_rows([str(handle.get_label()) for handle in handles], _LEGEND_PT)
    figure = Figure(figsize=(7.2, 4.9))
    foot_of = 0.27 if broken else 0.11
    axes = figure.add_axes((0.08, foot_of, 0.885, 0.97 - 0.04 * legend_rows - foot_of))
    foot = figure.add_axes((0.08, 0.11, 0.885, 0.135), sharex=axes) if broken else axes
    if broken:
        style.break_mark(axes, foot)
        ys = [y for y, _ in floors]
        room = max(4.0, 0.9 * (max(ys) - min(ys)))
        foot.set_ylim(min(ys) - room, max(ys) + room)
    else:
        low, high = min([low, *(y for y, _ in floors)]), max([high, *(y for y, _ in floors)])
    room = max(0.5, 0.06 * (high - low))
    axes.set_ylim(max(0.0, low - room), min(100.5, high + room))
    sizes = [p.parameters for p in info.points] + [p.trainable_parameters for p in info.published]
    span = max(max(sizes) / min(sizes), 2.0)
    left = 0.06 if span < 1000 else 0.2  # where an inch is many sizes, the first labels need room at their left
    right = 0.15 if max(len(p.label) for p in info.points) < 9 else 0.26  # the last labels need room, too
    style.log2_axis(foot, min(sizes) / span**left, max(sizes) * span**right)
    named = Labels(axes)
    _draw_points(axes, info, named)
    (Labels(foot) if broken else named).levels(floors)
    _label_points(info, named)
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.005),
        ncols=math.ceil(len(handles) / legend_rows),
        columnspacing=1.4,
        borderpad=0.2,
    )
    foot.set_xlabel("trainable parameters (log scale)")
    axes.set_ylabel("test accuracy, %")
    return figure


def _draw_points(axes: Axes, info: Info, labels: Labels) -> None:
    for point, x in zip(info.points, _apart(axes, info), strict=True):
        colour, marker = style.method_style(point.method)
        a = point.accuracy
        axes.plot([x, x], [100 * a.low, 100 * a.high], color=colour, linewidth=1, alpha=0.55, zorder=3)
        axes.plot(x, 100 * a.mean, marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7, zorder=7)
        labels.keep_off([(point.parameters, 100 * a.mean)], MARKER)
        labels.keep_off_line([(x, 100 * a.low), (x, 100 * a.high)], BAR)
    for known in info.published:
        colour, marker = style.method_style(known.method)
        at = known.trainable_parameters, known.accuracy_percent
        axes.plot(*at, marker, mfc="none", mec=colour, mew=1.2, markersize=7.5, zorder=6.5)
        labels.keep_off([at], MARKER)
    front = sorted((float(p.parameters), 100 * p.accuracy.mean) for p in info.points if p.on_front)
    corners = [front[0]]
    for size, accuracy in [*front[1:], (axes.get_xlim()[1], front[-1][1])]:
        corners += [(size, corners[-1][1]), (size, accuracy)]
    axes.plot(
        *zip(*corners, strict=True), color=style.INK, linewidth=3.2, alpha=0.22, zorder=2, solid_joinstyle="miter"
    )
    labels.keep_off_line(corners, LINE)


def _apart(axes: Axes, info: Info) -> list[float]:
    """Where each point is drawn: at its size, save that no two markers hide each other's error bars."""
    to_points = 72 / axes.figure.dpi
    at = [float(axes.transData.transform((p.parameters, 0))[0]) * to_points for p in info.points]
    back = axes.transData.inverted()
    return [float(back.transform((x / to_points, 0))[0]) for x in style.spread(at, _APART_PT)]


def _label_points(info: Info, labels: Labels) -> None:
    """The frontier's first, which are the ones that one looks for."""
    shown = [p for p in info.points if p.on_front or len(info.points) <= _LABEL_ALL]
    for point in sorted(shown, key=lambda p: (not p.on_front, p.parameters)):
        labels.place((point.parameters, 100 * point.accuracy.mean), point.label, style.method_style(point.method)[0])


def _handles(info: Info) -> list[Line2D]:
    """The legend: methods of ours, the frontier, then what is published only."""
    ours = in_order(p.method for p in info.points)
    theirs = in_order(p.method for p in info.published if p.method not in ours)
    handles = style.method_handles(ours)
    handles.append(Line2D([], [], color=style.INK, linewidth=3.2, alpha=0.22, label="frontier"))
    if info.published:
        hollow = Line2D([], [], color=style.INK, marker="o", mfc="none", linestyle="", label="published (hollow)")
        handles.append(hollow)
    return [*handles, *style.method_handles(theirs, mfc="none")]


def caption(info: Info) -> str:
    text = f"Accuracy against trainable parameters on {info.group.title}: means over the confirmed seeds. "
    text += describe([p.accuracy for p in info.points])
    text += " The frontier joins the cells that no other beats with as few parameters"
    text += ", of this run alone." if info.published else "."
    text += " n: prompt length, r: rank"
    text += "." if len(info.points) <= _LABEL_ALL else "; of many cells only the frontier's are named."
    text += " Cells of equal size stand side by side, less than a marker apart."
    if _vertical(info)[2]:
        text += " Mind where the y axis is broken."
    if info.published:
        text += " Hollow: published on the same backbone, task and split, without intervals; the data name the papers."
    return text


def data(info: Info) -> list[Row]:
    ours = [
        {"source": "this run", "cell": p.label, "method": p.method, "parameters": p.parameters}
        | percents(p.accuracy)
        | {"on_frontier": p.on_front}
        for p in info.points
    ]
    theirs = [
        {"source": p.source, "cell": p.cell, "method": p.method, "parameters": p.trainable_parameters}
        | {"test_percent": p.accuracy_percent}
        for p in info.published
    ]
    return [*ours, *theirs]


SPEC = PlotSpec(
    name="pareto", title="Accuracy against parameters", info=compute, draw=draw, caption=caption, data=data, place=10
)
