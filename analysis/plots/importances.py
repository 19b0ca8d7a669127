"""What mattered in the search: Optuna's importances of the hyperparameters (PED-ANOVA, arXiv 2304.10255)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis import style
from analysis.cells import Group
from analysis.methods import method_label, sorted_methods
from analysis.records import Trial, grouped
from analysis.registry import Info, Missing, PlotSpec, Row

LEAST_TRIALS = 10  # a method needs so many search trials that ran to the end
NAMES = {"learning_rate": "learning rate", "length": "length n", "rank": "rank r"}


@dataclass(frozen=True, kw_only=True)
class Importances:
    """The importances of one method's hyperparameters."""

    method: str
    shares: tuple[tuple[str, float], ...]  # (name, share), the largest first; they sum to 1
    trials: int  # how many trials they are computed from


def compute(group: Group) -> Info[Importances] | Missing:
    searched = sorted((trial for trial in group.trials if trial.is_finished_search), key=lambda trial: trial.key)
    by_method = grouped(searched, lambda trial: trial.method)
    methods = [method for method in sorted_methods(by_method) if len(by_method[method]) >= LEAST_TRIALS]
    rows = [row for method in methods if (row := _importances(method, by_method[method]))]
    if not rows:
        return Missing(
            f"it needs {LEAST_TRIALS} search trials of one method that ran to the end, with two values searched"
        )
    return Info(group=group, rows=tuple(rows))


def _importances(method: str, trials: Sequence[Trial]) -> Importances | None:
    """Compute the importances; None if fewer than two values differ among the trials, or all have the same score."""
    import optuna  # only here, since it loads slowly and --help does not need it

    points = [{name: getattr(trial, name) for name in NAMES} for trial in trials]
    values = {name: {point[name] for point in points} for name in NAMES}
    varied = [name for name in NAMES if None not in values[name] and len(values[name]) > 1]
    if len(varied) < 2 or len({trial.selection_score for trial in trials}) == 1:
        return None
    ranges: dict[str, Any] = {}
    for name in varied:
        number_type = "Float" if name == "learning_rate" else "Int"
        low, high = (end(point[name] for point in points) for end in (min, max))
        ranges[name] = getattr(optuna.distributions, f"{number_type}Distribution")(low, high, log=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for point, trial in zip(points, trials, strict=True):
            params = {name: point[name] for name in varied}
            study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=trial.selection_score))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    finally:
        optuna.logging.set_verbosity(verbosity)
    named_shares = tuple((NAMES[name], share) for name, share in shares.items())
    return Importances(method=method, shares=named_shares, trials=len(trials))


@style.in_style
def draw(info: Info[Importances]) -> Figure:
    searched = {name for row in info.rows for name, _ in row.shares}
    names = [name for name in NAMES.values() if name in searched]
    longest = max(share for row in info.rows for _, share in row.shares)
    titles = [f"{method_label(row.method)} ({row.trials} trials)" for row in info.rows]
    figure, panels = style.panels(titles, height=0.9 + 0.4 * len(names))
    for axes, row in zip(panels, info.rows, strict=True):
        bar_colour, _ = style.method_style(row.method)
        shares = dict(row.shares)
        for y, name in enumerate(names):
            percent = 100 * shares.get(name, 0.0)
            axes.barh(y, percent, color=bar_colour, alpha=0.85, height=0.55)
            label, colour = (f"{percent:.0f} %", style.INK) if name in shares else ("not searched", style.MUTED)
            axes.annotate(label, (percent, y), color=colour, xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 125 * longest)  # room for the last percentage
        axes.set_xticks([tick for tick in (0, 25, 50, 75, 100) if tick <= 100 * longest])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("importance, %")
    figure.subplots_adjust(left=0.14)
    return figure


def caption(info: Info[Importances]) -> str:
    return (
        f"Which searched values made the difference on {info.group.title}: Optuna's importances (PED-ANOVA, which "
        "measures what sets the better trials apart), computed from the search trials that ran to the end. Early "
        "stopping and a sampler that prefers good regions both distort them, so read their order, not their digits. "
        "There are no error bars."
    )


def data(info: Info[Importances]) -> list[Row]:
    return [
        {"method": row.method, "value": name, "importance_percent": 100 * share, "trials": row.trials}
        for row in info.rows
        for name, share in row.shares
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
