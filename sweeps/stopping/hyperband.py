"""Hyperband's brackets, asynchronously: Li et al. 2018, arXiv 1603.06560; each bracket decides as ASHA does.

The first bracket has a rung at `grace_steps` and at every higher one, the next begins one rung later, and the last
stops nobody. So a trial that starts slowly has a chance.
"""

import hashlib
import math

from sweeps.stopping._rungs import Rungs
from sweeps.stopping.asha import ASHA


class Hyperband(ASHA):
    name = "hyperband"

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        super().__init__(grace_steps=grace_steps, reduction_factor=reduction_factor, max_steps=max_steps)
        steps = self.decision_steps(1)
        self._brackets = [Rungs(steps[first:], reduction_factor) for first in range(len(steps) + 1)]
        self._shares = _shares(len(self._brackets), reduction_factor)

    def rungs_of(self, key: str) -> Rungs:
        return self._brackets[self.bracket(key)]

    def bracket(self, key: str) -> int:
        """Which bracket a trial is in; its key alone decides, so it stays there in a sweep that is continued."""
        draw = int(hashlib.sha256(f"bracket {key}".encode()).hexdigest()[:13], 16) / 16**13
        for bracket, share in enumerate(self._shares):
            draw -= share
            if draw < 0:
                return bracket
        return len(self._shares) - 1

    def share_left(self, position: int, decisions: int) -> float:
        """The mean over the brackets, of which number k skips the first k decisions."""
        return sum(
            share * max(1 / max(1.0, position * share), 1 / self.reduction_factor) ** max(0, decisions - bracket)
            for bracket, share in enumerate(self._shares)
        )

    def description(self, stratum: str, eval_every: int) -> str:
        rungs = ", ".join(f"{step:,}" for step in self.decision_steps(eval_every))
        return (
            f"Hyperband in each {stratum}: {len(self._brackets)} brackets, the first with rungs at {rungs} steps, the "
            f"last without; the best 1/{self.reduction_factor} go on"
        )


def _shares(brackets: int, factor: int) -> list[float]:
    """The share of trials that begins in each bracket: Hyperband's ⌈(s_max + 1) / (s + 1) · factor^s⌉, the one that
    stops earliest (s = s_max) first."""
    counts = [math.ceil(brackets / (s + 1) * factor**s) for s in reversed(range(brackets))]
    return [count / sum(counts) for count in counts]


SPEC = Hyperband
