"""Accuracy against trainable parameters, with the frontier: how few parameters are enough."""

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis import published, style
from analysis.cells import Group
from analysis.compare_published import comparable_points
from analysis.frontier import pareto_indices
from analysis.labels import BAR_COST, LINE_COST, MARKER_COST, Labels
from analysis.methods import sorted_methods
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import data_columns
from analysis.stats import Estimate, intervals_note

_MOST_LABELS = 16  # if there are more points, only those on the frontier are labelled
_LEAST_DISTANCE_PT = 2.5  # from one point to the next, if their parameter counts are nearly equal: under half a marker
_ZERO_ROOM = 0.08  # the width between zero parameters and the other part of the axis, as a share of that part
_LEGEND_PT = 470.0  # the width of the legend


@dataclass(frozen=True, kw_only=True)
class Point:
    parameters: int
    accuracy: Estimate
    method: str
    label: str
    is_on_frontier: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    points: tuple[Point, ...]
    published: tuple[published.Point, ...]
    no_prompt: float | None  # the accuracy (a fraction) without a prompt, which is a point of zero parameters


def compute(group: Group) -> Info | Missing:
    cells_with_results = [
        (cell, cell.accuracy, cell.trainable_parameters)
        for cell in group.confirmed_cells
        if cell.accuracy and cell.trainable_parameters
    ]
    if len(cells_with_results) < 2:
        return Missing(f"it needs two confirmed cells; there {'is one' if cells_with_results else 'are none'}")
    frontier_indices = set(
        pareto_indices([(parameters, accuracy.mean) for _, accuracy, parameters in cells_with_results])
    )
    frontier_indices = {i for i in frontier_indices if group.is_above_no_prompt(cells_with_results[i][0])}
    points = tuple(
        Point(
            parameters=parameters,
            accuracy=accuracy,
            method=cell.method,
            # The colour shows the method, so length and rank suffice. A cell without a length is named in full.
            label=cell.label if cell.length is None else cell.shape_text,
            is_on_frontier=i in frontier_indices,
        )
        for i, (cell, accuracy, parameters) in enumerate(cells_with_results)
    )
    return Info(group=group, points=points, published=comparable_points(group), no_prompt=group.zero_shot_accuracy)


def _baselines(info: Info) -> list[tuple[float, str]]:
    """Return the height (in percent) and name of each known baseline."""
    fractions = (("no prompt", info.group.zero_shot_accuracy), ("majority class", info.group.majority_accuracy))
    return [(100 * fraction, f"{name} {100 * fraction:.1f} %") for name, fraction in fractions if fraction is not None]


def _accuracy_range(info: Info) -> tuple[float, float]:
    """Return the lowest and the highest accuracy of the points and their intervals, in percent."""
    ends = [100 * end for point in info.points for end in (point.accuracy.low, point.accuracy.high)]
    ends += [point.accuracy_percent for point in info.published]
    return min(ends), max(ends)


def _is_broken(info: Info) -> bool:
    """Whether the y axis is broken between baselines and points, because the points would be squeezed at the top."""
    baselines, (low, high) = _baselines(info), _accuracy_range(info)
    return bool(baselines) and low - max(y for y, _ in baselines) > 0.8 * (high - low)


@style.in_style
def draw(info: Info) -> Figure:
    baselines, (low, high), is_broken = _baselines(info), _accuracy_range(info), _is_broken(info)
    handles = _legend_handles(info)
    legend_row_count = style.count_legend_rows([str(handle.get_label()) for handle in handles], _LEGEND_PT)
    figure = Figure(figsize=(7.2, 4.9))
    bottom = 0.27 if is_broken else 0.11
    axes = figure.add_axes((0.08, bottom, 0.885, 0.97 - 0.04 * legend_row_count - bottom))
    lower_axes = figure.add_axes((0.08, 0.11, 0.885, 0.135), sharex=axes) if is_broken else axes
    baseline_heights = [y for y, _ in baselines]
    if is_broken:
        style.draw_axis_break(axes, lower_axes)
        room = max(4.0, 0.9 * (max(baseline_heights) - min(baseline_heights)))
        lower_axes.set_ylim(min(baseline_heights) - room, max(baseline_heights) + room)
    else:
        low, high = min([low, *baseline_heights]), max([high, *baseline_heights])
    room = max(0.5, 0.06 * (high - low))
    axes.set_ylim(max(0.0, low - room), min(100.5, high + room))
    parameter_counts = [point.parameters for point in info.points]
    parameter_counts += [point.trainable_parameters for point in info.published]
    fewest_parameters, most_parameters = min(parameter_counts), max(parameter_counts)
    size_ratio = max(most_parameters / fewest_parameters, 2.0)
    # If the counts span a wide range, the first labels need more room on their left.
    left_room = 0.06 if size_ratio < 1000 else 0.2
    right_room = 0.15 if max(len(point.label) for point in info.points) < 9 else 0.26  # room for the last labels
    left_end = fewest_parameters / size_ratio**left_room
    style.log2_axis(lower_axes, left_end, most_parameters * size_ratio**right_room)
    if info.no_prompt is not None:
        left_end /= size_ratio**_ZERO_ROOM
        _add_zero(lower_axes, left_end)
    labels = Labels(axes)
    lower_labels = Labels(lower_axes) if is_broken else labels
    _draw_points(axes, info, labels)
    for panel, panel_labels in {axes: labels, lower_axes: lower_labels}.items():
        _draw_frontier(panel, info, panel_labels, left_end)
    lower_labels.draw_levels(baselines)
    _label_points(info, labels)
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.005),
        ncols=math.ceil(len(handles) / legend_row_count),
        columnspacing=1.4,
        borderpad=0.2,
    )
    lower_axes.set_xlabel("trainable parameters (log scale)")
    axes.set_ylabel(f"test {info.group.score_name}, %")
    return figure


def _draw_points(axes: Axes, info: Info, labels: Labels) -> None:
    for point, x in zip(info.points, _spread_points(axes, info), strict=True):
        colour, marker = style.method_style(point.method)
        low, mean, high = (100 * value for value in (point.accuracy.low, point.accuracy.mean, point.accuracy.high))
        axes.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.55, zorder=3)
        axes.plot(x, mean, marker, color=colour, markersize=6.5, mec=style.PAPER, mew=0.7, zorder=7)
        labels.keep_off([(point.parameters, mean)], MARKER_COST)
        labels.keep_off_line([(x, low), (x, high)], BAR_COST)
    for published_point in info.published:
        colour, marker = style.method_style(published_point.method)
        position = published_point.trainable_parameters, published_point.accuracy_percent
        axes.plot(*position, marker, mfc="none", mec=colour, mew=1.2, markersize=7.5, zorder=6.5)
        labels.keep_off([position], MARKER_COST)


def _draw_frontier(axes: Axes, info: Info, labels: Labels, zero_x: float) -> None:
    """Draw the frontier, which begins at "no prompt" if that is known, and the point of "no prompt" at `zero_x`."""
    points = [(float(point.parameters), 100 * point.accuracy.mean) for point in info.points if point.is_on_frontier]
    if info.no_prompt is not None:
        points.append((zero_x, 100 * info.no_prompt))
        if axes.get_ylim()[0] <= 100 * info.no_prompt <= axes.get_ylim()[1]:  # else it is in the other panel
            marker: dict[str, Any] = {"markersize": 7.5, "mec": style.PAPER, "mew": 0.7, "zorder": 7, "clip_on": False}
            axes.plot(*points[-1], "X", color=style.INK, **marker)
            labels.keep_off([points[-1]], MARKER_COST)
    points.sort()
    corners = [points[0]]
    for size, accuracy in [*points[1:], (axes.get_xlim()[1], points[-1][1])]:
        corners += [(size, corners[-1][1]), (size, accuracy)]
    axes.plot(
        *zip(*corners, strict=True), color=style.INK, linewidth=3.2, alpha=0.22, zorder=2, solid_joinstyle="miter"
    )
    labels.keep_off_line(corners, LINE_COST)


def _add_zero(axes: Axes, x: float) -> None:
    """Extend a logarithmic x axis to the left up to `x`, with the tick 0 there and a break beside it."""
    old_left, right = axes.get_xlim()
    ticks = [tick for tick in axes.xaxis.get_majorticklocs() if old_left <= tick <= right]
    format_tick = axes.xaxis.get_major_formatter()
    axes.set_xlim(x, right)
    axes.xaxis.set_major_locator(FixedLocator([x, *ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, i: "0" if value == x else format_tick(value, i)))
    slash: dict[str, Any] = {"marker": [(-0.5, -1), (0.5, 1)], "markersize": 8, "linestyle": "none"}
    axes.plot([math.sqrt(x * old_left)], [0], transform=axes.get_xaxis_transform(), color=style.MUTED, clip_on=False,
              **slash)  # fmt: skip


def _spread_points(axes: Axes, info: Info) -> list[float]:
    """Return an x position for each point: its parameters, moved so that no marker hides the error bar of another."""
    points_per_pixel = 72 / axes.figure.dpi
    positions_px = [float(axes.transData.transform((point.parameters, 0))[0]) for point in info.points]
    positions_pt = [x * points_per_pixel for x in positions_px]
    data_transform = axes.transData.inverted()
    return [
        float(data_transform.transform((x / points_per_pixel, 0))[0])
        for x in style.move_apart(positions_pt, _LEAST_DISTANCE_PT)
    ]


def _label_points(info: Info, labels: Labels) -> None:
    """Label the points. Points on the frontier matter most. They are labelled first, and so get the best places."""
    labelled_points = [point for point in info.points if point.is_on_frontier or len(info.points) <= _MOST_LABELS]
    for point in sorted(labelled_points, key=lambda point: (not point.is_on_frontier, point.parameters)):
        labels.place((point.parameters, 100 * point.accuracy.mean), point.label, style.method_style(point.method)[0])


def _legend_handles(info: Info) -> list[Line2D]:
    """Return the legend's entries: the methods of this run, the frontier, then the methods that are only published."""
    our_methods = sorted_methods(point.method for point in info.points)
    other_methods = sorted_methods(point.method for point in info.published if point.method not in our_methods)
    handles = style.method_handles(our_methods)
    handles.append(Line2D([], [], color=style.INK, linewidth=3.2, alpha=0.22, label="frontier"))
    if info.no_prompt is not None:
        handles.append(Line2D([], [], color=style.INK, marker="X", linestyle="", label="no prompt"))
    if info.published:
        hollow_handle = Line2D(
            [], [], color=style.INK, marker="o", mfc="none", linestyle="", label="published (hollow)"
        )
        handles.append(hollow_handle)
    return [*handles, *style.method_handles(other_methods, mfc="none")]


def caption(info: Info) -> str:
    sentences = [
        f"Test {info.group.score_name} against trainable parameters on {info.group.title}. Each point is the mean "
        "over a cell's N "
        "confirmed seeds; the bar is its 95 % interval.",
        intervals_note([point.accuracy for point in info.points]),
        "The grey line is the frontier: it joins the cells that no other cell "
        + ("of this run " if info.published else "")
        + "beats with the same number of parameters or fewer. A label gives a cell's prompt length n and rank r"
        + ("." if len(info.points) <= _MOST_LABELS else "; it is only shown for cells on the frontier."),
        "Cells with the same number of parameters are drawn side by side, less than a marker apart.",
    ]
    if _baselines(info):
        sentences.append("The dashed lines are baselines, which need no training.")
    if info.no_prompt is not None:
        sentences.append(
            "The model without a prompt is a point of zero parameters, at the left end of the x axis, which is broken "
            f"beside it. A cell whose mean {info.group.score_name} is not above it is not on the frontier."
        )
    if _is_broken(info):
        sentences.append("The y axis is broken: it leaves out the values between these lines and the points.")
    if info.published:
        sentences.append(
            "Hollow points are published results on the same backbone, task and split, without intervals; the data "
            "file names their papers."
        )
    return " ".join(sentences)


def data(info: Info) -> list[Row]:
    our_rows = [
        {"source": "this run", "cell": point.label, "method": point.method, "parameters": point.parameters}
        | data_columns(point.accuracy)
        | {"on_frontier": point.is_on_frontier}
        for point in info.points
    ]
    their_rows = [
        {"source": point.source, "cell": point.row_name, "method": point.method}
        | {"parameters": point.trainable_parameters, "test_percent": point.accuracy_percent}
        for point in info.published
    ]
    no_prompt_rows: list[Row] = []
    if info.no_prompt is not None:
        no_prompt = {"source": "this run", "cell": "no prompt", "parameters": 0, "test_percent": 100 * info.no_prompt}
        no_prompt_rows.append({**no_prompt, "on_frontier": True})
    return [*our_rows, *no_prompt_rows, *their_rows]


SPEC = PlotSpec(
    name="pareto", title="Accuracy against parameters", info=compute, draw=draw, caption=caption, data=data, place=10
)
