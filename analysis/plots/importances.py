"""What mattered in the search: importances of hyperparameters, as Optuna gives them (PED-ANOVA, arXiv 2304.10255)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import in_order, method_label
from analysis.records import Trial, grouped
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
    searched = sorted((trial for trial in group.trials if trial.searched), key=lambda t: t.key)
    by_method = grouped(searched, lambda trial: trial.method)
    enough = [method for method in in_order(by_method) if len(by_method[method]) >= LEAST]
    if not (known := [found for method in enough if (found := _importances(method, by_method[method]))]):
        return Missing(f"it needs {LEAST} search trials of one method that ran to the end, with two values searched")
    return Info(group=group, rows=tuple(known))


def _importances(method: str, trials: Sequence[Trial]) -> Importances | None:
    """None where fewer than two values differ among the trials, or all trials came out alike."""
    import optuna  # takes longer than --help

    points = [{name: getattr(trial, name) for name in NAMES} for trial in trials]
    varied = [n for n in NAMES if None not in (values := {point[n] for point in points}) and len(values) > 1]
    if len(varied) < 2 or len({trial.selection_score for trial in trials}) == 1:
        return None
    ranges: dict[str, Any] = {}
    for name in varied:
        kind = "Float" if name == "learning_rate" else "Int"
        low, high = (end(point[name] for point in points) for end in (min, max))
        ranges[name] = getattr(optuna.distributions, f"{kind}Distribution")(low, high, log=True)
    quiet = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for point, trial in zip(points, trials, strict=True):
            params = {name: point[name] for name in varied}
            study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=trial.selection_score))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    finally:
        optuna.logging.set_verbosity(quiet)
    named = tuple((NAMES[name], share) for name, share in shares.items())
    return Importances(method=method, shares=named, trials=len(trials))


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
            share = 100 * dict(each.shares).get(name, 0.0)
            axes.barh(row, share, color=colour, alpha=0.85, height=0.55)
            words, ink = (f"{share:.0f} %", style.INK) if name in dict(each.shares) else ("not searched", style.MUTED)
            axes.annotate(words, (share, row), color=ink, xytext=(4, 0), textcoords="offset points", va="center")
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
