"""What each choice inside a training step pays on this machine: python benchmarks/forms.py [--threads 2] [--steps 6]

One trial (LoPT-1, batch 16, film-review sentences, embedded backbone) in several forms, in turns on the same batches in
one process; printed is the ratio of the median seconds of a step to those of the plain form, at three lengths n.
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

AS_IT_RUNS = "flat, norms fused"


def forms(backbone: Any) -> dict[str, Callable[[], None]]:
    """Switches, each of which sets all choices."""
    flat = backbone.flat
    return {
        "plain": lambda: backbone.take_form(None, fused=False),
        "plain, norms fused": lambda: backbone.take_form(None, fused=True),
        "flat": lambda: backbone.take_form(flat, fused=False),
        AS_IT_RUNS: lambda: backbone.take_form(flat, fused=True),
        "flat, norms fused, PyTorch's attention": lambda: backbone.take_form(flat, fused=True, kernels=True),
    }


def seconds(trial: Any, switches: dict[str, Callable[[], None]], steps: int) -> dict[str, list[float]]:
    """Seconds of each step in each form, the first left out."""
    found: dict[str, list[float]] = {}
    for number, positions in enumerate(itertools.islice(trial._batches, steps + 1)):
        for name, use in switches.items():
            use()
            began = time.perf_counter()
            trial.loss(positions).backward()
            if number:
                found.setdefault(name, []).append(time.perf_counter() - began)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="movie_snippets")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    import torch

    from lopt import TrialConfig
    from lopt.training import Trial

    torch.set_num_threads(given.threads)
    about = _common.context()
    print(_common.headline(about))
    results = {}
    for length in (10, 20, 30):
        config = TrialConfig(
            method="lopt1", task=given.task, backbone=given.backbone, length=length, rank=2, learning_rate=0.1,
            max_tokens=48, train_examples=160, selection_examples=32, test_examples=32,
        )  # fmt: skip
        trial = Trial(config)
        switches = forms(trial.backbone)
        timed = results[length] = seconds(trial, switches, given.steps)
        switches[AS_IT_RUNS]()
        base = statistics.median(timed["plain"])
        shares = (f"{name} {statistics.median(times) / base:.2f}" for name, times in timed.items())
        print(f"n={length}, {trial.config.precision}, {given.threads} thread(s): {'; '.join(shares)}", flush=True)
    _common.keep("forms", {**about, "seconds": results}, given.out, smoke=given.backbone != "embedded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
