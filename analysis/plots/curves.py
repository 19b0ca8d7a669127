"""Learning curves: selection accuracy by step, confirmed trials in colour over grey search trials."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import in_order, method_label
from analysis.records import Trial, grouped
from analysis.registry import Info, Missing, PlotSpec, Row

Points = list[tuple[int, float]]  # steps, with accuracies


def seen(trial: Trial) -> Points:
    """The evaluations of one run."""
    return sorted((e.step, e.selection_score) for e in trial.evaluations if e.selection_score is not None)


def compute(group: Group) -> Info[Trial] | Missing:
    trials = tuple(trial for trial in sorted(group.trials, key=lambda t: t.key) if seen(trial))
    if not any(len(seen(trial)) > 1 for trial in trials):
        return Missing("no trial has two evaluations yet")
    return Info(group=group, rows=trials)


@style.in_style
def draw(info: Info[Trial]) -> Figure:
    methods = in_order(t.method for t in info.rows)
    looks = style.level_styles(t.rank for t in info.rows if t.confirmed)
    figure, panels = style.panels(map(method_label, methods), height=3.4, legend=style.rank_handles(looks, lines=True))
    for axes, method in zip(panels, methods, strict=True):
        trials = [t for t in info.rows if t.method == method]
        for rank, (colour, _) in looks.items():
            own = [t for t in trials if t.confirmed and t.rank == rank]
            means = _means(own)
            alone = len(means) == len(own)
            _add(axes, means, color=colour, linewidth=1.6, alpha=0.95, zorder=4)
            _add(axes, [] if alone else map(seen, own), color=colour, linewidth=0.7, alpha=0.3, zorder=3)
        others = [seen(t) for t in trials if not t.confirmed]
        _add(axes, others, color=style.MUTED, linewidth=0.8, alpha=0.35, zorder=2)
        short = [(step, 100 * a) for ((step, a), *more) in others if not more]
        if short:  # stopped at the first evaluation
            axes.plot(*zip(*short, strict=True), ".", color=style.MUTED, markersize=5, alpha=0.5, mec="none", zorder=2)
        axes.autoscale_view()
        axes.set_xlabel("step")
    style.y_label(panels, "selection accuracy, %")
    return figure


def _means(trials: Sequence[Trial]) -> list[Points]:
    """The mean curve of each cell's seeds, over the steps that all of them reached."""
    means = []
    for seeds in grouped(trials, lambda t: (t.cell, t.length, t.rank)).values():
        known = [dict(seen(trial)) for trial in seeds]
        steps = [step for step in known[0] if all(step in each for each in known)]
        means.append([(step, fmean(each[step] for each in known)) for step in steps])
    return means


def _add(axes: Axes, curves: Iterable[Points], **look: Any) -> None:
    """Curves of one look; as an image where they are too many for a page to hold as lines."""
    if lines := [[(step, 100 * a) for step, a in curve] for curve in curves]:
        axes.add_collection(LineCollection(lines, rasterized=len(lines) > style.MOST_DRAWN, **look))


def caption(info: Info[Trial]) -> str:
    confirmed = sum(c.confirmed for c in info.rows)
    return (
        f"Learning curves on {info.group.title}: {confirmed} confirmed trials in colour by rank, thin, and the mean of "
        f"each cell's seeds, thick; {len(info.rows) - confirmed} others in grey, those of one evaluation as dots. No "
        "error bars."
    )


def data(info: Info[Trial]) -> list[Row]:
    return [
        {"run": number, "method": trial.method, "rank": trial.rank, "confirmed": trial.confirmed, "step": step}
        | {"selection_percent": 100 * accuracy}
        for number, trial in enumerate(info.rows)
        for step, accuracy in seen(trial)
    ]


SPEC = PlotSpec(name="curves", title="Learning curves", info=compute, draw=draw, caption=caption, data=data, place=110)
