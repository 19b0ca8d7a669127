"""Samplers: what proposes the points of a cell's study.

One module a sampler, with an instance as its `SPEC`; `--set sampler=NAME` chooses one. Each makes an Optuna
sampler, or another one with the same interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lopt import registry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from sweeps.space import Cell


class Sampler(ABC):
    """Base of all samplers.

    Attributes:
        restarts_its_sequence: a study that is continued asks it for the same points once more, which are skipped.
    """

    name: str
    restarts_its_sequence = False

    @abstractmethod
    def make(
        self, distributions: Mapping[str, BaseDistribution], *, trials: int, seed: int, continued_seed: int
    ) -> BaseSampler:
        """Optuna's sampler of one study.

        Args:
            distributions: of all names that the cell searches.
            trials: that the study will have.
            seed: the same whenever the study is continued. continued_seed: another one each time.
        """

    def random_first(self, trials: int) -> int:
        """How many of so many trials are at random points before the sampler is asked."""
        return 0

    def check(self, cell: Cell) -> None:  # noqa: B027  # most samplers take any cell
        """Raises ValueError when the sampler cannot search the cell, or its package is missing."""


def get(name: object) -> Sampler:
    """The sampler of that name; ValueError lists the valid ones."""
    return registry.find("sweeps.samplers", name, "sampler")
