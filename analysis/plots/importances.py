"""What mattered in the search: importances of hyperparameters, as Optuna gives them (PED-ANOVA, arXiv 2304.10255)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import in_order, method_label
from analysis.records import Trial
from analysis.registry import Info, Missing, PlotSpec, Row

LEAST = 10  # trials of a method that ran to the end
NAMES = {"learning_rate": "learning rate", "length": "length n", "rank": "rank r"}


@dataclass(frozen=True, kw_only=True)
class Importances:
    """Of one method: shares that sum to 1, largest first, from so many trials."""

    method: str
    shares: tuple[tuple[str, float], ...]
    trials: int


def compute(group: Group) -> Info[Importances] | Missing:
    by_method: dict[str, list[Trial]] = {}
    for trial in sorted(group.trials, key=lambda t: t.key):
        if trial.phase == "search" and trial.status == "complete" and trial.selection_score is not None:
            by_method.setdefault(trial.method, []).append(trial)
    found = [
        _importances(method, trials) for method in in_order(by_method) if len(trials := by_method[method]) >= LEAST
    ]
    known = tuple(each for each in found if each is not None)
    if not known:
        return Missing(f"it needs {LEAST} search trials of one method that ran to the end, with two values searched")
    return Info(group=group, rows=known)


def _importances(method: str, trials: Sequence[Trial]) -> Importances | None:
    """None where fewer than two values differ among the trials, or all trials came out alike."""
    import optuna  # takes longer than --help

    points = [{name: getattr(trial, name) for name in NAMES} for trial in trials]
    varied = [n for n in NAMES if None not in (values := {point[n] for point in points}) and len(values) > 1]
    if len(varied) < 2 or len({trial.selection_score for trial in trials}) == 1:
        return None
    ranges: dict[str, Any] = {}
    for name in varied:
        low, high = (end(point[name] for point in points) for end in (min, max))
        whole = name != "learning_rate"
        ranges[name] = (optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution)(
            low, high, log=True
        )
    quiet = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for point, trial in zip(points, trials, strict=True):
            params = {name: point[name] for name in varied}
            made = optuna.create_trial(params=params, distributions=ranges, value=trial.selection_score)
            study.add_trial(made)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    finally:
        optuna.logging.set_verbosity(quiet)
    return Importances(
        method=method, shares=tuple((NAMES[n], share) for n, share in shares.items()), trials=len(trials)
    )


@style.in_style
def draw(info: Info[Importances]) -> Figure:
    searched = {name for each in info.rows for name, _ in each.shares}
    names = [name for name in NAMES.values() if name in searched]
    longest = max(share for each in info.rows for _, share in each.shares)
    titles = [f"{method_label(each.method)} ({each.trials} trials)" for each in info.rows]
    figure, panels = style.panels(titles, height=0.9 + 0.4 * len(names))
    for axes, each in zip(panels, info.rows, strict=True):
        colour, _ = style.method_style(each.method)
        for row, name in enumerate(names):
            share = dict(each.shares).get(name)
            axes.barh(row, 100 * (share or 0), color=colour, alpha=0.85, height=0.55)
            words = "not searched" if share is None else f"{100 * share:.0f} %"
            place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(words, (100 * (share or 0), row), color=style.MUTED if share is None else style.INK, **place)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 125 * longest)  # room for the last percentage
        axes.set_xticks([at for at in (0, 25, 50, 75, 100) if at <= 100 * longest])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("importance, %")
    figure.subplots_adjust(left=0.14)
    return figure


def caption(info: Info[Importances]) -> str:
    return (
        f"Which searched values made the difference on {info.group.title}: Optuna's importances (PED-ANOVA: what sets "
        "the better trials apart), over search trials that ran to the end. Early stopping and a sampler that prefers "
        "good regions both bend them, so read the order, not the digits; no error bars."
    )


def data(info: Info[Importances]) -> list[Row]:
    return [
        {"method": each.method, "value": name, "importance_percent": 100 * share, "trials": each.trials}
        for each in info.rows
        for name, share in each.shares
    ]


SPEC = PlotSpec(
    name="importances",
    title="What mattered in the search",
    info=compute,
    draw=draw,
    caption=caption,
    data=data,
    place=160,
)
