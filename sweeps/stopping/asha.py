"""The default stopping rule: ASHA (Li et al. 2020, arXiv 1810.05934) with one bracket."""

from sweeps.stopping import StoppingRule
from sweeps.stopping._rungs import Rungs, rung_steps


class ASHA(StoppingRule):
    name = "asha"

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        super().__init__(grace_steps=grace_steps, reduction_factor=reduction_factor, max_steps=max_steps)
        self._rungs = Rungs(self.decision_steps(1), reduction_factor)

    def rungs_of(self, key: str) -> Rungs:
        """Return the rungs on which a trial competes."""
        return self._rungs

    def report(self, key: str, step: int, score: float) -> bool:
        return self.rungs_of(key).report(key, step, score)

    def forget(self, key: str) -> None:
        self.rungs_of(key).forget(key)

    def reason(self, key: str) -> str:
        return self.rungs_of(key).reason_by_key.get(key, "")

    def decision_steps(self, eval_every: int) -> list[int]:
        return rung_steps(self.grace_steps, self.reduction_factor, self.max_steps)

    def probability_left(self, position: int, decision_count: int) -> float:
        """The trial that arrives at a rung as number `position` goes on with probability 1/position, but at least
        1/reduction_factor."""
        return max(1 / position, 1 / self.reduction_factor) ** decision_count

    def description(self, stratum: str, eval_every: int) -> str:
        rungs = ", ".join(f"{step:,}" for step in self.decision_steps(eval_every))
        return f"ASHA in each {stratum}: rungs at {rungs} steps, the best 1/{self.reduction_factor} go on"


SPEC = ASHA
