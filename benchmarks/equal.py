"""Packed trials compared with the same trials alone: python benchmarks/equal.py [--seeds 5] [--steps 30] [--rate 0.05]

The benchmark compares losses and accuracies of LoPT-1 over several seeds, on film-review sentences with the embedded
backbone in fp32. A pass of packed trials adds numbers in another order than a pass of one trial, and training enlarges
the difference. The accuracies must agree as closely as those of two seeds. At a high learning rate a trial does not
even repeat its own result, packed or alone (LOG.md).
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
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, with one trial each (default 5)")
    parser.add_argument("--steps", type=int, default=30, help="steps of a trial (default 30)")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate at the start; it falls linearly")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="movie_snippets")
    parser.add_argument("--precision", default="fp32")
    _common.add_out_option(parser)
    options = parser.parse_args(argv)
    from scipy.special import stdtrit

    from lopt import TrialConfig
    from lopt.engine import Engine
    from lopt.training import Trial

    context = _common.run_context()
    print(_common.hardware_line(context))

    def begin_trials() -> list[Trial]:
        return [
            Trial(
                TrialConfig(
                    method="lopt1", task=options.task, backbone=options.backbone, length=10, rank=2,
                    learning_rate=options.rate, schedule="linear", max_steps=options.steps,
                    eval_every=max(1, options.steps // 3), max_tokens=48,
                    train_max_tokens=16 if options.task == "movie_snippets" else None, selection_examples=128,
                    test_examples=32, precision=options.precision, seed=seed,
                ),
                phase="search",
            )
            for seed in range(options.seeds)
        ]  # fmt: skip

    alone_trials, packed_trials, engine = begin_trials(), begin_trials(), Engine()
    for trial in packed_trials:
        engine.admit(trial)
    for _ in itertools.chain(*alone_trials, engine):  # iterating over a trial or an engine trains to the end
        pass
    alone_losses, packed_losses = (
        [trial.evaluations[0].train_loss for trial in trials] for trials in (alone_trials, packed_trials)
    )
    loss_difference = max(
        abs(alone_loss - packed_loss) for alone_loss, packed_loss in zip(alone_losses, packed_losses, strict=True)
    )
    alone_accuracies, packed_accuracies = (
        [trial.evaluations[-1].selection_accuracy for trial in trials] for trials in (alone_trials, packed_trials)
    )
    for name, accuracies in (("alone", alone_accuracies), ("packed", packed_accuracies)):
        mean, deviation = 100 * statistics.mean(accuracies), 100 * statistics.pstdev(accuracies)
        percentages = ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
        print(f"{name:<7} {percentages}; mean {mean:.1f}, standard deviation {deviation:.1f}")
    print(f"largest difference of the mean loss up to the first evaluation: {loss_difference:.2g}")
    accuracy_differences = [
        packed_accuracy - alone_accuracy
        for alone_accuracy, packed_accuracy in zip(alone_accuracies, packed_accuracies, strict=True)
    ]
    if options.seeds > 1:
        half_width = (
            float(stdtrit(options.seeds - 1, 0.975)) * statistics.stdev(accuracy_differences) / math.sqrt(options.seeds)
        )
        mean = statistics.mean(accuracy_differences)
        print(
            f"packed minus alone, in percentage points: {100 * mean:+.1f} [{100 * (mean - half_width):+.1f}, "
            f"{100 * (mean + half_width):+.1f}], 95 % t interval over seeds"
        )
    result = {
        "rate": options.rate,
        "alone": alone_accuracies,
        "packed": packed_accuracies,
        "first_loss_difference": loss_difference,
    }
    _common.save_result("equal", {**context, **result}, options.out, is_smoke_test=options.backbone != "embedded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
