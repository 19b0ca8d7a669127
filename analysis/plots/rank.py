"""Accuracy against rank, one line a prompt length, one panel a method, beside the full prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.comparisons import full_prompt
from analysis.labels import LINE, MARKER, Labels
from analysis.methods import FULL_PROMPT, in_order, method_label
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import percents
from analysis.stats import Estimate, describe


@dataclass(frozen=True, kw_only=True)
class Line:
    method: str
    length: int | None
    points: tuple[tuple[int, Estimate], ...]  # by rank


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    lines: tuple[Line, ...]
    full: Estimate | None
    full_label: str
    left_out: tuple[str, ...]  # methods of one rank at each length


def compute(group: Group) -> Info | Missing:
    found: dict[tuple[str, int | None], dict[int, Estimate]] = {}
    for cell in group.confirmed:
        if cell.rank is not None and cell.accuracy is not None:
            found.setdefault((cell.method, cell.length), {})[cell.rank] = cell.accuracy
    several = {method for (method, _), by_rank in found.items() if len(by_rank) > 1}
    if not several:
        return Missing("it needs confirmed cells of two ranks at one length")
    lines = tuple(
        Line(method=m, length=n, points=tuple((rank, by[rank]) for rank in sorted(by)))
        for (m, n), by in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0))
        if m in several
    )
    full = full_prompt(group)
    return Info(
        group=group,
        lines=lines,
        full=full.accuracy if full else None,
        full_label=full.size if full else "",
        left_out=tuple(sorted({method for method, _ in found} - several)),
    )


@style.in_style
def draw(info: Info) -> Figure:
    methods = in_order(line.method for line in info.lines)
    figure, panels = style.panels(
        map(method_label, methods), width=7.2 if len(methods) > 1 else 5.6, height=3.7, right=0.93
    )
    looks = style.level_styles(line.length for line in info.lines)
    for axes, method in zip(panels, methods, strict=True):
        lines = [line for line in info.lines if line.method == method]
        ranks = sorted({rank for line in lines for rank, _ in line.points})
        style.log2_axis(axes, ranks[0] / 1.25, ranks[-1] * 1.25, ranks)
        axes.set_xlabel("rank r")
        if info.full is not None:
            axes.axhspan(100 * info.full.low, 100 * info.full.high, color=style.MUTED, alpha=0.12, linewidth=0)
        _draw_lines(axes, lines, looks)
    style.y_label(panels, "test accuracy, %")
    for axes, method in zip(panels, methods, strict=True):  # once the shared y axis has its limits
        lines = [line for line in info.lines if line.method == method]
        if info.full is not None:
            named = Labels(axes)
            for line in lines:
                named.keep_off_line([(rank, 100 * a.mean) for rank, a in line.points], LINE)
            for x, accuracy in _bars(lines):
                named.keep_off([(x, 100 * accuracy.mean)], MARKER)
                named.keep_off_line([(x, 100 * accuracy.low), (x, 100 * accuracy.high)], LINE)
            named.level(100 * info.full.mean, f"full prompt {info.full_label}")
        ends = [(*line.points[-1], line.length) for line in lines]
        names = ((r * 1.03, 100 * a.mean, "" if n is None else f"n={n}", looks[n][0]) for r, a, n in ends)
        style.end_labels(axes, names)
    return figure


def _bars(lines: Sequence[Line]) -> list[tuple[float, Estimate]]:
    """Where each accuracy is drawn: at its rank, those of several lengths side by side."""
    shifts = [1.03 ** (i - (len(lines) - 1) / 2) for i in range(len(lines))]
    return [(r * shift, a) for line, shift in zip(lines, shifts, strict=True) for r, a in line.points]


def _draw_lines(axes: Axes, lines: Sequence[Line], looks: Mapping[int | None, tuple[str, str]]) -> None:
    bars = iter(_bars(lines))
    for line in lines:
        colour, marker = looks[line.length]
        own = [next(bars) for _ in line.points]
        for x, a in own:
            axes.plot([x, x], [100 * a.low, 100 * a.high], color=colour, linewidth=1, alpha=0.5, zorder=3)
        axes.plot(
            [x for x, _ in own], [100 * a.mean for _, a in own],
            marker=marker, color=colour, markersize=6, mec=style.PAPER, mew=0.7, zorder=4,
        )  # fmt: skip


def caption(info: Info) -> str:
    estimates = [a for line in info.lines for _, a in line.points] + ([info.full] if info.full else [])
    text = f"Accuracy against rank on {info.group.title}, one line a prompt length n; means over the confirmed seeds. "
    text += describe(estimates)
    if info.left_out:
        text += f" Left out, with one rank at each length: {', '.join(map(method_label, info.left_out))}."
    return text + (" Dashed, with its interval shaded: the full prompt." if info.full else "")


def data(info: Info) -> list[Row]:
    rows: list[Row] = [
        {"method": line.method, "length": line.length, "rank": rank, **percents(accuracy)}
        for line in info.lines
        for rank, accuracy in line.points
    ]
    if info.full:
        rows.append({"method": FULL_PROMPT, "cell": info.full_label, **percents(info.full)})
    return rows


SPEC = PlotSpec(
    name="rank", title="Accuracy against rank", info=compute, draw=draw, caption=caption, data=data, place=90
)
