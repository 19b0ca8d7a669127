"""LoPT-1: X = U V (arXiv 2406.19486, equation 2)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import uniform
from lopt.methods import LARGEST_USUAL_RANK, Factor, PromptMethod, Shape, check_real_option, usual_length
from lopt.ranges import Whole
from lopt.types import Tensor


class LoPT1(PromptMethod):
    """X (n×d) is the product of U (n×r) and V (r×d), both trained; r(n+d) parameters.

    These are fewer than the n·d of X if r < n·d/(n+d). Initial values are uniform in [-0.5, 0.5] (`init_bound`).
    """

    name = "lopt1"
    title = "LoPT-1"
    colour, marker, sort_order = "blue", "o", 20
    paper_size: ClassVar = {"length": 20, "rank": 5}
    ranges: ClassVar = {**PromptMethod.ranges, "rank": Whole(1, 16, log=True)}
    OPTIONS: ClassVar[Mapping[str, Any]] = {**PromptMethod.OPTIONS, "init_bound": 0.5}

    def check_options(self, options: dict[str, Any]) -> None:
        check_real_option("init_bound", options["init_bound"], "the bound a of initial values in [-a, a]")

    def factors(self, shape: Shape) -> dict[str, Factor]:
        draw = uniform(shape.options["init_bound"])
        return {
            "U": Factor(shape=(shape.n, shape.r), draw=draw),
            "V": Factor(shape=(shape.r, shape.width), draw=draw),
        }

    def closed_form(self, shape: Shape) -> int:
        return shape.r * (shape.n + shape.width)

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["U"] @ tensors["V"]

    def usual_size_within(self, budget: int, width: int) -> tuple[int, int] | None:
        ranks = [rank for rank in range(1, LARGEST_USUAL_RANK + 1) if rank * (usual_length(rank) + width) <= budget]
        return (usual_length(ranks[-1]), ranks[-1]) if ranks else None


SPEC = LoPT1()
