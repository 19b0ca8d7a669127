"""DePT: a short prompt, and a low-rank update of the text's embeddings (Shi and Lipani 2024, arXiv 2309.05173)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import constant, kaiming_uniform, prompt_rows
from lopt.methods import Counts, Factor, PromptMethod, Recipe, Shape, init_option, real_option
from lopt.ranges import Choice, Real, Whole
from lopt.settings import TrialSettings
from lopt.types import Tensor


class DePT(PromptMethod):
    """P (m×d), A (s×r) and B (r×d): the t embeddings of template and text get scale·(A B)[:t] added, P goes in front,
    unchanged; m·d + r(s+d) parameters. Text beyond s tokens is cut. `length` is m; the rank may be above it.

    scale = α/√r is what the authors' code does (ZhengxiangShi/DePT, α = 8); the paper's formula has none. A is
    Kaiming-uniform, B zero, P rows of sampled tokens (theirs: of a sentence, repeated). Their code pads causal text on
    the left, so that a token's row of A B depends on the padding; here row i always belongs to token i.
    Recipe, from their released runs: AdamW, linear decay, 500 warm-up steps of 30,000 (hence the share), P at 0.3 and
    A, B at `update_learning_rate`, one of 5e-3, 1e-3, 5e-4, 1e-4. They pass weight decay 1e-5 to an optimiser that
    never gets it. Their AdamW has eps 1e-6 (`adam_eps`); the default is PyTorch's, which earlier trials had.
    """

    name = "dept"
    title = "DePT"
    colour, marker, place = "orange", "D", 40
    paper: ClassVar = {"length": 40, "rank": 45}
    recipe: ClassVar = Recipe(learning_rate=0.3, optimizer="adamw", schedule="linear", warmup=0.017)
    ranges: ClassVar = {
        **PromptMethod.ranges,
        "learning_rate": Real(1e-2, 1.0, log=True),
        "rank": Whole(1, 64, log=True),
        "update_learning_rate": Choice((5e-3, 1e-3, 5e-4, 1e-4)),
    }
    OPTIONS: ClassVar[Mapping[str, Any]] = {
        **PromptMethod.OPTIONS,
        "update_tokens": 256,
        "update_learning_rate": 5e-4,
        "alpha": 8.0,
        "adam_eps": 1e-8,
        "init": "vocabulary",
        "init_bound": 0.5,
    }

    def check_options(self, options: dict[str, Any]) -> None:
        tokens = options["update_tokens"]
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise ValueError(f"update_tokens is {tokens!r}; give a whole number, 1 or more (s, the longest text)")
        for name in ("update_learning_rate", "alpha", "adam_eps", "init_bound"):
            real_option(name, options[name])
        options["init"] = init_option(options["init"])

    def most_rank(self, length: int | None) -> None:
        return None

    def learning_rates(self, config: TrialSettings) -> dict[str, float]:
        return dict.fromkeys(("A", "B"), config.options["update_learning_rate"])

    def text_limit(self, options: Mapping[str, Any]) -> int:
        return options["update_tokens"]

    def factors(self, shape: Shape) -> dict[str, Factor]:
        options, size = shape.options, (shape.n, shape.width)
        return {
            "P": Factor(shape=size, draw=prompt_rows(options["init"], options["init_bound"], size)),
            "A": Factor(shape=(options["update_tokens"], shape.r), draw=kaiming_uniform()),
            "B": Factor(shape=(shape.r, shape.width), draw=constant(0.0)),
        }

    def closed_form(self, shape: Shape) -> int:
        return shape.n * shape.width + shape.r * (shape.options["update_tokens"] + shape.width)

    def counts(self, shape: Shape) -> Counts:
        counted = super().counts(shape)
        update = shape.options["update_tokens"] * shape.width
        return Counts(counted.trainable, counted.stored, counted.materialised + update)

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["P"]

    def update(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        scale = options["alpha"] / tensors["A"].shape[-1] ** 0.5
        return scale * (tensors["A"] @ tensors["B"])

    def within(self, budget: int, width: int) -> tuple[int, int] | None:
        """Half of the budget for the prompt, as in the paper's (40, 45) and (60, 30) at 76,800."""
        length = max(1, min(budget // (2 * width), (budget - self.OPTIONS["update_tokens"] - width) // width))
        rank = (budget - length * width) // (self.OPTIONS["update_tokens"] + width)
        return (length, rank) if rank >= 1 else None


SPEC = DePT()
