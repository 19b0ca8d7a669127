"""The plan as text for a reader, and as JSON."""

from dataclasses import asdict, astuple
from typing import Any

from lopt import backbones, data, tasks
from lopt.errors import one_line
from lopt.settings import METRICS
from sweeps.planning import sizes
from sweeps.planning.plan import Plan
from sweeps.space import Space


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON."""
    space = plan.space.to_dict()
    for cell_dict, cell in zip(space["cells"], plan.cells, strict=True):
        cell_dict["trials"] = cell.trials
        for name in ("trainable", "stored", "materialised"):
            cell_dict[f"{name}_parameters"] = getattr(cell.counts, name, None)
    return {
        **space,
        "rungs": plan.space.decision_steps(),
        "max_steps": plan.space.max_steps,
        "search_trials": plan.search_trials,
        "confirm_trials": plan.confirm_trials,
        "most_steps": plan.most_steps,
        "expected_steps": round(plan.expected_steps),
        "most_tokens": sizes.most_tokens(plan),
        "disk_bytes": asdict(sizes.disk_use(plan)),
        "notes": plan_notes(plan),
    }


def format_plan(plan: Plan, run: str) -> str:
    """Return the plan as text for a reader."""
    space, sample_trial = plan.space, plan.cells[0].sample_trial
    facts = backbones.facts(sample_trial.backbone)
    task_names = sorted({cell.sample_trial.task for cell in plan.cells})
    task_titles = ", ".join(_task_title(name) for name in task_names)
    label_words = "" if len(task_names) > 1 else f"; label words {', '.join(map(repr, sample_trial.label_words or ()))}"
    seeds = f"{space.confirm_seeds} fresh seed{'s' if space.confirm_seeds > 1 else ''}"
    if plan.confirm_trials is None:
        confirm, more_steps = f"then confirm trials (the best of each size with {seeds})", ", plus the confirm trials"
    else:
        confirm, more_steps = f"then {plan.confirm_trials} confirm trials (each winner with {seeds})", ""
    lines = [
        f"{space.title}: space {space.name}, profile {space.profile}, run {run}",
        f"  backbone   {sample_trial.backbone} (d = {facts.width:,}, {facts.layers} layers)",
        f"  task       {task_titles}{label_words}",
        f"  training   {_training(plan)}; {space.max_steps:,} steps, evaluated every {sample_trial.eval_every:,}",
        f"  stopping   {_stopping(space)}",
        *_optional_lines(plan),
        f"  trials     {plan.search_trials} search trials ({_trials_per_cell(plan)}), {confirm}",
        f"  steps      about {_round_steps(plan.expected_steps):,}, at most {plan.most_steps:,}{more_steps}",
        *sizes.size_lines(plan),
        *(f"  note       {note}" for note in plan_notes(plan)),
        "",
    ]
    width = max(4, *(len(cell.name) for cell in plan.cells))
    lines.append(f"  {'cell':<{width}}  {'trainable':>10}  {'stored':>10}  {'at input':>10}  trials")
    for cell in plan.cells:
        counts = [f"{count:,}" for count in astuple(cell.counts)] if cell.counts else ["searched"] * 3
        columns = "  ".join(f"{count:>10}" for count in counts)
        lines.append(f"  {cell.name:<{width}}  {columns}  {cell.trials:>6}")
    return "\n".join([*lines, *_range_lines(plan)])


def plan_notes(plan: Plan) -> list[str]:
    """Return what a user should know about the task's rows and label words before anything runs."""
    return list(dict.fromkeys(one_line(note) for cell in plan.cells for note in data.notes(cell.sample_trial)))


def _trials_per_cell(plan: Plan) -> str:
    """Return how many search trials a cell has, and, if they are fewer than the space asks for, why."""
    counts, asked = sorted({cell.trials for cell in plan.cells}), plan.space.trials
    count_text = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    if counts[0] == asked:
        return f"{count_text} per cell"
    if not any(cell.search for cell in plan.cells):
        return f"{count_text} per cell, because nothing is searched"
    return f"{count_text} per cell instead of {asked}, because the lists have no further values"


def _stopping(space: Space) -> str:
    """Return when trials are stopped early."""
    rule, eval_every = space.stopping_rule(), int(space.base.get("eval_every", 100))
    if space.stopping != "none" and not rule.decision_steps(eval_every):
        return f"none, because trials end before the first rung, which is at {space.grace_steps:,} steps"
    return rule.description("size" if space.by_size else "cell", eval_every)


def _optional_lines(plan: Plan) -> list[str]:
    """Return lines on what is off by default: another sampler than TPE, dropout, selection by another metric."""
    examples, lines = plan.space.all_sample_trials, []
    if plan.space.sampler != "tpe":
        lines.append(f"  sampler    {plan.space.sampler}")
    rates = sorted({f"{config.dropout:g}" for config in examples if config.dropout})
    if rates:
        lines.append(f"  dropout    {', '.join(rates)} in training; trials with dropout train alone")
    tasks_by_metric: dict[str, list[str]] = {}
    for config in examples:
        tasks_by_metric.setdefault(METRICS[config.metric], []).append(_task_title(config.task))
    if set(tasks_by_metric) != {METRICS["accuracy"]}:
        several = len(tasks_by_metric) > 1
        parts = [
            f"by {metric}" + (f" on {', '.join(dict.fromkeys(titles))}" if several else "")
            for metric, titles in tasks_by_metric.items()
        ]
        lines.append(f"  selection  {'; '.join(parts)}")
    return lines


def _round_steps(steps: float) -> int:
    """Round to two digits, or below a hundred to the whole number."""
    return int(round(steps, -max(0, len(str(int(steps))) - 2)))


def _task_title(name: str) -> str:
    return f"{tasks.get(name).title} ({name})"


_OPTIMIZERS = {"adafactor": "Adafactor", "adamw": "AdamW"}
_SCHEDULES = {"constant": "constant", "linear": "falling"}


def _training(plan: Plan) -> str:
    """Return batch size, optimiser, schedule and learning rates; only what is common to all methods of the space."""
    examples = plan.space.all_sample_trials
    batches = " or ".join(str(size) for size in sorted({config.batch_size for config in examples}))
    searches_method = any("method" in cell.search for cell in plan.cells)  # the examples have only the first method
    several_methods = len({config.method for config in examples}) > 1
    several_optimizers = len({(config.optimizer, config.schedule) for config in examples}) > 1
    if searches_method or (several_methods and several_optimizers):
        return f"batch {batches}, each method's own optimiser, schedule and learning rates"
    example, cell = examples[0], plan.cells[0]
    first_points = [point for space_cell in plan.space.cells for point in space_cell.first]
    first_rates = sorted({point["learning_rate"] for point in first_points if "learning_rate" in point})
    rate_range = cell.search.get("learning_rate")
    rates = f"searched in {rate_range}" if rate_range else f"{example.learning_rate:g}"
    if rate_range and first_rates:
        rates = f"{', '.join(f'{rate:g}' for rate in first_rates)} first, then {rates}"
    optimizer, schedule = _OPTIMIZERS[str(example.optimizer)], _SCHEDULES[str(example.schedule)]
    return f"batch {batches}, {optimizer}, {schedule} learning rate, {rates}"


def _range_lines(plan: Plan) -> list[str]:
    """Return lines on the ranges that the line on training does not name; cells with the same ranges share a line."""
    cells_by_ranges: dict[str, list[str]] = {}
    rates_differ = len({cell.search.get("learning_rate") for cell in plan.cells}) > 1
    for cell in plan.cells:
        if rates_differ or set(cell.search) - {"learning_rate"}:
            ranges = "; ".join(f"{name} {searched}" for name, searched in cell.search.items())
            cells_by_ranges.setdefault(ranges, []).append(cell.name)
    return [
        f"  ranges in {names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''}: {ranges}"
        for ranges, names in cells_by_ranges.items()
        if ranges
    ]
