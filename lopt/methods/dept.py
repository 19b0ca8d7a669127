"""DePT: a short prompt and a low-rank update of the text's embeddings (Shi and Lipani 2024, arXiv 2309.05173)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.initial import constant, kaiming_uniform, make_prompt_draw
from lopt.methods import Counts, Factor, PromptMethod, Recipe, Shape, check_init_option, check_real_option
from lopt.ranges import Choice, Real, Whole
from lopt.settings import TrialSettings
from lopt.types import Tensor


class DePT(PromptMethod):
    """The text's t embeddings E become E + scale·(A B)[:t]. The prompt P is trained too; nothing is added to it.

    Shapes: P (m×d), A (s×r), B (r×d); m·d + r(s+d) parameters. `length` is m, and `update_tokens` is s: longer texts
    are cut to s tokens. The rank may be larger than the length.

    The scale α/√r is that of the authors' code (ZhengxiangShi/DePT, α = 8). The paper's formula has no scale. The
    initial A is Kaiming-uniform, the initial B is zero, and the initial P holds embeddings of sampled tokens (in their
    code: of the tokens of a sentence, repeated). Their code pads texts for causal models on the left. There the row of
    A B that a token gets depends on the padding. Here token i always gets row i.

    The recipe is that of their released runs: AdamW, linear decay, 500 warm-up steps of 30,000 (hence the share 0.017),
    P at a learning rate of 0.3, A and B at `update_learning_rate`, one of 5e-3, 1e-3, 5e-4 and 1e-4. Their weight decay
    of 1e-5 never reaches their optimiser. Their AdamW has eps 1e-6. Here the option `adam_eps` is 1e-8 by default, as
    in PyTorch and in earlier trials of this program.
    """

    name = "dept"
    title = "DePT"
    colour, marker, sort_order = "orange", "D", 40
    paper_size: ClassVar = {"length": 40, "rank": 45}
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
        update_tokens = options["update_tokens"]
        if isinstance(update_tokens, bool) or not isinstance(update_tokens, int) or update_tokens < 1:
            raise ValueError(
                f"update_tokens is {update_tokens!r}; give a whole number, 1 or more (s, the longest text)"
            )
        for name in ("update_learning_rate", "alpha", "adam_eps", "init_bound"):
            check_real_option(name, options[name])
        options["init"] = check_init_option(options["init"])

    def largest_rank(self, length: int | None) -> None:
        return None

    def learning_rates(self, config: TrialSettings) -> dict[str, float]:
        return dict.fromkeys(("A", "B"), config.options["update_learning_rate"])

    def text_limit(self, options: Mapping[str, Any]) -> int:
        return options["update_tokens"]

    def factors(self, shape: Shape) -> dict[str, Factor]:
        options, prompt_shape = shape.options, (shape.n, shape.width)
        return {
            "P": Factor(
                shape=prompt_shape,
                draw=make_prompt_draw(options["init"], options["init_bound"], prompt_shape),
                scale_power=1.0,
                draws_embeddings=options["init"] != "uniform",
            ),
            "A": Factor(shape=(options["update_tokens"], shape.r), draw=kaiming_uniform()),
            "B": Factor(shape=(shape.r, shape.width), draw=constant(0.0), scale_power=1.0),
        }

    def closed_form(self, shape: Shape) -> int:
        return shape.n * shape.width + shape.r * (shape.options["update_tokens"] + shape.width)

    def counts(self, shape: Shape) -> Counts:
        factor_counts = super().counts(shape)
        update_size = shape.options["update_tokens"] * shape.width
        return Counts(factor_counts.trainable, factor_counts.stored, factor_counts.materialised + update_size)

    def prompt(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        return tensors["P"]

    def update(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
        scale = options["alpha"] / tensors["A"].shape[-1] ** 0.5
        return scale * (tensors["A"] @ tensors["B"])

    def usual_size_within(self, budget: int, width: int) -> tuple[int, int] | None:
        """Give about half of the budget to the prompt, as the paper's (40, 45) and (60, 30) do at 76,800 parameters."""
        length = max(1, min(budget // (2 * width), (budget - self.OPTIONS["update_tokens"] - width) // width))
        rank = (budget - length * width) // (self.OPTIONS["update_tokens"] + width)
        return (length, rank) if rank >= 1 else None


SPEC = DePT()
