"""ULPT: X = (Z P)·diag(s) + b with a random frozen P (Wu et al. 2025, arXiv 2502.04501)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import constant, normal, xavier_uniform
from lopt.methods import LONGEST, Factor, PromptMethod, Recipe, Shape, check_seed_option
from lopt.ranges import Real, Whole
from lopt.types import Tensor

LARGEST_RANK = 256  # in the paper


class ULPT(PromptMethod):
    """Z (n×r), the scale s (d) and the shift b (d) are trained; n·r + 2·d parameters. P (r×d) is frozen.

    P is drawn from the trial's seed, or from the option `projection_seed`. With this option, all trials of a shape have
    the same P. As in the authors' code (MANGA-UOFA/ULPT), Z begins as N(0, 1), s as ones and b as zeros, and P is
    Xavier-uniform (the paper says normal).

    The recipe is theirs on T5-base: AdamW at 0.6, linear decay, 500 warm-up steps of 30,000 (hence the share 0.017), no
    weight decay.
    """

    name = "ulpt"
    title = "ULPT"
    colour, marker, sort_order = "purple", "v", 50
    paper_size: ClassVar = {"length": 100, "rank": 16}
    recipe: ClassVar = Recipe(learning_rate=0.6, optimizer="adamw", schedule="linear", warmup=0.017)
    ranges: ClassVar = {
        **PromptMethod.ranges,
        "learning_rate": Real(1e-2, 1.0, log=True),
        "rank": Whole(1, 64, log=True),
    }
    OPTIONS: ClassVar[Mapping[str, Any]] = {**PromptMethod.OPTIONS, "projection_seed": None}
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = {"projection_seed": 0}

    def check_options(self, options: dict[str, Any]) -> None:
        check_seed_option("projection_seed", options["projection_seed"])

    def largest_rank(self, length: int | None) -> None:
        return None

    def factors(self, shape: Shape) -> dict[str, Factor]:
        return {
            "Z": Factor(shape=(shape.n, shape.r), draw=normal(1.0)),
            "s": Factor(shape=(shape.width,), draw=constant(1.0), scale_power=1.0),
            "b": Factor(shape=(shape.width,), draw=constant(0.0), scale_power=1.0),
            "P": Factor(
                shape=(shape.r, shape.width),
                draw=xavier_uniform(),
                trainable=False,
                seed=shape.options["projection_seed"],
            ),
        }

    def closed_form(self, shape: Shape) -> int:
        return shape.n * shape.r + 2 * shape.width

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        scale, shift = tensors["s"].unsqueeze(-2), tensors["b"].unsqueeze(-2)
        return (tensors["Z"] @ tensors["P"]) * scale + shift

    def usual_size_within(self, budget: int, width: int) -> tuple[int, int] | None:
        """Return the paper's n = 100 and the largest rank within the budget, at most the paper's largest."""
        rank = min(LARGEST_RANK, (budget - 2 * width) // LONGEST)
        return (LONGEST, rank) if rank >= 1 else None


SPEC = ULPT()
