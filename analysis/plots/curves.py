"""Learning curves: held-out accuracy by step, with confirmed trials in colour over grey search trials."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import method_label, sorted_methods
from analysis.records import Trial, grouped
from analysis.registry import Info, Missing, PlotSpec, Row

Curve = list[tuple[int, float]]  # (step, accuracy)


def curve(trial: Trial) -> Curve:
    """Return the evaluations of one trial."""
    return sorted((e.step, e.selection_score) for e in trial.evaluations if e.selection_score is not None)


def compute(group: Group) -> Info[Trial] | Missing:
    trials = tuple(trial for trial in sorted(group.trials, key=lambda trial: trial.key) if curve(trial))
    if not any(len(curve(trial)) > 1 for trial in trials):
        return Missing("no trial has two evaluations yet")
    return Info(group=group, rows=trials)


@style.in_style
def draw(info: Info[Trial]) -> Figure:
    methods = sorted_methods(trial.method for trial in info.rows)
    styles = style.level_styles(trial.rank for trial in info.rows if trial.is_confirmed)
    figure, panels = style.panels(map(method_label, methods), height=3.4, legend=style.rank_handles(styles, lines=True))
    for axes, method in zip(panels, methods, strict=True):
        trials = [trial for trial in info.rows if trial.method == method]
        for rank, (colour, _) in styles.items():
            confirmed = [trial for trial in trials if trial.is_confirmed and trial.rank == rank]
            means = _mean_curves(confirmed)
            has_several_seeds = len(means) < len(confirmed)
            _draw_curves(axes, means, color=colour, linewidth=1.6, alpha=0.95, zorder=4)
            seeds = map(curve, confirmed) if has_several_seeds else []
            _draw_curves(axes, seeds, color=colour, linewidth=0.7, alpha=0.3, zorder=3)
        others = [curve(trial) for trial in trials if not trial.is_confirmed]
        _draw_curves(axes, others, color=style.MUTED, linewidth=0.8, alpha=0.35, zorder=2)
        dots = [(step, 100 * accuracy) for ((step, accuracy), *later) in others if not later]
        if dots:  # trials that were stopped at their first evaluation
            axes.plot(*zip(*dots, strict=True), ".", color=style.MUTED, markersize=5, alpha=0.5, mec="none", zorder=2)
        axes.autoscale_view()
        axes.set_xlabel("training step")
    style.y_label(panels, "held-out accuracy, %")
    return figure


def _mean_curves(trials: Sequence[Trial]) -> list[Curve]:
    """Return the mean curve of each cell's seeds, over the steps that all of them reached."""
    means = []
    for seeds in grouped(trials, lambda trial: (trial.cell, trial.length, trial.rank)).values():
        accuracies = [dict(curve(trial)) for trial in seeds]
        steps = [step for step in accuracies[0] if all(step in by_step for by_step in accuracies)]
        means.append([(step, fmean(by_step[step] for by_step in accuracies)) for step in steps])
    return means


def _draw_curves(axes: Axes, curves: Iterable[Curve], **line_options: Any) -> None:
    """Draw curves that look alike; as an image if they are too many for a page to hold as lines."""
    if lines := [[(step, 100 * accuracy) for step, accuracy in points] for points in curves]:
        axes.add_collection(LineCollection(lines, rasterized=len(lines) > style.MOST_DRAWN, **line_options))


def caption(info: Info[Trial]) -> str:
    confirmed = sum(trial.is_confirmed for trial in info.rows)
    others = len(info.rows) - confirmed
    return (
        f"Learning curves on {info.group.title}: accuracy on the held-out examples by training step. The colour shows "
        f"the rank r of {confirmed} confirmed trial{'s' * (confirmed != 1)} (thin lines) and of the mean over each "
        f"cell's seeds (thick lines). The {others} other trial{'s are' if others != 1 else ' is'} grey; a dot is a "
        "trial with a single evaluation. There are no error bars."
    )


def data(info: Info[Trial]) -> list[Row]:
    return [
        {"run": number, "method": trial.method, "rank": trial.rank, "confirmed": trial.is_confirmed, "step": step}
        | {"selection_percent": 100 * accuracy}
        for number, trial in enumerate(info.rows)
        for step, accuracy in curve(trial)
    ]


SPEC = PlotSpec(name="curves", title="Learning curves", info=compute, draw=draw, caption=caption, data=data, place=110)
