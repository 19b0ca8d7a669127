"""LoPT-2: X = σ(X0 U) V with a random frozen X0 and σ = ELU (arXiv 2406.19486, equation 4)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import uniform
from lopt.methods import (
    LARGEST_USUAL_RANK,
    Factor,
    PromptMethod,
    Shape,
    check_choice_option,
    check_real_option,
    check_seed_option,
    usual_length,
)
from lopt.ranges import Whole
from lopt.types import Tensor

ACTIVATIONS = ("elu", "relu", "gelu")


class LoPT2(PromptMethod):
    """X0 (n×d) is frozen, U (d×r) and V (r×d) are trained: 2·r·d parameters, fewer than the n·d of X if r < n/2.

    The paper does not state the scales of X0, U and V. Here X0 and V are uniform in [-0.5, 0.5], like LoPT-1's factors.
    U is uniform in [-1/√d, 1/√d], the usual bound of a linear layer. It keeps X0 U in the range where ELU bends. The
    option `u_bound` sets another bound. X0 is drawn from the trial's seed. So it need not be stored, and results over
    seeds include the effect of its draw. With the option `x0_seed`, X0 is the same for all seeds.

    The option `activation` is "elu" by default. The paper found the others, "relu" and "gelu", worse.
    """

    name = "lopt2"
    title = "LoPT-2"
    colour, marker, sort_order = "green", "^", 30
    paper_size: ClassVar = {"length": 20, "rank": 5}
    ranges: ClassVar = {**PromptMethod.ranges, "rank": Whole(1, 16, log=True)}
    OPTIONS: ClassVar[Mapping[str, Any]] = {
        **PromptMethod.OPTIONS,
        "activation": "elu",
        "init_bound": 0.5,
        "u_bound": None,
        "x0_bound": 0.5,
        "x0_seed": None,
    }
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {"x0_seed": 0}

    def check_options(self, options: dict[str, Any]) -> None:
        check_choice_option("activation", options["activation"], ACTIVATIONS)
        bound_names = ["init_bound", "x0_bound"] + (["u_bound"] if options["u_bound"] is not None else [])
        for name in bound_names:
            check_real_option(name, options[name], "the bound a of initial values in [-a, a]")
        check_seed_option("x0_seed", options["x0_seed"])

    def factors(self, shape: Shape) -> dict[str, Factor]:
        options, width = shape.options, shape.width
        return {
            "U": Factor(shape=(width, shape.r), draw=uniform(options["u_bound"] or width**-0.5)),
            "V": Factor(shape=(shape.r, width), draw=uniform(options["init_bound"]), scale_power=1.0),
            "X0": Factor(
                shape=(shape.n, width), draw=uniform(options["x0_bound"]), trainable=False, seed=options["x0_seed"]
            ),
        }

    def closed_form(self, shape: Shape) -> int:
        return 2 * shape.r * shape.width

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        from torch.nn import functional

        activate = getattr(functional, options["activation"])
        return activate(tensors["X0"] @ tensors["U"]) @ tensors["V"]

    def usual_size_within(self, budget: int, width: int) -> tuple[int, int] | None:
        rank = min(LARGEST_USUAL_RANK, budget // (2 * width))
        return (usual_length(rank), rank) if rank else None


SPEC = LoPT2()
