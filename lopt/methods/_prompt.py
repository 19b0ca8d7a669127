"""Prompt methods train matrices from which a soft prompt is made. The backbone is shared and stays as it is."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.backbones import Backbone, Vocabulary
from lopt.methods._base import Counts, Method, Recipe, Shape, TrainableModel, check_choice_option
from lopt.placement import PLACEMENTS, PREFIX
from lopt.ranges import Real, Whole
from lopt.settings import TrialSettings
from lopt.soft_prompt import SoftPrompt
from lopt.types import Tensor

if TYPE_CHECKING:
    import numpy as np

    from lopt.initial import DrawFunction

LEAST_USUAL_LENGTH, LENGTH_PER_RANK = 20, 4  # from LoPT's paper: n = 20 and r = ⌊n/4⌋
LONGEST = 100  # the largest n in the papers
LARGEST_USUAL_RANK = LONGEST // LENGTH_PER_RANK  # far above this rank, LoPT has more parameters than X itself


UNITS = ("absolute", "embeddings")  # values of the option `unit`


def usual_length(rank: int) -> int:
    """Return the customary length for a rank in LoPT: n = 4r, but at least 20."""
    return max(LEAST_USUAL_LENGTH, LENGTH_PER_RANK * rank)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One matrix of a method.

    Attributes:
        draw: function that draws the initial values.
        trainable: whether the matrix is trained. If not, it is frozen and keeps its random initial values.
        seed: seed of the initial values. None means the trial's own seed.
        scale_power: the power of the embeddings' scale by which this factor has to grow so that the prompt grows with
            that scale. The option `unit` uses it.
        draws_embeddings: whether `draw` returns embeddings, which have their scale already.
    """

    shape: tuple[int, ...]
    draw: DrawFunction
    trainable: bool = True
    seed: int | None = None
    scale_power: float = 0.0
    draws_embeddings: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class PromptMethod(Method):
    """Base of prompt methods. A plugin sets the class attributes and implements `factors`, `closed_form` and `prompt`.

    Every prompt method has two options:

    - `placement`: a name in `lopt.placement.PLACEMENTS`.
    - `unit`: the unit of initial values and learning rates. "absolute" takes these numbers as they are. "embeddings"
      takes them as multiples of the root mean square of the backbone's token embeddings. (Where the prompt is a product
      of two factors, each factor gets the square root of that unit.) Then the same numbers train a model of another
      scale in the same way, because Adafactor moves each entry by about the learning rate, however large the entry is.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {"placement": PREFIX.name, "unit": "absolute"}
    # Code bases such as LoPT's search this range of learning rates with Adafactor.
    ranges: ClassVar = {"learning_rate": Real(1e-3, 1.0, log=True), "length": Whole(5, 100, log=True)}
    recipe: ClassVar = Recipe(learning_rate=0.3)  # LoPT, arXiv 2406.19486: Adafactor at a constant rate, no warm-up

    @abstractmethod
    def factors(self, shape: Shape) -> dict[str, Factor]:
        """Return the matrices by name. The seed of a matrix's initial values includes its position in this dict."""

    @abstractmethod
    def closed_form(self, shape: Shape) -> int:
        """Return the number of trainable parameters by the paper's formula. Tests compare it with that of `factors`."""

    @abstractmethod
    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        """Return X, `[..., P, H]`, from the factors. X keeps any leading batch dimensions of the factors."""

    def update(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor | None:
        """Return what is added to the text's own embeddings, `[..., S, H]`, or None for nothing."""
        return None

    def soft_prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> SoftPrompt:
        """Return the soft prompt that all factors give, frozen ones included."""
        return SoftPrompt(
            prompt=self.prompt(tensors, options),
            update=self.update(tensors, options),
            placement=PLACEMENTS[options["placement"]],
        )

    def check(self, *, length: int | None, rank: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        all_options = super().check(length=length, rank=rank, options=options)
        check_choice_option("placement", all_options["placement"], PLACEMENTS)
        check_choice_option("unit", all_options.get("unit", "absolute"), UNITS)
        return all_options

    def largest_rank(self, length: int | None) -> int | None:
        return length

    def counts(self, shape: Shape) -> Counts:
        """Return the parameter counts. They come from the factors and not from the formula."""
        trainable = sum(factor.size for factor in self.factors(shape).values() if factor.trainable)
        return Counts(trainable=trainable, stored=trainable, materialised=shape.n * shape.width)

    def stored_tensor_count(self, shape: Shape) -> int:
        return 1 + sum(factor.trainable for factor in self.factors(shape).values())

    def initial_values(
        self, shape: Shape, seed: int, vocabulary: Vocabulary | None = None, *, frozen_only: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the initial values of the factors, float64. Each factor has its own random stream."""
        from numpy.random import RandomState

        values = {}
        for position, (name, factor) in enumerate(self.factors(shape).items()):
            if frozen_only and factor.trainable:
                continue
            stream_seed = [seed if factor.seed is None else factor.seed, position, int(factor.trainable)]
            values[name] = factor.draw(RandomState(stream_seed), factor.shape, vocabulary)
        for name, unit in ({} if frozen_only else self.units(shape, vocabulary)).items():
            if not self.factors(shape)[name].draws_embeddings:
                values[name] = unit * values[name]
        return values

    def units(self, shape: Shape, vocabulary: Vocabulary | None) -> dict[str, float]:
        """Return by the factor's name the unit of its initial values and learning rate, if it differs from 1."""
        if shape.options.get("unit", "absolute") == "absolute":
            return {}
        assert vocabulary is not None
        powers = {name: factor.scale_power for name, factor in self.factors(shape).items() if factor.scale_power}
        if not powers:
            raise ValueError(
                f"unit is {shape.options['unit']!r}, but no factor of method {self.name} says how it grows with the "
                "embeddings (`scale_power`): leave unit out, or set it to absolute"
            )
        return {name: vocabulary.scale**power for name, power in powers.items()}

    def frozen_factors(self, config: TrialSettings, width: int, *, dtype: Any) -> dict[str, Tensor]:
        """Return the frozen random matrices of a trial, on the CPU, exactly as in training."""
        import torch

        shape = Shape(width=width, length=config.length, rank=config.rank, options=config.options)
        values = self.initial_values(shape, config.seed, frozen_only=True)
        return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}

    def rebuild(self, config: TrialSettings, factors: Mapping[str, Tensor], width: int) -> SoftPrompt:
        import torch

        frozen_factors = self.frozen_factors(config, width, dtype=next(iter(factors.values())).dtype)
        with torch.no_grad():
            soft_prompt = self.soft_prompt({**frozen_factors, **factors}, config.options)
            return soft_prompt.map(lambda tensor: tensor.contiguous())

    def begin(
        self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None
    ) -> TrainableModel:
        import torch

        dtype = torch.float64 if backbone.dtype == torch.float64 else torch.float32
        shape = Shape(width=backbone.width, length=config.length, rank=config.rank, options=config.options)
        vocabulary = backbone.vocabulary(tuple(config.label_words or ()))
        if values is None:
            values_by_name = self.initial_values(shape, config.seed, vocabulary)
            trained_names = [name for name, factor in self.factors(shape).items() if factor.trainable]
            values = {name: torch.tensor(values_by_name[name]) for name in trained_names}
        frozen_on_cpu = self.frozen_factors(config, backbone.width, dtype=dtype)
        frozen_factors = {name: tensor.to(backbone.device) for name, tensor in frozen_on_cpu.items()}
        factors = {
            name: value.detach().clone().to(backbone.device, dtype).requires_grad_() for name, value in values.items()
        }
        return TrainableModel(
            backbone=backbone,
            factors=factors,
            soft_prompt=lambda: self.soft_prompt({**frozen_factors, **factors}, config.options),
            counts=self.counts(shape),
            units=self.units(shape, vocabulary),
            frozen_factors=frozen_factors,
        )
