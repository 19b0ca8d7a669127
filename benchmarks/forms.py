"""How long each form of a training step takes on this machine: python benchmarks/forms.py [--threads 2] [--steps 6]

One trial (LoPT-1, batch 16, film-review sentences, embedded backbone) computes the same batches in several forms: plain
or flat (`lopt/backbones/_flat.py`), with or without fused norms. The forms take turns in one process. For three prompt
lengths n, the benchmark prints the median time of a step in each form, divided by that of the plain form.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common

DEFAULT_FORM = "flat, norms fused"


def form_switches(backbone: Any) -> dict[str, Callable[[], None]]:
    """Return, for each form, a function that switches the backbone to it."""
    flat = backbone.flat
    return {
        "plain": lambda: backbone.take_form(None, use_fused_parts=False),
        "plain, norms fused": lambda: backbone.take_form(None, use_fused_parts=True),
        "flat": lambda: backbone.take_form(flat, use_fused_parts=False),
        DEFAULT_FORM: lambda: backbone.take_form(flat, use_fused_parts=True),
        "flat, norms fused, PyTorch's attention": lambda: backbone.take_form(
            flat, use_fused_parts=True, use_torch_kernels=True
        ),
    }


def time_steps(trial: Any, switch_by_form: dict[str, Callable[[], None]], step_count: int) -> dict[str, list[float]]:
    """Return the seconds of each step in each form, without the first step."""
    seconds_by_form: dict[str, list[float]] = {}
    for step, positions in enumerate(itertools.islice(trial._batches, step_count + 1)):
        for form, switch in switch_by_form.items():
            switch()
            began = time.perf_counter()
            trial.loss(positions).backward()
            if step:
                seconds_by_form.setdefault(form, []).append(time.perf_counter() - began)
    return seconds_by_form


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps in each form (default 6)")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="movie_snippets")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    import torch

    from lopt import TrialConfig
    from lopt.training import Trial

    torch.set_num_threads(options.threads)
    context = _common.run_context()
    print(_common.hardware_line(context))
    seconds_by_length = {}
    for length in (10, 20, 30):
        config = TrialConfig(
            method="lopt1", task=options.task, backbone=options.backbone, length=length, rank=2, learning_rate=0.1,
            max_tokens=48, train_examples=160, selection_examples=32, test_examples=32,
        )  # fmt: skip
        trial = Trial(config)
        switch_by_form = form_switches(trial.backbone)
        seconds_by_form = seconds_by_length[length] = time_steps(trial, switch_by_form, options.steps)
        switch_by_form[DEFAULT_FORM]()
        plain_s = statistics.median(seconds_by_form["plain"])
        ratio_texts = (
            f"{form} {statistics.median(form_seconds) / plain_s:.2f}" for form, form_seconds in seconds_by_form.items()
        )
        print(
            f"n={length}, {trial.config.precision}, {options.threads} thread(s): {'; '.join(ratio_texts)}", flush=True
        )
    _common.save_result("forms", {**context, "seconds": seconds_by_length}, options.out,
                        is_smoke_test=options.backbone != "embedded")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
