"""LoPT-2: X = ELU(X0 U) V with X0 random and frozen (arXiv 2406.19486, equation 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.methods import Factor, Method, Shape, bound_option

if TYPE_CHECKING:
    from torch import Tensor


class LoPT2(Method):
    """X0 (n×d) frozen, U (d×r) and V (r×d) trained; 2·r·d parameters. Smaller than X only if r < n/2.

    The paper does not state the scales of X0, U and V. Here X0 and V are U[-0.5, 0.5] like LoPT-1's factors, and U is
    U[-1/√d, 1/√d] (a linear layer's usual bound), which keeps X0 U in the range where ELU bends; `u_bound` sets
    another. X0 comes from `x0_seed` alone, so it need not be stored and is the same in every trial of that shape.
    """

    name = "lopt2"
    title = "LoPT-2"
    OPTIONS: ClassVar[Mapping[str, Any]] = {"init_bound": 0.5, "u_bound": None, "x0_bound": 0.5, "x0_seed": 0}

    def check_options(self, options: dict[str, Any]) -> None:
        for name in ("init_bound", "x0_bound"):
            bound_option(name, options[name])
        if options["u_bound"] is not None:
            bound_option("u_bound", options["u_bound"])
        seed = options["x0_seed"]
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"x0_seed is {seed!r}; give a whole number, 0 or more")

    def factors(self, shape: Shape) -> dict[str, Factor]:
        u_bound = shape.options["u_bound"] or shape.width**-0.5
        return {
            "U": Factor(shape=(shape.width, shape.r), bound=u_bound),
            "V": Factor(shape=(shape.r, shape.width), bound=shape.options["init_bound"]),
            "X0": Factor(
                shape=(shape.length, shape.width),
                bound=shape.options["x0_bound"],
                trainable=False,
                seed=shape.options["x0_seed"],
            ),
        }

    def closed_form(self, shape: Shape) -> int:
        return 2 * shape.r * shape.width

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        from torch.nn.functional import elu

        return elu(tensors["X0"] @ tensors["U"]) @ tensors["V"]


SPEC = LoPT2()
