"""How two choices inside a training step pay on this machine: python benchmarks/forms.py [--threads 1] [--steps 8]

The attention kernel on the CPU (plain against fused), and a prompt computed once against once a row, at three n.
The forms take turns on the same batches in one process; printed is the ratio of their median seconds a step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def seconds(trial, forms, steps):
    """Median seconds of a step in each form, in turns on the same batches."""
    batches = list(itertools.islice(trial._batches, steps + 1))
    found = {name: [] for name in forms}
    for number, positions in enumerate(batches):
        for name, use in forms.items():
            use()
            began = time.perf_counter()
            trial.loss(positions).backward()
            if number:  # the first is a warm-up
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    import torch

    from lopt import TrialConfig
    from lopt.training import Trial

    torch.set_num_threads(given.threads)
    for length in (10, 20, 30):
        config = TrialConfig(
            method="lopt1", task="movie_snippets", length=length, rank=2, learning_rate=0.1, max_tokens=48,
            train_examples=2000, selection_examples=64, test_examples=64,
        )  # fmt: skip
        trial = Trial(config)
        backbone = trial.backbone
        plain = backbone._kernels

        def use(share, attention, backbone=backbone):
            backbone.share_from_tokens, backbone._kernels = share, attention

        forms = {
            "a row, plain": lambda: use(None, plain),  # noqa: B023  # called before the next length
            "a row, fused": lambda: use(None, contextlib.nullcontext),
            "once, plain": lambda: use(1, plain),  # noqa: B023
        }
        found = seconds(trial, forms, given.steps)
        base = found["a row, plain"]
        print(
            f"n={length}, batch {config.batch_size}, {trial.config.precision}, {given.threads} thread(s): "
            + ", ".join(f"{name} {value / base:.2f}" for name, value in found.items()),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
