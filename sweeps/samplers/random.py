"""Points at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeps.samplers import Sampler

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class Random(Sampler):
    name = "random"

    def make(
        self, distributions: Mapping[str, BaseDistribution], *, trials: int, seed: int, continued_seed: int
    ) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=continued_seed)


SPEC = Random()
