"""The trials that a sampler is shown, at most so many: the best ones, and an even selection of all others.

A sampler looks at every trial each time it proposes a point, so that without a bound the thousandth proposal takes far
longer than the tenth. The tree-structured Parzen estimator (Bergstra et al. 2011) compares two densities: that of the
good trials, and that of all others. Optuna counts at most 25 trials as good, and these are always shown. The density
of the others is estimated from a systematic sample: every k-th of them in the order in which they were proposed.
Unlike the newest ones, such a sample has its share of the oldest, which are spread over the whole space.

The selection depends on the trials alone, so that two commands that continue the same run propose the same points.
"""

import bisect
import copy
from collections.abc import Container, Sequence
from typing import Any

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

GOOD_COUNT = 25  # as many good trials as Optuna's estimator has at most


class BoundedStorage(InMemoryStorage):
    """Keeps all trials of one study that maximises a score, and shows at most `max_shown` of those with a score.

    Failed trials, which have no score, are not shown if there is a bound.

    Args:
        max_shown: at most so many complete and pruned trials are shown, at least 26; None shows all trials.
    """

    def __init__(self, max_shown: int | None = None) -> None:
        super().__init__()
        self._max_shown = max_shown
        self._unfinished_numbers: set[int] = set()
        self._good: list[tuple[Any, int]] = []  # key and number of the best trials, the best one last
        self._other_numbers: list[int] = []  # of the other trials that have a score; ascending

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self._sort_in(self.get_trial(trial_id))
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        has_changed = super().set_trial_state_values(trial_id, state, values)
        self._sort_in(self.get_trial(trial_id))
        return has_changed

    def _sort_in(self, trial: FrozenTrial) -> None:
        """Count a trial among the good ones, the other ones, or those that have not finished."""
        if not trial.state.is_finished():
            self._unfinished_numbers.add(trial.number)
            return
        self._unfinished_numbers.discard(trial.number)
        if trial.state == TrialState.FAIL:
            return
        bisect.insort(self._good, (_key(trial), trial.number))
        if len(self._good) > GOOD_COUNT:
            bisect.insort(self._other_numbers, self._good.pop(0)[1])

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that a sampler is shown, in the order of their numbers."""
        if self._max_shown is None or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        numbers = self._unfinished_numbers.union(number for _, number in self._good)
        others, max_others = self._other_numbers, self._max_shown - GOOD_COUNT
        step = max(1.0, len(others) / max_others)
        numbers.update(others[int(index * step)] for index in range(min(max_others, len(others))))
        all_trials = super().get_all_trials(study_id, deepcopy=False)
        trials = [all_trials[number] for number in sorted(numbers)]
        trials = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def count_all_trials(self, study_id: int, state: TrialState | None = None) -> int:
        """Return the number of all trials, or of all trials in one state, whether or not they are shown."""
        return len(super().get_all_trials(study_id, deepcopy=False, states=None if state is None else (state,)))


def _key(trial: FrozenTrial) -> tuple[Any, ...]:
    """Return a key by which Optuna's estimator orders trials. A better trial has a greater key.

    A complete trial goes before a pruned one. Among pruned trials, the one that has come furthest goes first.
    """
    if trial.state == TrialState.COMPLETE:
        return 1, trial.value or 0.0, 0.0, -trial.number
    step, score = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return 0, step, score, -trial.number
