"""The free search over method, length, rank and learning rates at once: how few parameters are enough?

    python sweeps/run.py --space search                  # gpt2-large, SST-2: a GPU cluster, hours
    python sweeps/run.py --space search --profile demo   # embedded backbone, movie snippets: two cores (not timed)

One study (TPE) proposes all trials, each method in its own ranges. The settings of the papers come first. A trial
competes only with trials of similar size (within a factor of two), so that the smallest prompts are not stopped because
of the largest. The best trial of each size is trained again with fresh seeds.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lopt import methods
from lopt.methods import Method
from lopt.ranges import Choice, Range, Whole
from sweeps.space import Cell, Space, Spec
from sweeps.spaces import ablation


def _method_ranges(method: Method, max_length: int) -> dict[str, Range]:
    """Return a method's ranges, with its name as prefix and with prompts of at most `max_length` tokens."""
    ranges = dict(method.ranges)
    length = ranges.get("length")
    if isinstance(length, Whole):
        ranges["length"] = Whole(length.low, min(length.high, max_length), log=length.log)
    return {f"{method.name}.{name}": searched_range for name, searched_range in ranges.items()}


def _paper_point(method: Method, max_length: int) -> dict[str, Any]:
    """Return the paper's setting as a point. A value that the paper does not state is the low end of its range."""
    low_ends = {
        name: searched_range.values[0] if isinstance(searched_range, Choice) else searched_range.low
        for name, searched_range in method.ranges.items()
    }
    values = {**low_ends, "learning_rate": method.recipe.learning_rate, **method.OPTIONS, **(method.paper_size or {})}
    if "length" in values:
        values["length"] = min(values["length"], max_length)
    return {"method": method.name, **{f"{method.name}.{name}": values[name] for name in method.ranges}}


def _grid(max_length: int, axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    all_methods = methods.in_order()
    method_names = tuple(method.name for method in all_methods if method.paper_size is not None)
    search: dict[str, Range] = {"method": Choice(method_names)}
    for method in all_methods:
        search |= _method_ranges(method, max_length)
    first_points = tuple(_paper_point(method, max_length) for method in all_methods)
    return (Cell(name="search", search=search, first=first_points),)


def build(profile: str) -> Space:
    is_demo = profile == "demo"
    ablation_space = ablation.build(profile)
    return replace(
        ablation_space,
        name="search",
        title="Free search over method, length, rank and learning rates",
        base={name: value for name, value in ablation_space.base.items() if name != "optimizer"},
        axes={},
        grid=lambda axes: _grid(40 if is_demo else 100, axes),
        trials=40 if is_demo else 200,
        by_size=True,
    )


SPEC = Spec("search", build)
