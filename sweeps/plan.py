"""What a sweep will run, without network or weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from lopt import backbones, data, methods, tasks
from lopt.config import TrialConfig
from lopt.errors import one_line
from lopt.settings import METRICS
from sweeps import sizes
from sweeps.points import trials_of
from sweeps.space import Space


@dataclass(frozen=True)
class CellPlan:
    """One cell: an example of its trials, and its parameter counts (None where method or shape is searched)."""

    name: str
    example: TrialConfig
    trainable: int | None
    stored: int | None
    materialised: int | None
    search: dict[str, str]
    trials: int


@dataclass(frozen=True)
class Plan:
    """All cells, and the totals."""

    space: Space
    cells: tuple[CellPlan, ...]

    @property
    def search_trials(self) -> int:
        return sum(cell.trials for cell in self.cells)

    @property
    def confirm_trials(self) -> int | None:
        """None in a free search: one for each size found and each seed."""
        return None if self.space.by_size else len(self.cells) * self.space.confirm_seeds

    @property
    def most_steps(self) -> int:
        """Steps if no trial stopped early."""
        return (self.search_trials + (self.confirm_trials or 0)) * self.space.max_steps

    @property
    def expected_steps(self) -> float:
        """Steps on average, if the trials of a cell are equally good."""
        searched = sum(
            cells * sum(self.space.expected_steps(n + 1) for n in range(trials))
            for trials, cells in Counter(cell.trials for cell in self.cells).items()
        )
        return searched + (self.confirm_trials or 0) * self.space.max_steps

    def to_dict(self) -> dict[str, Any]:
        space = self.space.to_dict()
        for described, cell in zip(space["cells"], self.cells, strict=True):
            described["trials"] = cell.trials
            described["trainable_parameters"] = cell.trainable
            described["stored_parameters"] = cell.stored
            described["materialised_parameters"] = cell.materialised
        return {
            **space,
            "rungs": self.space.rungs,
            "max_steps": self.space.max_steps,
            "search_trials": self.search_trials,
            "confirm_trials": self.confirm_trials,
            "most_steps": self.most_steps,
            "expected_steps": round(self.expected_steps),
            "most_tokens": sizes.most_tokens(self),
            "disk_bytes": asdict(sizes.disk(self)),
            "notes": notes(self),
        }


def make_plan(space: Space) -> Plan:
    """Plans a space; every cell's configuration is validated on the way.

    Raises:
        ValueError: a cell that no trial could run; a backbone of which nothing is known offline.
    """
    cells = []
    for cell in space.cells:
        example = space.example(cell)
        open_shape = {"method", "length", "rank"} & {name.rpartition(".")[2] for name in cell.search}
        counts = None
        if not open_shape:
            counts = methods.counts_of(example)
        cells.append(
            CellPlan(
                name=cell.name,
                example=example,
                trainable=counts.trainable if counts else None,
                stored=counts.stored if counts else None,
                materialised=counts.materialised if counts else None,
                search={name: str(r) for name, r in cell.search.items()},
                trials=trials_of(space, cell),
            )
        )
    return Plan(space, tuple(cells))


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
        counted = (cell.trainable, cell.stored, cell.materialised)
        numbers = "  ".join(f"{'searched' if n is None else format(n, ','):>10}" for n in counted)
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
    if not space.rungs:
        return f"none: trials end before the first rung, at {space.grace_steps:,} steps"
    rungs, stratum = ", ".join(f"{rung:,}" for rung in space.rungs), "size" if space.by_size else "cell"
    return f"ASHA in each {stratum}: rungs at {rungs} steps, the best 1/{space.reduction_factor} go on"


def _unusual(plan: Plan) -> list[str]:
    """Lines on what is off unless a user asks for it: dropout, and selection by another metric than accuracy."""
    examples, lines = plan.space.all_examples, []
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
