"""Starts that learn nothing are begun anew.

Some initial values never leave chance, whatever the learning rate (LOG.md). The training loss shows it: it stays at the
loss of guessing. Such a start is abandoned after half of the steps, and the trial begins again from other initial
values, with all its steps. Only training losses decide, so neither held-out nor reported examples are used. The trial
is not evaluated before that check. What an abandoned start has cost counts as cost of the trial.
"""

import math
from collections.abc import Sequence

from lopt.types import Tensor

_CHECK_SHARE = 1 / 2  # of the steps. After a third, starts that ended well were still at chance (LOG.md)
_WINDOW_SHARE = 1 / 6  # of the steps: the losses of the last steps that make up this share are averaged
_GUESSING_SHARE = 0.97  # of ln C, the loss of guessing among C classes. A start above it has learnt nothing
_SEED_STEP = 1_000_003  # a prime far above the seeds of a sweep


def check_step(max_steps: int) -> int:
    """Return the step after which a start is checked."""
    return max(1, round(_CHECK_SHARE * max_steps))


def has_learnt_nothing(losses: Sequence[Tensor], max_steps: int, class_count: int) -> bool:
    """Return whether training losses (nats) of a start, the last one last, are still near the loss of guessing."""
    last_losses = losses[-max(1, round(_WINDOW_SHARE * max_steps)) :]
    return float(sum(last_losses) / len(last_losses)) > _GUESSING_SHARE * math.log(class_count)


def seed_of_start(seed: int, start: int) -> int:
    """Return the seed of the initial values. Start 0 has the trial's own seed."""
    return (seed + start * _SEED_STEP) % 2**32
