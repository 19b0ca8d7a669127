"""The free search: how few parameters are enough, over method, length, rank and learning rates at once.

    python sweeps/run.py --space search                  # gpt2-large, SST-2: a GPU cluster, hours
    python sweeps/run.py --space search --profile demo   # embedded backbone, movie snippets: two cores (not timed)

One study (TPE) proposes all trials, each method in its own ranges; the settings of the papers come first. Trials
compete within a factor of two of parameter count, so that the smallest prompts are not stopped because of the largest,
and the best of each such size is trained again with fresh seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lopt import methods
from lopt.ranges import Choice, Range, Whole
from sweeps.space import Cell, Space, Spec
from sweeps.spaces import ablation

_PAPERS: dict[str, dict[str, int]] = {
    "prompt_tuning": {"length": 10},
    "lopt1": {"length": 20, "rank": 5},
    "lopt2": {"length": 20, "rank": 5},
    "dept": {"length": 40, "rank": 45},
    "ulpt": {"length": 100, "rank": 16},
    "lora": {"rank": 8},
}
_ASKED_FOR: dict[str, dict[str, int]] = {"fine_tuning": {}}  # takes part with --set method=...,fine_tuning


def _own(method: str, longest: int) -> dict[str, Range]:
    """A method's ranges under its own name, with prompts of at most `longest` tokens."""
    found: dict[str, Range] = {f"{method}.{name}": made for name, made in methods.get(method).ranges.items()}
    length = found.get(f"{method}.length")
    if isinstance(length, Whole):
        found[f"{method}.length"] = Whole(length.low, min(length.high, longest), log=length.log)
    return found


def _paper(method: str, longest: int) -> dict[str, Any]:
    """The papers' setting as a point of the search."""
    spec = methods.get(method)
    values = {"learning_rate": spec.recipe.learning_rate, **spec.OPTIONS, **(_PAPERS | _ASKED_FOR)[method]}
    values |= {"length": min(values["length"], longest)} if "length" in values else {}
    return {"method": method, **{f"{method}.{name}": values[name] for name in spec.ranges}}


def _grid(longest: int, axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    search: dict[str, Range] = {"method": Choice(tuple(_PAPERS))}
    every = (*_PAPERS, *_ASKED_FOR)
    for method in every:
        search |= _own(method, longest)
    return (Cell(name="search", search=search, first=tuple(_paper(method, longest) for method in every)),)


def build(profile: str) -> Space:
    demo = profile == "demo"
    shared = ablation.build(profile)
    return Space(
        name="search",
        title="Free search over method, length, rank and learning rates",
        profile=profile,
        base={name: value for name, value in shared.base.items() if name != "optimizer"},
        grid=lambda axes: _grid(40 if demo else 100, axes),
        trials=40 if demo else 200,
        confirm_seeds=shared.confirm_seeds,
        grace_steps=shared.grace_steps,
        by_size=True,
    )


SPEC = Spec("search", build)
