"""The Pareto frontier: every prompt method at a grid of parameter budgets, on one task.

    python sweeps/run.py --space frontier                  # gpt2-large, SST-2, 5,000 steps: a GPU cluster (not timed)
    python sweeps/run.py --space frontier --profile demo   # embedded backbone, movie snippets: two cores (not timed)

There is one cell for each method and budget. A budget is a number of trainable parameters, and the cell has the largest
usual length and rank that fit into it. A method that cannot be that small has no cell at that budget. Each cell
searches its learning rates, and the recipe of the method's own paper is tried first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lopt import backbones, methods
from sweeps.space import Cell, Space, Spec, learning_rates
from sweeps.spaces import ablation


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    cells: dict[str, Cell] = {}
    for backbone in axes["backbone"]:
        width = backbones.facts(backbone).width
        for budget in axes["budget"]:
            for method in axes["method"]:
                shape = methods.get(method).usual_size_within(budget, width)
                if shape is None:
                    continue
                length, rank = shape
                search, recipe_point = learning_rates(method)
                prefix = f"{backbone} " if len(axes["backbone"]) > 1 else ""
                name = f"{prefix}{method} n={length}" + (f" r={rank}" if rank else "")
                fixed = {"method": method, "backbone": backbone, "length": length, "rank": rank}
                cells[name] = Cell(name=name, fixed=fixed, search=search, first=(recipe_point,))
    methods_with_cell = {cell.fixed["method"] for cell in cells.values()}
    for method in axes["method"]:
        if method not in methods_with_cell:
            budgets = ", ".join(f"{budget:,}" for budget in axes["budget"])
            raise ValueError(
                f"method {method} has no usual length and rank that fit into {budgets} parameters: leave the method out"
            )
    return tuple(cells.values())


def build(profile: str) -> Space:
    is_demo = profile == "demo"
    ablation_space = ablation.build(profile)
    left_out_fields = ("backbone", "optimizer")  # the backbone is an axis, and each method has its own optimiser
    return replace(
        ablation_space,
        name="frontier",
        title="Parameters against accuracy: every prompt method at a grid of budgets",
        base={name: value for name, value in ablation_space.base.items() if name not in left_out_fields},
        axes={
            "budget": (1_000, 4_000, 16_000) if is_demo else (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
            "method": tuple(method.name for method in methods.in_order() if method.has_usual_sizes),
            "backbone": (ablation_space.base["backbone"],),
        },
        grid=_grid,
    )


SPEC = Spec("frontier", build)
