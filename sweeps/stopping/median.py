"""The median rule of Google Vizier (Golovin et al. 2017, KDD).

A trial stops if its best score is worse than the median of the other trials' average scores up to the same step.
"""

from statistics import fmean, median

from sweeps.stopping import StoppingRule

MIN_OTHER_TRIALS = 3  # the rule stops a trial only if at least this many other trials have reached the step


class Median(StoppingRule):
    name = "median"

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        super().__init__(grace_steps=grace_steps, reduction_factor=reduction_factor, max_steps=max_steps)
        self._reports_by_key: dict[str, dict[int, float]] = {}  # a trial's scores by step, from `grace_steps` on
        self._reason_by_key: dict[str, str] = {}  # why trials were stopped, in words

    def report(self, key: str, step: int, score: float) -> bool:
        if step < self.grace_steps:
            return False
        own_score_by_step = self._reports_by_key.setdefault(key, {})
        own_score_by_step[step] = score
        average_scores = [
            fmean(earlier_score for earlier_step, earlier_score in score_by_step.items() if earlier_step <= step)
            for other_key, score_by_step in self._reports_by_key.items()
            if other_key != key and max(score_by_step) >= step and min(score_by_step) <= step
        ]
        if len(average_scores) < MIN_OTHER_TRIALS:
            return False
        best_score, bound = max(own_score_by_step.values()), median(average_scores)
        if best_score < bound:
            median_text = f"the median of {len(average_scores)} other trials"
            self._reason_by_key[key] = f"step {step:,}: its score {best_score:.4f} is below {bound:.4f}, {median_text}"
        return best_score < bound

    def reason(self, key: str) -> str:
        return self._reason_by_key.get(key, "")

    def forget(self, key: str) -> None:
        self._reports_by_key.pop(key, None)

    def probability_left(self, position: int, decision_count: int) -> float:
        """Return the probability that a trial still runs after these decisions: 1 / (1 + decisions).

        The better trials go on and raise the median, so each decision stops a smaller part of the trials. The first
        trials, which have too few others to compare with, always go on.
        """
        return 1.0 if position <= MIN_OTHER_TRIALS else 1 / (1 + decision_count)

    def description(self, stratum: str, eval_every: int) -> str:
        return (
            f"median rule in each {stratum}: from {self.grace_steps:,} steps on, a trial stops if it is worse than the "
            "median of the other trials"
        )


SPEC = Median
