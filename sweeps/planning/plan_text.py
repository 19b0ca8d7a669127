"""The plan as a JSON object and as text."""

from dataclasses import asdict, astuple
from typing import Any

from lopt import backbones, data, tasks
from lopt.errors import to_one_line
from sweeps.planning import sizes
from sweeps.planning.decisions import NoiseByTask, decision_lines
from sweeps.planning.looks import look_lines
from sweeps.planning.plan import Plan
from sweeps.space import Space


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as a JSON object."""
    space_dict = plan.space.to_dict()
    for cell_dict, cell in zip(space_dict["cells"], plan.cells, strict=True):
        cell_dict["trials"] = cell.trial_count
        for name in ("trainable", "stored", "materialised"):
            cell_dict[f"{name}_parameters"] = getattr(cell.parameter_counts, name, None)
    return {
        **space_dict,
        "rungs": plan.space.decision_steps(),
        "max_steps": plan.space.max_steps,
        "search_trials": plan.search_trial_count,
        "confirm_trials": plan.confirm_trial_count,
        "most_steps": plan.most_steps,
        "expected_steps": round(plan.expected_steps),
        "most_tokens": sizes.most_tokens(plan),
        "disk_bytes": asdict(sizes.disk_use(plan)),
        "notes": plan_notes(plan),
        **({"until_decided": plan.design.to_dict()} if plan.design else {}),
    }


def format_plan(plan: Plan, run: str, noise_by_task: NoiseByTask | None = None) -> str:
    """Return the plan as text of several lines.

    `noise_by_task` is how much accuracies varied in earlier runs. Where there is none, it is assumed.
    """
    space, sample_config = plan.space, plan.cells[0].sample_config
    backbone_facts = backbones.facts(sample_config.backbone)
    task_names = sorted({cell.sample_config.task for cell in plan.cells})
    task_text = ", ".join(_task_title(name) for name in task_names)
    if len(task_names) == 1:
        task_text += f"; label words {', '.join(map(repr, sample_config.label_words or ()))}"
    seeds_text = _count_text(space.confirm_seeds, "fresh seed")
    if plan.design:
        seeds_text += f" at first, and with {plan.most_seeds} at most"
    if plan.confirm_trial_count is None:
        confirm_text = f"then confirm trials (the best of each size with {seeds_text})"
        steps_suffix = ", plus the confirm trials"
    else:
        confirm_text = f"then {_count_text(plan.confirm_trial_count, 'confirm trial')} (each winner with {seeds_text})"
        steps_suffix = ""
    search_text = f"{_count_text(plan.search_trial_count, 'search trial')} ({_trials_per_cell_text(plan)})"
    trials_text = f"{search_text}, {confirm_text}"
    if not plan.search_trial_count:
        trials_text = f"{confirm_text.removeprefix('then ')}; nothing is searched"
    lines = [
        f"{space.title}: space {space.name}, profile {space.profile}, run {run}",
        f"  backbone   {sample_config.backbone} (d = {backbone_facts.width:,}, {backbone_facts.layers} layers)",
        f"  task       {task_text}",
        f"  training   {_training_text(plan)}; {space.max_steps:,} steps, evaluated every {sample_config.eval_every:,}",
        f"  stopping   {_stopping_text(space)}",
        *_optional_lines(plan),
        f"  trials     {trials_text}",
        f"  steps      about {_round_steps(plan.expected_steps):,}, at most {plan.most_steps:,}{steps_suffix}",
        *sizes.size_lines(plan),
        f"  reference  {_reference_text(space)}",
        *decision_lines(plan, noise_by_task or {}),
        *look_lines(plan, noise_by_task or {}),
        *(f"  note       {note}" for note in plan_notes(plan)),
        "",
    ]
    name_width = max(4, *(len(cell.name) for cell in plan.cells))
    lines.append(f"  {'cell':<{name_width}}  {'trainable':>10}  {'stored':>10}  {'at input':>10}  trials")
    for cell in plan.cells:
        parameter_counts = astuple(cell.parameter_counts) if cell.parameter_counts else None
        count_texts = [f"{count:,}" for count in parameter_counts] if parameter_counts else ["searched"] * 3
        count_columns = "  ".join(f"{count:>10}" for count in count_texts)
        lines.append(f"  {cell.name:<{name_width}}  {count_columns}  {cell.trial_count:>6}")
    return "\n".join([*lines, *_range_lines(plan)])


def _reference_text(space: Space) -> str:
    """Say what the report will compare smaller cells with, and by which margin."""
    settings = [f"{name} {value}" for name, value in space.reference.items() if name != "method"]
    cell_text = str(space.reference.get("method", "the cell")) + (f" with {' and '.join(settings)}" if settings else "")
    fits = [
        all(getattr(config, name) == value for name, value in space.reference.items())
        for config in space.all_sample_configs
    ]
    if not any(fits) and not any("method" in cell.search for cell in space.cells):
        return f"{cell_text}: no cell fits, so the report will have no answer"
    return (
        f"{cell_text}, the largest such cell of a task; a smaller cell is as good if it is worse by less than "
        f"{100 * space.margin:g} pp"
    )


def plan_notes(plan: Plan) -> list[str]:
    """Return notes on the tasks' rows and label words. A user should read them before anything runs."""
    return list(dict.fromkeys(to_one_line(note) for cell in plan.cells for note in data.plan_notes(cell.sample_config)))


def _count_text(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _trials_per_cell_text(plan: Plan) -> str:
    """Return the number of search trials of a cell as text. If a cell has fewer than the space asks for, say why."""
    trial_counts, requested_count = sorted({cell.trial_count for cell in plan.cells}), plan.space.trials
    count_text = " to ".join(map(str, dict.fromkeys((trial_counts[0], trial_counts[-1]))))
    if trial_counts[0] == requested_count:
        return f"{count_text} per cell"
    if not any(cell.search for cell in plan.cells):
        return f"{count_text} per cell, because nothing is searched"
    return f"{count_text} per cell instead of {requested_count}, because the lists have no further values"


def _stopping_text(space: Space) -> str:
    """Return a description of the stopping rule."""
    rule, eval_every = space.stopping_rule(), int(space.base.get("eval_every", 100))
    if space.stopping != "none" and not rule.decision_steps(eval_every):
        return f"none, because trials end before the first rung, which is at {space.grace_steps:,} steps"
    stratum = "size (numbers of parameters within a factor of two)" if space.by_size else "cell"
    return rule.description(stratum, eval_every)


def _optional_lines(plan: Plan) -> list[str]:
    """Return lines on settings that differ from the defaults: the sampler, dropout, the metric for selection."""
    from lopt import metrics  # imported here, because it brings numpy, which --help does not need

    configs, lines = plan.space.all_sample_configs, []
    if plan.space.sampler != "tpe":
        lines.append(f"  sampler    {plan.space.sampler}")
    most_restarts = max(config.restarts for config in configs)
    if most_restarts:
        count_text = "once" if most_restarts == 1 else f"{most_restarts} times"
        lines.append(
            f"  restarts   at most {count_text}, if a start has learnt nothing after half of its steps; no trial is "
            "evaluated before"
        )
    dropout_rates = sorted({f"{config.dropout:g}" for config in configs if config.dropout})
    if dropout_rates:
        lines.append(f"  dropout    {', '.join(dropout_rates)} in training; trials with dropout train alone")
    task_titles_by_metric: dict[str, list[str]] = {}
    for config in configs:
        task_titles_by_metric.setdefault(metrics.title(str(config.metric)), []).append(_task_title(config.task))
    if set(task_titles_by_metric) != {metrics.title(metrics.ACCURACY)}:
        has_several_metrics = len(task_titles_by_metric) > 1
        metric_texts = [
            f"by {metric}" + (f" on {', '.join(dict.fromkeys(titles))}" if has_several_metrics else "")
            for metric, titles in task_titles_by_metric.items()
        ]
        lines.append(f"  selection  {'; '.join(metric_texts)}")
    return lines


def _round_steps(steps: float) -> int:
    """Return a number of steps, rounded to two significant digits. Below a hundred, return a whole number."""
    return int(round(steps, -max(0, len(str(int(steps))) - 2)))


def _task_title(name: str) -> str:
    return f"{tasks.get(name).title} ({name})"


_OPTIMIZER_TITLES = {"adafactor": "Adafactor", "adamw": "AdamW"}
_SCHEDULE_WORDS = {"constant": "constant", "linear": "falling"}


def _training_text(plan: Plan) -> str:
    """Return the batch size, and the optimiser, schedule and learning rates if all methods of the space share them."""
    configs = plan.space.all_sample_configs
    batch_text = "batch " + " or ".join(str(size) for size in sorted({config.batch_size for config in configs}))
    searches_method = any("method" in cell.search for cell in plan.cells)  # if so, `configs` have the first method only
    has_several_methods = len({config.method for config in configs}) > 1
    has_several_optimizers = len({(config.optimizer, config.schedule) for config in configs}) > 1
    if searches_method or (has_several_methods and has_several_optimizers):
        return f"{batch_text}, each method's own optimiser, schedule and learning rates"
    config, cell = configs[0], plan.cells[0]
    first_points = [point for space_cell in plan.space.cells for point in space_cell.first]
    first_learning_rates = sorted({point["learning_rate"] for point in first_points if "learning_rate" in point})
    rate_range = cell.search.get("learning_rate")
    rate_text = f"searched in {rate_range}" if rate_range else f"{config.learning_rate:g}"
    if rate_range and first_learning_rates:
        rate_text = f"{', '.join(f'{rate:g}' for rate in first_learning_rates)} first, then {rate_text}"
    optimizer, schedule = _OPTIMIZER_TITLES[str(config.optimizer)], _SCHEDULE_WORDS[str(config.schedule)]
    return f"{batch_text}, {optimizer}, {schedule} learning rate, {rate_text}"


def _range_lines(plan: Plan) -> list[str]:
    """Return lines on the ranges that `_training_text` does not give. Cells with the same ranges share a line."""
    cell_names_by_ranges: dict[str, list[str]] = {}
    has_several_rate_ranges = len({cell.search.get("learning_rate") for cell in plan.cells}) > 1
    for cell in plan.cells:
        if has_several_rate_ranges or set(cell.search) - {"learning_rate"}:
            ranges_text = "; ".join(f"{name} {range_text}" for name, range_text in cell.search.items())
            cell_names_by_ranges.setdefault(ranges_text, []).append(cell.name)
    lines = []
    for ranges_text, cell_names in cell_names_by_ranges.items():
        other_cells_text = f" and {_count_text(len(cell_names) - 1, 'more cell')}" if len(cell_names) > 1 else ""
        if ranges_text:
            lines.append(f"  ranges in {cell_names[0]}{other_cells_text}: {ranges_text}")
    return lines
