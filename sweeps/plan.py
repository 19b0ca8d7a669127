"""What a sweep will run, without network or weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lopt import backbones, methods, tasks
from lopt.config import TrialConfig
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
        searched = (self.space.expected_steps(n + 1) for cell in self.cells for n in range(cell.trials))
        return sum(searched) + (self.confirm_trials or 0) * self.space.max_steps

    def to_dict(self) -> dict[str, Any]:
        space = self.space.to_dict()
        for described, cell in zip(space["cells"], self.cells, strict=True):
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
        }


def make_plan(space: Space) -> Plan:
    """Plans a space; every cell's configuration is validated on the way.

    Raises:
        ValueError: a cell that no trial could run; a backbone of which nothing is known offline.
    """
    cells = []
    for cell in space.cells:
        example = space.example(cell)
        open_shape = {"method", "length", "rank"} & set(cell.search)
        counts = None
        if not open_shape:
            width = backbones.facts(example.backbone).width
            counts = methods.get(example.method).counts(methods.shape_of(example, width))
        cells.append(
            CellPlan(
                name=cell.name,
                example=example,
                trainable=counts.trainable if counts else None,
                stored=counts.stored if counts else None,
                materialised=counts.materialised if counts else None,
                search={name: str(r) for name, r in cell.search.items()},
                trials=space.trials if cell.search else 1,
            )
        )
    return Plan(space, tuple(cells))


def text(plan: Plan, run: str) -> str:
    """The plan for a reader."""
    space, example = plan.space, plan.cells[0].example
    facts = backbones.facts(example.backbone)
    task_names = sorted({cell.example.task for cell in plan.cells})
    shown = ", ".join(f"{tasks.get(name).title} ({name})" for name in task_names)
    first = sorted({point["learning_rate"] for c in space.cells for point in c.first if "learning_rate" in point})
    rate = plan.cells[0].search.get("learning_rate")
    rate_text = f"searched in {rate}" if rate else f"{example.learning_rate:g}"
    if rate and first:
        rate_text = f"{', '.join(f'{v:g}' for v in first)} first, then {rate_text}"
    rungs = ", ".join(f"{r:,}" for r in space.rungs) or "none"
    confirm = plan.confirm_trials
    seeds = f"{space.confirm_seeds} fresh seed{'s' if space.confirm_seeds > 1 else ''}"
    lines = [
        f"{space.title}: space {space.name}, profile {space.profile}, run {run}",
        f"  backbone   {example.backbone} (d = {facts.width:,}, {facts.layers} layers)",
        f"  task       {shown}; label words {', '.join(map(repr, example.label_words or ()))}",
        f"  training   batch {example.batch_size}, {example.optimizer.capitalize()}, "
        f"{'constant' if example.schedule == 'constant' else 'falling'} learning rate, {rate_text}; "
        f"{space.max_steps:,} steps, evaluated every {example.eval_every:,}",
        f"  stopping   ASHA in each {'size' if space.by_size else 'cell'}: rungs at {rungs} steps, "
        f"the best 1/{space.reduction_factor} go on",
        f"  trials     {plan.search_trials} search ({space.trials} a cell), then "
        + (f"each size's best with {seeds}" if confirm is None else f"{confirm} confirm (each winner with {seeds})"),
        f"  steps      about {round(plan.expected_steps, -2):,.0f}, at most {plan.most_steps:,}"
        + (" and the confirm trials" if confirm is None else ""),
        "",
    ]
    width = max(4, *(len(cell.name) for cell in plan.cells))
    lines.append(f"  {'cell':<{width}}  {'trainable':>10}  {'stored':>10}  {'prompt n·d':>10}  trials")
    for cell in plan.cells:
        counted = (cell.trainable, cell.stored, cell.materialised)
        numbers = "  ".join(f"{'searched' if n is None else format(n, ','):>10}" for n in counted)
        lines.append(f"  {cell.name:<{width}}  {numbers}  {cell.trials:>6}")
    for cell in plan.cells:
        if set(cell.search) - {"learning_rate"}:
            ranges = "; ".join(f"{name} {r}" for name, r in cell.search.items())
            lines.append(f"  searched in {cell.name}: {ranges}")
    return "\n".join(lines)
