"""Learning curves: selection accuracy by step, confirmed trials in colour over grey search trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group, method_label
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Curve:
    method: str
    rank: int | None
    confirmed: bool
    steps: tuple[int, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    curves: tuple[Curve, ...]


def compute(group: Group) -> Info | Missing:
    curves = []
    for trial in sorted(group.trials, key=lambda t: t.key):
        seen = [(e.step, e.selection_accuracy) for e in trial.evaluations if e.selection_accuracy is not None]
        if len(seen) > 1:
            steps, accuracies = zip(*sorted(seen), strict=True)
            curves.append(
                Curve(
                    method=trial.method,
                    rank=trial.rank,
                    confirmed=trial.confirmed,
                    steps=steps,
                    accuracies=accuracies,
                )
            )
    return Info(group=group, curves=tuple(curves)) if curves else Missing("no trial has two evaluations yet")


def draw(info: Info) -> Figure:
    methods = sorted({c.method for c in info.curves}, key=lambda m: (m == "prompt_tuning", m))
    with matplotlib.rc_context(style.RC):
        figure, panels = style.panels(len(methods), height=3.6)
        looks = style.level_styles(c.rank for c in info.curves)
        for axes, method in zip(panels, methods, strict=True):
            curves = [c for c in info.curves if c.method == method]
            crowded = sum(c.confirmed for c in curves) > 12
            for rank, (colour, _, dash) in looks.items():
                own = [c for c in curves if c.confirmed and c.rank == rank]
                width, alpha = (0.9, 0.6) if crowded else (1.4, 0.9)
                _add(axes, own, color=colour, linestyle=dash, linewidth=width, alpha=alpha, zorder=4)
            _add(axes, [c for c in curves if not c.confirmed], color=style.MUTED, linewidth=0.8, alpha=0.35, zorder=2)
            axes.autoscale_view()
            axes.set_xlabel("step")
            axes.set_title(method_label(method), fontsize=9.5, loc="left")
        style.rank_legend(figure, looks, lines=True)
        style.y_label(panels, "selection accuracy, %")
        return figure


def _add(axes: Axes, curves: Sequence[Curve], **look: Any) -> None:
    """Curves of one look; as an image where they are too many for a page to hold as lines."""
    if curves:
        lines = [[(step, 100 * a) for step, a in zip(c.steps, c.accuracies, strict=True)] for c in curves]
        axes.add_collection(LineCollection(lines, rasterized=len(lines) > style.MOST_DRAWN, **look))


def caption(info: Info) -> str:
    confirmed = sum(c.confirmed for c in info.curves)
    return (
        f"Learning curves on {info.group.title}: {confirmed} confirmed trials in colour by rank, "
        f"{len(info.curves) - confirmed} others in grey. Every line is one run; there are no error bars."
    )


def data(info: Info) -> list[Row]:
    return [
        {"run": number, "method": curve.method, "rank": curve.rank, "confirmed": curve.confirmed, "step": step}
        | {"selection_percent": 100 * accuracy}
        for number, curve in enumerate(info.curves)
        for step, accuracy in zip(curve.steps, curve.accuracies, strict=True)
    ]


SPEC = PlotSpec(name="curves", title="Learning curves", info=compute, draw=draw, caption=caption, data=data)
