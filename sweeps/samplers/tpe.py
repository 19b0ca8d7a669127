"""The tree-structured Parzen estimator, the default: Bergstra et al. 2011; Optuna's, multivariate and by groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeps.samplers import Sampler

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class TPE(Sampler):
    name = "tpe"

    def make(
        self, distributions: Mapping[str, BaseDistribution], *, trials: int, seed: int, continued_seed: int
    ) -> BaseSampler:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=self.random_first(trials),
                seed=continued_seed,  # one that began as it did before would propose what has been tried
            )

    def random_first(self, trials: int) -> int:
        return max(2, min(10, trials // 2))


SPEC = TPE()
