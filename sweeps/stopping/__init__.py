"""Rules of early stopping: which of some trials that may be compared ends before its last step.

One module a rule, with the class as its `SPEC`; `--set stopping=NAME` chooses one. A rule sees the reports of one
stratum (`sweeps.search.early_stopping`), each with the best held-out score so far, where more is better.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from lopt import registry


class StoppingRule(ABC):
    """Base of all rules.

    Args:
        grace_steps: no trial stops before so many. reduction_factor: of successive halving; other rules may ignore it.
        max_steps: of a whole trial.
    """

    name: ClassVar[str]

    def __init__(self, *, grace_steps: int, reduction_factor: int, max_steps: int) -> None:
        if grace_steps < 1 or reduction_factor < 2:
            raise ValueError(f"grace_steps is {grace_steps}, reduction_factor {reduction_factor}; give 1 and 2 or more")
        self.grace_steps, self.reduction_factor, self.max_steps = grace_steps, reduction_factor, max_steps

    @abstractmethod
    def report(self, key: str, step: int, value: float) -> bool:
        """Whether the trial `key`, which has `value` after `step` steps, stops here. The steps of a trial ascend."""

    @abstractmethod
    def forget(self, key: str) -> None:
        """Forgets the trial: it begins anew."""

    # What the plan says of the rule; a rule of one's own may leave these as they are.

    def decision_steps(self, eval_every: int) -> list[int]:
        """Steps after which the next evaluation may stop a trial; all below `max_steps`."""
        first = -(-self.grace_steps // eval_every) * eval_every
        return list(range(first, self.max_steps, eval_every))

    def share_left(self, position: int, decisions: int) -> float:
        """The share of trials that go on after so many decisions, if all are equally good, for the trial number
        `position` (1 is the first)."""
        return 1.0

    def description(self, stratum: str, eval_every: int) -> str:
        """The rule in a line. stratum: "cell" or "size", within which trials compete."""
        return f"{self.name} in each {stratum}"

    def expected_steps(self, position: int, eval_every: int) -> float:
        """Steps that the search trial number `position` of a stratum takes on average, if all are equally good."""
        ends = [*self.decision_steps(eval_every), self.max_steps]
        begins = [0, *ends[:-1]]
        return sum(
            self.share_left(position, decisions) * (end - begin)
            for decisions, (begin, end) in enumerate(zip(begins, ends, strict=True))
        )


def get(name: object) -> type[StoppingRule]:
    """The rule of that name; ValueError lists the valid ones."""
    return registry.find("sweeps.stopping", name, "stopping rule")
