"""How well early stopping works: the trials that pass each rung, the final accuracy by the early one, false kills."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.audit import beats_stratum, best_score_until, finished_trials_by_stratum, stratum_kind
from analysis.cells import Group
from analysis.records import Trial, grouped
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Point:
    """A search trial that ran to the end.

    Attributes:
        early_accuracy: its best held-out accuracy until the first rung.
        final_accuracy: its best held-out accuracy until its last step.
        is_audited: whether early stopping would have stopped it.
        is_false_kill: whether early stopping would have stopped it, but it won its stratum.
    """

    early_accuracy: float
    final_accuracy: float
    is_audited: bool
    is_false_kill: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rungs: tuple[int, ...]
    survival: dict[str, tuple[float, ...]]  # by stratum ("" for all trials), the share of trials that pass each rung
    points: tuple[Point, ...]


def compute(group: Group) -> Info | Missing:
    trials = [trial for trial in group.trials if trial.phase == "search" and trial.status in ("complete", "stopped")]
    rungs = tuple(sorted({step for trial in trials if (step := _stopping_step(trial)) is not None}))
    if not rungs:
        return Missing("no trial was stopped early")
    strata = grouped(trials, lambda trial: trial.stratum)
    survival = {name: _survival_shares(strata[name], rungs) for name in sorted(strata)}
    points = []
    for stratum_trials in finished_trials_by_stratum(trials):
        for trial in stratum_trials:
            if (early_accuracy := best_score_until(trial, rungs[0])) is None:
                continue
            accuracies = {"early_accuracy": early_accuracy, "final_accuracy": trial.selection_score or 0.0}
            is_audited = trial.audited_at is not None
            is_false_kill = is_audited and beats_stratum(trial, stratum_trials)
            points.append(Point(**accuracies, is_audited=is_audited, is_false_kill=is_false_kill))
    return Info(
        group=group, rungs=rungs, survival=survival | {"": _survival_shares(trials, rungs)}, points=tuple(points)
    )


def _stopping_step(trial: Trial) -> int | None:
    """Return the step at which early stopping stopped the trial, or would have stopped it; None if it passed."""
    return trial.audited_at if trial.audited_at is not None else trial.steps if trial.status == "stopped" else None


def _survival_shares(trials: Sequence[Trial], rungs: Sequence[int]) -> tuple[float, ...]:
    """Return the share of trials that pass each rung."""
    stopping_steps = [step for trial in trials if (step := _stopping_step(trial)) is not None]
    return tuple(1 - sum(step <= rung for step in stopping_steps) / len(trials) for rung in rungs)


@style.in_style
def draw(info: Info) -> Figure:
    figure = Figure(figsize=(7.2, 3.5))
    _draw_survival(figure.add_axes((0.085, 0.14, 0.42, 0.76)), info)
    _draw_points(figure.add_axes((0.6, 0.14, 0.37, 0.76)), info)
    return figure


def _draw_survival(axes: Axes, info: Info) -> None:
    axis_start, axis_end = info.rungs[0] / 2, info.rungs[-1] * 1.4

    def draw_steps(shares: tuple[float, ...], **line_options: Any) -> None:
        xs, ys = [axis_start, *info.rungs, axis_end], [100.0, *(100 * share for share in shares), 100 * shares[-1]]
        axes.step(xs, ys, where="post", **line_options)

    stratum_counts = Counter(shares for name, shares in info.survival.items() if name)
    for shares, stratum_count in stratum_counts.items():  # strata with the same shares are one line, which is thicker
        draw_steps(shares, color=style.MUTED, linewidth=0.7 * math.sqrt(stratum_count), alpha=0.45, zorder=2)
    draw_steps(info.survival[""], color=style.INK, linewidth=1.8, zorder=4)
    style.log2_axis(axes, axis_start, axis_end, info.rungs)
    axes.set_ylim(0, 104)
    axes.set_xlabel("rung (training step)")
    axes.set_ylabel("search trials that pass the rung, %")
    style.set_panel_title(axes, f"all search trials (black), each {stratum_kind(info.group.trials)} (grey)")


def _draw_points(axes: Axes, info: Info) -> None:
    passed_points = [point for point in info.points if not point.is_audited]
    audited_points = [point for point in info.points if point.is_audited and not point.is_false_kill]
    false_kill_points = [point for point in info.points if point.is_false_kill]
    legend_entries = (
        ("passed every rung", "o", style.MUTED, passed_points),
        ("audited", "s", style.COLOURS["blue"], audited_points),
        ("audited and won: a false kill", "*", style.COLOURS["vermillion"], false_kill_points),
    )
    handles = []
    for label, marker, colour, points in legend_entries:
        options: dict[str, Any] = {"color": colour, "marker": marker, "mec": style.PAPER, "mew": 0.6, "linestyle": ""}
        options["markersize"] = 9 if marker == "*" else 5.5
        xs = [100 * point.early_accuracy for point in points]
        ys = [100 * point.final_accuracy for point in points]
        axes.plot(xs, ys, alpha=0.85, zorder=3, **options)
        if points:
            handles.append(Line2D([], [], label=label, **options))
    accuracies_percent = [
        100 * value for point in info.points for value in (point.early_accuracy, point.final_accuracy)
    ]
    if accuracies_percent:
        low, high = min(accuracies_percent) - 2, min(100.5, max(accuracies_percent) + 2)
        axes.plot([low, high], [low, high], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        # The legend is below the diagonal. No point is there, because the final accuracy is at least the early one.
        axes.legend(handles=handles, loc="lower right", borderpad=0.2, fontsize=7.5)
    axes.set_xlabel(f"best held-out {info.group.score_name} until step {info.rungs[0]:,}, %")
    axes.set_ylabel("best until the last step, %")
    style.set_panel_title(axes, "search trials that ran to the end")


def caption(info: Info) -> str:
    audited_count = sum(point.is_audited for point in info.points)
    false_kill_count = sum(point.is_false_kill for point in info.points)
    stratum_word = stratum_kind(info.group.trials)
    text = (
        f"Early stopping on {info.group.title}. A rung is a step at which early stopping may stop a trial. Left: the "
        f"share of search trials that pass each rung, over all trials (black) and in each {stratum_word} (grey). "
        "Lines that coincide are drawn as one thicker line. Right: each point is a trial that ran to the end, with its "
        f"best held-out {info.group.score_name} until the first rung and until its last step. On the dashed line, "
        "training beyond the "
        "first rung gained nothing. "
    )
    if audited_count:
        text += (
            f"To audit early stopping, {audited_count} trial{'s' * (audited_count > 1)} that it would have stopped ran "
            f"to the end, and {false_kill_count} of these won {'its' if false_kill_count == 1 else 'their'} "
            f"{stratum_word}. Stopping such a winner would be a false kill. "
        )
    else:
        text += (
            "No trial that early stopping chose to stop ran to the end, so the number of winners that were lost (false "
            "kills) is unknown. With --audit 0.1, some of these trials run to the end. "
        )
    return text + "There are no error bars."


def data(info: Info) -> list[Row]:
    survival_rows: list[Row] = [
        {"what": "survival", "stratum": name or "all", "rung": rung, "share_percent": 100 * share}
        for name, shares in info.survival.items()
        for rung, share in zip(info.rungs, shares, strict=True)
    ]
    return survival_rows + [
        {"what": "trial", "early_percent": 100 * point.early_accuracy, "late_percent": 100 * point.final_accuracy}
        | {"audited": point.is_audited, "false_kill": point.is_false_kill}
        for point in info.points
    ]


SPEC = PlotSpec(name="audit", title="Early stopping", info=compute, draw=draw, caption=caption, data=data, place=120)
