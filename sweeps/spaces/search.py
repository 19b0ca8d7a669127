"""The free search: how few parameters are enough, over method, length, rank and learning rates at once.

    python sweeps/run.py --space search                  # gpt2-large, SST-2: a GPU cluster, hours
    python sweeps/run.py --space search --profile demo   # embedded backbone, movie snippets: two cores (not timed)

One study (TPE) proposes all trials, each method in its own ranges; the settings of the papers come first. Trials
compete within a factor of two of parameter count, so that the smallest prompts are not stopped because of the largest,
and the best of each such size is trained again with fresh seeds.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lopt import methods
from lopt.methods import Method
from lopt.ranges import Choice, Range, Whole
from sweeps.space import Cell, Space, Spec
from sweeps.spaces import ablation


def _own(method: Method, longest: int) -> dict[str, Range]:
    """A method's ranges under its own name, with prompts of at most `longest` tokens."""
    ranges = dict(method.ranges)
    length = ranges.get("length")
    if isinstance(length, Whole):
        ranges["length"] = Whole(length.low, min(length.high, longest), log=length.log)
    return {f"{method.name}.{name}": searched for name, searched in ranges.items()}


def _paper(method: Method, longest: int) -> dict[str, Any]:
    """The paper's setting as a point of the search; of a method that states none, the low ends of its ranges."""
    low = {name: r.values[0] if isinstance(r, Choice) else r.low for name, r in method.ranges.items()}
    values = {**low, "learning_rate": method.recipe.learning_rate, **method.OPTIONS, **(method.paper or {})}
    values |= {"length": min(values["length"], longest)} if "length" in values else {}
    return {"method": method.name, **{f"{method.name}.{name}": values[name] for name in method.ranges}}


def _grid(longest: int, axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    every = methods.in_order()
    search: dict[str, Range] = {"method": Choice(tuple(m.name for m in every if m.paper is not None))}
    for method in every:
        search |= _own(method, longest)
    return (Cell(name="search", search=search, first=tuple(_paper(method, longest) for method in every)),)


def build(profile: str) -> Space:
    demo = profile == "demo"
    shared = ablation.build(profile)
    return replace(
        shared,
        name="search",
        title="Free search over method, length, rank and learning rates",
        base={name: value for name, value in shared.base.items() if name != "optimizer"},
        axes={},
        grid=lambda axes: _grid(40 if demo else 100, axes),
        trials=40 if demo else 200,
        by_size=True,
    )


SPEC = Spec("search", build)
