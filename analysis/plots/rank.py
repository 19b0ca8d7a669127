"""Accuracy against rank: one panel for each method, one line for each prompt length, and the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.accuracy_lines import draw_accuracies
from analysis.cells import Cell, Group
from analysis.comparisons import cell_name, reference_cell
from analysis.labels import LINE_COST, MARKER_COST, Labels
from analysis.methods import FULL_PROMPT, method_label, sorted_methods
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import data_columns
from analysis.stats import Estimate, intervals_note


@dataclass(frozen=True, kw_only=True)
class Line:
    method: str
    length: int | None
    points: tuple[tuple[int, Estimate], ...]  # (rank, accuracy), in the order of the ranks


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    lines: tuple[Line, ...]
    reference: Cell | None
    left_out_methods: tuple[str, ...]  # the methods that have a single rank at each length


def compute(group: Group) -> Info | Missing:
    accuracies_by_line: dict[tuple[str, int | None], dict[int, Estimate]] = {}
    for cell in group.confirmed_cells:
        if cell.rank is not None and cell.accuracy is not None:
            accuracies_by_line.setdefault((cell.method, cell.length), {})[cell.rank] = cell.accuracy
    methods_with_several_ranks = {
        method for (method, _), accuracy_by_rank in accuracies_by_line.items() if len(accuracy_by_rank) > 1
    }
    if not methods_with_several_ranks:
        return Missing("it needs confirmed cells of one method and length with two ranks")
    lines = tuple(
        Line(
            method=method,
            length=length,
            points=tuple((rank, accuracy_by_rank[rank]) for rank in sorted(accuracy_by_rank)),
        )
        for (method, length), accuracy_by_rank in sorted(
            accuracies_by_line.items(), key=lambda item: (item[0][0], item[0][1] or 0)
        )
        if method in methods_with_several_ranks
    )
    return Info(
        group=group,
        lines=lines,
        reference=reference_cell(group),
        left_out_methods=tuple(sorted({method for method, _ in accuracies_by_line} - methods_with_several_ranks)),
    )


def _reference_accuracy(info: Info) -> Estimate | None:
    return info.reference.accuracy if info.reference else None


@style.in_style
def draw(info: Info) -> Figure:
    methods = sorted_methods(line.method for line in info.lines)
    figure, panels = style.panels(
        map(method_label, methods), width=7.2 if len(methods) > 1 else 5.6, height=3.7, right=0.93
    )
    styles = style.level_styles(line.length for line in info.lines)
    for axes, method in zip(panels, methods, strict=True):
        lines = [line for line in info.lines if line.method == method]
        ranks = sorted({rank for line in lines for rank, _ in line.points})
        style.log2_axis(axes, ranks[0] / 1.25, ranks[-1] * 1.25, ranks)
        axes.set_xlabel("rank r")
        if accuracy := _reference_accuracy(info):
            axes.axhspan(100 * accuracy.low, 100 * accuracy.high, color=style.MUTED, alpha=0.12, linewidth=0)
        _draw_lines(axes, lines, styles)
    style.set_y_label(panels, f"test {info.group.score_name}, %")
    for axes, method in zip(panels, methods, strict=True):  # the shared y axis now has its final limits
        _label_lines(axes, [line for line in info.lines if line.method == method], info, styles)
    return figure


def _label_lines(axes: Axes, lines: Sequence[Line], info: Info, styles: Mapping[int | None, tuple[str, str]]) -> None:
    """Name the reference's level, and each line at its right end."""
    if info.reference and info.reference.accuracy:
        labels = Labels(axes)
        for line in lines:
            labels.keep_off_line([(rank, 100 * accuracy.mean) for rank, accuracy in line.points], LINE_COST)
        for x, accuracy in _positions(lines):
            labels.keep_off([(x, 100 * accuracy.mean)], MARKER_COST)
            labels.keep_off_line([(x, 100 * accuracy.low), (x, 100 * accuracy.high)], LINE_COST)
        name = "full prompt" if info.reference.method == FULL_PROMPT else method_label(info.reference.method)
        labels.draw_level(100 * info.reference.accuracy.mean, f"{name} {info.reference.shape_text}".rstrip())
    last_points = [(*line.points[-1], line.length) for line in lines]
    end_labels = (
        (rank * 1.03, 100 * accuracy.mean, "" if length is None else f"n={length}", styles[length][0])
        for rank, accuracy, length in last_points
    )
    style.draw_end_labels(axes, end_labels)


def _positions(lines: Sequence[Line]) -> list[tuple[float, Estimate]]:
    """Return (x, accuracy) for each point. Its x is its rank, shifted so that the points of several lengths are side by
    side."""
    shifts = [1.03 ** (i - (len(lines) - 1) / 2) for i in range(len(lines))]
    return [
        (rank * shift, accuracy) for line, shift in zip(lines, shifts, strict=True) for rank, accuracy in line.points
    ]


def _draw_lines(axes: Axes, lines: Sequence[Line], styles: Mapping[int | None, tuple[str, str]]) -> None:
    positions = iter(_positions(lines))
    for line in lines:
        points = [next(positions) for _ in line.points]
        draw_accuracies(axes, points, styles[line.length])


def caption(info: Info) -> str:
    estimates = [accuracy for line in info.lines for _, accuracy in line.points]
    if accuracy := _reference_accuracy(info):
        estimates.append(accuracy)
    sentences = [
        f"Test {info.group.score_name} against rank on {info.group.title}, with one line for each prompt length n. "
        "Each point is the "
        "mean over a cell's N confirmed seeds; the bar is its 95 % interval.",
        intervals_note(estimates),
    ]
    if info.left_out_methods:
        methods = ", ".join(map(method_label, info.left_out_methods))
        sentences.append(f"Methods with a single rank at each length are left out: {methods}.")
    if info.reference:
        sentences.append(
            f"The dashed line is the reference, {cell_name(info.reference)}, and the grey band is its interval."
        )
    return " ".join(sentences)


def data(info: Info) -> list[Row]:
    rows: list[Row] = [
        {"method": line.method, "length": line.length, "rank": rank, **data_columns(accuracy)}
        for line in info.lines
        for rank, accuracy in line.points
    ]
    if info.reference and info.reference.accuracy:
        reference = {"method": info.reference.method, "cell": info.reference.shape_text}
        rows.append({**reference, **data_columns(info.reference.accuracy)})
    return rows


SPEC = PlotSpec(
    name="rank", title="Accuracy against rank", info=compute, draw=draw, caption=caption, data=data, place=90
)
