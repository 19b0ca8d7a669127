"""How few parameters are enough? Four cells at known settings: the full prompt, and LoPT-1 at ranks 1, 2 and 5.

    python sweeps/run.py --space quickstart --profile demo --until-decided   # `make demo`: two cores, minutes
    python sweeps/run.py --space quickstart --until-decided                  # gpt2-large, SST-2: a GPU

Nothing is searched. The prompt stands after the text, so the model's keys and values of the texts do not depend on the
prompt. They are computed once and kept for all trials, which makes both steps and scores cheaper. The margin is wider
than that of the other spaces, because few seeds cannot show a small one.
"""

from collections.abc import Mapping
from typing import Any

from sweeps.space import Cell, Space, Spec
from sweeps.spaces.ablation import DEMO, PAPER

LENGTH = 10


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    return (
        Cell(name=f"prompt_tuning n={LENGTH}", fixed={"method": "prompt_tuning", "length": LENGTH}, search={}),
        *(
            Cell(
                name=f"lopt1 n={LENGTH} r={rank}",
                fixed={"method": "lopt1", "length": LENGTH, "rank": rank},
                search={},
            )
            for rank in axes["rank"]
        ),
    )


def build(profile: str) -> Space:
    is_demo = profile == "demo"
    base: dict[str, Any] = {**DEMO, "learning_rate": 0.05} if is_demo else {**PAPER, "learning_rate": 0.3}
    base.pop("test_examples", None)  # the whole test split, because the margin needs many examples
    return Space(
        name="quickstart",
        title="How few parameters are enough?",
        profile=profile,
        base=base,
        axes={"rank": (1, 2, 5)},
        grid=_grid,
        trials=0,
        confirm_seeds=3,
        grace_steps=base["max_steps"],
        margin=0.03 if is_demo else 0.01,
        stopping="none",
    )


SPEC = Spec("quickstart", build)
