"""LoPT-1: X = U V (arXiv 2406.19486, equation 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt import methods
from lopt.backbones import Vocabulary
from lopt.initial import factorise, make_prompt_draw, uniform
from lopt.methods import (
    LARGEST_USUAL_RANK,
    Factor,
    PromptMethod,
    Shape,
    check_init_option,
    check_real_option,
    usual_length,
)
from lopt.ranges import Whole
from lopt.types import Tensor

if TYPE_CHECKING:
    import numpy as np


class LoPT1(PromptMethod):
    """X (n×d) is the product of U (n×r) and V (r×d), both trained; r(n+d) parameters.

    These are fewer than the n·d of X if r < n·d/(n+d). The option `init` says what U and V begin with:

    - "uniform": U[-0.5, 0.5], as in the code base that LoPT builds on. The bound is `init_bound`.
    - "vocabulary", "label_words", or the folder of a trained prompt: U V is the best approximation of rank r to the X
      with which prompt tuning begins.
    """

    name = "lopt1"
    title = "LoPT-1"
    colour, marker, sort_order = "blue", "o", 20
    paper_size: ClassVar = {"length": 20, "rank": 5}
    ranges: ClassVar = {**PromptMethod.ranges, "rank": Whole(1, 16, log=True)}
    OPTIONS: ClassVar[Mapping[str, Any]] = {**PromptMethod.OPTIONS, "init": "uniform", "init_bound": 0.5}

    def check_options(self, options: dict[str, Any]) -> None:
        options["init"] = check_init_option(options["init"])
        check_real_option("init_bound", options["init_bound"], "the bound a of initial values in [-a, a]")

    def factors(self, shape: Shape) -> dict[str, Factor]:
        draw, draws_embeddings = uniform(shape.options["init_bound"]), shape.options["init"] != "uniform"
        if draws_embeddings:  # a saved prompt must have the prompt's shape
            make_prompt_draw(shape.options["init"], shape.options["init_bound"], (shape.n, shape.width))
        common = {"draw": draw, "scale_power": 0.5, "draws_embeddings": draws_embeddings}
        return {
            "U": Factor(shape=(shape.n, shape.r), **common),
            "V": Factor(shape=(shape.r, shape.width), **common),
        }

    def initial_values(
        self, shape: Shape, seed: int, vocabulary: Vocabulary | None = None, *, frozen_only: bool = False
    ) -> dict[str, np.ndarray]:
        if shape.options["init"] == "uniform" or frozen_only:
            return super().initial_values(shape, seed, vocabulary, frozen_only=frozen_only)
        prompt_tuning = methods.get("prompt_tuning")
        assert isinstance(prompt_tuning, PromptMethod)
        prompt_NH = prompt_tuning.initial_values(shape, seed, vocabulary)["X"]
        return dict(zip(("U", "V"), factorise(prompt_NH, shape.r), strict=True))

    def closed_form(self, shape: Shape) -> int:
        return shape.r * (shape.n + shape.width)

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["U"] @ tensors["V"]

    def usual_size_within(self, budget: int, width: int) -> tuple[int, int] | None:
        ranks = [rank for rank in range(1, LARGEST_USUAL_RANK + 1) if rank * (usual_length(rank) + width) <= budget]
        return (usual_length(ranks[-1]), ranks[-1]) if ranks else None


SPEC = LoPT1()
