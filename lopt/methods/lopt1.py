"""LoPT-1: X = U V (arXiv 2406.19486, equation 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.methods import Factor, Method, Shape, bound_option

if TYPE_CHECKING:
    from torch import Tensor


class LoPT1(Method):
    """U (n×r) and V (r×d), both from U[-0.5, 0.5]; r(n+d) parameters. Smaller than X only if r < n·d/(n+d)."""

    name = "lopt1"
    title = "LoPT-1"
    OPTIONS: ClassVar[Mapping[str, Any]] = {"init_bound": 0.5}

    def check_options(self, options: dict[str, Any]) -> None:
        bound_option("init_bound", options["init_bound"])

    def factors(self, shape: Shape) -> dict[str, Factor]:
        bound = shape.options["init_bound"]
        return {
            "U": Factor(shape=(shape.length, shape.r), bound=bound),
            "V": Factor(shape=(shape.r, shape.width), bound=bound),
        }

    def closed_form(self, shape: Shape) -> int:
        return shape.r * (shape.length + shape.width)

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["U"] @ tensors["V"]


SPEC = LoPT1()
