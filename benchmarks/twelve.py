"""Twelve search trials of prompt tuning in one cell, one confirm seed: what `benchmarks/sweep.py` runs.

    python sweeps/run.py --space benchmarks/twelve.py --set max_steps=30 --set placement=suffix

The learning rates are a list, so that both sides train the same trials.
"""

from sweeps.space import Cell, Real, Space, Spec

LOW, HIGH, TRIALS, LENGTH = 0.01, 0.5, 12, 10
# Every fifth of a list that rises evenly in its logarithm: neighbours in time are no neighbours in rate.
RATES = tuple(round(LOW * (HIGH / LOW) ** (5 * i % TRIALS / (TRIALS - 1)), 4) for i in range(TRIALS))
BASE = {
    "method": "prompt_tuning",
    "length": LENGTH,
    "task": "sst2",
    "backbone": "embedded",
    "optimizer": "adafactor",
    "schedule": "constant",
    "batch_size": 16,
    "max_steps": 30,
    "eval_every": 10,
    "train_examples": 2000,
    "selection_examples": 64,
    "test_examples": 64,
    "train_min_tokens": 12,  # most of SST-2's training part are phrases of a few words
    "max_tokens": 128,  # which no such sentence reaches
    "label_words": (" bad", " great"),
}


def grid(axes):
    rates = tuple({"learning_rate": rate} for rate in RATES)
    return (Cell(name="n=10", search={"learning_rate": Real(LOW, HIGH, log=True)}, first=rates),)


def build(profile):
    return Space(
        name="twelve",
        title="Twelve learning rates of prompt tuning",
        profile=profile,
        base=BASE,
        grid=grid,
        trials=TRIALS,
        confirm_seeds=1,
        grace_steps=10,
    )


SPEC = Spec("twelve", build)
