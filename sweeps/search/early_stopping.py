"""Early stopping that compares like with like: one rule (`sweeps.stopping`) for each stratum.

Within a table a stratum is a cell, in a free search a factor of two of parameter count: no trial stops because of
another stratum's. A share of the trials that would be stopped can run to the end instead, to see what stopping costs.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from lopt.records import Evaluation, TrialRecord
from sweeps.stopping import StoppingRule


class Decision(Enum):
    """GO_ON; STOP; AUDIT: the trial would be stopped here, and runs to its end to be audited."""

    GO_ON = "go on"
    STOP = "stop"
    AUDIT = "audit"


class EarlyStopping:
    """Decides at each evaluation of a search trial whether it stops; confirm trials always run to the end.

    Args:
        new_rule: makes the rule of one stratum.
        audit: share of the trials to be stopped that run to the end instead, chosen by their keys. Their later scores
            are kept from the rule, so they stop nobody else.
        audited: the steps at which trials of earlier commands would have been stopped, by their keys.
    """

    def __init__(
        self,
        new_rule: Callable[[], StoppingRule],
        *,
        audit: float = 0.0,
        audited: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._new_rule, self._audit, self._audited = new_rule, audit, dict(audited)
        self._rules: dict[str, StoppingRule] = {}
        self._excused: set[str] = set()  # keys of trials that run on to be audited

    def report(self, stratum: str, key: str, step: int, score: float) -> Decision:
        """What becomes of the search trial `key`, whose best score so far is `score`."""
        if key in self._excused or not self._rule(stratum).report(key, step, score):
            return Decision.GO_ON
        if _draw(key) >= self._audit:
            return Decision.STOP
        self._audited[key] = step
        self._excused.add(key)
        return Decision.AUDIT

    def restore(self, record: TrialRecord) -> None:
        """Learns what a trial that goes on from a checkpoint had reached before its last evaluation."""
        self._learn(record, record.evaluations[:-1])
        if record.key in self._audited:
            self._excused.add(record.key)

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Learns what finished search trials reached, as if they had just run."""
        for record in records:
            if record.phase == "search":
                self._learn(record, record.evaluations)

    def forget(self, stratum: str, key: str) -> None:
        """Forgets a trial that had not begun: it comes again."""
        self._rule(stratum).forget(key)

    def _rule(self, stratum: str) -> StoppingRule:
        if stratum not in self._rules:
            self._rules[stratum] = self._new_rule()
        return self._rules[stratum]

    def _learn(self, record: TrialRecord, evaluations: Iterable[Evaluation]) -> None:
        """Tells the rule of a trial's past, and ignores its answers: those decisions were taken then."""
        last = self._audited.get(record.key, record.max_steps - 1)
        best = 0.0
        for evaluation in evaluations:
            best = max(best, evaluation.score(record.metric) or 0.0)
            if evaluation.step <= last:
                self._rule(record.stratum or "").report(record.key, evaluation.step, best)


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on a trial's key alone."""
    return int(hashlib.sha256(f"audit {key}".encode()).hexdigest()[:13], 16) / 16**13
