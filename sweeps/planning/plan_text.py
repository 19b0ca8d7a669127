"""A plan for a reader, and as JSON."""

from dataclasses import asdict, astuple
from typing import Any

from lopt import backbones, data, tasks
from lopt.errors import one_line
from lopt.settings import METRICS
from sweeps.planning import sizes
from sweeps.planning.plan import Plan
from sweeps.space import Space


def described(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    space = plan.space.to_dict()
    for described, cell in zip(space["cells"], plan.cells, strict=True):
        described["trials"] = cell.trials
        for name in ("trainable", "stored", "materialised"):
            described[f"{name}_parameters"] = getattr(cell.counts, name, None)
    return {
        **space,
        "rungs": plan.space.decision_steps(),
        "max_steps": plan.space.max_steps,
        "search_trials": plan.search_trials,
        "confirm_trials": plan.confirm_trials,
        "most_steps": plan.most_steps,
        "expected_steps": round(plan.expected_steps),
        "most_tokens": sizes.most_tokens(plan),
        "disk_bytes": asdict(sizes.disk(plan)),
        "notes": notes(plan),
    }


def text(plan: Plan, run: str) -> str:
    """The plan for a reader."""
    space, example = plan.space, plan.cells[0].example
    facts = backbones.facts(example.backbone)
    task_names = sorted({cell.example.task for cell in plan.cells})
    shown = ", ".join(_task(name) for name in task_names)
    words = "" if len(task_names) > 1 else f"; label words {', '.join(map(repr, example.label_words or ()))}"
    confirm = plan.confirm_trials
    seeds = f"{space.confirm_seeds} fresh seed{'s' if space.confirm_seeds > 1 else ''}"
    lines = [
        f"{space.title}: space {space.name}, profile {space.profile}, run {run}",
        f"  backbone   {example.backbone} (d = {facts.width:,}, {facts.layers} layers)",
        f"  task       {shown}{words}",
        f"  training   {_training(plan)}; {space.max_steps:,} steps, evaluated every {example.eval_every:,}",
        f"  stopping   {_stopping(space)}",
        *_unusual(plan),
        f"  trials     {plan.search_trials} search ({_a_cell(plan)}), then "
        + (f"each size's best with {seeds}" if confirm is None else f"{confirm} confirm (each winner with {seeds})"),
        f"  steps      about {_rounded(plan.expected_steps):,}, at most {plan.most_steps:,}"
        + (" and the confirm trials" if confirm is None else ""),
        *sizes.text(plan),
        *(f"  note       {note}" for note in notes(plan)),
        "",
    ]
    width = max(4, *(len(cell.name) for cell in plan.cells))
    lines.append(f"  {'cell':<{width}}  {'trainable':>10}  {'stored':>10}  {'at input':>10}  trials")
    for cell in plan.cells:
        counts = [f"{n:,}" for n in astuple(cell.counts)] if cell.counts else ["searched"] * 3
        numbers = "  ".join(f"{n:>10}" for n in counts)
        lines.append(f"  {cell.name:<{width}}  {numbers}  {cell.trials:>6}")
    return "\n".join([*lines, *_searched(plan)])


def notes(plan: Plan) -> list[str]:
    """What there is to know of the task's rows and label words before anything runs."""
    return list(dict.fromkeys(one_line(note) for cell in plan.cells for note in data.notes(cell.example)))


def _a_cell(plan: Plan) -> str:
    """Trials of a cell; why they are fewer than the space's number, where they are."""
    counts, asked = sorted({cell.trials for cell in plan.cells}), plan.space.trials
    shown = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    if counts[0] == asked:
        return f"{shown} a cell"
    if not any(cell.search for cell in plan.cells):
        return f"{shown} a cell: nothing is searched"
    return f"{shown} a cell, not {asked}: every value of the lists is then tried"


def _stopping(space: Space) -> str:
    rule, eval_every = space.stopping_rule(), int(space.base.get("eval_every", 100))
    if space.stopping != "none" and not rule.decision_steps(eval_every):
        return f"none: trials end before the first rung, at {space.grace_steps:,} steps"
    return rule.description("size" if space.by_size else "cell", eval_every)


def _unusual(plan: Plan) -> list[str]:
    """Lines on what a user has to ask for: another sampler than TPE, dropout, selection by another metric."""
    examples, lines = plan.space.all_examples, []
    if plan.space.sampler != "tpe":
        lines.append(f"  sampler    {plan.space.sampler}")
    rates = sorted({f"{config.dropout:g}" for config in examples if config.dropout})
    if rates:
        lines.append(f"  dropout    {', '.join(rates)} at training steps; such trials train alone")
    by_metric: dict[str, list[str]] = {}
    for config in examples:
        by_metric.setdefault(METRICS[config.metric], []).append(_task(config.task))
    if set(by_metric) != {METRICS["accuracy"]}:
        several = len(by_metric) > 1
        parts = [f"by {name}" + f" on {', '.join(dict.fromkeys(on))}" * several for name, on in by_metric.items()]
        lines.append(f"  selection  {'; '.join(parts)}")
    return lines


def _rounded(steps: float) -> int:
    """To two digits, or to the whole number below a hundred."""
    return int(round(steps, -max(0, len(str(int(steps))) - 2)))


def _task(name: str) -> str:
    title = tasks.get(name).title
    return f"{title} ({name})"


_OPTIMIZERS = {"adafactor": "Adafactor", "adamw": "AdamW"}
_SCHEDULES = {"constant": "constant", "linear": "falling"}


def _training(plan: Plan) -> str:
    """Batch, optimiser, schedule and rates; of a space with several methods, what they have in common."""
    examples = plan.space.all_examples
    batches = " or ".join(str(size) for size in sorted({c.batch_size for c in examples}))
    searched = any("method" in cell.search for cell in plan.cells)  # an example is of the first of them only
    if searched or (len({c.method for c in examples}) > 1 and len({(c.optimizer, c.schedule) for c in examples}) > 1):
        return f"batch {batches}, each method's own optimiser, schedule and learning rates"
    example, cell = examples[0], plan.cells[0]
    first = sorted({p["learning_rate"] for c in plan.space.cells for p in c.first if "learning_rate" in p})
    ranges = cell.search.get("learning_rate")
    rate = f"searched in {ranges}" if ranges else f"{example.learning_rate:g}"
    if ranges and first:
        rate = f"{', '.join(f'{v:g}' for v in first)} first, then {rate}"
    optimizer, schedule = _OPTIMIZERS[str(example.optimizer)], _SCHEDULES[str(example.schedule)]
    return f"batch {batches}, {optimizer}, {schedule} learning rate, {rate}"


def _searched(plan: Plan) -> list[str]:
    """Ranges that the line on training does not show, cells with the same ones together."""
    by_ranges: dict[str, list[str]] = {}
    several = len({cell.search.get("learning_rate") for cell in plan.cells}) > 1
    for cell in plan.cells:
        if several or set(cell.search) - {"learning_rate"}:
            ranges = "; ".join(f"{name} {r}" for name, r in cell.search.items())
            by_ranges.setdefault(ranges, []).append(cell.name)
    return [
        f"  searched in {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {ranges}"
        for ranges, names in by_ranges.items()
        if ranges
    ]
