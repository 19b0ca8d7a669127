"""Learning curves: selection accuracy by step, confirmed trials in colour over grey search trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import in_order, method_label
from analysis.records import grouped
from analysis.registry import Info, Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run; the seeds of a configuration share its cell."""

    method: str
    cell: str
    rank: int | None
    confirmed: bool
    steps: tuple[int, ...]
    accuracies: tuple[float, ...]


def compute(group: Group) -> Info[Curve] | Missing:
    curves = []
    for trial in sorted(group.trials, key=lambda t: t.key):
        seen = [(e.step, e.selection_score) for e in trial.evaluations if e.selection_score is not None]
        if seen:
            steps, accuracies = zip(*sorted(seen), strict=True)
            curves.append(
                Curve(
                    method=trial.method,
                    cell=f"{trial.cell} {trial.length} {trial.rank}",
                    rank=trial.rank,
                    confirmed=trial.confirmed,
                    steps=steps,
                    accuracies=accuracies,
                )
            )
    if not any(len(curve.steps) > 1 for curve in curves):
        return Missing("no trial has two evaluations yet")
    return Info(group=group, rows=tuple(curves))


@style.in_style
def draw(info: Info[Curve]) -> Figure:
    methods = in_order(c.method for c in info.rows)
    looks = style.level_styles(c.rank for c in info.rows if c.confirmed)
    figure, panels = style.panels(map(method_label, methods), height=3.4, legend=style.rank_handles(looks, lines=True))
    for axes, method in zip(panels, methods, strict=True):
        curves = [c for c in info.rows if c.method == method]
        for rank, (colour, _) in looks.items():
            own = [c for c in curves if c.confirmed and c.rank == rank]
            means = _means(own)
            alone = len(means) == len(own)
            _add(axes, means, color=colour, linewidth=1.6, alpha=0.95, zorder=4)
            _add(axes, [] if alone else own, color=colour, linewidth=0.7, alpha=0.3, zorder=3)
        others = [c for c in curves if not c.confirmed]
        _add(axes, others, color=style.MUTED, linewidth=0.8, alpha=0.35, zorder=2)
        short = [(c.steps[0], 100 * c.accuracies[0]) for c in others if len(c.steps) == 1]
        if short:  # stopped at the first evaluation
            axes.plot(*zip(*short, strict=True), ".", color=style.MUTED, markersize=5, alpha=0.5, mec="none", zorder=2)
        axes.autoscale_view()
        axes.set_xlabel("step")
    style.y_label(panels, "selection accuracy, %")
    return figure


def _means(curves: Sequence[Curve]) -> list[Curve]:
    """The mean curve of each cell's seeds, over the steps that all of them reached."""
    means = []
    for seeds in grouped(curves, lambda curve: curve.cell).values():
        known = [dict(zip(c.steps, c.accuracies, strict=True)) for c in seeds]
        steps = tuple(step for step in seeds[0].steps if all(step in each for each in known))
        means.append(replace(seeds[0], steps=steps, accuracies=tuple(fmean(e[s] for e in known) for s in steps)))
    return means


def _add(axes: Axes, curves: Sequence[Curve], **look: Any) -> None:
    """Curves of one look; as an image where they are too many for a page to hold as lines."""
    if curves:
        lines = [[(step, 100 * a) for step, a in zip(c.steps, c.accuracies, strict=True)] for c in curves]
        axes.add_collection(LineCollection(lines, rasterized=len(lines) > style.MOST_DRAWN, **look))


def caption(info: Info[Curve]) -> str:
    confirmed = sum(c.confirmed for c in info.rows)
    return (
        f"Learning curves on {info.group.title}: {confirmed} confirmed trials in colour by rank, thin, and the mean of "
        f"each cell's seeds, thick; {len(info.rows) - confirmed} others in grey, those of one evaluation as dots. No "
        "error bars."
    )


def data(info: Info[Curve]) -> list[Row]:
    return [
        {"run": number, "method": curve.method, "rank": curve.rank, "confirmed": curve.confirmed, "step": step}
        | {"selection_percent": 100 * accuracy}
        for number, curve in enumerate(info.rows)
        for step, accuracy in zip(curve.steps, curve.accuracies, strict=True)
    ]


SPEC = PlotSpec(name="curves", title="Learning curves", info=compute, draw=draw, caption=caption, data=data, place=110)
