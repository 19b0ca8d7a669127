"""Random points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeps.samplers import Sampler, StudyNeeds

if TYPE_CHECKING:
    from optuna.samplers import RandomSampler


def make(needs: StudyNeeds) -> RandomSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=needs.sampler_seed)


SPEC = Sampler(name="random", make=make)
