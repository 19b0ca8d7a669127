"""Cells: what was planned, what was run, and the confirmed result of each, by backbone, task and shots."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import TypeVar

from analysis import predictions
from analysis.load import Results
from analysis.methods import method_label
from analysis.records import Trial, grouped
from analysis.runs import PlannedCell
from analysis.stats import Estimate, crossed, estimate

BACKBONE_LABELS = {"embedded": "SmolLM2-135M-Instruct"}  # for readers who do not know what is embedded here

Number = TypeVar("Number", int, float)
_HUB_NAME = re.compile(r"[^/.~][^/]*/[^/]+")  # owner/name: no folder, and both parts are its name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting (method, length, rank) on one backbone and task, over all its trials.

    `confirmed` are the seeds of one configuration. Several may have some, say, two learning rates: more search trials
    found another winner, or runs are pooled. It is then the one that did best in the search, by the sweep's own rule.
    """

    name: str
    method: str
    length: int | None
    rank: int | None
    trainable_parameters: int | None
    planned: bool
    trials: tuple[Trial, ...]
    confirmed: tuple[Trial, ...]
    lost: int  # confirm trials of other outcomes: the mean is over the survivors
    accuracy: Estimate | None

    @property
    def label(self) -> str:
        return " ".join(filter(None, (method_label(self.method), self.size)))

    @property
    def size(self) -> str:
        parts = {"n": self.length, "r": self.rank}
        return " ".join(f"{name}={number}" for name, number in parts.items() if number is not None)

    @property
    def best_trial(self) -> Trial | None:
        """The trial to use or to quote: best on the selection data by its metric, never test accuracy."""
        pool = self.confirmed or tuple(t for t in self.trials if t.status in ("complete", "stopped"))
        scored = [t for t in pool if t.selection_score is not None] or list(self.confirmed)
        return min(scored, key=lambda t: (-(t.selection_score or 0.0), t.key), default=None)

    @property
    def settings_confirmed(self) -> int:
        """How many configurations have confirmed seeds; those of one count as the cell's."""
        return len({trial.configuration for trial in self.trials if trial.confirmed})

    @property
    def winner_is_confirmed(self) -> bool:
        """Whether the confirmed seeds are those of the best search trial, or of a cell without any."""
        best = max(_searched(self.trials), key=_search_rank, default=None)
        return best is None or best.configuration in {trial.configuration for trial in self.confirmed}

    @property
    def selection_score(self) -> float | None:
        """By the metric that selects: mean over the confirmed seeds; without any, the best search trial's."""
        if self.confirmed:
            return _mean(trial.selection_score for trial in self.confirmed)
        return self.best_trial.selection_score if self.best_trial else None

    @property
    def selection_accuracy(self) -> float | None:
        """Mean over the confirmed seeds."""
        return _mean(trial.selection_accuracy for trial in self.confirmed)

    @property
    def best_search(self) -> float | None:
        """Selection score of the best search trial, which is the best of many draws: confirming may fall below."""
        return max((trial.selection_score or 0.0 for trial in _searched(self.trials)), default=None)

    @property
    def unconfirmed(self) -> str:
        """What a table says in place of the accuracy."""
        return "not confirmed" if self.trials else "not run"

    def count(self, status: str) -> int:
        """How many search trials ended so."""
        return sum(t.status == status and t.phase == "search" for t in self.trials)


@dataclass(frozen=True, kw_only=True, eq=False)  # one is like no other: what is found of it is kept
class Group:
    """What may stand in one table: one backbone on one task, and of few-shot runs those of one size.

    `backbone` and `task` are identities, which may be folders; `backbone_name` and `task_title` are for the reader, and
    `task_name` for names of files.
    """

    backbone: str
    task: str
    shots: int | None
    backbone_name: str
    task_name: str
    task_title: str
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    zero_shot_accuracy: float | None
    majority_accuracy: float | None
    margin: float  # of "as good as the full prompt"

    @property
    def title(self) -> str:
        backbone = BACKBONE_LABELS.get(self.backbone, self.backbone_name)
        return f"{self.task_title} with {backbone}" + (f" ({self.shots}-shot)" if self.shots else "")

    @cached_property
    def confirmed(self) -> tuple[Cell, ...]:
        """The cells with a confirmed result and a known number of parameters, smallest first."""
        cells = [c for c in self.cells if c.accuracy is not None and c.trainable_parameters is not None]
        return tuple(sorted(cells, key=lambda c: (c.trainable_parameters or 0, c.name)))

    def best(self, method: str) -> Cell | None:
        """The method's confirmed cell with the best selection accuracy."""
        return best(cell for cell in self.confirmed if cell.method == method)

    def find(self, method: str, length: int | None, rank: int | None) -> Cell | None:
        """The cell of this setting; of several variants the confirmed one with the best selection score."""
        return best(c for c in self.cells if (c.method, c.length, c.rank) == (method, length, rank))


def best(cells: Iterable[Cell]) -> Cell | None:
    """The cell with the best selection score, of the confirmed ones if there are any; the first of equal ones."""
    return max(cells, key=lambda cell: (cell.accuracy is not None, cell.selection_score or 0.0), default=None)


def short_names(identities: Iterable[str]) -> dict[str, str]:
    """What to call each: a folder by its last part, with as many before it as tell it from the others."""
    parts = {each: [part for part in each.split("/") if part] for each in identities}

    def name(each: str) -> str:
        others = [own for other, own in parts.items() if other != each]
        for many in range(1, len(parts[each]) + 1):
            if all(parts[each][-many:] != own[-many:] for own in others):
                return "/".join(parts[each][-many:])
        return each

    return {each: name(each) for each in parts}


def groups(results: Results) -> tuple[Group, ...]:
    """Every (backbone, task, shots) planned or run, the one with most confirmed cells first."""
    planned = (cell for run in results.runs for cell in run.cells)
    everything: list[PlannedCell | Trial] = [*planned, *results.trials]
    members = grouped(everything, lambda each: (each.backbone, each.task, each.shots))
    owned = [backbone for backbone, _, _ in members if _HUB_NAME.fullmatch(backbone)]
    backbones = short_names(backbone for backbone, _, _ in members if backbone not in owned)
    backbones |= {backbone: backbone for backbone in owned}
    tasks = short_names(task for _, task, _ in members)
    titles = _titles(results, tasks)
    all_groups = [
        _group(own, results, (backbones[backbone], tasks[task], titles[task]))
        for (backbone, task, _), own in members.items()
    ]
    return tuple(sorted(all_groups, key=lambda group: -len(group.confirmed)))


def _titles(results: Results, names: dict[str, str]) -> dict[str, str]:
    """What each task is called: by its title, as a run of it says, else by its name; with both where titles agree."""
    titles = {name: title for run in reversed(results.runs) for name, title in run.titles.items()}
    title_of = {task: titles.get(task, name) for task, name in names.items()}
    shared = {title for title, count in Counter(title_of.values()).items() if count > 1}
    return {task: f"{title} ({names[task]})" if title in shared else title for task, title in title_of.items()}


def _group(own: Sequence[PlannedCell | Trial], results: Results, names: tuple[str, str, str]) -> Group:
    """own: what was planned and run of one backbone, task and number of shots."""
    trials = tuple(each for each in own if isinstance(each, Trial))
    settled = [_settled(each, trials) if isinstance(each, PlannedCell) else each for each in own]
    cells = tuple(map(_cell, grouped(settled, _identity).values()))
    tested = Counter((t.test_split, t.test_n) for cell in cells for t in cell.confirmed)
    split = tested.most_common(1)[0][0] if tested else None
    # a baseline on other examples than ours would draw a line that is not comparable
    mine = [b for b in results.baselines if (b.backbone, b.task) == (own[0].backbone, own[0].task)]
    mine = [b for b in mine if split is None or (b.test_split, b.test_n) == split]
    majority = [b.majority_accuracy for b in mine] + [t.majority_accuracy for t in trials if t.confirmed]
    return Group(
        backbone=own[0].backbone,
        task=own[0].task,
        shots=own[0].shots,
        backbone_name=names[0],
        task_name=names[1],
        task_title=names[2],
        cells=cells,
        trials=trials,
        zero_shot_accuracy=_first(b.zero_shot_accuracy for b in mine),
        majority_accuracy=_first(majority),
        margin=results.margin,
    )


def _settled(planned: PlannedCell, trials: Iterable[Trial]) -> PlannedCell:
    """The planned cell as it was run, where length or rank were searched inside it: as confirmed, else as first run."""
    own = [t for t in trials if (t.cell, t.method) == (planned.name, planned.method)]
    if not own or any(_identity(t) == _identity(planned) for t in own):
        return planned
    shown = next((t for t in own if t.confirmed), own[0])
    return replace(planned, length=shown.length, rank=shown.rank, trainable_parameters=shown.trainable_parameters)


def _identity(each: PlannedCell | Trial) -> tuple[str, str, int | None, int | None]:
    # not the name alone: in a free search all trials share one cell's name
    name = each.name if isinstance(each, PlannedCell) else each.cell
    return name, each.method, each.length, each.rank


def _cell(own: Sequence[PlannedCell | Trial]) -> Cell:
    trials = [each for each in own if isinstance(each, Trial)]
    alike = grouped((t for t in trials if t.confirmed), lambda t: (t.configuration, t.test_split, t.test_n))
    search_ranks = {trial.configuration: _search_rank(trial) for trial in sorted(_searched(trials), key=_search_rank)}

    def preference(seeds: list[Trial]) -> tuple[object, ...]:
        score = _mean(trial.selection_score for trial in seeds) or 0.0
        return search_ranks.get(seeds[0].configuration, ()), score, len(seeds)

    confirmed = max(alike.values(), key=preference, default=[])
    configurations = {t.configuration for t in confirmed}
    lost = [t for t in trials if t.phase == "confirm" and not t.confirmed]
    name, method, length, rank = _identity(own[0])
    return Cell(
        name=name,
        method=method,
        length=length,
        rank=rank,
        trainable_parameters=_first(each.trainable_parameters for each in (*confirmed, *trials, *own)),
        planned=len(trials) < len(own),
        trials=tuple(trials),
        confirmed=tuple(sorted(confirmed, key=lambda t: (t.seed or 0, t.key))),
        lost=sum(not configurations or t.configuration in configurations for t in lost),
        accuracy=_estimate(confirmed),
    )


def _estimate(confirmed: Sequence[Trial]) -> Estimate | None:
    """From the single predictions where they are there, else from the accuracies alone, which gives wider intervals."""
    scores = [t.test_accuracy for t in confirmed if t.test_accuracy is not None]
    if not scores:
        return None
    matrix = predictions.correct(confirmed) if len(scores) > 1 else None
    return estimate(scores, confirmed[0].test_n or 0) if matrix is None else crossed(matrix)


def _searched(trials: Iterable[Trial]) -> list[Trial]:
    """The search trials that may be a winner."""
    able = [t for t in trials if t.phase == "search" and t.status in ("complete", "stopped")]
    return [t for t in able if t.selection_score is not None]


def _search_rank(trial: Trial) -> tuple[bool, float, float, str]:
    """Highest of the search's winner, by the sweep's rule (`sweeps.search.queue.study.winner`)."""
    return trial.status == "complete", trial.selection_score or 0.0, -(trial.selection_loss or 0.0), trial.key


def _first(numbers: Iterable[Number | None]) -> Number | None:
    """Of the numbers that are known."""
    return next((number for number in numbers if number is not None), None)


def _mean(numbers: Iterable[float | None]) -> float | None:
    """Of the numbers that are known."""
    known = [number for number in numbers if number is not None]
    return fmean(known) if known else None
