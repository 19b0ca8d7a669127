"""Samplers: what proposes the points of a cell's study.

One module a sampler, with a `Sampler` as its `SPEC`; `--set sampler=NAME` chooses one. Each makes an Optuna sampler, or
another one with the same interface.
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
    """What a sampler is made for.

    Attributes:
        distributions: of all names that the cell searches. trials: that the study will have.
        seed: the same whenever the study is continued. continued_seed: another one each time.
    """

    distributions: Mapping[str, BaseDistribution]
    trials: int
    seed: int
    continued_seed: int


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """`SPEC` of a module.

    Attributes:
        make: Optuna's sampler of one study.
        random_first: of so many trials, how many are at random points before the sampler is asked.
        check: raises ValueError when the sampler cannot search a cell, or its package is missing.
        restarts_its_sequence: whether it starts over when a study is continued; known points are then skipped.
    """

    name: str
    make: Callable[[StudyNeeds], BaseSampler]
    random_first: Callable[[int], int] = lambda trials: 0
    check: Callable[[Cell], None] = lambda cell: None
    restarts_its_sequence: bool = False


def get(name: object) -> Sampler:
    """The sampler of that name; ValueError lists the valid ones."""
    return registry.find("sweeps.samplers", name, "sampler")
