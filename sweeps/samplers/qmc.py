"""A quasi-random sequence (scrambled Sobol), which covers the ranges more evenly than random points do.

See Bergstra and Bengio 2012. Every searched name is a dimension of the sequence, even a name of one method such as
`lora.rank`. A trial of another method ignores that dimension.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sweeps.samplers import Sampler, StudyNeeds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import QMCSampler


def make(needs: StudyNeeds) -> QMCSampler:
    import optuna

    class AllNamesSampler(optuna.samplers.QMCSampler):
        """Has all searched names as dimensions; Optuna's own class takes those of the first finished trial."""

        def infer_relative_search_space(
            self, study: optuna.Study, trial: optuna.trial.FrozenTrial
        ) -> dict[str, BaseDistribution]:
            return dict(needs.distributions)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return AllNamesSampler(qmc_type="sobol", scramble=True, seed=needs.seed)


SPEC = Sampler(name="qmc", make=make, restarts_its_sequence=True)
