"""The rungs of asynchronous successive halving (Li et al. 2020, arXiv 1810.05934).

A rung compares a trial with those that have reached the rung before, so no trial ever waits for another one.
"""

from collections.abc import Iterable


def rung_steps(first_step: int, reduction_factor: int, max_steps: int) -> list[int]:
    """Return the steps first_step · factor^k that are below `max_steps`."""
    steps = []
    step = first_step
    while step < max_steps:
        steps.append(step)
        step *= reduction_factor
    return steps


class Rungs:
    """Rungs at given steps. The best 1/`reduction_factor` of the trials that reach a rung go on."""

    def __init__(self, steps: Iterable[int], reduction_factor: int) -> None:
        self._reduction_factor, self._stopping_percentile = reduction_factor, 100 * (1 - 1 / reduction_factor)
        self.reason_by_key: dict[str, str] = {}  # why trials were stopped, in words
        # Each rung is its step, and by key the scores of the trials that have reached it.
        self._rungs: list[tuple[int, dict[str, float]]] = [(step, {}) for step in sorted(steps, reverse=True)]

    def report(self, key: str, step: int, score: float) -> bool:
        """Return whether the trial `key`, whose best score up to `step` is `score`, stops here.

        At each report only the highest rung that the trial has reached decides, and it decides only once.
        """
        for rung_step, score_by_key in self._rungs:
            if key in score_by_key:
                return False
            if step >= rung_step:
                import numpy as np  # imported here because a plan does not need it

                scores = list(score_by_key.values())
                bound = float(np.percentile(scores, self._stopping_percentile)) if scores else score
                score_by_key[key] = score
                if score < bound:
                    bound_text = (
                        f"that of the best 1/{self._reduction_factor} of the {len(scores)} earlier trials there"
                    )
                    self.reason_by_key[key] = (
                        f"rung {rung_step:,}: its score {score:.4f} is below {bound:.4f}, {bound_text}"
                    )
                return score < bound
        return False

    def forget(self, key: str) -> None:
        """Remove a trial from every rung, because it will start over."""
        for _, score_by_key in self._rungs:
            score_by_key.pop(key, None)
