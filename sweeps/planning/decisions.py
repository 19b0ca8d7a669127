"""What the design of a sweep can decide before it runs, when its smaller cells are compared with the reference."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from analysis import power_text
from analysis.power import ASSUMED_NOISE, Design, Noise
from lopt import tasks
from lopt.config import TrialConfig
from sweeps.planning.plan import CellPlan, Plan

NoiseByTask = Mapping[tuple[str, str], Noise]  # by backbone and task


@dataclass(frozen=True, kw_only=True)
class PlannedComparison:
    """The comparison of smaller cells with the reference, on one backbone and task (and one number of shots).

    Attributes:
        shots: number of training examples of each class; None if all are used.
        examples: number of test examples; None if it is unknown before the data is read.
        smaller_cells: number of cells with fewer trainable parameters than the reference; None if sizes are searched.
    """

    backbone: str
    task: str
    shots: int | None
    examples: int | None
    smaller_cells: int | None


def planned_comparisons(plan: Plan) -> list[PlannedComparison]:
    """Return the comparisons of a plan, one for each backbone, task and number of shots that has a reference."""
    cells_by_group: dict[tuple[object, ...], list[CellPlan]] = {}
    for cell in plan.cells:
        trial = cell.sample_config
        cells_by_group.setdefault((trial.backbone, trial.task, trial.shots), []).append(cell)
    return [
        PlannedComparison(
            backbone=cells[0].sample_config.backbone,
            task=cells[0].sample_config.task,
            shots=cells[0].sample_config.shots,
            examples=test_example_count(cells[0].sample_config),
            smaller_cells=smaller_cells,
        )
        for cells in cells_by_group.values()
        if (smaller_cells := _count_smaller_cells(plan, cells)) != 0
    ]


def _count_smaller_cells(plan: Plan, cells: list[CellPlan]) -> int | None:
    """Return how many cells are smaller than the reference, which is the largest cell that fits the space's reference.

    Return 0 if no cell fits, and None if a cell searches its size.
    """
    sizes = [cell.parameter_counts.trainable if cell.parameter_counts else None for cell in cells]
    if None in sizes:
        return None
    reference_values = plan.space.reference
    reference_sizes = [
        size or 0
        for cell, size in zip(cells, sizes, strict=True)
        if all(getattr(cell.sample_config, name, None) == value for name, value in reference_values.items())
    ]
    return sum((size or 0) < max(reference_sizes) for size in sizes) if reference_sizes else 0


def test_example_count(config: TrialConfig) -> int | None:
    """Return the number of test examples of a trial; None if it is unknown before the data is read."""
    split_size = tasks.get(config.task).report_size
    split_size = split_size and (split_size // 2 if config.holdout == "validation" else split_size)
    return min((count for count in (config.test_examples, split_size) if count), default=None)


def _design(plan: Plan, comparison: PlannedComparison, noise: Noise) -> Design | None:
    """Return the design of a comparison; None with one seed, or if the number of test examples is unknown."""
    if plan.most_seeds < 2 or (comparison.examples or 0) < 2:
        return None
    return Design(
        margin=plan.space.margin,
        examples=comparison.examples or 0,
        seeds=plan.most_seeds,
        cells=comparison.smaller_cells or 1,
        noise=noise,
    )


def decision_lines(plan: Plan, noise_by_task: NoiseByTask) -> list[str]:
    """Return the plan's lines on what it can decide, at most one block for each number of test examples."""
    comparisons = planned_comparisons(plan)
    if not comparisons:
        return []
    if plan.most_seeds < 2:
        return _labelled([f"{power_text.ONE_SEED_TEXT} --seeds 3 trains three of each."])
    # Of the comparisons with the same number of examples, the one with the most cells has the smallest chances.
    by_examples: dict[int | None, PlannedComparison] = {}
    for comparison in sorted(comparisons, key=lambda comparison: comparison.smaller_cells or 0):
        by_examples[comparison.examples] = comparison
    texts = []
    for comparison in sorted(by_examples.values(), key=lambda comparison: comparison.examples or 0):
        noise = noise_by_task.get((comparison.backbone, comparison.task), ASSUMED_NOISE)
        design = _design(plan, comparison, noise)
        if design is None:
            texts += _texts_without_size(plan, comparison, noise)
        elif len(by_examples) == 1:
            texts += power_text.design_sentences(design)
        else:
            texts.append(power_text.short_text(design))
        if len(by_examples) == 1 or noise is not ASSUMED_NOISE:
            texts.append(power_text.noise_sentence(noise, comparison.examples))
    if len(by_examples) > 1 and any(
        (comparison.backbone, comparison.task) not in noise_by_task for comparison in by_examples.values()
    ):
        texts.append(power_text.noise_sentence(ASSUMED_NOISE, None))
    if len(by_examples) > 1:
        texts.append(
            f'"Tells": the smallest difference from the margin of {power_text.pp(plan.space.margin)} that gets a '
            f'verdict with a chance of 80 %, with {plan.most_seeds} seeds. "Shows": the chance to show a cell '
            "as good. Both are for smaller cells that all have the same true difference."
        )
    if any(comparison.smaller_cells is None for comparison in comparisons):
        texts.append("These numbers are for one smaller cell, because the sizes are searched; with more, chances fall.")
    return _labelled(texts)


def _texts_without_size(plan: Plan, comparison: PlannedComparison, noise: Noise) -> list[str]:
    """Say how many test examples the margin takes, if the number of test examples is unknown."""
    design = Design(
        margin=plan.space.margin, examples=2, seeds=2, cells=comparison.smaller_cells or 1, noise=noise
    ).with_unlimited_seeds
    needed = power_text.examples_text(design)
    return [f"The number of test examples is unknown before the data is read. {needed}"]


def _labelled(texts: list[str]) -> list[str]:
    return [f"  {'power' if i == 0 else '':<10} {text}" for i, text in enumerate(texts)]


def decisions_to_dicts(plan: Plan, noise_by_task: NoiseByTask) -> list[dict[str, Any]]:
    """Return what each comparison of the plan can decide, as JSON objects.

    Fractions are fractions of 1. The chances hold if all smaller cells have the same true difference. A number is None
    where it is unknown, where nothing can be tested, or, for the `…_needed` and `smallest_difference`, where no number
    is enough.
    """
    results = []
    for comparison in planned_comparisons(plan):
        noise = noise_by_task.get((comparison.backbone, comparison.task), ASSUMED_NOISE)
        design = _design(plan, comparison, noise)
        smallest = design.smallest_difference() if design else None
        results.append(
            {
                "backbone": comparison.backbone,
                "task": comparison.task,
                "margin": plan.space.margin,
                "test_examples": comparison.examples,
                "confirm_seeds": plan.most_seeds,
                "smaller_cells": comparison.smaller_cells,
                "smallest_difference": smallest if smallest is not None and smallest < 1 else None,
                "power_if_equal": design and design.power(0),
                "power_at_half_margin": design and design.power(design.margin / 2),
                "seeds_needed": design and design.seeds_needed(0),
                "examples_needed": design and design.examples_needed(0),
                "noise": asdict(noise),
            }
        )
    return results
