"""How much accuracies vary between seeds and between examples: measured in runs, or assumed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import TYPE_CHECKING

from analysis import predictions
from analysis.cells import Cell, Group, groups
from analysis.comparisons import Comparison, comparisons
from analysis.load import load
from analysis.power import ASSUMED_NOISE, Noise
from analysis.registry import Missing
from analysis.runs import READ_ERRORS, find_runs, load_run
from analysis.stats import variance_between_examples
from lopt.config import name_without_path
from lopt.locations import to_location

if TYPE_CHECKING:
    import numpy as np

_Z_ONE_SIDED = 1.6449  # the 95 % quantile of the normal distribution
Task = tuple[str, str]  # the backbone and the task, as in a trial's configuration


def measured_noise(group: Group) -> Noise | None:
    """Return the noise of a group's confirmed cells; None unless two of them have at least two seeds each.

    The variance between seeds is pooled over the cells. The variance between examples is that of the difference from
    the reference, averaged over the compared cells that are not shown to be worse. From both, what the chance of single
    seeds on single examples explains is subtracted. A variance below its limit of detection is replaced by this limit.
    If nothing was compared, the part between examples is assumed.
    """
    cells = [cell for cell in group.confirmed_cells if len(cell.confirmed_trials) > 1]
    if len(cells) < 2:
        return None
    examples = cells[0].confirmed_trials[0].test_n or 1
    accuracies_by_cell = [[trial.test_score(cell.metric) or 0.0 for trial in cell.confirmed_trials] for cell in cells]
    total_variance = _pooled([(variance(accuracies), len(accuracies) - 1) for accuracies in accuracies_by_cell])
    scores_or_none = [predictions.values_by_trial(cell.confirmed_trials, cell.metric) for cell in cells]
    scores = [scores_SN for scores_SN in scores_or_none if scores_SN is not None]
    on_one_example = (
        _pooled([(_variance_on_one_example(scores_SN), len(scores_SN) - 1) for scores_SN in scores]) if scores else 0.0
    )
    seed_variance = total_variance - on_one_example / examples
    # If seeds never differ on an example, two of them may still differ on 3/n of all examples (the rule of three).
    explained_variance = max(on_one_example, 1.5 / examples) / examples
    degrees = sum(len(accuracies) - 1 for accuracies in accuracies_by_cell)
    seed_limit = _Z_ONE_SIDED * math.sqrt(2 / degrees) * explained_variance
    compared = comparisons(group)
    if isinstance(compared, Missing):
        example_variance, example_limit, cells_text = ASSUMED_NOISE.example_sd**2, 0.0, "is assumed"
    else:
        example_variance, example_limit, cells_text = _variance_of_differences(compared)
    source = f"measured in {len(cells)} cells with {_seeds_text(cells)} of {_runs_text(cells)}"
    source += f"; the spread of examples {cells_text}"
    too_small = ["seeds"] * (seed_variance < seed_limit) + ["examples"] * (example_variance < example_limit)
    if too_small:
        source += (
            f"; the spread of {' and '.join(too_small)} is too small to measure, so the limit of detection is taken"
        )
    return Noise(
        seed_sd=math.sqrt(max(seed_variance, seed_limit)),
        seed_disagreement=2 * on_one_example,
        example_sd=math.sqrt(max(example_variance, example_limit)),
        source=source,
    )


def _pooled(variances_and_degrees: Sequence[tuple[float, int]]) -> float:
    """Return the mean of variances, weighted by their degrees of freedom."""
    degrees_sum = sum(degrees for _, degrees in variances_and_degrees)
    return sum(value * degrees for value, degrees in variances_and_degrees) / degrees_sum


def _variance_on_one_example(scores_SN: np.ndarray) -> float:
    """Return the variance between seeds on one example, a mean over the examples."""
    return float(scores_SN.var(axis=0, ddof=1).mean())


def _variance_of_differences(compared: Sequence[Comparison]) -> tuple[float, float, str]:
    """Return the variance between examples of the difference from the reference, for cells that are not worse.

    A cell that is worse by d differs from the reference on a share d of the examples at least. So a cell that is shown
    to be worse says little about an equal one. The scores are means over many seeds. So the part of the variance that
    comes from the seeds at hand is subtracted.

    Returns:
        The variance, the least variance that can be told from 0 (by a one-sided test at 5 %), and the cells, in words.
    """
    not_worse = [comparison for comparison in compared if comparison.verdict.outcome != "inferior"]
    values = []
    for comparison in not_worse or compared:
        cell, reference = comparison.cell, comparison.reference
        pair = predictions.values_by_group(cell.confirmed_trials, reference.confirmed_trials, metric=cell.metric)
        if pair:
            examples = pair[0].shape[1]
            explained_variance = sum(_variance_on_one_example(scores) / len(scores) for scores in pair)
            observed_variance = variance_between_examples(pair[0].mean(axis=0) - pair[1].mean(axis=0))
            limit = max(_Z_ONE_SIDED * math.sqrt(2 / examples) * explained_variance, 3 / examples)
            values.append((observed_variance - explained_variance, limit))
    if not not_worse:
        return *min(values), "in the smaller cell where it is smallest, because all are inferior"
    count_text = f"{len(values)} smaller cell{'s' if len(values) > 1 else ''}"
    means = fmean(value for value, _ in values), fmean(limit for _, limit in values)
    return *means, f"in {count_text} without the verdict inferior"


def _seeds_text(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.confirmed_trials) for cell in cells})
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def _runs_text(cells: Sequence[Cell]) -> str:
    run_names = dict.fromkeys(
        trial.run.rstrip("/").rpartition("/")[2] for cell in cells for trial in cell.confirmed_trials
    )
    return f"run {next(iter(run_names))}" if len(run_names) == 1 else f"{len(run_names)} runs"


def noise_of_earlier_runs(out: str, tasks: Iterable[Task]) -> dict[Task, Noise]:
    """Return the noise of each backbone and task that an earlier run has measured.

    Of several runs, the newest counts. A run that cannot be read is passed over.

    Args:
        out: the folder of all runs. A URL is not read, since a plan needs no network.
        tasks: pairs of backbone and task.
    """
    root = to_location(out)
    if not isinstance(root, Path) or not root.is_dir():
        return {}
    wanted_tasks = {_names(task): task for task in tasks}
    noise_by_task: dict[Task, Noise] = {}
    for path in find_runs(root):
        try:
            planned_tasks = {_names((cell.backbone, cell.task)) for cell in load_run(path).cells}
            if not planned_tasks & (wanted_tasks.keys() - set(map(_names, noise_by_task))):
                continue
            for group in groups(load([path])):
                task = wanted_tasks.get(_names((group.backbone, group.task)))
                noise = measured_noise(group) if task and task not in noise_by_task else None
                if task and noise:
                    noise_by_task[task] = noise
        except READ_ERRORS:
            continue
    return noise_by_task


def _names(task: Task) -> Task:
    backbone, name = task
    return name_without_path(backbone), name_without_path(name)
