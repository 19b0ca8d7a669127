"""The cells of a report, with their trials and confirmed results, grouped by backbone, task and number of shots."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, TypeVar

from analysis.folders import short_names
from analysis.group_sequential import SequentialDesign
from analysis.load import Results
from analysis.methods import method_label
from analysis.records import Trial, grouped
from analysis.runs import PlannedCell
from analysis.scores import common_metric, estimate_score
from analysis.stats import Estimate
from analysis.winners import possible_winners
from lopt import metrics
from lopt.low_rank import LowRank

BACKBONE_LABELS = {"embedded": "SmolLM2-135M-Instruct"}  # "embedded" would tell a reader of the report nothing

Number = TypeVar("Number", int, float)
_HUB_NAME = re.compile(r"[^/.~][^/]*/[^/]+")  # "owner/name", a repository of the hub; paths of folders do not match


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting (method, length, rank) on one backbone and task, with all its trials.

    Attributes:
        is_planned: whether the cell is in a run's plan.
        confirmed_trials: one for each seed of one configuration. Several configurations (such as two learning rates)
            may have confirmed seeds, after a longer search or because runs are pooled. Then only the configuration that
            did best in the search counts (`possible_winners`, the sweep's own rule).
        lost_seed_count: number of confirm trials of this configuration that ended without a result. If no configuration
            is confirmed, the confirm trials of all configurations are counted.
        accuracy: the confirmed test score by `metric`, which is accuracy in most runs, with its interval.
        metric: name of the metric by which the group's trials are compared.
        config: fields of TrialConfig, of the first confirmed trial, else of the first trial, else of the plan.
    """

    name: str
    method: str
    length: int | None
    rank: int | None
    trainable_parameters: int | None
    is_planned: bool
    trials: tuple[Trial, ...]
    confirmed_trials: tuple[Trial, ...]
    lost_seed_count: int
    accuracy: Estimate | None
    config: Mapping[str, Any] = field(default_factory=dict)
    metric: str = metrics.ACCURACY

    @cached_property
    def plain_accuracy(self) -> Estimate | None:
        """The confirmed test accuracy, whatever the metric, for comparisons with published accuracies."""
        return self.accuracy if self.metric == metrics.ACCURACY else estimate_score(self.confirmed_trials, "accuracy")

    @property
    def label(self) -> str:
        return " ".join(filter(None, (method_label(self.method), self.shape_text)))

    @property
    def shape_text(self) -> str:
        """Length and rank, such as "n=10 r=2"."""
        numbers = {"n": self.length, "r": self.rank}
        return " ".join(f"{name}={number}" for name, number in numbers.items() if number is not None)

    @property
    def best_trial(self) -> Trial | None:
        """The confirmed trial with the best held-out score. If no trial is confirmed, the best trial that ended.

        Test accuracy plays no part in the choice.
        """
        ended_trials = tuple(trial for trial in self.trials if trial.status in ("complete", "stopped"))
        candidates = self.confirmed_trials or ended_trials
        scored_trials = [trial for trial in candidates if trial.selection_score is not None] or list(
            self.confirmed_trials
        )
        return min(scored_trials, key=lambda trial: (-(trial.selection_score or 0.0), trial.key), default=None)

    @property
    def confirmed_configuration_count(self) -> int:
        """Number of configurations that have confirmed seeds. The result of the cell comes from only one of them."""
        return len({trial.configuration for trial in self.trials if trial.is_confirmed})

    @property
    def is_winner_confirmed(self) -> bool:
        """Whether the confirmed seeds are those of the best search trial. True if there is no search trial."""
        best_search_trial = next(iter(possible_winners(self.trials)), None)
        if best_search_trial is None:
            return True
        return best_search_trial.configuration in {trial.configuration for trial in self.confirmed_trials}

    @property
    def selection_score(self) -> float | None:
        """Score by the selection metric: the mean over the confirmed seeds, else the score of the best search trial."""
        if self.confirmed_trials:
            return _mean_of_known(trial.selection_score for trial in self.confirmed_trials)
        return self.best_trial.selection_score if self.best_trial else None

    @property
    def selection_accuracy(self) -> float | None:
        """Mean held-out accuracy of the confirmed seeds."""
        return _mean_of_known(trial.selection_accuracy for trial in self.confirmed_trials)

    @property
    def best_search_score(self) -> float | None:
        """Selection score of the best search trial. As the best of many, it is often above that of other seeds."""
        return max((trial.selection_score or 0.0 for trial in possible_winners(self.trials)), default=None)

    @property
    def missing_accuracy_text(self) -> str:
        """What a table says in place of an accuracy that the cell does not have."""
        return "not confirmed" if self.trials else "not run"

    def search_trial_count(self, status: str) -> int:
        """Return how many search trials ended with this status."""
        return sum(trial.status == status and trial.phase == "search" for trial in self.trials)


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity, so that functions of a group can be cached
class Group:
    """The cells that one table may compare: those of one backbone, one task and, in few-shot runs, one number of shots.

    Attributes:
        backbone, task: as in the records. Each is a name or the path of a folder.
        backbone_name, task_title: what the report calls the backbone and the task.
        task_name: the task's short name, for names of files.
        reference_fields: the values of fields of TrialConfig by which the group's first run declares its reference.
        metric: name of the metric by which its cells are compared: that by which most of its trials were selected.
        zero_shot_accuracy: the score by this metric of the model without a prompt ("no prompt"), on the same test
            examples. majority_accuracy: that of the majority class.
        margin: difference in accuracy (a fraction) within which a smaller cell is as good as the reference.
        low_rank: how low-rank a confirmed prompt is, by the trial's key.
        design: the looks, if seeds are added until it is decided; else None.
    """

    backbone: str
    task: str
    shots: int | None
    backbone_name: str
    task_name: str
    task_title: str
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    reference_fields: dict[str, Any]
    zero_shot_accuracy: float | None
    majority_accuracy: float | None
    margin: float
    low_rank: Mapping[str, LowRank]
    design: SequentialDesign | None = None
    metric: str = metrics.ACCURACY

    @property
    def score_name(self) -> str:
        """What texts call the score, such as "accuracy"."""
        return metrics.title(self.metric)

    @property
    def backbone_title(self) -> str:
        return BACKBONE_LABELS.get(self.backbone, self.backbone_name)

    @property
    def title(self) -> str:
        return f"{self.task_title} with {self.backbone_title}" + (f" ({self.shots}-shot)" if self.shots else "")

    @cached_property
    def confirmed_cells(self) -> tuple[Cell, ...]:
        """The cells with a confirmed result and a known number of parameters, smallest first."""
        cells = [cell for cell in self.cells if cell.accuracy is not None and cell.trainable_parameters is not None]
        return tuple(sorted(cells, key=lambda cell: (cell.trainable_parameters or 0, cell.name)))

    def is_above_no_prompt(self, cell: Cell) -> bool:
        """Return whether a confirmed cell's mean test accuracy is above "no prompt", or "no prompt" is not known."""
        no_prompt = self.zero_shot_accuracy
        return no_prompt is None or (cell.accuracy is not None and cell.accuracy.mean > no_prompt)

    def best_cell(self, method: str) -> Cell | None:
        """Return the method's confirmed cell with the best held-out accuracy."""
        return best_cell(cell for cell in self.confirmed_cells if cell.method == method)

    def find(self, method: str, length: int | None, rank: int | None) -> Cell | None:
        """Return the cell of this setting. If several cells have it, return the best, as `best_cell` does."""
        setting = (method, length, rank)
        return best_cell(cell for cell in self.cells if (cell.method, cell.length, cell.rank) == setting)


def best_cell(cells: Iterable[Cell]) -> Cell | None:
    """Return the cell with the best selection score. Confirmed cells come first, and of equal cells the first one."""
    return max(cells, key=lambda cell: (cell.accuracy is not None, cell.selection_score or 0.0), default=None)


def groups(results: Results) -> tuple[Group, ...]:
    """Return a group for every (backbone, task, shots) that was planned or run. The most confirmed cells come first."""
    planned_cells = (cell for run in results.runs for cell in run.cells)
    planned_cells_and_trials: list[PlannedCell | Trial] = [*planned_cells, *results.trials]
    members_by_key = grouped(planned_cells_and_trials, lambda member: (member.backbone, member.task, member.shots))
    hub_names = [backbone for backbone, _, _ in members_by_key if _HUB_NAME.fullmatch(backbone)]
    backbone_names = short_names(backbone for backbone, _, _ in members_by_key if backbone not in hub_names)
    backbone_names |= {backbone: backbone for backbone in hub_names}
    task_names = short_names(task for _, task, _ in members_by_key)
    task_titles = _task_titles(results, task_names)
    all_groups = [
        _build_group(members, results, (backbone_names[backbone], task_names[task], task_titles[task]))
        for (backbone, task, _), members in members_by_key.items()
    ]
    return tuple(sorted(all_groups, key=lambda group: -len(group.confirmed_cells)))


def _task_titles(results: Results, task_names: dict[str, str]) -> dict[str, str]:
    """Return the title of each task: the title in a run's manifest, else the name of the task.

    If several tasks have the same title, their names are added in brackets.
    """
    manifest_titles = {task: title for run in reversed(results.runs) for task, title in run.titles.items()}
    titles = {task: manifest_titles.get(task, name) for task, name in task_names.items()}
    title_counts = Counter(titles.values())
    return {
        task: f"{title} ({task_names[task]})" if title_counts[title] > 1 else title for task, title in titles.items()
    }


def _build_group(members: Sequence[PlannedCell | Trial], results: Results, names: tuple[str, str, str]) -> Group:
    """Build a group.

    Args:
        members: everything that was planned or run on one backbone and task with one number of shots.
        results: the pooled runs, which have the baselines and the margin.
        names: the names of backbone and task, and the title of the task.
    """
    first_member = members[0]
    trials = tuple(member for member in members if isinstance(member, Trial))
    reference_fields = results.declared_reference(members)
    members = [
        _with_shape_of_trials(member, trials) if isinstance(member, PlannedCell) else member for member in members
    ]
    metric = common_metric(members)
    cells = tuple(_build_cell(cell_members, results, metric) for cell_members in grouped(members, _cell_key).values())
    split_and_size_counts = Counter(
        (trial.test_split, trial.test_n) for cell in cells for trial in cell.confirmed_trials
    )
    split_and_size = split_and_size_counts.most_common(1)[0][0] if split_and_size_counts else None
    baselines = [  # one on other examples than those of the trials may not be compared with them
        baseline
        for baseline in results.baselines
        if (baseline.backbone, baseline.task) == (first_member.backbone, first_member.task)
        and (split_and_size is None or (baseline.test_split, baseline.test_n) == split_and_size)
    ]
    majority_scores = [baseline.score("majority", metric) for baseline in baselines]
    if metric == metrics.ACCURACY:
        majority_scores += [trial.majority_accuracy for trial in trials if trial.is_confirmed]
    return Group(
        backbone=first_member.backbone,
        task=first_member.task,
        shots=first_member.shots,
        backbone_name=names[0],
        task_name=names[1],
        task_title=names[2],
        cells=cells,
        trials=trials,
        reference_fields=reference_fields,
        zero_shot_accuracy=_first_known(baseline.score("zero_shot", metric) for baseline in baselines),
        majority_accuracy=_first_known(majority_scores),
        margin=results.margin,
        low_rank={key: low_rank for run in reversed(results.runs) for key, low_rank in run.low_rank.items()},
        design=results.design,
        metric=metric,
    )


def _with_shape_of_trials(planned: PlannedCell, trials: Iterable[Trial]) -> PlannedCell:
    """Return the planned cell with the length and rank of its first confirmed trial, else of its first trial.

    These differ from the plan if length or rank was searched inside the cell.
    """
    cell_trials = [trial for trial in trials if (trial.cell, trial.method) == (planned.name, planned.method)]
    if not cell_trials or any(_cell_key(trial) == _cell_key(planned) for trial in cell_trials):
        return planned
    trial = next((trial for trial in cell_trials if trial.is_confirmed), cell_trials[0])
    return replace(planned, length=trial.length, rank=trial.rank, trainable_parameters=trial.trainable_parameters)


def _cell_key(member: PlannedCell | Trial) -> tuple[str, str, int | None, int | None]:
    # The name alone is not enough, because in a free search all trials have the name of the one cell.
    name = member.name if isinstance(member, PlannedCell) else member.cell
    return name, member.method, member.length, member.rank


def _build_cell(members: Sequence[PlannedCell | Trial], results: Results, metric: str) -> Cell:
    trials = [member for member in members if isinstance(member, Trial)]
    confirmed_by_configuration = grouped(
        (trial for trial in trials if trial.is_confirmed),
        lambda trial: (trial.configuration, trial.test_split, trial.test_n),
    )
    winners = possible_winners(trials)
    search_place_by_configuration = {trial.configuration: -i for i, trial in reversed([*enumerate(winners)])}

    def preference(seed_trials: list[Trial]) -> tuple[object, ...]:
        score = _mean_of_known(trial.selection_score for trial in seed_trials) or 0.0
        return search_place_by_configuration.get(seed_trials[0].configuration, -len(trials)), score, len(seed_trials)

    confirmed_trials = max(confirmed_by_configuration.values(), key=preference, default=[])
    confirmed_configurations = {trial.configuration for trial in confirmed_trials}
    lost_trials = [trial for trial in trials if trial.phase == "confirm" and not trial.is_confirmed]
    name, method, length, rank = _cell_key(members[0])
    return Cell(
        name=name,
        method=method,
        length=length,
        rank=rank,
        trainable_parameters=_first_known(
            member.trainable_parameters for member in (*confirmed_trials, *trials, *members)
        ),
        is_planned=len(trials) < len(members),
        trials=tuple(trials),
        confirmed_trials=tuple(sorted(confirmed_trials, key=lambda trial: (trial.seed or 0, trial.key))),
        lost_seed_count=sum(
            not confirmed_configurations or trial.configuration in confirmed_configurations for trial in lost_trials
        ),
        accuracy=estimate_score(confirmed_trials, metric),
        config=results.config([*confirmed_trials, *trials, *members][0]),
        metric=metric,
    )


def _first_known(numbers: Iterable[Number | None]) -> Number | None:
    """Return the first number that is not None."""
    return next((number for number in numbers if number is not None), None)


def _mean_of_known(numbers: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers that are not None."""
    known_numbers = [number for number in numbers if number is not None]
    return fmean(known_numbers) if known_numbers else None
