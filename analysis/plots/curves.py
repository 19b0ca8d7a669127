"""Learning curves: held-out accuracy by step. Confirmed trials are coloured and drawn over the grey other trials."""

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


def learning_curve(trial: Trial) -> Curve:
    """Return the step and held-out accuracy of each evaluation of a trial."""
    steps_and_scores = ((evaluation.step, evaluation.selection_score) for evaluation in trial.evaluations)
    return sorted((step, score) for step, score in steps_and_scores if score is not None)


def compute(group: Group) -> Info[Trial] | Missing:
    trials = tuple(trial for trial in sorted(group.trials, key=lambda trial: trial.key) if learning_curve(trial))
    if not any(len(learning_curve(trial)) > 1 for trial in trials):
        return Missing("no trial has two evaluations yet")
    return Info(group=group, rows=trials)


@style.in_style
def draw(info: Info[Trial]) -> Figure:
    methods = sorted_methods(trial.method for trial in info.rows)
    styles = style.level_styles(trial.rank for trial in info.rows if trial.is_confirmed)
    figure, panels = style.panels(
        map(method_label, methods), height=3.4, legend=style.rank_handles(styles, with_lines=True)
    )
    for axes, method in zip(panels, methods, strict=True):
        trials = [trial for trial in info.rows if trial.method == method]
        for rank, (colour, _) in styles.items():
            confirmed_trials = [trial for trial in trials if trial.is_confirmed and trial.rank == rank]
            mean_curves = _mean_curves(confirmed_trials)
            has_several_seeds = len(mean_curves) < len(confirmed_trials)
            _draw_curves(axes, mean_curves, color=colour, linewidth=1.6, alpha=0.95, zorder=4)
            seed_curves = map(learning_curve, confirmed_trials) if has_several_seeds else []
            _draw_curves(axes, seed_curves, color=colour, linewidth=0.7, alpha=0.3, zorder=3)
        grey_curves = [learning_curve(trial) for trial in trials if not trial.is_confirmed]
        _draw_curves(axes, grey_curves, color=style.MUTED, linewidth=0.8, alpha=0.35, zorder=2)
        dots = [
            (curve_points[0][0], 100 * curve_points[0][1]) for curve_points in grey_curves if len(curve_points) == 1
        ]
        if dots:  # trials that were stopped at their first evaluation
            axes.plot(*zip(*dots, strict=True), ".", color=style.MUTED, markersize=5, alpha=0.5, mec="none", zorder=2)
        axes.autoscale_view()
        axes.set_xlabel("training step")
    style.set_y_label(panels, f"held-out {info.group.score_name}, %")
    return figure


def _mean_curves(trials: Sequence[Trial]) -> list[Curve]:
    """Return the mean curve of each cell's seeds, over the steps that all of them reached."""
    mean_curves = []
    for cell_trials in grouped(trials, lambda trial: (trial.cell, trial.length, trial.rank)).values():
        seed_curves = [dict(learning_curve(trial)) for trial in cell_trials]  # one dict for each seed
        steps = [step for step in seed_curves[0] if all(step in accuracy_by_step for accuracy_by_step in seed_curves)]
        mean_curves.append(
            [(step, fmean(accuracy_by_step[step] for accuracy_by_step in seed_curves)) for step in steps]
        )
    return mean_curves


def _draw_curves(axes: Axes, curves: Iterable[Curve], **line_options: Any) -> None:
    """Draw curves in the same style. If they are too many for a page to hold as lines, draw them as an image."""
    if lines := [[(step, 100 * accuracy) for step, accuracy in curve_points] for curve_points in curves]:
        axes.add_collection(LineCollection(lines, rasterized=len(lines) > style.MOST_VECTOR_SHAPES, **line_options))


def caption(info: Info[Trial]) -> str:
    confirmed_count = sum(trial.is_confirmed for trial in info.rows)
    other_count = len(info.rows) - confirmed_count
    return (
        f"Learning curves on {info.group.title}: held-out {info.group.score_name} by training step. Colours show the "
        "rank r. A thick "
        f"line is the mean over a cell's seeds, and thin lines are the single seeds ({confirmed_count} confirmed "
        f"trial{'s' * (confirmed_count != 1)}). The {other_count} other trial{'s are' if other_count != 1 else ' is'} "
        "grey, and a grey dot is a trial with a single evaluation. There are no error bars."
    )


def data(info: Info[Trial]) -> list[Row]:
    return [
        {"run": trial_number, "method": trial.method, "rank": trial.rank, "confirmed": trial.is_confirmed, "step": step}
        | {"selection_percent": 100 * accuracy}
        for trial_number, trial in enumerate(info.rows)
        for step, accuracy in learning_curve(trial)
    ]


SPEC = PlotSpec(name="curves", title="Learning curves", info=compute, draw=draw, caption=caption, data=data, place=110)
