"""Table 2: fine-tuning, LoRA, prompt tuning, DePT, LoPT-1 and LoPT-2 on five tasks.

    python sweeps/run.py --space table2                  # t5-base, 20,000 steps: a GPU cluster (not timed)
    python sweeps/run.py --space table2 --profile demo   # embedded backbone, movie snippets: two cores (not timed)

Six methods by five tasks (one in the demo), each at the paper's size and with the same number of trials. The learning
rates are searched, and the recipe of the method's own paper is tried first. On each task, DePT has the size of its
released run, tries the rates of that run first, and has the eps of AdamW of these runs. All methods of a task have the
same steps and batch size, because they have the same budget; where DePT's released runs differ, the report says so.
On RTE, BoolQ, WiC and CB, trials are selected on one half of the validation split, and the other half is reported, as
in the published rows of fine-tuning, LoRA, prompt tuning and DePT. On CB, trials are selected by macro-F1, as in these
rows. That holds for LoPT, too, although its paper does not say how it selects: rows that are selected in two ways could
not be compared. For LoPT-1, the paper has 92.9 / 76.5 / 73.8 / 55.1 / 90.4 % on SST-2, BoolQ, RTE, WiC and CB; it does
not state on which split.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeps.space import Cell, Space, Spec, learning_rates
from sweeps.spaces import ablation

_SHAPES: dict[str, dict[str, Any]] = {
    "fine_tuning": {},
    "lora": {"rank": 32, "alpha": 32.0},
    # The prompt starts like DePT's, from rows of the vocabulary (Lester et al. 2021).
    "prompt_tuning": {"length": 100, "init": "vocabulary"},
    "dept": {"length": 40, "rank": 45, "adam_eps": 1e-6},  # the size for tasks without a released run
    "lopt1": {"length": 20, "rank": 5},
    "lopt2": {"length": 20, "rank": 5},
    "ulpt": {"length": 100, "rank": 16},  # not in the paper's table; add it with --set method=lopt1,ulpt
}
_ROWS = ("fine_tuning", "lora", "prompt_tuning", "dept", "lopt1", "lopt2")
# DePT's released runs: m, r, and the learning rates of the prompt and of the update.
_DEPT_RUNS: dict[str, tuple[int, int, float, float]] = {
    "sst2": (60, 30, 0.3, 5e-4),
    "boolq": (40, 45, 0.3, 5e-3),
    "rte": (60, 30, 0.4, 1e-4),
    "wic": (60, 30, 0.3, 1e-3),
    "cb": (60, 30, 0.4, 1e-4),
}
_HALVED_TASKS = ("boolq", "rte", "wic", "cb")  # tasks whose validation split is halved, to select and to report
# 256 tokens are DePT's s, so that every method reads the same text.
_PAPER = {"backbone": "t5-base", "max_steps": 20_000, "eval_every": 500, "max_tokens": 256}
_DEMO = {name: value for name, value in ablation.DEMO.items() if name not in ("task", "optimizer", "batch_size")}


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    cells = []
    for task in axes["task"]:
        halved = task in _HALVED_TASKS
        protocol: dict[str, Any] = {"batch_size": 8 if halved else 16, "holdout": "validation" if halved else "train"}
        if task == "cb":
            protocol["metric"] = "macro_f1"
        for method in axes["method"]:
            if method not in _SHAPES:
                raise ValueError(f"method {method!r} has no row in table2; valid: {', '.join(_SHAPES)}")
            shape = _SHAPES[method]
            search, first = learning_rates(method)
            if method == "dept" and task in _DEPT_RUNS:
                length, rank, rate, update_rate = _DEPT_RUNS[task]
                shape = shape | {"length": length, "rank": rank}
                first = {"learning_rate": rate, "update_learning_rate": update_rate}
            size = "".join(
                f" {symbol}={shape[name]}" for name, symbol in (("length", "n"), ("rank", "r")) if name in shape
            )
            cells.append(
                Cell(
                    name=f"{task} {method}{size}",
                    fixed={"method": method, "task": task, **shape, **protocol},
                    search=search,
                    first=(first,),
                )
            )
    return tuple(cells)


def build(profile: str) -> Space:
    demo = profile == "demo"
    shared = ablation.build(profile)
    return replace(
        shared,
        name="table2",
        title="LoPT beside fine-tuning, LoRA, prompt tuning and DePT (Table 2)",
        base=_DEMO if demo else _PAPER,
        axes={"task": ("movie_snippets",) if demo else ("sst2", *_HALVED_TASKS), "method": _ROWS},
        grid=_grid,
        grace_steps=shared.grace_steps if demo else 2000,
    )


SPEC = Spec("table2", build)
