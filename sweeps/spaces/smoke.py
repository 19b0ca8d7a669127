"""A test of a few seconds on a tiny random model and made-up text. It shows that everything works together, but says
nothing about prompts.

    python sweeps/run.py --space smoke

There are three cells with fixed lengths and ranks, as in a table. Each has three search trials and one confirm trial.
"""

from collections.abc import Mapping
from typing import Any

from sweeps.space import Cell, Real, Space, Spec

_BASE = {
    "task": "toy",
    "backbone": "tiny",
    "batch_size": 8,
    "max_steps": 12,
    "eval_every": 2,
    "precision": "fp32",
}


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            name=f"{method} n={length}" + (f" r={rank}" if rank else ""),
            fixed={"method": method, "length": length, "rank": rank},
            search={"learning_rate": Real(1e-3, 1.0, log=True)},
            first=({"learning_rate": 0.3},),
        )
        for length in axes["length"]
        for method, rank in (("prompt_tuning", None), ("lopt1", 2), ("lopt2", 1))
    )


def build(profile: str) -> Space:
    return Space(
        name="smoke",
        title="Smoke test (tiny random model, made-up text)",
        profile=profile,
        base=_BASE,
        axes={"length": (4,)},
        grid=_grid,
        trials=3,
        confirm_seeds=1,
        grace_steps=4,
    )


SPEC = Spec("smoke", build)
