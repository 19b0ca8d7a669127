"""The base class of all methods, a method's shape and parameter counts, and checks of options."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts
from lopt.ranges import Range
from lopt.registry import did_you_mean
from lopt.settings import TrialSettings
from lopt.soft_prompt import SoftPrompt
from lopt.types import Tensor

DEFAULT_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method is trained unless the trial's settings say otherwise. The method's docstring names the source.

    Attributes:
        warmup: share of the steps in which the learning rate rises linearly from 0.
    """

    learning_rate: float
    optimizer: str = "adafactor"
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the sizes of a method's matrices depend on.

    Attributes:
        width: embedding width d.
        length: prompt length n. None if the method has no prompt.
        rank: rank r. None if the method has no rank.
        options: the method's options.
        model: facts of the backbone, for methods that change weights.
    """

    width: int
    length: int | None = None
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Facts | None = None

    @property
    def n(self) -> int:
        """The length n of a method that has one."""
        assert self.length is not None
        return self.length

    @property
    def r(self) -> int:
        """The rank r of a method that has one."""
        assert self.rank is not None
        return self.rank


@dataclass(frozen=True)
class Counts:
    """Three parameter counts.

    Attributes:
        trainable: numbers that the optimiser changes.
        stored: numbers that must be on disk. Frozen random matrices are not stored: they are drawn again from a seed.
        materialised: numbers that are added to the model's input: n·d for a prompt, 0 for weight methods.
    """

    trainable: int
    stored: int
    materialised: int


@dataclass(eq=False)
class TrainableModel:
    """A backbone and what a trial trains on it.

    Attributes:
        backbone: the shared backbone, or the trial's own copy.
        factors: trained tensors by name. They are leaves of the autograd graph.
        soft_prompt: a function that makes the soft prompt from the factors. For weight methods it returns None.
        units: by a factor's name, the unit of its values and its learning rate, if it is not 1.
        frozen_factors: random tensors by name, on the device, that the soft prompt needs and no step changes.
    """

    backbone: Backbone
    factors: dict[str, Tensor]
    soft_prompt: Callable[[], SoftPrompt | None]
    counts: Counts
    units: Mapping[str, float] = field(default_factory=dict)
    frozen_factors: Mapping[str, Tensor] = field(default_factory=dict)


class Method(ABC):
    """Base of all methods. Plugins derive from `PromptMethod` or `WeightMethod`.

    Attributes:
        title: the name as the papers write it.
        colour: colour in the report's figures. It is one of the report's own (blue, vermillion, green, orange, sky,
            purple, ink, muted) or any colour of matplotlib, such as "#aa3377". None means ink.
        marker: one of matplotlib's markers.
        sort_order: number by which spaces and reports sort the methods, lowest first. Equal numbers are sorted by name.
        shares_backbone: whether the method leaves the backbone as it is. See also `TrialConfig.shares_backbone`.
        draws_initial_values: whether the initial values depend on the seed. If not, a start that learns nothing is not
            begun anew (`lopt.restarts`).
        paper_size: length and rank in the paper. The free search tries them first. A method without them takes part in
            that search only if the user names it.
        trains_whole_prompt: whether X itself is trained and nothing else. A sweep then also says how low-rank the
            trained X is (`lopt.low_rank`).
        has_adapter: whether PEFT has an adapter for what is trained. See `adapter_config`.
        ranges: for the free search, the ranges of learning_rate, length, rank and options.
        OPTIONS: the default of each option.
        FORMER_DEFAULTS: defaults that earlier versions had and that have changed. Runs of these versions keep them.
    """

    name: str
    title: str
    colour: str | None = None
    marker: str | None = None
    sort_order = 1000
    uses_length = True
    uses_rank = True
    shares_backbone = True
    draws_initial_values = True
    paper_size: ClassVar[Mapping[str, int] | None] = None
    trains_whole_prompt: ClassVar[bool] = False
    has_adapter: ClassVar[bool] = False
    recipe: ClassVar[Recipe]
    ranges: ClassVar[Mapping[str, Range]]
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def counts(self, shape: Shape) -> Counts:
        """Return the parameter counts of a shape, without loading any weights."""

    @abstractmethod
    def begin(
        self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None
    ) -> TrainableModel:
        """Return what is trained, at its initial values or at `values`. `backbone` itself never changes."""

    def rebuild(self, config: TrialSettings, factors: Mapping[str, Tensor], width: int) -> SoftPrompt | None:
        """Return the soft prompt that trained factors give, on the CPU. Methods that change weights return None.

        Frozen factors are drawn again from their seeds.
        """
        return None

    def stored_tensor_count(self, shape: Shape) -> int:
        """Return about how many tensors an artifact holds. A plan estimates the size of its files from this number."""
        return 1

    def adapter_config(self, config: TrialSettings, model: Any) -> Any:
        """Return PEFT's configuration of what is trained in a model, for methods that have an adapter."""
        raise ValueError(f"{self.name} trains no adapter")

    def check_options(self, options: dict[str, Any]) -> None:  # noqa: B027  # a method without options has none to check
        """Raise ValueError if a value is invalid. `options` has all options. A method may replace values in it."""

    def require(self) -> None:  # noqa: B027  # most methods need nothing more
        """Raise ValueError if a package that the method needs is missing."""

    def largest_rank(self, length: int | None) -> int | None:
        """Return the largest rank at a length, or None if any rank is valid."""
        return None

    def learning_rates(self, config: TrialSettings) -> dict[str, float]:
        """Return learning rates by the name of the factor, for the factors whose rate is not `config.learning_rate`."""
        return {}

    def weights_precision(self, precision: str) -> str:
        """Return the precision in which the backbone is loaded."""
        return precision

    def text_limit(self, options: Mapping[str, Any]) -> int | None:
        """Return the most tokens of template and text that the method can read. None means the backbone's own limit."""
        return None

    def check(self, *, length: int | None, rank: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check length, rank and options, and return the options with defaults filled in.

        Raises:
            ValueError: a length or rank is missing, not needed or out of range, or an option is unknown or invalid.
        """
        if not self.uses_length and length is not None:
            raise ValueError(f"length is {length}, but {self.name} has no prompt: leave it out")
        if self.uses_length and length is None:
            raise ValueError(f"{self.name} needs a length: give `length`, the number of prompt tokens")
        if self.uses_rank:
            largest_rank = self.largest_rank(length)
            valid_ranks = "1 or more" if largest_rank is None else f"1 to {largest_rank} (X has rank n at most)"
            if rank is None:
                raise ValueError(f"{self.name} needs a rank: give `rank`, {valid_ranks}")
            if rank < 1 or (largest_rank is not None and rank > largest_rank):
                at_length = "" if length is None else f" at length {length}"
                raise ValueError(f"rank is {rank}{at_length}; give {valid_ranks}")
        elif rank is not None:
            raise ValueError(f"rank is {rank}, but {self.name} has no rank: leave it out")
        for name in options:
            if name not in self.OPTIONS:
                valid_options = f"{', '.join(self.OPTIONS) or 'none'}.{did_you_mean(name, self.OPTIONS)}"
                raise ValueError(f"unknown option {name!r} of method {self.name}; valid: {valid_options}")
        all_options = {**self.OPTIONS, **options}
        self.check_options(all_options)
        return all_options

    @property
    def has_usual_sizes(self) -> bool:
        """Whether `usual_size_within` gives lengths and ranks. The frontier shows only methods that have them."""
        return type(self).usual_size_within is not Method.usual_size_within

    def usual_size_within(self, budget: int, width: int) -> tuple[int | None, int | None] | None:
        """Return the customary length and rank with which the method uses as much of a budget as possible.

        Args:
            budget: the most trainable parameters.
            width: embedding width d.

        Returns:
            None if the budget is too small or the method has no customary length and rank.
        """
        return None


def check_real_option(name: str, value: Any, meaning: str = "") -> None:
    """Raise ValueError unless an option is a number above 0. `meaning` says in the message what the number is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r}; give a number above 0{f' ({meaning})' if meaning else ''}")


def check_choice_option(name: str, value: Any, valid_words: Iterable[str]) -> None:
    """Raise ValueError unless an option is one of the valid words."""
    valid_words = tuple(valid_words)
    if value not in valid_words:
        raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid_words)}.{did_you_mean(value, valid_words)}")


def check_init_option(value: Any) -> str:
    """Check the `init` option and return it: a word of `initial.DRAW_BY_INIT`, or the folder of a trained prompt, with
    its shape and hash added (`lopt.initial.pin_saved_prompt`)."""
    from lopt.initial import DRAW_BY_INIT, pin_saved_prompt

    if isinstance(value, str) and (os.path.sep in value or os.path.isdir(value)):
        return pin_saved_prompt(value)
    check_choice_option("init", value, DRAW_BY_INIT)
    return value


def check_seed_option(name: str, value: Any) -> None:
    """Raise ValueError unless an option is a seed or None, for the trial's own seed."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32):
        raise ValueError(
            f"{name} is {value!r}; give a whole number, 0 to {2**32 - 1:,}, or the word 'none' for the trial's own seed"
        )
