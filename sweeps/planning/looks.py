"""The looks of a sweep that adds seeds until its question is decided (`--until-decided`)."""

import dataclasses

from analysis.group_sequential import DEFAULT_MOST_SEEDS, FIRST_LOOK, SequentialDesign, make_design
from analysis.power import ASSUMED_NOISE
from analysis.power_text import chance, pp
from analysis.sequential_power import Chances, simulate_sweeps
from sweeps.planning.decisions import NoiseByTask, planned_comparisons
from sweeps.planning.plan import Plan


def with_looks(plan: Plan, noise_by_task: NoiseByTask, *, seeds: int | None, most_seeds: int | None) -> Plan:
    """Return the plan with the looks of `--until-decided`.

    Args:
        noise_by_task: how much accuracies varied in earlier runs. Where there is none, it is assumed.
        seeds, most_seeds: the values of `--seeds` and `--most-seeds`, or None. The first look is at so many seeds.

    Raises:
        ValueError: The numbers do not fit, or the space has nothing to decide.
    """
    first_look, most_seeds = seeds or FIRST_LOOK, most_seeds or max(DEFAULT_MOST_SEEDS, seeds or 0)
    if first_look < FIRST_LOOK:
        raise ValueError(
            f"--seeds {first_look}: --until-decided looks for the first time at {FIRST_LOOK} seeds or more; give "
            f"--seeds {FIRST_LOOK}, or leave it out"
        )
    if most_seeds < first_look:
        raise ValueError(
            f"--most-seeds {most_seeds} is below the {first_look} seeds of the first look; give {first_look} or more"
        )
    if plan.space.by_size:
        raise ValueError(
            f"--until-decided compares cells that are fixed beforehand, but space {plan.space.name} searches their "
            "size: leave it out, or choose another space"
        )
    comparisons = planned_comparisons(plan)
    if not comparisons:
        raise ValueError(
            f"--until-decided compares smaller cells with the reference, but space {plan.space.name} has no reference "
            f"({dict(plan.space.reference)}) with a smaller cell beside it: leave it out, or change the cells"
        )
    largest = max(comparisons, key=lambda comparison: comparison.examples or 0)
    design = make_design(
        plan.space.margin,
        first_look=first_look,
        most_seeds=most_seeds,
        examples=largest.examples,
        noise=noise_by_task.get((largest.backbone, largest.task), ASSUMED_NOISE),
    )
    return with_design(plan, design)


def with_design(plan: Plan, design: SequentialDesign) -> Plan:
    """Return the plan with these looks."""
    space = dataclasses.replace(plan.space, confirm_seeds=design.looks[0], margin=design.margin)
    return dataclasses.replace(plan, space=space, design=design)


def look_lines(plan: Plan, noise_by_task: NoiseByTask) -> list[str]:
    """Return the plan's lines on its looks, and on the chance that they decide; empty without `--until-decided`."""
    if plan.design is None:
        return []
    *counts, most = map(str, plan.design.looks)
    counts_text = f"{', '.join(counts)} and {most}" if counts else most
    lines = [
        f"  looks      at {counts_text} seeds of the reference and of each smaller cell whose verdict is open and "
        "matters for the answer"
    ]
    for comparison in planned_comparisons(plan):
        if comparison.examples and comparison.smaller_cells:
            noise = noise_by_task.get((comparison.backbone, comparison.task), ASSUMED_NOISE)
            gap = min(1.0, 2 * plan.design.margin)
            equal, one_worse = (
                simulate_sweeps(plan.design, gaps=gaps, examples=comparison.examples, noise=noise)
                for gaps in ([0.0] * comparison.smaller_cells, [gap] + [0.0] * (comparison.smaller_cells - 1))
            )
            task = comparison.task + (f" ({comparison.shots}-shot)" if comparison.shots else "")
            lines.append(
                f"             {task}: the chance that they end decided is {_chance_text(equal, plan)} if all smaller "
                f"cells equal the reference, and {_chance_text(one_worse, plan)} if the smallest one is worse by "
                f"{pp(gap)}"
            )
    return lines


def _chance_text(chances: Chances, plan: Plan) -> str:
    return f"{chance(chances.decided)} (with {chances.seeds * plan.most_seeds:.0f} seeds of a cell on average)"
