"""Six methods with small budgets on the benchmark tasks, with the embedded backbone: real text, real weights, two
cores.

    LOPT_DATA_DIR=<mirror> python sweeps/run.py --space docs/runs/six_tasks.py --name six-tasks-sst2
    LOPT_DATA_DIR=<mirror> python sweeps/run.py --space docs/runs/six_tasks.py --name six-tasks-few-shot --profile demo

Profile paper is SST-2: 60 steps of batch 16, three rates a method, three confirm seeds. Profile demo is every other
task: 32 examples of each class, 30 steps of batch 8, two rates a method, one confirm seed. Learning rates fall
linearly and are searched around what so few steps can use; the recipes are made for thousands.
"""

from sweeps.space import Cell, Real, Space, Spec

SHAPES = {
    "prompt_tuning": {"length": 10},
    "lopt1": {"length": 20, "rank": 5},
    "lopt2": {"length": 20, "rank": 2},
    "dept": {"length": 3, "rank": 2},
    "ulpt": {"length": 20, "rank": 16},
    "lora": {"rank": 1},
}
RATES = {  # the first to be tried, and the range
    "prompt_tuning": (0.15, 0.03, 0.3),
    "lopt1": (0.15, 0.03, 0.3),
    "lopt2": (0.03, 0.01, 0.1),
    "dept": (0.1, 0.02, 0.3),
    "ulpt": (0.15, 0.03, 0.6),
    "lora": (2e-3, 5e-4, 1e-2),
}
SHARED = {"backbone": "embedded", "schedule": "linear", "warmup": 0.0, "update_learning_rate": 5e-3}
SST2 = {
    "batch_size": 16,
    "max_steps": 60,
    "eval_every": 20,
    "selection_examples": 100,
    "train_min_tokens": 12,  # most of SST-2's training part are phrases of a few words
    "train_max_tokens": 24,
    "label_words": (" bad", " great"),
}
FEW = {"batch_size": 8, "max_steps": 30, "eval_every": 10, "shots": 32, "test_examples": 500}


def grid(axes):
    cells = []
    for task in axes["task"]:
        for method in axes["method"]:
            first, low, high = RATES[method]
            size = "".join(f" {name[0] if name == 'rank' else 'n'}={value}" for name, value in SHAPES[method].items())
            cells.append(
                Cell(
                    name=f"{task} {method}{size}",
                    fixed={"task": task, "method": method, **SHAPES[method]},
                    search={"learning_rate": Real(low, high, log=True)},
                    first=({"learning_rate": first},),
                )
            )
    return tuple(cells)


def build(profile):
    few = profile == "demo"
    return Space(
        name="six-tasks",
        title="Six methods with small budgets on the benchmark tasks",
        profile=profile,
        base={**SHARED, **(FEW if few else SST2)},
        axes={"task": ("ag_news", "rte", "boolq", "wic", "cb") if few else ("sst2",), "method": tuple(SHAPES)},
        grid=grid,
        trials=2 if few else 3,
        confirm_seeds=1 if few else 3,
        grace_steps=10 if few else 20,
    )


SPEC = Spec("six-tasks", build)
