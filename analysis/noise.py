"""How much accuracies vary between seeds and between examples: measured in runs, or assumed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import TYPE_CHECKING

from analysis import predictions
from analysis.cells import Cell, Group, groups
from analysis.comparisons import reference_cell
from analysis.load import load
from analysis.power import ASSUMED_NOISE, Noise
from analysis.runs import READ_ERRORS, find_runs, load_run
from analysis.stats import variance_between_examples
from lopt.config import name_without_path
from lopt.locations import to_location

if TYPE_CHECKING:
    import numpy as np

Task = tuple[str, str]  # the backbone and the task, as in a trial's configuration


def measured_noise(group: Group) -> Noise | None:
    """Return the noise of a group's confirmed cells; None unless two of them have at least two seeds each.

    The variance between seeds is pooled over the cells. The variance between examples is that of the difference of a
    cell from the reference, averaged over the cells. From both, what the chance of single seeds on single examples
    explains is subtracted. If predictions are missing, the part between examples is assumed.
    """
    cells = [cell for cell in group.confirmed_cells if len(cell.confirmed_trials) > 1]
    if len(cells) < 2:
        return None
    examples = cells[0].confirmed_trials[0].test_n or 1
    accuracies_by_cell = [[trial.test_accuracy or 0.0 for trial in cell.confirmed_trials] for cell in cells]
    seed_variance = _pooled([(variance(accuracies), len(accuracies) - 1) for accuracies in accuracies_by_cell])
    cells_text = f"{len(cells)} cells with {_seeds_text(cells)} of {_runs_text(cells)}"
    scores_or_none = [predictions.correct_by_trial(cell.confirmed_trials) for cell in cells]
    scores = [scores_SN for scores_SN in scores_or_none if scores_SN is not None]
    if len(scores) < len(cells):
        return Noise(
            seed_sd=math.sqrt(seed_variance),
            seed_disagreement=0.0,
            example_sd=ASSUMED_NOISE.example_sd,
            source=f"the spread of seeds is measured in {cells_text}, the spread of examples is assumed",
        )
    on_one_example = _pooled([(_variance_on_one_example(scores_SN), len(scores_SN) - 1) for scores_SN in scores])
    return Noise(
        seed_sd=math.sqrt(max(0.0, seed_variance - on_one_example / examples)),
        seed_disagreement=2 * on_one_example,
        example_sd=math.sqrt(max(0.0, _variance_of_differences(cells, reference_cell(group)))),
        source=f"measured in {cells_text}",
    )


def _pooled(variances_and_degrees: Sequence[tuple[float, int]]) -> float:
    """Return the mean of variances, weighted by their degrees of freedom."""
    degrees_sum = sum(degrees for _, degrees in variances_and_degrees)
    return sum(value * degrees for value, degrees in variances_and_degrees) / degrees_sum


def _variance_on_one_example(scores_SN: np.ndarray) -> float:
    """Return the variance between seeds on one example, a mean over the examples."""
    return float(scores_SN.var(axis=0, ddof=1).mean())


def _variance_of_differences(cells: Sequence[Cell], reference: Cell | None) -> float:
    """Return the variance between examples of the difference from the reference, which is the largest cell if None.

    The scores are means over many seeds. So the part of the variance that comes from the seeds at hand is subtracted.
    """
    reference = reference if reference in cells else cells[-1]
    variances = []
    for cell in cells:
        pair = predictions.correct_by_group(cell.confirmed_trials, reference.confirmed_trials) if reference else None
        if cell is not reference and pair:
            observed = variance_between_examples(pair[0].mean(axis=0) - pair[1].mean(axis=0))
            variances.append(observed - sum(_variance_on_one_example(scores) / len(scores) for scores in pair))
    return fmean(variances) if variances else ASSUMED_NOISE.example_sd**2


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
