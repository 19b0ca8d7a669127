"""Early stopping that compares like with like: one stopping rule (`sweeps.stopping`) for each stratum.

In a table a stratum is a cell; in a free search it is a range of parameter counts that spans a factor of two. A trial
of one stratum never stops because of a trial of another one. A share of the trials that would be stopped can be
audited: they run to the end instead, which shows what early stopping costs.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from lopt.records import Evaluation, TrialRecord
from sweeps.stopping import StoppingRule


class Decision(Enum):
    """What happens to a trial after a report. AUDIT: the trial would be stopped here, but runs to its end instead."""

    GO_ON = "go on"
    STOP = "stop"
    AUDIT = "audit"


class EarlyStopping:
    """Decides at each evaluation of a search trial whether the trial stops; confirm trials always run to the end.

    Args:
        make_rule: builds the stopping rule of one stratum.
        audit_share: of the trials that would be stopped, the share that runs to the end instead. A trial's key decides
            whether it is one of them. The rule does not see their later scores, so they cannot stop another trial.
        audited_steps: for audited trials of earlier commands, the step at which each would have been stopped, by key.
    """

    def __init__(
        self,
        make_rule: Callable[[], StoppingRule],
        *,
        audit_share: float = 0.0,
        audited_steps: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._make_rule, self._audit_share, self._audited_step_by_key = make_rule, audit_share, dict(audited_steps)
        self._rule_by_stratum: dict[str, StoppingRule] = {}
        self._keys_audited_here: set[str] = set()  # keys of audited trials that this command runs to their end

    def report(self, stratum: str, key: str, step: int, score: float) -> Decision:
        """Decide on the search trial `key`, whose best score up to `step` is `score`."""
        if key in self._keys_audited_here or not self._rule(stratum).report(key, step, score):
            return Decision.GO_ON
        if _audit_draw(key) >= self._audit_share:
            return Decision.STOP
        self._audited_step_by_key[key] = step
        self._keys_audited_here.add(key)
        return Decision.AUDIT

    def reason(self, stratum: str, key: str) -> str:
        """Return in words why the trial was stopped at its last report; "" if the rule does not say."""
        return self._rule(stratum).reason(key)

    def restore(self, record: TrialRecord) -> None:
        """Report the past evaluations of a trial that continues from a checkpoint.

        The last evaluation is left out, because the trial reports it again.
        """
        self._replay_evaluations(record, record.evaluations[:-1])
        if record.key in self._audited_step_by_key:
            self._keys_audited_here.add(record.key)

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Report the evaluations of finished search trials, as if the trials had just run."""
        for record in records:
            if record.phase == "search":
                self._replay_evaluations(record, record.evaluations)

    def forget(self, stratum: str, key: str) -> None:
        """Forget all reports of a trial that will start over."""
        self._rule(stratum).forget(key)

    def _rule(self, stratum: str) -> StoppingRule:
        if stratum not in self._rule_by_stratum:
            self._rule_by_stratum[stratum] = self._make_rule()
        return self._rule_by_stratum[stratum]

    def _replay_evaluations(self, record: TrialRecord, evaluations: Iterable[Evaluation]) -> None:
        """Report past evaluations to the rule. Its answers are ignored, because the decisions have been made before."""
        last_step = self._audited_step_by_key.get(record.key, record.max_steps - 1)
        best_score = -math.inf  # a correlation may be negative
        for evaluation in evaluations:
            best_score = max(best_score, evaluation.score(record.metric) or 0.0)
            if evaluation.step <= last_step:
                self._rule(record.stratum or "").report(record.key, evaluation.step, best_score)


def _audit_draw(key: str) -> float:
    """Return a number in [0, 1) that depends on a trial's key alone."""
    return int(hashlib.sha256(f"audit {key}".encode()).hexdigest()[:13], 16) / 16**13
