"""Table 2: fine-tuning, LoRA, prompt tuning, DePT, LoPT-1 and LoPT-2 on five tasks.

    python sweeps/run.py --space table2                  # t5-base, 20,000 steps: a GPU cluster (not timed)
    python sweeps/run.py --space table2 --profile demo   # embedded backbone, movie snippets: two cores (not timed)

There is a cell for each of six methods on each of five tasks (one in the demo). Each cell has the paper's length and
rank, and the same number of trials. The learning rates are searched, and the recipe of the method's own paper is tried
first. On each task, DePT has the length and rank of its released run and tries the learning rates of that run first. It
also has AdamW's eps from these runs. All methods of a task have the same steps and batch size, and therefore the same
budget. Where DePT's released runs differ from that, the report says so.

On RTE, BoolQ, WiC and CB, trials are selected on one half of the validation split, and the other half is reported, as
in the published rows of fine-tuning, LoRA, prompt tuning and DePT. On CB, trials are selected by macro-F1, as in these
rows. LoPT is selected in the same way, although its paper does not say how it selects, because rows could not be
compared if they were selected in two ways. For LoPT-1, the paper reports 92.9 % on SST-2, 76.5 % on BoolQ, 73.8 % on
RTE, 55.1 % on WiC and 90.4 % on CB. It does not say on which split.
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
_METHODS = ("fine_tuning", "lora", "prompt_tuning", "dept", "lopt1", "lopt2")
# DePT's released runs: length m, rank r, and the learning rates of the prompt and of the update.
_DEPT_RUNS: dict[str, tuple[int, int, float, float]] = {
    "sst2": (60, 30, 0.3, 5e-4),
    "boolq": (40, 45, 0.3, 5e-3),
    "rte": (60, 30, 0.4, 1e-4),
    "wic": (60, 30, 0.3, 1e-3),
    "cb": (60, 30, 0.4, 1e-4),
}
_HALVED_TASKS = ("boolq", "rte", "wic", "cb")  # tasks whose validation split is halved, to select and to report
# 256 tokens are the s of DePT, so that every method reads the same text.
_PAPER = {"backbone": "t5-base", "max_steps": 20_000, "eval_every": 500, "max_tokens": 256}
_DEMO = {name: value for name, value in ablation.DEMO.items() if name not in ("task", "optimizer", "batch_size")}


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    cells = []
    for task in axes["task"]:
        protocol: dict[str, Any] = {"batch_size": 16, "holdout": "train"}
        if task in _HALVED_TASKS:
            protocol = {"batch_size": 8, "holdout": "validation"}
        if task == "cb":
            protocol["metric"] = "macro_f1"
        for method in axes["method"]:
            if method not in _SHAPES:
                raise ValueError(f"method {method!r} has no row in table2; valid: {', '.join(_SHAPES)}")
            shape = _SHAPES[method]
            search, first_point = learning_rates(method)
            if method == "dept" and task in _DEPT_RUNS:
                length, rank, rate, update_rate = _DEPT_RUNS[task]
                shape = shape | {"length": length, "rank": rank}
                first_point = {"learning_rate": rate, "update_learning_rate": update_rate}
            size_text = "".join(
                f" {symbol}={shape[name]}" for name, symbol in (("length", "n"), ("rank", "r")) if name in shape
            )
            cells.append(
                Cell(
                    name=f"{task} {method}{size_text}",
                    fixed={"method": method, "task": task, **shape, **protocol},
                    search=search,
                    first=(first_point,),
                )
            )
    return tuple(cells)


def build(profile: str) -> Space:
    is_demo = profile == "demo"
    ablation_space = ablation.build(profile)
    return replace(
        ablation_space,
        name="table2",
        title="LoPT beside fine-tuning, LoRA, prompt tuning and DePT (Table 2)",
        base=_DEMO if is_demo else _PAPER,
        axes={"task": ("movie_snippets",) if is_demo else ("sst2", *_HALVED_TASKS), "method": _METHODS},
        reference={"method": "prompt_tuning", "length": 100},
        grid=_grid,
        grace_steps=ablation_space.grace_steps if is_demo else 2000,
    )


SPEC = Spec("table2", build)
