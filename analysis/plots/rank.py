"""Accuracy against rank, one line a prompt length, one panel a method, beside the full prompt."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import style
from analysis.cells import Group, method_label
from analysis.registry import Missing, PlotSpec, Row
from analysis.render import percents
from analysis.stats import Estimate, describe


@dataclass(frozen=True, kw_only=True)
class Line:
    method: str
    length: int | None
    ranks: tuple[int, ...]
    accuracies: tuple[Estimate, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    lines: tuple[Line, ...]
    full: Estimate | None
    full_label: str


def compute(group: Group) -> Info | Missing:
    found: dict[tuple[str, int | None], dict[int, Estimate]] = {}
    for cell in group.confirmed:
        if cell.rank is not None and cell.accuracy is not None:
            found.setdefault((cell.method, cell.length), {})[cell.rank] = cell.accuracy
    several = {method for (method, _), by_rank in found.items() if len(by_rank) > 1}
    if not several:
        return Missing("it needs confirmed cells of two ranks at one length")
    lines = tuple(
        Line(method=m, length=n, ranks=tuple(sorted(by)), accuracies=tuple(by[r] for r in sorted(by)))
        for (m, n), by in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0))
        if m in several
    )
    full = max(
        (c for c in group.confirmed if c.method == "prompt_tuning"),
        key=lambda c: c.selection_accuracy or 0,
        default=None,
    )
    return Info(group=group, lines=lines, full=full.accuracy if full else None, full_label=full.size if full else "")


def draw(info: Info) -> Figure:
    methods = list(dict.fromkeys(line.method for line in info.lines))
    with matplotlib.rc_context(style.RC):
        figure, panels = style.panels(len(methods), width=7.2 if len(methods) > 1 else 5.6, height=3.9, right=0.93)
        if len(methods) == 1:
            figure.subplots_adjust(left=0.1)
        looks = style.level_styles(line.length for line in info.lines)
        for axes, method in zip(panels, methods, strict=True):
            lines = [line for line in info.lines if line.method == method]
            ranks = sorted({r for line in lines for r in line.ranks})
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(ranks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.set_xlim(ranks[0] / 1.25, ranks[-1] * 1.25)
            axes.set_xlabel("rank r")
            axes.set_title(method_label(method), fontsize=9.5, loc="left")
            if info.full is not None:
                axes.axhspan(100 * info.full.low, 100 * info.full.high, color=style.MUTED, alpha=0.12, linewidth=0)
                axes.axhline(100 * info.full.mean, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=1)
            for i, line in enumerate(lines):
                colour, marker, _ = looks[line.length]
                shift = 1.03 ** (i - (len(lines) - 1) / 2)  # sets the bars of one rank apart
                xs = [r * shift for r in line.ranks]
                ys = [100 * a.mean for a in line.accuracies]
                bars = [
                    [100 * (a.mean - a.low) for a in line.accuracies],
                    [100 * (a.high - a.mean) for a in line.accuracies],
                ]
                lows, highs = [100 * a.low for a in line.accuracies], [100 * a.high for a in line.accuracies]
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.07, linewidth=0, zorder=2)
                axes.errorbar(xs, ys, yerr=bars, color=colour, elinewidth=1, alpha=0.5, fmt="none", zorder=3)
                axes.plot(xs, ys, marker=marker, color=colour, markersize=6, mec=style.PAPER, mew=0.7, zorder=4)
        style.y_label(panels, "test accuracy, %")
        for axes, method in zip(panels, methods, strict=True):  # once the shared y axis has its limits
            if info.full is not None:
                axes.annotate(
                    f"full prompt {info.full_label}",
                    (0.015, 100 * info.full.mean),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    color=style.MUTED,
                    fontsize=8,
                    path_effects=style.halo(),
                )
            labels = [
                (
                    line.ranks[-1] * 1.03,
                    100 * line.accuracies[-1].mean,
                    f"n={line.length}" if line.length is not None else "",
                    looks[line.length][0],
                )
                for line in info.lines
                if line.method == method
            ]
            style.end_labels(axes, labels)
        return figure


def caption(info: Info) -> str:
    estimates = [a for line in info.lines for a in line.accuracies] + ([info.full] if info.full else [])
    text = f"Accuracy against rank on {info.group.title}, one line a prompt length n; means over the confirmed seeds. "
    text += describe(estimates)
    return text + (" Dashed, with its interval shaded: the full prompt." if info.full else "")


def data(info: Info) -> list[Row]:
    rows: list[Row] = [
        {"method": line.method, "length": line.length, "rank": rank, **percents(accuracy)}
        for line in info.lines
        for rank, accuracy in zip(line.ranks, line.accuracies, strict=True)
    ]
    if info.full:
        rows.append({"method": "prompt_tuning", "cell": info.full_label, **percents(info.full)})
    return rows


SPEC = PlotSpec(name="rank", title="Accuracy against rank", info=compute, draw=draw, caption=caption, data=data)
