"""Methods: what is trained, and how it reaches the model.

Prompt methods (`_prompt.PromptMethod`) train matrices from which a soft prompt is made; the backbone is shared and
never changes. Weight methods (`_weights.WeightMethod`) train tensors inside a copy of the backbone. Importing this
package imports no torch: planning counts parameters without it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lopt import registry
from lopt.ranges import Range
from lopt.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from lopt.backbones import Backbone, Facts
    from lopt.settings import TrialSettings
    from lopt.soft_prompt import SoftPrompt

DEFAULT_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method is trained where nothing else is said; its source stands in the method's docstring.

    warmup: share of the steps in which the learning rate rises linearly from 0.
    """

    learning_rate: float
    optimizer: str = "adafactor"
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a method's matrices depend on: width d, length n and rank r (None without one), and the method's options.

    model: facts of the backbone, for methods that change weights.
    """

    width: int
    length: int | None = None
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Facts | None = None

    @property
    def n(self) -> int:
        """The length of a method that has one."""
        assert self.length is not None
        return self.length

    @property
    def r(self) -> int:
        """The rank of a method that has one."""
        assert self.rank is not None
        return self.rank


@dataclass(frozen=True)
class Counts:
    """Three parameter counts.

    trainable: what the optimiser changes; stored: what must be on disk when frozen random matrices are
    re-made from their seed; materialised: what stands at the model's input, n·d for a prompt (0 for weight methods).
    """

    trainable: int
    stored: int
    materialised: int


@dataclass(eq=False)
class Tuned:
    """A backbone, and what a trial trains on it.

    backbone: the shared one, or this trial's own copy. factors: trained tensors by name, leaves of the graph.
    soft: makes what stands at the input from them; it returns None for methods that change weights.
    """

    backbone: Backbone
    factors: dict[str, Tensor]
    soft: Callable[[], SoftPrompt | None]
    counts: Counts


class Method(ABC):
    """Base of all methods; plugins derive from `PromptMethod` or `WeightMethod`.

    colour, marker, place: how the report's figures show it. colour: blue, vermillion, green, orange, sky, purple, ink
    or muted, which are the report's own, or any that matplotlib knows, such as "#aa3377". marker: one of matplotlib's.
    place: among other methods, low first; equal ones by name. Without them it is drawn in ink, and comes last.
    """

    name: str
    title: str  # as the papers write it
    colour: str | None = None
    marker: str | None = None
    place = 1000
    uses_length = True
    uses_rank = True
    shares_backbone = True  # leaves it as it is; see also `TrialConfig.shares_backbone`
    recipe: ClassVar[Recipe]
    ranges: ClassVar[Mapping[str, Range]]  # of the free search: learning_rate, length, rank and options
    OPTIONS: ClassVar[Mapping[str, Any]] = {}  # option -> default
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {}  # option -> the default of versions before; their runs keep it

    @abstractmethod
    def counts(self, shape: Shape) -> Counts:
        """Parameter counts at a shape, without weights."""

    @abstractmethod
    def begin(self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None) -> Tuned:
        """What is trained, at its initial values or at given ones. The backbone handed in is never changed."""

    def made(self, config: TrialSettings, factors: Mapping[str, Tensor], width: int) -> SoftPrompt | None:
        """What stands at the input, made on the CPU of trained factors and of frozen ones, re-made from their seeds;
        None for methods that change weights."""
        return None

    def check_options(self, options: dict[str, Any]) -> None:  # noqa: B027  # a method without options has none to check
        """Raises ValueError when an option's value is invalid; every option is present."""

    def require(self) -> None:  # noqa: B027  # most methods need nothing more
        """Raises ValueError when a package that the method needs is missing."""

    def most_rank(self, length: int | None) -> int | None:
        """The largest rank at a length; None where there is no such bound."""
        return None

    def learning_rates(self, config: TrialSettings) -> dict[str, float]:
        """Learning rates by factor, of the factors that have another one than `config.learning_rate`."""
        return {}

    def weights_precision(self, precision: str) -> str:
        """In which precision the backbone is loaded."""
        return precision

    def text_limit(self, options: Mapping[str, Any]) -> int | None:
        """The most tokens of template and text that the method can read; None for the backbone's own limit."""
        return None

    def check(self, *, length: int | None, rank: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Validates the shape and returns the options with defaults filled in.

        Raises:
            ValueError: a length or rank that is missing, superfluous or out of range; an unknown or invalid option.
        """
        if not self.uses_length and length is not None:
            raise ValueError(f"length is {length}, but {self.name} has no prompt: leave it out")
        if self.uses_length and length is None:
            raise ValueError(f"{self.name} needs a length: give length, the number of prompt tokens")
        if self.uses_rank:
            most = self.most_rank(length)
            valid = "1 or more" if most is None else f"1 to {most} (X has rank n at most)"
            if rank is None:
                raise ValueError(f"{self.name} needs a rank: give rank, {valid}")
            if rank < 1 or (most is not None and rank > most):
                at = "" if length is None else f" at length {length}"
                raise ValueError(f"rank is {rank}{at}; give {valid}")
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

    def within(self, budget: int, width: int) -> tuple[int | None, int | None] | None:
        """Length and rank of the method's customary form with at most `budget` trainable parameters, as many of them
        as it can use; None when the budget is too small, or when the method has no such form."""
        return None


def get(name: object) -> Method:
    """The method named `name`; ValueError lists the valid ones."""
    return registry.find("lopt.methods", name, "method")


def names() -> list[str]:
    return list(registry.plugins("lopt.methods"))


def options() -> set[str]:
    """Names of all methods' options."""
    return {name for method in registry.plugins("lopt.methods").values() for name in method.OPTIONS}


def count_parameters(
    *,
    method: str,
    length: int | None = None,
    rank: int | None = None,
    width: int | None = None,
    backbone: str | None = None,
    **options: Any,
) -> int:
    """Number of trainable parameters at n, r and d, counted without weights.

    Args:
        method: name of the method.
        length: prompt length n, in virtual tokens. rank: rank r, where the method has one.
        width: embedding width d; or backbone: a name or folder whose facts are known, which LoRA and fine-tuning need.
            With both, the backbone's own width counts.
        options: the method's own, such as update_tokens of DePT.

    Raises:
        ValueError: an unknown method or option; a length, rank or width that is missing, superfluous or out of range;
            neither width nor backbone; a backbone of which nothing is known.

    >>> count_parameters(method="lopt1", length=10, rank=2, width=1280)
    2580
    """
    from lopt import backbones

    for name, value in (("length", length), ("width", width), ("rank", rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
    chosen = get(method)
    filled = chosen.check(length=length, rank=rank, options=options)
    model = backbones.facts(backbone) if backbone else None
    width = model.width if model else width
    if width is None:
        raise ValueError("give width, the embedding width d, or backbone, a model's name")
    return chosen.counts(Shape(width=width, length=length, rank=rank, options=filled, model=model)).trainable


def shape_of(config: TrialSettings, model: Facts) -> Shape:
    """The shape of a trial on a backbone of these facts."""
    return Shape(width=model.width, length=config.length, rank=config.rank, options=config.options, model=model)


def counts_of(config: TrialSettings) -> Counts:
    """Parameter counts of a trial, from its backbone's facts."""
    from lopt import backbones

    return get(config.method).counts(shape_of(config, backbones.facts(config.backbone)))


def real_option(name: str, value: Any, meaning: str = "") -> None:
    """Validates an option that is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r}; give a number above 0{f' ({meaning})' if meaning else ''}")


def choice_option(name: str, value: Any, valid: tuple[str, ...]) -> None:
    """Validates an option that is one of a few words."""
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}.{nearest(value, valid)}")


def seed_option(name: str, value: Any) -> None:
    """Validates an option that is a seed; None is the trial's own."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32):
        raise ValueError(
            f"{name} is {value!r}; give a whole number, 0 to {2**32 - 1:,}, or none for the trial's own seed"
        )
