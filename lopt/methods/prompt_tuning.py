"""Prompt tuning: X itself is trained (Lester et al. 2021, arXiv 2104.08691); "No LoPT" in the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.methods import Factor, Method, Shape, bound_option

if TYPE_CHECKING:
    from torch import Tensor


class PromptTuning(Method):
    """X (n×d), n·d parameters. Initial values U[-0.5, 0.5], as in the code base LoPT builds on."""

    name = "prompt_tuning"
    title = "Prompt tuning"
    uses_rank = False
    OPTIONS: ClassVar[Mapping[str, Any]] = {"init_bound": 0.5}

    def check_options(self, options: dict[str, Any]) -> None:
        bound_option("init_bound", options["init_bound"])

    def factors(self, shape: Shape) -> dict[str, Factor]:
        return {"X": Factor(shape=(shape.length, shape.width), bound=shape.options["init_bound"])}

    def closed_form(self, shape: Shape) -> int:
        return shape.length * shape.width

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["X"]


SPEC = PromptTuning()
