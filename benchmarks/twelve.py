"""The space of `benchmarks/sweep.py`: twelve search trials of prompt tuning in one cell, and one confirm seed.

    python sweeps/run.py --space benchmarks/twelve.py --set max_steps=30 --set placement=suffix

All its learning rates are given as the cell's first points, so that both sides of the benchmark train the same trials.
"""

from sweeps.space import Cell, Real, Space, Spec

LOWEST_RATE, HIGHEST_RATE, TRIAL_COUNT, PROMPT_LENGTH = 0.01, 0.5, 12, 10
# The rates are evenly spaced on a logarithmic scale. Each trial takes the fifth rate after that of the trial before
# (after the last rate comes the first), so that successive trials have very different rates.
RATES = tuple(
    round(LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (5 * i % TRIAL_COUNT / (TRIAL_COUNT - 1)), 4)
    for i in range(TRIAL_COUNT)
)
BASE = {
    "method": "prompt_tuning",
    "length": PROMPT_LENGTH,
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
    "train_min_tokens": 12,  # most training texts of SST-2 are phrases of a few words
    "max_tokens": 128,  # no sentence of SST-2 is longer
    "label_words": (" bad", " great"),
}


def grid(axes):
    rates = tuple({"learning_rate": rate} for rate in RATES)
    return (Cell(name="n=10", search={"learning_rate": Real(LOWEST_RATE, HIGHEST_RATE, log=True)}, first=rates),)


def build(profile):
    return Space(
        name="twelve",
        title="Twelve learning rates of prompt tuning",
        profile=profile,
        base=BASE,
        grid=grid,
        trials=TRIAL_COUNT,
        confirm_seeds=1,
        grace_steps=10,
    )


SPEC = Spec("twelve", build)
