"""Packed trials beside the same trials alone: python benchmarks/equal.py [--seeds 5] [--steps 30] [--rate 0.05]

Losses and accuracies of LoPT-1 over seeds on film-review sentences, embedded backbone, fp32. What differs is the order
in which numbers are added, which training enlarges: the accuracies must agree within what a change of seed does. At a
high rate a single run does not repeat, packed or alone (LOG.md).
"""

import argparse
import itertools
import math
import statistics
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import _common


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate at the start; it falls linearly")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="movie_snippets")
    parser.add_argument("--precision", default="fp32")
    _common.add_out(parser)
    given = parser.parse_args(argv)
    from scipy.special import stdtrit

    from lopt import TrialConfig
    from lopt.engine import Engine
    from lopt.training import Trial

    about = _common.context()
    print(_common.headline(about))

    def trials() -> list[Trial]:
        return [
            Trial(
                TrialConfig(
                    method="lopt1", task=given.task, backbone=given.backbone, length=10, rank=2,
                    learning_rate=given.rate, schedule="linear", max_steps=given.steps,
                    eval_every=max(1, given.steps // 3), max_tokens=48,
                    train_max_tokens=16 if given.task == "movie_snippets" else None, selection_examples=128,
                    test_examples=32, precision=given.precision, seed=seed,
                ),
                phase="search",
            )
            for seed in range(given.seeds)
        ]  # fmt: skip

    alone, packed, engine = trials(), trials(), Engine()
    for trial in packed:
        engine.admit(trial)
    for _ in itertools.chain(*alone, engine):
        pass
    accuracies = [[trial.evaluations[-1].selection_accuracy for trial in each] for each in (alone, packed)]
    losses = [[trial.evaluations[0].train_loss for trial in each] for each in (alone, packed)]
    first = max(abs(a - p) for a, p in zip(*losses, strict=True))
    for name, found in zip(("alone", "packed"), accuracies, strict=True):
        mean, spread = 100 * statistics.mean(found), 100 * statistics.pstdev(found)
        print(f"{name:<7} {', '.join(f'{100 * value:.1f}' for value in found)}; mean {mean:.1f}, spread {spread:.1f}")
    print(f"largest difference of the mean loss up to the first evaluation: {first:.2g}")
    gaps = [p - a for a, p in zip(*accuracies, strict=True)]
    if given.seeds > 1:
        half = float(stdtrit(given.seeds - 1, 0.975)) * statistics.stdev(gaps) / math.sqrt(given.seeds)
        mean = statistics.mean(gaps)
        print(f"packed less alone, percentage points: {100 * mean:+.1f} [{100 * (mean - half):+.1f}, "
              f"{100 * (mean + half):+.1f}], 95 % t interval over seeds")  # fmt: skip
    result = {"rate": given.rate, "alone": accuracies[0], "packed": accuracies[1], "first_loss_difference": first}
    _common.keep("equal", {**about, **result}, given.out, smoke=given.backbone != "embedded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
