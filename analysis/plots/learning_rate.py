"""Held-out accuracy of the search trials against their learning rate: which rates suit each method."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.cells import Group
from analysis.methods import method_label, sorted_methods
from analysis.records import Trial
from analysis.registry import Info, Missing, PlotSpec, Row


def compute(group: Group) -> Info[Trial] | Missing:
    """Collect the search trials. Those without a score diverged before their first evaluation."""
    trials = tuple(
        trial
        for trial in sorted(group.trials, key=lambda trial: trial.key)
        if trial.phase == "search" and trial.learning_rate and trial.status != "failed"
        if trial.selection_score is not None or trial.status == "diverged"
    )
    if len({trial.learning_rate for trial in trials if trial.selection_score is not None}) < 2:
        return Missing("it needs search trials at two learning rates")
    return Info(group=group, rows=trials)


@style.in_style
def draw(info: Info[Trial]) -> Figure:
    methods = sorted_methods(trial.method for trial in info.rows)
    learning_rates = [trial.learning_rate or 0.0 for trial in info.rows]
    accuracies_percent = [100 * trial.selection_score for trial in info.rows if trial.selection_score is not None]
    floor_percent = min(accuracies_percent) - max(2.0, 0.08 * (max(accuracies_percent) - min(accuracies_percent)))
    styles = style.level_styles(trial.rank for trial in info.rows)
    handles = [*style.rank_handles(styles, with_lines=False), *_status_handles({trial.status for trial in info.rows})]
    figure, panels = style.panels(map(method_label, methods), height=3.4, legend=handles)
    for axes, method in zip(panels, methods, strict=True):
        trials = [trial for trial in info.rows if trial.method == method]
        xs = _spread_rates([trial.learning_rate or 0.0 for trial in trials])
        points_by_style: dict[tuple[int | None, str], list[tuple[float, float]]] = {}
        for trial, x in zip(trials, xs, strict=True):
            y = floor_percent if trial.selection_score is None else 100 * trial.selection_score
            points_by_style.setdefault((trial.rank, trial.status), []).append((x, y))
        for (rank, status), points in points_by_style.items():
            colour, marker = styles[rank]
            coordinates = zip(*points, strict=True)
            if status == "diverged":
                axes.plot(*coordinates, "x", color=colour, markersize=6, mew=1.3, clip_on=False, zorder=4)
            else:
                fill = "none" if status == "stopped" else colour
                options: dict[str, Any] = {"mfc": fill, "mec": colour, "markersize": 5.5, "alpha": 0.85}
                options["rasterized"] = len(points) > style.MOST_VECTOR_SHAPES
                axes.plot(*coordinates, marker, linestyle="", zorder=3, **options)
        style.log_axis(axes, min(learning_rates) / 1.4, max(learning_rates) * 1.4, is_roomy=len(methods) == 1)
        axes.set_ylim(floor_percent - 1, min(100.5, max(accuracies_percent) + 3))
        axes.set_xlabel("learning rate")
    style.set_y_label(panels, f"held-out {info.group.score_name}, %")
    return figure


def _status_handles(statuses: set[str]) -> list[Line2D]:
    """Return a legend entry for each way in which the trials ended."""
    options_by_status: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o", "mfc": style.MUTED, "label": "ran to the end"},
        "stopped": {"marker": "o", "mfc": "none", "label": "stopped early"},
        "diverged": {"marker": "x", "label": "diverged"},
    }
    return [
        Line2D([], [], color=style.MUTED, linestyle="", **options_by_status[status])
        for status in options_by_status
        if status in statuses
    ]


def _spread_rates(rates: Sequence[float]) -> list[float]:
    """Return an x position for each learning rate. Equal rates, such as the first of every cell, are moved apart."""
    trial_counts, counts_so_far = Counter(rates), Counter[float]()
    xs = []
    for rate in rates:
        xs.append(rate * 1.025 ** (counts_so_far[rate] - (trial_counts[rate] - 1) / 2))
        counts_so_far[rate] += 1
    return xs


def caption(info: Info[Trial]) -> str:
    text = (
        f"Held-out {info.group.score_name} of every search trial on {info.group.title} against its learning rate, "
        "coloured by rank r. "
        "Each point is one trial, so there are no error bars. A hollow point is a trial that was stopped early, at "
        f"the best {info.group.score_name} it had reached. Trials with the same learning rate are drawn side by side."
    )
    if any(trial.status == "diverged" for trial in info.rows):
        text += " Crosses are trials that diverged; those at the bottom diverged before their first evaluation."
    return text


def data(info: Info[Trial]) -> list[Row]:
    return [
        {"method": trial.method, "rank": trial.rank, "learning_rate": trial.learning_rate, "status": trial.status}
        | {"selection_percent": None if trial.selection_score is None else 100 * trial.selection_score}
        for trial in info.rows
    ]


SPEC = PlotSpec(
    name="learning_rate", title="Learning rate", info=compute, draw=draw, caption=caption, data=data, place=100
)
