"""Accuracy against trainable parameters, with the frontier: how few parameters are enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import published, style
from analysis.cells import Cell, Group, method_label
from analysis.frontier import pareto
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import percents
from analysis.stats import Estimate, describe

_LABEL_ALL = 16  # more points than this: only the frontier is labelled
_DODGE_PT, _LABEL_PT, _LABEL_LETTER_PT = 9.0, 10.0, 4.7
_LEGEND_PT, _HANDLE_PT, _LETTER_PT = 470.0, 34.0, 4.7  # widths: of the legend, of an entry's marker, of a letter


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
    cells = [(c, c.accuracy, c.trainable_parameters) for c in group.confirmed]
    known = [(c, a, n) for c, a, n in cells if a is not None and n is not None]
    if len(known) < 2:
        return Missing(f"it needs two confirmed cells; there {'is one' if known else 'are none'}")
    front = set(pareto([(n, a.mean) for _, a, n in known]))
    points = tuple(
        Point(parameters=n, accuracy=a, method=c.method, label=_label(c), on_front=i in front)
        for i, (c, a, n) in enumerate(known)
    )
    return Info(group=group, points=points, published=published.comparable(group))


def _label(cell: Cell) -> str:
    """The colour says the method; without a length, a name reads better than a rank alone."""
    return cell.size if cell.length is not None else cell.label


def _vertical(info: Info) -> tuple[list[tuple[float, str]], tuple[float, float], bool]:
    """The lines without training, the range of the points, and whether the axis is broken between them, in percent."""
    ends = [100 * e for p in info.points for e in (p.accuracy.low, p.accuracy.high)]
    ends += [p.accuracy_percent for p in info.published]
    known = (("no prompt", info.group.zero_shot_accuracy), ("majority class", info.group.majority_accuracy))
    floors = [(100 * value, f"{name} {100 * value:.1f} %") for name, value in known if value is not None]
    low, high = min(ends), max(ends)
    # Else the points would lie flat on top.
    return floors, (low, high), bool(floors) and low - max(y for y, _ in floors) > 0.8 * (high - low)


def draw(info: Info) -> Figure:
    floors, (low, high), broken = _vertical(info)
    handles = _handles(info)
    legend_rows = _rows([str(handle.get_label()) for handle in handles])
    with matplotlib.rc_context(style.RC):
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
        style.reference_lines(foot, floors)
        _draw_points(axes, info)
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.005),
            ncols=math.ceil(len(handles) / legend_rows),
            columnspacing=1.4,
            borderpad=0.2,
        )
        foot.set_xlabel("trainable parameters (log₂ scale)")
        axes.set_ylabel("test accuracy, %")
        return figure


def _draw_points(axes: Axes, info: Info) -> None:
    """Points of nearly one x are set apart, and labelled beside their cluster with leaders."""
    to_points = 72 / axes.figure.dpi
    at = [axes.transData.transform((p.parameters, 100 * p.accuracy.mean)) * to_points for p in info.points]
    x_pt = style.spread([float(x) for x, _ in at], _DODGE_PT if len(info.points) <= _LABEL_ALL else 0.0)
    y_pt = [float(y) for _, y in at]

    def data(x: float, y: float) -> tuple[float, float]:
        x, y = axes.transData.inverted().transform((x / to_points, y / to_points))
        return float(x), float(y)

    xs = [data(x, y)[0] for x, y in zip(x_pt, y_pt, strict=True)]
    for point, x in zip(info.points, xs, strict=True):
        colour, marker = style.method_style(point.method)
        a = point.accuracy
        bars = [[100 * (a.mean - a.low)], [100 * (a.high - a.mean)]]
        axes.errorbar(x, 100 * a.mean, yerr=bars, color=colour, elinewidth=1, alpha=0.55, fmt="none", zorder=3)
        axes.plot(x, 100 * a.mean, marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7, zorder=7)
    ours = {(p.method, p.parameters): x for p, x in zip(info.points, xs, strict=True)}
    published_pt = []
    for known in info.published:  # set apart as ours of the same setting is
        colour, marker = style.method_style(known.method)
        x = ours.get((known.method, known.trainable_parameters), known.trainable_parameters)
        at_x, at_y = axes.transData.transform((x, known.accuracy_percent)) * to_points
        published_pt.append((float(at_x), float(at_y)))
        axes.plot(x, known.accuracy_percent, marker, mfc="none", mec=colour, mew=1.2, markersize=7.5, zorder=6.5)

    front = sorted((x, 100 * p.accuracy.mean) for p, x in zip(info.points, xs, strict=True) if p.on_front)
    steps = [*front, (axes.get_xlim()[1], front[-1][1])]
    axes.step(*zip(*steps, strict=True), where="post", color=style.INK, linewidth=1, alpha=0.65, zorder=2)

    labelled = [i for i, p in enumerate(info.points) if p.on_front or len(info.points) <= _LABEL_ALL]
    edge_pt = float(axes.transAxes.transform((0, 0))[0]) * to_points
    taken = list(zip(x_pt, y_pt, strict=True)) + published_pt  # markers, and the labels set so far
    for cluster in _clusters(labelled, x_pt, _DODGE_PT * 1.7):
        width = _LABEL_LETTER_PT * max(len(info.points[i].label) for i in cluster)
        first, last = min(x_pt[i] for i in cluster), max(x_pt[i] for i in cluster)
        heights = style.spread([y_pt[i] for i in cluster], _LABEL_PT)
        hidden = {
            side: sum(start - 5 < x < start + width + 5 and any(abs(y - h) < 9 for h in heights) for x, y in taken)
            for side, start in ((1, last + 11), (-1, first - 11 - width))
        }
        side = -1 if hidden[-1] < hidden[1] and first - 11 - width > edge_pt - 8 else 1
        anchor = last + 11 if side > 0 else first - 11
        taken += [(anchor + side * reach * width, h) for h in heights for reach in (0, 0.25, 0.5, 0.75, 1)]
        for i, height in zip(cluster, heights, strict=True):
            point, colour = info.points[i], style.method_style(info.points[i].method)[0]
            if abs(anchor - x_pt[i]) > 12 or abs(height - y_pt[i]) > 4:
                ends = data(x_pt[i] + 4 * side, y_pt[i]), data(anchor - side, height)
                axes.plot(*zip(*ends, strict=True), color=colour, linewidth=0.6, alpha=0.8, zorder=5)
            axes.text(
                *data(anchor, height),
                point.label,
                color=colour,
                fontsize=8,
                va="center",
                ha="left" if side > 0 else "right",
                zorder=6,
                bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.9},
            )


def _clusters(indices: list[int], x: list[float], gap: float) -> list[list[int]]:
    clusters: list[list[int]] = []
    for i in sorted(indices, key=lambda i: x[i]):
        if clusters and x[i] - x[clusters[-1][-1]] <= gap:
            clusters[-1].append(i)
        else:
            clusters.append([i])
    return clusters


def _rows(labels: list[str]) -> int:
    """In how many rows a legend of these labels fits; it is filled column by column."""
    for rows in range(1, len(labels) + 1):
        columns = [labels[i : i + rows] for i in range(0, len(labels), rows)]
        if sum(_HANDLE_PT + _LETTER_PT * max(map(len, column)) for column in columns) <= _LEGEND_PT:
            return rows
    return len(labels)


def _handles(info: Info) -> list[Line2D]:
    """The legend: methods of ours, the frontier, then what is published only."""
    handles = []
    ours = dict.fromkeys(p.method for p in info.points)
    for method in ours:
        colour, marker = style.method_style(method)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=method_label(method)))
    handles.append(Line2D([], [], color=style.INK, linewidth=1, alpha=0.65, label="frontier"))
    if info.published:
        hollow = Line2D([], [], color=style.INK, marker="o", mfc="none", linestyle="", label="published (hollow)")
        handles.append(hollow)
    for method in dict.fromkeys(p.method for p in info.published if p.method not in ours):
        colour, marker = style.method_style(method)
        look = Line2D([], [], color=colour, marker=marker, mfc="none", linestyle="", label=method_label(method))
        handles.append(look)
    return handles


def caption(info: Info) -> str:
    text = f"Accuracy against trainable parameters on {info.group.title}: means over the confirmed seeds. "
    text += describe([p.accuracy for p in info.points])
    text += " The frontier joins the cells that no other beats with as few parameters. "
    text += "Points of nearly equal size are set apart sideways"
    text += "; mind where the y axis is broken." if _vertical(info)[2] else "."
    if info.published:
        text += " Hollow: published on the same backbone, task and split."
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


SPEC = PlotSpec(name="pareto", title="Accuracy against parameters", info=compute, draw=draw, caption=caption, data=data)
