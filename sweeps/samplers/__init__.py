"""Samplers, which propose the points of a cell's study.

Each sampler is one module with a `Sampler` as its `SPEC`; `--set sampler=NAME` chooses it. The `Sampler` builds an
Optuna sampler or another object with the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lopt import registry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from sweeps.space import Cell


@dataclass(frozen=True, kw_only=True)
class StudyNeeds:
    """What `Sampler.make` needs to know about the study for which it builds an Optuna sampler.

    Attributes:
        distributions: Optuna's distribution of each name that the cell searches.
        trial_count: the number of trials that the study will have.
        seed: a seed that stays the same when the study is continued.
        sampler_seed: a seed that changes each time the study is continued.
    """

    distributions: Mapping[str, BaseDistribution]
    trial_count: int
    seed: int
    sampler_seed: int


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The `SPEC` of a sampler's module.

    Attributes:
        make: builds the Optuna sampler of one study.
        random_trial_count: given the number of trials, returns how many of them take random points before the sampler
            proposes points.
        check: raises ValueError if the sampler cannot search a cell or if its package is missing.
        restarts_its_sequence: whether the sampler starts its sequence again when a study is continued. The study then
            skips points that it has seen.
        max_shown_trials: how many finished trials the sampler is shown at most (`sweeps.search.bounded_storage`); None
            shows all of them. A sampler whose proposals take longer the more trials it sees needs a bound.
    """

    name: str
    make: Callable[[StudyNeeds], BaseSampler]
    random_trial_count: Callable[[int], int] = lambda trials: 0
    check: Callable[[Cell], None] = lambda cell: None
    restarts_its_sequence: bool = False
    max_shown_trials: int | None = None


def get(name: object) -> Sampler:
    """Return the sampler of this name.

    Raises:
        ValueError: There is no such sampler; the message lists the valid names.
    """
    return registry.find("sweeps.samplers", name, "sampler")
