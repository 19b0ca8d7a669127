"""Prompt tuning: X itself is trained (Lester et al. 2021, arXiv 2104.08691). LoPT's paper calls it "No LoPT"."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import make_prompt_draw
from lopt.methods import LONGEST, Factor, PromptMethod, Shape, check_init_option, check_real_option
from lopt.types import Tensor


class PromptTuning(PromptMethod):
    """X (n×d) itself is trained; n·d parameters.

    The option `init` sets the initial values of X:

    - "uniform": U[-0.5, 0.5], as in the code base that LoPT builds on. The bound is `init_bound`.
    - "vocabulary": embeddings of sampled tokens, as in Lester et al.
    - "label_words": embeddings of the label words, then of sampled tokens, as in Lester et al.
    - The folder of a trained prompt: that prompt.
    """

    name = "prompt_tuning"
    title = "Prompt tuning"
    colour, marker, sort_order = "vermillion", "s", 10
    paper_size: ClassVar = {"length": 10}
    uses_rank = False
    trains_whole_prompt = True
    OPTIONS: ClassVar[Mapping[str, Any]] = {**PromptMethod.OPTIONS, "init": "uniform", "init_bound": 0.5}

    def check_options(self, options: dict[str, Any]) -> None:
        options["init"] = check_init_option(options["init"])
        check_real_option("init_bound", options["init_bound"], "the bound a of initial values in [-a, a]")

    def factors(self, shape: Shape) -> dict[str, Factor]:
        options, prompt_shape = shape.options, (shape.n, shape.width)
        draw = make_prompt_draw(options["init"], options["init_bound"], prompt_shape)
        draws_embeddings = options["init"] != "uniform"
        return {"X": Factor(shape=prompt_shape, draw=draw, scale_power=1.0, draws_embeddings=draws_embeddings)}

    def closed_form(self, shape: Shape) -> int:
        return shape.n * shape.width

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["X"]

    def usual_size_within(self, budget: int, width: int) -> tuple[int, None] | None:
        length = min(LONGEST, budget // width)
        return (length, None) if length else None


SPEC = PromptTuning()
