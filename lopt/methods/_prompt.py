"""Prompt methods: matrices are trained, a soft prompt is made of them, the backbone is shared and stays as it is."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.backbones import Backbone, Vocabulary
from lopt.methods._base import Counts, Method, Recipe, Shape, Tuned, choice_option
from lopt.placement import PLACEMENTS, PREFIX
from lopt.ranges import Real, Whole
from lopt.settings import TrialSettings
from lopt.soft_prompt import SoftPrompt
from lopt.types import Tensor

if TYPE_CHECKING:
    import numpy as np

    from lopt.initial import Draw

SHORTEST, LONGEST, LENGTH_PER_RANK = 20, 100, 4  # LoPT's n = 20 and r = ⌊n/4⌋; n = 100 is the longest of the papers
MOST_CUSTOMARY_RANK = LONGEST // LENGTH_PER_RANK  # far beyond it LoPT has more parameters than the prompt itself


def customary_length(rank: int) -> int:
    """The length at which a rank is customary in LoPT: n = 4r, 20 at least."""
    return max(SHORTEST, LENGTH_PER_RANK * rank)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One matrix of a method: its shape, how its initial values are drawn, whether it is trained.

    A frozen factor is random and re-made from `seed` (the trial's own seed when None).
    """

    shape: tuple[int, ...]
    draw: Draw
    trainable: bool = True
    seed: int | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class PromptMethod(Method):
    """A plugin sets the class attributes and implements `factors`, `closed_form` and `prompt`.

    Options of every prompt method: placement, a name of `lopt.placement.PLACEMENTS`.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {"placement": PREFIX.name}
    # The learning rate's range is the one that LoPT-like code bases search (Adafactor).
    ranges: ClassVar = {"learning_rate": Real(1e-3, 1.0, log=True), "length": Whole(5, 100, log=True)}
    recipe: ClassVar = Recipe(learning_rate=0.3)  # LoPT, arXiv 2406.19486: Adafactor, constant, no warm-up

    @abstractmethod
    def factors(self, shape: Shape) -> dict[str, Factor]:
        """The matrices by name, in the order in which their initial values are drawn."""

    @abstractmethod
    def closed_form(self, shape: Shape) -> int:
        """The paper's formula of the number of trainable parameters; tests hold it against `factors`."""

    @abstractmethod
    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        """X from the factors. Leading batch dimensions pass through: `[..., P, H]`."""

    def update(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor | None:
        """What is added to the text's own embeddings, `[..., S, H]`; None for nothing."""
        return None

    def soft_prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> SoftPrompt:
        """Everything that stands at the input, from all factors, frozen ones included."""
        return SoftPrompt(
            prompt=self.prompt(tensors, options),
            update=self.update(tensors, options),
            placement=PLACEMENTS[options["placement"]],
        )

    def check(self, *, length: int | None, rank: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        filled = super().check(length=length, rank=rank, options=options)
        choice_option("placement", filled["placement"], PLACEMENTS)
        return filled

    def most_rank(self, length: int | None) -> int | None:
        return length

    def counts(self, shape: Shape) -> Counts:
        """Counted from the declared factors, not from the formula."""
        trainable = sum(f.size for f in self.factors(shape).values() if f.trainable)
        return Counts(trainable=trainable, stored=trainable, materialised=shape.n * shape.width)

    def stored_tensors(self, shape: Shape) -> int:
        return 1 + sum(factor.trainable for factor in self.factors(shape).values())

    def initial_values(
        self, shape: Shape, seed: int, vocabulary: Vocabulary | None = None, *, frozen_only: bool = False
    ) -> dict[str, np.ndarray]:
        """Initial values of the factors, float64. Each factor has its own stream, so adding one changes no other."""
        from numpy.random import RandomState

        values = {}
        for position, (name, factor) in enumerate(self.factors(shape).items()):
            if frozen_only and factor.trainable:
                continue
            entropy = [seed if factor.seed is None else factor.seed, position, int(factor.trainable)]
            values[name] = factor.draw(RandomState(entropy), factor.shape, vocabulary)
        return values

    def frozen(self, config: TrialSettings, width: int, *, dtype: Any) -> dict[str, Tensor]:
        """The frozen random matrices of a trial, on the CPU, exactly as in training."""
        import torch

        shape = Shape(width=width, length=config.length, rank=config.rank, options=config.options)
        values = self.initial_values(shape, config.seed, frozen_only=True)
        return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}

    def made(self, config: TrialSettings, factors: Mapping[str, Tensor], width: int) -> SoftPrompt:
        import torch

        frozen = self.frozen(config, width, dtype=next(iter(factors.values())).dtype)
        with torch.no_grad():
            return self.soft_prompt({**frozen, **factors}, config.options).map(lambda tensor: tensor.contiguous())

    def begin(self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None) -> Tuned:
        import torch

        dtype = torch.float64 if backbone.dtype == torch.float64 else torch.float32
        shape = Shape(width=backbone.width, length=config.length, rank=config.rank, options=config.options)
        if values is None:
            words = tuple(config.label_words or ())
            drawn = self.initial_values(shape, config.seed, backbone.vocabulary(words))
            values = {name: torch.tensor(drawn[name]) for name, f in self.factors(shape).items() if f.trainable}
        frozen = {n: t.to(backbone.device) for n, t in self.frozen(config, backbone.width, dtype=dtype).items()}
        factors = {
            name: value.detach().clone().to(backbone.device, dtype).requires_grad_() for name, value in values.items()
        }
        return Tuned(
            backbone=backbone,
            factors=factors,
            soft_prompt=lambda: self.soft_prompt({**frozen, **factors}, config.options),
            counts=self.counts(shape),
        )
