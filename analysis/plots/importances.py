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

_LEAST_TRIALS = 10  # a method with fewer search trials that ran to the end has no panel
LABELS = {"learning_rate": "learning rate", "length": "length n", "rank": "rank r"}


@dataclass(frozen=True, kw_only=True)
class Importances:
    """The importances of one method's hyperparameters."""

    method: str
    shares: tuple[tuple[str, float], ...]  # pairs of label and share, the largest share first; the shares sum to 1
    trial_count: int  # number of trials from which the shares are computed


def compute(group: Group) -> Info[Importances] | Missing:
    finished_trials = sorted((trial for trial in group.trials if trial.is_finished_search), key=lambda trial: trial.key)
    trials_by_method = grouped(finished_trials, lambda trial: trial.method)
    methods = [method for method in sorted_methods(trials_by_method) if len(trials_by_method[method]) >= _LEAST_TRIALS]
    rows = [row for method in methods if (row := _compute_importances(method, trials_by_method[method]))]
    if not rows:
        return Missing(
            f"it needs a method with at least {_LEAST_TRIALS} search trials that ran to the end, and with two searched "
            "hyperparameters"
        )
    return Info(group=group, rows=tuple(rows))


def _compute_importances(method: str, trials: Sequence[Trial]) -> Importances | None:
    """Compute the importances. Return None if fewer than two hyperparameters vary, or if all scores are equal."""
    import optuna  # imported here, because it is slow and --help does not need it

    settings_of_trials = [{name: getattr(trial, name) for name in LABELS} for trial in trials]
    values_by_name = {name: {settings[name] for settings in settings_of_trials} for name in LABELS}
    varied_names = [name for name in LABELS if None not in values_by_name[name] and len(values_by_name[name]) > 1]
    if len(varied_names) < 2 or len({trial.selection_score for trial in trials}) == 1:
        return None
    distributions: dict[str, Any] = {}
    for name in varied_names:
        number_type = "Float" if name == "learning_rate" else "Int"
        low, high = min(values_by_name[name]), max(values_by_name[name])
        distributions[name] = getattr(optuna.distributions, f"{number_type}Distribution")(low, high, log=True)
    earlier_verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for settings, trial in zip(settings_of_trials, trials, strict=True):
            params = {name: settings[name] for name in varied_names}
            study.add_trial(
                optuna.create_trial(params=params, distributions=distributions, value=trial.selection_score)
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied_names)
    finally:
        optuna.logging.set_verbosity(earlier_verbosity)
    labelled_shares = tuple((LABELS[name], share) for name, share in shares.items())
    return Importances(method=method, shares=labelled_shares, trial_count=len(trials))


@style.in_style
def draw(info: Info[Importances]) -> Figure:
    searched_labels = {label for row in info.rows for label, _ in row.shares}
    labels = [label for label in LABELS.values() if label in searched_labels]
    largest_share = max(share for row in info.rows for _, share in row.shares)
    titles = [f"{method_label(row.method)} ({row.trial_count} trials)" for row in info.rows]
    figure, panels = style.panels(titles, height=0.9 + 0.4 * len(labels))
    for axes, row in zip(panels, info.rows, strict=True):
        bar_colour, _ = style.method_style(row.method)
        shares = dict(row.shares)
        for y, label in enumerate(labels):
            share_percent = 100 * shares.get(label, 0.0)
            axes.barh(y, share_percent, color=bar_colour, alpha=0.85, height=0.55)
            text, colour = (f"{share_percent:.0f} %", style.INK) if label in shares else ("not searched", style.MUTED)
            axes.annotate(
                text, (share_percent, y), color=colour, xytext=(4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 125 * largest_share)  # room for the last percentage
        axes.set_xticks([tick for tick in (0, 25, 50, 75, 100) if tick <= 100 * largest_share])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("importance, %")
    figure.subplots_adjust(left=0.14)
    return figure


def caption(info: Info[Importances]) -> str:
    return (
        f"How much each searched hyperparameter mattered on {info.group.title}. The importances are computed by "
        "Optuna's PED-ANOVA from the search trials that ran to the end, and show what sets the better trials apart. "
        "Early stopping and a sampler that prefers good regions distort them, so trust their order and not their exact "
        "values. There are no error bars."
    )


def data(info: Info[Importances]) -> list[Row]:
    return [
        {"method": row.method, "value": label, "importance_percent": 100 * share, "trials": row.trial_count}
        for row in info.rows
        for label, share in row.shares
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
