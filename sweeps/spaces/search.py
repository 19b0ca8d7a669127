"""The free search: how few parameters are enough, over method, length, rank and learning rate at once.

    python sweeps/run.py --space search                  # gpt2-large, SST-2: a GPU cluster, hours
    python sweeps/run.py --space search --profile demo   # embedded backbone, movie snippets: two cores, half an hour

One study (TPE) proposes all trials. Trials compete within a factor of two of parameter count, so that the smallest
prompts are not stopped because of the largest, and the best of each such size is trained again with fresh seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.space import Cell, Choice, Range, Real, Space, Spec, Whole
from sweeps.spaces import ablation

_METHODS = ("prompt_tuning", "lopt1", "lopt2")


def _grid(demo: bool, axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    first = (
        {"method": "lopt1", "length": 20, "rank": 5, "learning_rate": 0.3},
        {"method": "prompt_tuning", "length": 10, "learning_rate": 0.3},
    )
    ranges: dict[str, Range] = {
        "method": Choice(_METHODS),
        "length": Whole(5, 40 if demo else 100, log=True),
        "rank": Whole(1, 16, log=True),
        "learning_rate": Real(1e-3, 1.0, log=True),
    }
    return (Cell(name="search", search=ranges, first=first),)


def build(profile: str) -> Space:
    demo = profile == "demo"
    shared = ablation.build(profile)
    return Space(
        name="search",
        title="Free search over method, length, rank and learning rate",
        profile=profile,
        base=shared.base,
        grid=lambda axes: _grid(demo, axes),
        trials=40 if demo else 200,
        confirm_seeds=shared.confirm_seeds,
        grace_steps=shared.grace_steps,
        by_size=True,
    )


SPEC = Spec("search", build)
