"""The default sampler: the tree-structured Parzen estimator (Bergstra et al. 2011), in Optuna's multivariate form."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sweeps.samplers import Sampler, StudyNeeds

if TYPE_CHECKING:
    from optuna.samplers import TPESampler

# However many trials there are, a proposal takes as long as with so many. Optuna's estimator counts a tenth of them as
# good, but at most 25.
_MAX_SHOWN_TRIALS = 250


def random_trial_count(trials: int) -> int:
    return max(2, min(10, trials // 2))


def make(needs: StudyNeeds) -> TPESampler:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=random_trial_count(needs.trial_count),
            seed=needs.sampler_seed,  # an earlier command's seed would give points already tried
        )


SPEC = Sampler(name="tpe", make=make, random_trial_count=random_trial_count, max_shown_trials=_MAX_SHOWN_TRIALS)
