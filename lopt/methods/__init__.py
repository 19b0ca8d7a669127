"""Methods: how a prompt X is made from what is trained.

A method declares its matrices; making the prompt is separate from putting it in front of the input. Importing this
package imports no torch: planning counts parameters without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lopt import registry
from lopt.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from lopt.config import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One matrix of a method: its shape, the half-width `a` of its initial values U[-a, a], whether it is trained.

    A frozen factor is random and re-made from `seed` (the trial's own seed when None).
    """

    shape: tuple[int, ...]
    bound: float
    trainable: bool = True
    seed: int | None = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def initial(self, generator: np.random.RandomState) -> np.ndarray:
        """Initial values, float64. `RandomState`'s streams are frozen by NumPy (NEP 19), so they are the same
        bits on every machine and version."""
        return generator.uniform(-self.bound, self.bound, self.shape)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a method's matrices depend on: length n, rank r (None without one), width d, and the method's options."""

    length: int
    rank: int | None
    width: int
    options: Mapping[str, Any]

    @property
    def r(self) -> int:
        """The rank of a method that has one."""
        assert self.rank is not None
        return self.rank


@dataclass(frozen=True)
class Counts:
    """Three parameter counts of one prompt.

    trainable: what the optimiser changes; stored: what must be on disk when frozen random matrices are
    re-made from their seed; materialised: the prompt itself, n·d.
    """

    trainable: int
    stored: int
    materialised: int


class Method(ABC):
    """Base of all methods. A plugin sets the class attributes and implements `factors`, `closed_form`, `prompt`."""

    name: str
    title: str  # as the papers write it
    uses_rank = True
    OPTIONS: ClassVar[Mapping[str, Any]] = {}  # option -> default

    @abstractmethod
    def factors(self, shape: Shape) -> dict[str, Factor]:
        """The matrices by name, in the order in which their initial values are drawn."""

    @abstractmethod
    def closed_form(self, shape: Shape) -> int:
        """The paper's formula of the number of trainable parameters; tests hold it against `factors`."""

    @abstractmethod
    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        """X from the factors. Leading batch dimensions pass through: `[..., P, H]`."""

    def check_options(self, options: dict[str, Any]) -> None:  # noqa: B027  # a method without options has none to check
        """Raises ValueError when an option's value is invalid; every option is present."""

    def check(self, *, length: int, rank: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Validates the shape and returns the options with defaults filled in.

        Raises:
            ValueError: a rank that is missing, superfluous or above n; an unknown or invalid option.
        """
        if self.uses_rank:
            if rank is None:
                raise ValueError(f"{self.name} needs a rank: give rank, 1 to {length} (the prompt's length)")
            if not 1 <= rank <= length:
                raise ValueError(f"rank is {rank} at length {length}; give 1 to {length}: X has rank n at most")
        elif rank is not None:
            raise ValueError(f"rank is {rank}, but {self.name} has no rank: leave it out")
        for name in options:
            if name not in self.OPTIONS:
                valid = ", ".join(self.OPTIONS) or "none"
                hint = nearest(name, self.OPTIONS)
                raise ValueError(f"unknown option {name!r} of method {self.name}; valid: {valid}.{hint}")
        filled = {**self.OPTIONS, **options}
        self.check_options(filled)
        return filled

    def counts(self, shape: Shape) -> Counts:
        """Counted from the declared factors, not from the formula."""
        trainable = sum(f.size for f in self.factors(shape).values() if f.trainable)
        return Counts(trainable=trainable, stored=trainable, materialised=shape.length * shape.width)

    def initial_values(self, shape: Shape, seed: int) -> dict[str, np.ndarray]:
        """Initial values of all factors, float64. Each factor has its own stream, so adding one changes no other."""
        made = {}
        for position, (name, factor) in enumerate(self.factors(shape).items()):
            entropy = [seed if factor.seed is None else factor.seed, position, int(factor.trainable)]
            made[name] = factor.initial(np.random.RandomState(entropy))
        return made


def get(name: object) -> Method:
    """The method named `name`; ValueError lists the valid ones."""
    return registry.find("lopt.methods", name, "method")


def names() -> list[str]:
    return list(registry.plugins("lopt.methods"))


def count_parameters(*, method: str, length: int, width: int, rank: int | None = None, **options: Any) -> int:
    """Number of trainable parameters.

    Args:
        method: name of the method.
        length: prompt length n. width: embedding width d. rank: rank r, where the method has one.

    >>> count_parameters(method="lopt1", length=10, rank=2, width=1280)
    2580
    """
    for name, value in (("length", length), ("width", width), ("rank", rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
    chosen = get(method)
    filled = chosen.check(length=length, rank=rank, options=options)
    return chosen.counts(Shape(length=length, rank=rank, width=width, options=filled)).trainable


def shape_of(config: TrialConfig, width: int) -> Shape:
    """The shape of a trial's prompt on a backbone of that width."""
    return Shape(length=config.length, rank=config.rank, width=width, options=config.options)


def bound_option(name: str, value: Any) -> None:
    """Validates a half-width of initial values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}; give a number above 0 (initial values are uniform in [-a, a])")
