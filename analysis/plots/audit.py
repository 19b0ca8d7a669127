"""Early stopping audited: who passes each rung, how well the first foretells the end, winners that would be lost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.audit import kind, rivals, until, wins
from analysis.cells import Group
from analysis.records import Trial, grouped
from analysis.registry import Missing, PlotSpec, Row


@dataclass(frozen=True, kw_only=True)
class Point:
    """A search trial that ran to the end: its best held-out accuracy until the first rung, and of the whole run."""

    early: float
    late: float
    audited: bool
    false_kill: bool


@dataclass(frozen=True, kw_only=True)
class Info:
    """survival: of each stratum (and of all, under ""), the share of search trials that early stopping lets pass each
    of `rungs`."""

    group: Group
    rungs: tuple[int, ...]
    survival: dict[str, tuple[float, ...]]
    points: tuple[Point, ...]


def compute(group: Group) -> Info | Missing:
    trials = [t for t in group.trials if t.phase == "search" and t.status in ("complete", "stopped")]
    rungs = tuple(sorted({step for t in trials if (step := _cut_at(t)) is not None}))
    if not rungs:
        return Missing("no trial was stopped early")
    strata = grouped(trials, lambda trial: trial.stratum)
    survival = {name: _survival(some, rungs) for name, some in sorted(strata.items())}
    points = []
    for trial, stratum in [(trial, some) for some in rivals(trials) for trial in some]:
        if (early := until(trial, rungs[0])) is not None:
            audited, late = trial.audited_at is not None, trial.selection_score or 0.0
            points.append(Point(early=early, late=late, audited=audited, false_kill=audited and wins(trial, stratum)))
    return Info(group=group, rungs=rungs, survival=survival | {"": _survival(trials, rungs)}, points=tuple(points))


def _cut_at(trial: Trial) -> int | None:
    """The step at which early stopping stopped the trial, or would have."""
    return trial.audited_at if trial.audited_at is not None else trial.steps if trial.status == "stopped" else None


def _survival(trials: Sequence[Trial], rungs: Sequence[int]) -> tuple[float, ...]:
    cuts = [cut for trial in trials if (cut := _cut_at(trial)) is not None]
    return tuple(1 - sum(cut <= rung for cut in cuts) / len(trials) for rung in rungs)


@style.in_style
def draw(info: Info) -> Figure:
    figure = Figure(figsize=(7.2, 3.5))
    _draw_survival(figure.add_axes((0.085, 0.14, 0.42, 0.76)), info)
    _draw_points(figure.add_axes((0.6, 0.14, 0.37, 0.76)), info)
    return figure


def _draw_survival(axes: Axes, info: Info) -> None:
    first = info.rungs[0]
    start, end = first / 2, info.rungs[-1] * 1.4
    strata = Counter(shares for name, shares in info.survival.items() if name)
    for shares, many in [*strata.items(), (info.survival[""], 0)]:
        look: dict[str, Any] = {"color": style.INK, "linewidth": 1.8, "zorder": 4} if not many else {
            "color": style.MUTED, "linewidth": 0.7 * math.sqrt(many), "alpha": 0.45, "zorder": 2
        }  # fmt: skip
        xs, ys = [start, *info.rungs, end], [100.0, *(100 * share for share in shares), 100 * shares[-1]]
        axes.step(xs, ys, where="post", **look)
    style.log2_axis(axes, start, end, info.rungs)
    axes.set_ylim(0, 104)
    axes.set_xlabel("rung, steps")
    axes.set_ylabel("search trials that pass, %")
    style.panel_title(axes, f"survival: all, and each {kind(info.group.trials)} in grey")


def _draw_points(axes: Axes, info: Info) -> None:
    kinds = (
        (lambda p: not p.audited, style.MUTED, "o", "was never to be stopped"),
        (lambda p: p.audited and not p.false_kill, style.COLOURS["blue"], "s", "audited"),
        (lambda p: p.false_kill, style.COLOURS["vermillion"], "*", "audited, and won: a false kill"),
    )
    handles = []
    for of, colour, marker, label in kinds:
        some = [p for p in info.points if of(p)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "mec": style.PAPER, "mew": 0.6, "linestyle": ""}
        look["markersize"] = 9 if marker == "*" else 5.5
        axes.plot([100 * p.early for p in some], [100 * p.late for p in some], alpha=0.85, zorder=3, **look)
        if some:
            handles.append(Line2D([], [], label=label, **look))
    values = [100 * value for p in info.points for value in (p.early, p.late)]
    if values:
        low, high = min(values) - 2, min(100.5, max(values) + 2)
        axes.plot([low, high], [low, high], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.legend(handles=handles, loc="lower right", borderpad=0.2, fontsize=7.5)  # none is worse at the end
    axes.set_xlabel(f"best until step {info.rungs[0]:,}, held out, %")
    axes.set_ylabel("best of the whole run, %")
    style.panel_title(axes, "trials that ran to the end")


def caption(info: Info) -> str:
    audited, kills = sum(p.audited for p in info.points), sum(p.false_kill for p in info.points)
    text = (
        f"Early stopping on {info.group.title}. Left: the share of search trials that pass each rung; a thicker grey "
        "line is of more alike. Right: held-out accuracy at the first rung and at the end; the dashed line is where "
        "nothing was gained. "
    )
    if not audited:
        text += "None of the trials to be stopped was run to the end (--audit 0.1 does), so false kills are unknown. "
        return text + "No error bars."
    return text + (
        f"{audited} trial{'s' * (audited > 1)} to be stopped ran on to be audited; {kills} then won "
        f"{'its' if kills == 1 else 'their'} {kind(info.group.trials)}. One run a point; no error bars."
    )


def data(info: Info) -> list[Row]:
    survival: list[Row] = [
        {"what": "survival", "stratum": name or "all", "rung": rung, "share_percent": 100 * share}
        for name, shares in info.survival.items()
        for rung, share in zip(info.rungs, shares, strict=True)
    ]
    return survival + [
        {"what": "trial", "early_percent": 100 * p.early, "late_percent": 100 * p.late, "audited": p.audited}
        | {"false_kill": p.false_kill}
        for p in info.points
    ]


SPEC = PlotSpec(name="audit", title="Early stopping", info=compute, draw=draw, caption=caption, data=data, place=120)
