"""What a method is: the base of all of them, its shape and counts, and checks of its options."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts
from lopt.ranges import Range
from lopt.registry import nearest
from lopt.settings import TrialSettings
from lopt.soft_prompt import SoftPrompt
from lopt.types import Tensor

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
    soft_prompt: Callable[[], SoftPrompt | None]
    counts: Counts


class Method(ABC):
    """Base of all methods; plugins derive from `PromptMethod` or `WeightMethod`.

    colour, marker, place: how the report's figures show it. colour: blue, vermillion, green, orange, sky, purple, ink
    or muted, which are the report's own, or any that matplotlib knows, such as "#aa3377". marker: one of matplotlib's.
    place: among other methods, low first; equal ones by name. Without them it is drawn in ink, and comes last.
    paper: length and rank of the paper's setting, which the free search tries first. A method that states none takes
    part in that search only when it is asked for.
    """

    name: str
    title: str  # as the papers write it
    colour: str | None = None
    marker: str | None = None
    place = 1000
    uses_length = True
    uses_rank = True
    shares_backbone = True  # leaves it as it is; see also `TrialConfig.shares_backbone`
    paper: ClassVar[Mapping[str, int] | None] = None
    has_adapter: ClassVar[bool] = False  # whether PEFT has an adapter for what is trained; see `adapter_config`
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

    def stored_tensors(self, shape: Shape) -> int:
        """About how many tensors an artifact holds, without weights; for the size of its files."""
        return 1

    def adapter_config(self, config: TrialSettings, model: Any) -> Any:
        """PEFT's own configuration of what is trained in a model, for methods that have an adapter."""
        raise ValueError(f"{self.name} trains no adapter")

    def check_options(self, options: dict[str, Any]) -> None:  # noqa: B027  # a method without options has none to check
        """Raises ValueError when an option's value is invalid; every option is present. May settle a value in place."""

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
        """Validates the shape and returns the options with defaults filled in. ValueError for a length or rank that is
        missing, superfluous or out of range, and for an unknown or invalid option."""
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
                valid = f"{', '.join(self.OPTIONS) or 'none'}.{nearest(name, self.OPTIONS)}"
                raise ValueError(f"unknown option {name!r} of method {self.name}; valid: {valid}")
        filled = {**self.OPTIONS, **options}
        self.check_options(filled)
        return filled

    @property
    def has_forms(self) -> bool:
        """Whether it says a customary form for a budget, with which it has a place in the frontier."""
        return type(self).within is not Method.within

    def within(self, budget: int, width: int) -> tuple[int | None, int | None] | None:
        """Length and rank of the method's customary form with at most `budget` trainable parameters, as many of them
        as it can use; None when the budget is too small, or when the method has no such form."""
        return None


def real_option(name: str, value: Any, meaning: str = "") -> None:
    """Validates an option that is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r}; give a number above 0{f' ({meaning})' if meaning else ''}")


def choice_option(name: str, value: Any, valid: Iterable[str]) -> None:
    """Validates an option that is one of a few words."""
    valid = tuple(valid)
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}.{nearest(value, valid)}")


def init_option(value: Any) -> str:
    """The `init` option, validated: a word of `lopt.initial.INITIAL`, or the folder of a trained prompt with what
    `lopt.initial.saved_prompt` says of it."""
    from lopt.initial import INITIAL, saved_prompt

    if isinstance(value, str) and (os.path.sep in value or os.path.isdir(value)):
        return saved_prompt(value)
    choice_option("init", value, INITIAL)
    return value


def seed_option(name: str, value: Any) -> None:
    """Validates an option that is a seed; None is the trial's own."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32):
        raise ValueError(
            f"{name} is {value!r}; give a whole number, 0 to {2**32 - 1:,}, or none for the trial's own seed"
        )
