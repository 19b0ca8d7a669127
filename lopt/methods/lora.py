"""LoRA: low-rank adapters of attention's query and value projections (Hu et al. 2022, arXiv 2106.09685). PEFT builds
the adapters."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lopt.backbones import inject_adapters, target_names
from lopt.errors import import_optional
from lopt.methods import Counts, Recipe, Shape, WeightMethod, check_real_option
from lopt.ranges import Real, Whole
from lopt.settings import TrialSettings
from lopt.types import Tensor


class LoRA(WeightMethod):
    """Each adapted weight W becomes W + (α/r)·B A. A is Kaiming-uniform and B is zero.

    An adapter has r·(fan_in + fan_out) parameters. PEFT chooses the adapted weights by the model's type: q and v (T5,
    Llama), or the fused q, k, v (GPT-2). If PEFT does not know the type, attention's query and value projections are
    adapted. The option `targets` names other weights, joined by "+". Adapters have no dropout of their own.

    The recipe is the paper's on GLUE (microsoft/LoRA, RoBERTa-base): AdamW at 5e-4, weight decay 0.1, linear decay, 6 %
    warm-up, r = 8, α = 16.
    """

    name = "lora"
    title = "LoRA"
    colour, marker, sort_order = "sky", "P", 60
    paper_size: ClassVar = {"rank": 8}
    recipe: ClassVar = Recipe(learning_rate=5e-4, optimizer="adamw", schedule="linear", warmup=0.06, weight_decay=0.1)
    ranges: ClassVar = {"learning_rate": Real(1e-4, 1e-2, log=True), "rank": Whole(1, 64, log=True)}
    OPTIONS: ClassVar[Mapping[str, Any]] = {"alpha": 16.0, "targets": None}
    has_adapter = True

    def check_options(self, options: dict[str, Any]) -> None:
        check_real_option("alpha", options["alpha"])
        targets = options["targets"]
        if targets is not None and (not isinstance(targets, str) or not all(targets.split("+"))):
            raise ValueError(f"targets is {targets!r}; give names of the model's modules, as in q_proj+v_proj")

    def require(self) -> None:
        import_optional("peft", "method lora needs")

    def counts(self, shape: Shape) -> Counts:
        parameter_count = sum(
            count * shape.r * (fan_in + fan_out) for count, fan_in, fan_out in _adapted_projections(shape)
        )
        return Counts(trainable=parameter_count, stored=parameter_count, materialised=0)

    def stored_tensor_count(self, shape: Shape) -> int:
        return 2 * sum(count for count, _, _ in _adapted_projections(shape))

    def adapter_config(self, config: TrialSettings, model: Any) -> Any:
        return import_optional("peft", "method lora needs").LoraConfig(
            r=config.rank,
            lora_alpha=config.options["alpha"],
            lora_dropout=0.0,
            bias="none",
            target_modules=target_names(model, config.options["targets"]),
        )

    def attach(self, model: Any, config: TrialSettings) -> dict[str, Tensor]:
        import torch

        adapters = inject_adapters(model, self.adapter_config(config, model))
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        factors = {}
        for position, (name, tensor) in enumerate(sorted(adapters.items())):
            tensor.data = tensor.data.to(dtype)
            if ".lora_A." in name:  # PEFT's distribution, but drawn by NumPy, so that all machines draw the same bits
                generator = np.random.RandomState([config.seed, position])
                bound = tensor.shape[1] ** -0.5
                tensor.data.copy_(torch.tensor(generator.uniform(-bound, bound, tuple(tensor.shape))))
            factors[name] = tensor
        return factors


def _adapted_projections(shape: Shape) -> tuple[tuple[int, int, int], ...]:
    """Return the number of adapted projections of each shape, with this shape: (count, fan_in, fan_out)."""
    if shape.model is None:
        raise ValueError("lora adapts a model's projections: give backbone, not width")
    return shape.model.lora_projections(shape.options["targets"])


SPEC = LoRA()
