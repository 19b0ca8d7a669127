"""Table 2: fine-tuning, LoRA, prompt tuning, DePT, LoPT-1 and LoPT-2 on five tasks.

    python sweeps/run.py --space table2                  # t5-base, 20,000 steps: a GPU cluster (not timed)
    python sweeps/run.py --space table2 --profile demo   # embedded backbone, movie snippets: two cores (not timed)

Six methods by five tasks (one in the demo), each at the paper's size and with the same number of trials; its learning
rates are searched, the recipe of its own paper first. DePT has on each task the size of its released run there, that
run's rates first, and the eps of AdamW that these runs had. Steps and batch are the same for every method of a task,
since all have one budget; where DePT's released runs had others, the report says so. RTE, BoolQ, WiC and CB select on
one half of the validation split and report the other, as the published rows of fine-tuning, LoRA, prompt tuning and
DePT do. CB is selected on macro-F1, as these rows are; LoPT's own, too, though the paper does not say how, for rows
that are selected in two ways could not be compared with each other. Expect (paper, LoPT-1) 92.9 / 76.5 / 73.8 / 55.1 /
90.4 % on SST-2, BoolQ, RTE, WiC and CB; on what split, it does not state.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeps.space import Cell, Space, Spec, learning_rates
from sweeps.spaces import ablation

_SHAPES: dict[str, dict[str, Any]] = {
    "fine_tuning": {},
    "lora": {"rank": 32, "alpha": 32.0},
    # The same beginning as DePT's prompt: rows of the vocabulary (Lester et al. 2021).
    "prompt_tuning": {"length": 100, "init": "vocabulary"},
    "dept": {"length": 40, "rank": 45, "adam_eps": 1e-6},  # the size where no run was released
    "lopt1": {"length": 20, "rank": 5},
    "lopt2": {"length": 20, "rank": 5},
    "ulpt": {"length": 100, "rank": 16},  # not in the paper's table: --set method=lopt1,ulpt
}
_ROWS = ("fine_tuning", "lora", "prompt_tuning", "dept", "lopt1", "lopt2")
# DePT's released runs: m, r, and the rates of the prompt and of the update.
_DEPT: dict[str, tuple[int, int, float, float]] = {
    "sst2": (60, 30, 0.3, 5e-4),
    "boolq": (40, 45, 0.3, 5e-3),
    "rte": (60, 30, 0.4, 1e-4),
    "wic": (60, 30, 0.3, 1e-3),
    "cb": (60, 30, 0.4, 1e-4),
}
_HALVED = ("boolq", "rte", "wic", "cb")
# 256 tokens are DePT's s: every method reads the same text.
_PAPER = {"backbone": "t5-base", "max_steps": 20_000, "eval_every": 500, "max_tokens": 256}
_DEMO = {name: value for name, value in ablation.DEMO.items() if name not in ("task", "optimizer", "batch_size")}


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> tuple[Cell, ...]:
    cells = []
    for task in axes["task"]:
        halved = task in _HALVED
        protocol: dict[str, Any] = {"batch_size": 8 if halved else 16, "holdout": "validation" if halved else "train"}
        if task == "cb":
            protocol["metric"] = "macro_f1"
        for method in axes["method"]:
            if method not in _SHAPES:
                raise ValueError(f"method {method!r} has no row in table2; valid: {', '.join(_SHAPES)}")
            shape = _SHAPES[method]
            search, first = learning_rates(method)
            if method == "dept" and task in _DEPT:
                length, rank, rate, update_rate = _DEPT[task]
                shape = shape | {"length": length, "rank": rank}
                first = {"learning_rate": rate, "update_learning_rate": update_rate}
            size = "".join(
                f" {short}={shape[name]}" for name, short in (("length", "n"), ("rank", "r")) if name in shape
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
        axes={"task": ("movie_snippets",) if demo else ("sst2", *_HALVED), "method": _ROWS},
        grid=_grid,
        grace_steps=shared.grace_steps if demo else 2000,
    )


SPEC = Spec("table2", build)
