"""Selection accuracy against learning rate over the search trials: which rates each method bears."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.cells import Group
from analysis.methods import in_order, method_label
from analysis.records import Trial
from analysis.registry import Info, Missing, PlotSpec, Row


def compute(group: Group) -> Info[Trial] | Missing:
    """The search trials; one without a score diverged before its first evaluation."""
    trials = tuple(
        t
        for t in sorted(group.trials, key=lambda t: t.key)
        if t.phase == "search" and t.learning_rate and t.status != "failed"
        if t.selection_score is not None or t.status == "diverged"
    )
    if len({t.learning_rate for t in trials if t.selection_score is not None}) < 2:
        return Missing("it needs search trials at two learning rates")
    return Info(group=group, rows=trials)


@style.in_style
def draw(info: Info[Trial]) -> Figure:
    methods = in_order(p.method for p in info.rows)
    rates = [p.learning_rate or 0.0 for p in info.rows]
    heights = [100 * p.selection_score for p in info.rows if p.selection_score is not None]
    floor = min(heights) - max(2.0, 0.08 * (max(heights) - min(heights)))
    looks = style.level_styles(p.rank for p in info.rows)
    handles = [*style.rank_handles(looks, lines=False), *_outcomes({p.status for p in info.rows})]
    figure, panels = style.panels(map(method_label, methods), height=3.4, legend=handles)
    for axes, method in zip(panels, methods, strict=True):
        own = [p for p in info.rows if p.method == method]
        alike: dict[tuple[int | None, str], list[tuple[float, float]]] = {}
        for p, x in zip(own, _beside([p.learning_rate or 0.0 for p in own]), strict=True):
            y = floor if p.selection_score is None else 100 * p.selection_score
            alike.setdefault((p.rank, p.status), []).append((x, y))
        for (rank, status), points in alike.items():
            colour, marker = looks[rank]
            xs, ys = zip(*points, strict=True)
            image = len(points) > style.MOST_DRAWN
            if status == "diverged":
                axes.plot(xs, ys, "x", color=colour, markersize=6, mew=1.3, clip_on=False, zorder=4)
            else:
                fill = "none" if status == "stopped" else colour
                look: dict[str, Any] = {"mfc": fill, "mec": colour, "markersize": 5.5, "alpha": 0.85}
                axes.plot(xs, ys, marker, linestyle="", zorder=3, rasterized=image, **look)
        style.log_axis(axes, min(rates) / 1.4, max(rates) * 1.4, roomy=len(methods) == 1)
        axes.set_ylim(floor - 1, min(100.5, max(heights) + 3))
        axes.set_xlabel("learning rate")
    style.y_label(panels, "selection accuracy, %")
    return figure


def _outcomes(statuses: set[str]) -> list[Line2D]:
    """Legend entries of how trials ended."""
    looks: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o", "mfc": style.MUTED, "label": "ran to the end"},
        "stopped": {"marker": "o", "mfc": "none", "label": "stopped early"},
        "diverged": {"marker": "x", "label": "diverged"},
    }
    return [
        Line2D([], [], color=style.MUTED, linestyle="", **look) for status, look in looks.items() if status in statuses
    ]


def _beside(rates: Sequence[float]) -> list[float]:
    """The learning rates; those of one rate, which each cell tries first, side by side."""
    same, met = Counter(rates), Counter[float]()
    xs = []
    for rate in rates:
        xs.append(rate * 1.025 ** (met[rate] - (same[rate] - 1) / 2))
        met[rate] += 1
    return xs


def caption(info: Info[Trial]) -> str:
    crosses = " Crosses: diverged (at the foot when before its first evaluation)."
    return (
        f"Selection accuracy of every search trial on {info.group.title} against its learning rate, coloured by rank. "
        "Hollow: stopped early, at the best it had reached. Points of one rate are set side by side. No error bars: "
        "one run a point." + (crosses if any(p.status == "diverged" for p in info.rows) else "")
    )


def data(info: Info[Trial]) -> list[Row]:
    return [
        {"method": p.method, "rank": p.rank, "learning_rate": p.learning_rate, "status": p.status}
        | {"selection_percent": None if p.selection_score is None else 100 * p.selection_score}
        for p in info.rows
    ]


SPEC = PlotSpec(
    name="learning_rate", title="Learning rate", info=compute, draw=draw, caption=caption, data=data, place=100
)
