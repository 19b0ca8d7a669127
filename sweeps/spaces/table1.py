"""Table 1: prompt tuning, LoPT-1 and LoPT-2 at n = 10, r = 2, on SST-2 and AGNews.

    python sweeps/run.py --space table1                  # gpt2-large, 5,000 steps: a GPU cluster, hours
    python sweeps/run.py --space table1 --profile demo   # embedded backbone, movie snippets: two cores, minutes

There are six cells (three in the demo, which has one task). The learning rate is searched inside each cell, and the
paper's 0.3 is tried first (0.05 in the demo). For the three methods in this order, the paper reports 92.8, 92.1 and
90.9 % on SST-2, and 91.8, 91.9 and 90.0 % on AGNews.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeps.space import Cell, Real, Space, Spec
from sweeps.spaces import ablation

_METHODS = (("prompt_tuning", None), ("lopt1", 2), ("lopt2", 2))


def _grid(rate_range: Real, first_point: Mapping[str, Any], axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    cells = []
    for task in axes["task"]:
        for method, rank in _METHODS:
            fixed = {"method": method, "task": task, "length": 10, **({"rank": rank} if rank else {})}
            name = f"{task} {method} n=10" + (f" r={rank}" if rank else "")
            cells.append(Cell(name=name, fixed=fixed, search={"learning_rate": rate_range}, first=(first_point,)))
    return tuple(cells)


def build(profile: str) -> Space:
    is_demo = profile == "demo"
    ablation_space = ablation.build(profile)
    rate_range = Real(0.01 if is_demo else 1e-3, 0.15 if is_demo else 1.0, log=True)
    return replace(
        ablation_space,
        name="table1",
        title="LoPT-1 and LoPT-2 beside prompt tuning (Table 1)",
        base={name: value for name, value in ablation_space.base.items() if name != "task"},
        axes={"task": ("movie_snippets",) if is_demo else ("sst2", "ag_news")},
        reference={"method": "prompt_tuning", "length": 10},
        grid=lambda axes: _grid(rate_range, {"learning_rate": 0.05 if is_demo else 0.3}, axes),
    )


SPEC = Spec("table1", build)
