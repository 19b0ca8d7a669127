"""The space of `benchmarks/thousands.py`: many trials of two steps on a tiny model, so that scheduling takes the time.

python sweeps/run.py --space benchmarks/cheap.py --set trials=1000
"""

from lopt.ranges import Real, Whole
from sweeps.space import Cell, Space, Spec

LOWEST_RATE, HIGHEST_RATE, MAX_RANK = 1e-3, 1.0, 8
BASE = {
    "task": "toy",
    "backbone": "tiny",
    "batch_size": 8,
    "max_steps": 2,
    "eval_every": 1,
    "precision": "fp32",
}


def grid(axes):
    search = {"learning_rate": Real(LOWEST_RATE, HIGHEST_RATE, log=True), "rank": Whole(1, MAX_RANK)}
    first = ({"learning_rate": 0.3, "rank": 2},)
    return (Cell(name="cheap", fixed={"method": "lopt1", "length": 4}, search=search, first=first),)


def build(profile):
    return Space(
        name="cheap",
        title="Many cheap trials",
        profile=profile,
        base=BASE,
        grid=grid,
        trials=1000,
        confirm_seeds=1,
        grace_steps=1,
    )


SPEC = Spec("cheap", build)
