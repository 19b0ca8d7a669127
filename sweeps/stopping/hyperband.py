"""Asynchronous Hyperband (Li et al. 2018, arXiv 1603.06560): several brackets, each of which decides as ASHA does.

The first bracket has a rung at `grace_steps` and all later rungs. Each further bracket begins one rung later. The last
bracket has no rung and stops no trial, so a trial that learns slowly at first has a chance.
"""

import hashlib
import math

from sweeps.stopping._rungs import Rungs
from sweeps.stopping.asha import ASHA


class Hyperband(ASHA):
    name = "hyperband"

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        super().__init__(grace_steps=grace_steps, reduction_factor=reduction_factor, max_steps=max_steps)
        rung_steps = self.decision_steps(1)
        self._brackets = [
            Rungs(rung_steps[skipped_rung_count:], reduction_factor)
            for skipped_rung_count in range(len(rung_steps) + 1)
        ]
        self._trial_share_by_bracket = _bracket_shares(len(self._brackets), reduction_factor)

    def rungs_of(self, key: str) -> Rungs:
        return self._brackets[self.bracket_index(key)]

    def bracket_index(self, key: str) -> int:
        """Return the index of a trial's bracket. The key alone decides, so a continued sweep has the same brackets."""
        random_number = int(hashlib.sha256(f"bracket {key}".encode()).hexdigest()[:13], 16) / 16**13
        for index, share in enumerate(self._trial_share_by_bracket):
            random_number -= share
            if random_number < 0:
                return index
        return len(self._trial_share_by_bracket) - 1

    def probability_left(self, position: int, decision_count: int) -> float:
        """Return the mean over the brackets. The bracket with index k skips the first k decisions."""
        return sum(
            share
            * max(1 / max(1.0, position * share), 1 / self.reduction_factor) ** max(0, decision_count - bracket_index)
            for bracket_index, share in enumerate(self._trial_share_by_bracket)
        )

    def description(self, stratum: str, eval_every: int) -> str:
        rungs = ", ".join(f"{step:,}" for step in self.decision_steps(eval_every))
        return (
            f"Hyperband in each {stratum}: {len(self._brackets)} brackets, the first with rungs at {rungs} steps, the "
            f"last without rungs; the best 1/{self.reduction_factor} go on"
        )


def _bracket_shares(bracket_count: int, reduction_factor: int) -> list[float]:
    """Return the share of trials in each bracket. The bracket that stops trials earliest comes first.

    The shares are in proportion to Hyperband's number of trials, ⌈(s_max + 1) / (s + 1) · η^s⌉. Here s is the bracket's
    number of rungs, s_max that of the first bracket, and η the reduction factor.
    """
    trial_counts = [
        math.ceil(bracket_count / (rung_count + 1) * reduction_factor**rung_count)
        for rung_count in reversed(range(bracket_count))
    ]
    return [count / sum(trial_counts) for count in trial_counts]


SPEC = Hyperband
