"""Starts that learn nothing are begun anew.

Some initial values never leave chance, whatever the learning rate (LOG.md). The training loss shows it: it stays at the
loss of guessing by the shares of the classes. Such a start is abandoned after half of the steps, and the trial begins
again from other initial values, with all its steps. Only training losses decide, so neither held-out nor reported
examples are used. Before that check the trial is not evaluated, and so writes no checkpoint. What an abandoned start
has cost counts as cost of the trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lopt.types import Tensor

if TYPE_CHECKING:
    import numpy as np

_CHECK_SHARE = 1 / 2  # of the steps. After a third, starts that ended well were still at chance (LOG.md)
_WINDOW_SHARE = 1 / 6  # of the steps: the losses of the last steps that make up this share are averaged
_LEAST_WINDOW = 4  # losses, so that a single batch does not decide
_GUESSING_SHARE = 0.97  # of the loss of guessing. A start above it has learnt nothing
_SEED_STEP = 1_000_003  # a prime far above the seeds of a sweep


def check_step(max_steps: int) -> int:
    """Return the step after which a start is checked."""
    return max(1, round(_CHECK_SHARE * max_steps))


def first_evaluation(max_steps: int, eval_every: int, restarts: int | None) -> int:
    """Return the step of a trial's first evaluation, which is at the check or after it if the trial may begin anew."""
    first_step = check_step(max_steps) if restarts else 1
    return min(max_steps, -(-first_step // eval_every) * eval_every)


def is_stuck(losses: Sequence[Tensor], max_steps: int, labels: np.ndarray, loss_limit: float) -> bool:
    """Return whether a start has learnt nothing: its last losses are near that of guessing by the classes' shares.

    Args:
        losses: training losses of the start (nats), the last one last.
        labels: the classes of the training examples, `[N]`.
        loss_limit: a start with a higher mean loss has diverged, and another one would diverge as well.
    """
    import numpy as np  # imported here, because a plan needs only the functions above

    last_losses = losses[-max(_LEAST_WINDOW, round(_WINDOW_SHARE * max_steps)) :]
    mean_loss = float(sum(last_losses) / len(last_losses))
    shares = np.bincount(labels) / len(labels)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    return _GUESSING_SHARE * entropy < mean_loss <= loss_limit


def seed_of_start(seed: int, start: int) -> int:
    """Return the seed of the initial values. Start 0 has the trial's own seed."""
    return (seed + start * _SEED_STEP) % 2**32
