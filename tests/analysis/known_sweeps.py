"""Whole made-up sweeps of which the true accuracy of every cell is known."""

from __future__ import annotations

import json

import numpy as np

REFERENCE = ("prompt_tuning", 10, None)


def logit_of(accuracy):
    """Return the logit at which the mean accuracy over examples of standard normal difficulty is `accuracy`."""
    difficulties = np.random.default_rng(0).standard_normal(20_000)
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        is_below = (1 / (1 + np.exp(-(middle + difficulties)))).mean() < accuracy
        low, high = (middle, high) if is_below else (low, middle)
    return low


def write_known_run(
    store, accuracies, *, seeds=4, n=5000, spread=0.003, no_prompt=0.58, draw_seed=0, held_out=None, **options
):
    """Write a run whose cells (method, length, rank) have these true accuracies.

    Seeds vary with the standard deviation `spread`. The held-out accuracies are the true ones, or `held_out` by cell.
    """
    generator = np.random.default_rng(draw_seed)
    run = store(test_n=n, split_size=n, cells=list(accuracies), **options)
    difficulties = generator.standard_normal(n)
    for cell, accuracy in accuracies.items():
        for seed in range(seeds):
            seed_accuracy = float(np.clip(accuracy + generator.normal(0, spread), 0.02, 0.98))
            is_right = generator.random(n) < 1 / (1 + np.exp(-(logit_of(seed_accuracy) + difficulties)))
            selection_accuracy = (held_out or {}).get(cell, accuracy)
            record = run.confirm(
                *cell, 0.0, config__seed=seed, selection_accuracy=round(selection_accuracy * 128) / 128
            )
            run.predict(record, is_right)
    path = run.write()
    baseline = {"backbone": run.backbone, "task": run.task, "test_split": run.test_split, "test_n": n,
                "zero_shot_accuracy": no_prompt, "majority_accuracy": 0.51}  # fmt: skip
    (path / "baselines.json").write_text(json.dumps([baseline]))
    return path


def lopt_cells(*ranks, length=10):
    return [("lopt1", length, rank) for rank in ranks]
