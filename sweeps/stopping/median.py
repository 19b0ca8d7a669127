"""The median rule of Golovin et al. 2017 (Google Vizier, KDD): a trial stops when the best that it has reached is worse
than the median of what the other trials had on average up to the same step."""

from statistics import fmean, median

from sweeps.stopping import StoppingRule

FEWEST_OTHERS = 3  # that must have come as far before anything is decided


class Median(StoppingRule):
    name = "median"

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        super().__init__(grace_steps=grace_steps, reduction_factor=reduction_factor, max_steps=max_steps)
        self._reports: dict[str, dict[int, float]] = {}  # value by step, from the end of the grace period on

    def report(self, key: str, step: int, value: float) -> bool:
        if step < self.grace_steps:
            return False
        own = self._reports.setdefault(key, {})
        own[step] = value
        averages = [
            fmean(value for at, value in reports.items() if at <= step)
            for other, reports in self._reports.items()
            if other != key and max(reports) >= step and min(reports) <= step
        ]
        return len(averages) >= FEWEST_OTHERS and max(own.values()) < median(averages)

    def forget(self, key: str) -> None:
        self._reports.pop(key, None)

    def share_left(self, position: int, decisions: int) -> float:
        """The median rises with those that go on, so each further decision stops a smaller part of those left."""
        return 1.0 if position <= FEWEST_OTHERS else 1 / (1 + decisions)

    def description(self, stratum: str, eval_every: int) -> str:
        return (
            f"median rule in each {stratum}: from {self.grace_steps:,} steps on a trial stops that is worse than the "
            "median of the others"
        )


SPEC = Median
