"""Stopping rules, which decide whether a trial ends before its last step.

Each rule is one module with the rule's class as its `SPEC`; `--set stopping=NAME` chooses it. One instance of a rule
gets the reports of one stratum (`sweeps.search.early_stopping`). Each report has a step and the trial's best held-out
score up to it; a higher score is better.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from lopt import registry


class StoppingRule(ABC):
    """Base class of all stopping rules.

    Args:
        grace_steps: no trial stops before this step.
        reduction_factor: the reduction factor of successive halving; other rules may ignore it.
        max_steps: the last step of a trial.
    """

    name: ClassVar[str]

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        if grace_steps < 1 or reduction_factor < 2:
            raise ValueError(
                f"grace_steps is {grace_steps} and reduction_factor is {reduction_factor}; "
                "give grace_steps of 1 or more and a reduction_factor of 2 or more"
            )
        self.grace_steps, self.reduction_factor, self.max_steps = grace_steps, reduction_factor, max_steps

    @abstractmethod
    def report(self, key: str, step: int, score: float) -> bool:
        """Return whether the trial `key`, whose best score up to `step` is `score`, stops here.

        The steps in the reports of one trial ascend.
        """

    @abstractmethod
    def forget(self, key: str) -> None:
        """Forget all reports of a trial that will start over."""

    def reason(self, key: str) -> str:
        """Return in words why the last report of the trial `key` has stopped it; "" if the rule does not say."""
        return ""

    # The plan and the forecast use the following methods. A new rule need not override them.

    def decision_steps(self, eval_every: int) -> list[int]:
        """Return the steps at which the rule decides, all below `max_steps`.

        A trial that is not evaluated at such a step may stop at its next evaluation.
        """
        first_step = -(-self.grace_steps // eval_every) * eval_every
        return list(range(first_step, self.max_steps, eval_every))

    def probability_left(self, position: int, decision_count: int) -> float:
        """Return the probability that a trial continues after a number of decisions, if all trials are equally good.

        Args:
            position: the trial's position in its stratum; the first trial has 1.
            decision_count: the number of decisions at which the trial has gone on.
        """
        return 1.0

    def description(self, stratum: str, eval_every: int) -> str:
        """Return a description of the rule in one line.

        Args:
            stratum: "cell" or "size", the group within which trials compete.
            eval_every: the number of steps between evaluations.
        """
        return f"{self.name} in each {stratum}"

    def expected_steps(self, position: int, eval_every: int) -> float:
        """Return the mean number of steps of a search trial, if all trials are equally good.

        Args:
            position: the trial's position in its stratum; the first trial has 1.
            eval_every: the number of steps between evaluations.
        """
        interval_ends = [*self.decision_steps(eval_every), self.max_steps]
        interval_begins = [0, *interval_ends[:-1]]
        return sum(
            self.probability_left(position, decision_count) * (end - begin)
            for decision_count, (begin, end) in enumerate(zip(interval_begins, interval_ends, strict=True))
        )


def get(name: object) -> type[StoppingRule]:
    """Return the stopping rule of this name.

    Raises:
        ValueError: There is no such rule; the message lists the valid names.
    """
    return registry.find("sweeps.stopping", name, "stopping rule")
