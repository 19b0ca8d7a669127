"""The rungs of asynchronous successive halving: Li et al. 2020, arXiv 1810.05934.

Only the number of trials that a rung has seen so far decides, so no trial ever waits for another one.
"""

from collections.abc import Iterable


def rung_steps(first: int, factor: int, max_steps: int) -> list[int]:
    """Steps first · factor^k below `max_steps`."""
    steps = []
    while first < max_steps:
        steps.append(first)
        first *= factor
    return steps


class Rungs:
    """Of the trials that reach a rung, the best 1/`factor` go on.

    Args:
        steps: at which the rungs lie.
    """

    def __init__(self, steps: Iterable[int], factor: int) -> None:
        self._percentile = 100 * (1 - 1 / factor)
        self._rungs: list[tuple[int, dict[str, float]]] = [(step, {}) for step in sorted(steps, reverse=True)]

    def report(self, key: str, step: int, value: float) -> bool:
        """Whether the trial `key`, which has `value` (more is better) after `step` steps, stops here. It counts on the
        highest rung that it has reached, with its first report there."""
        for rung_step, values in self._rungs:
            if key in values:
                return False
            if step >= rung_step:
                import numpy as np  # here, for a plan needs none

                stops = bool(values) and value < float(np.percentile(list(values.values()), self._percentile))
                values[key] = value
                return stops
        return False

    def forget(self, key: str) -> None:
        """Takes the trial off every rung: it begins anew."""
        for _, values in self._rungs:
            values.pop(key, None)
