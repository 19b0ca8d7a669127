"""Fine-tuning: every weight of the model is trained."""

from typing import Any, ClassVar

from lopt.methods import Counts, Recipe, Shape, WeightMethod
from lopt.ranges import Real
from lopt.settings import TrialSettings
from lopt.types import Tensor


class FineTuning(WeightMethod):
    """All weights are trained from their pre-trained values.

    The weights are kept in fp32. With precision "bf16" the forward pass is computed under autocast. As for every
    method here, there is no dropout unless the setting `dropout` asks for it.

    The recipe is that of the published T5-base baselines (Compacter, ATTEMPT): AdamW at 3e-4, linear decay, 500 warm-up
    steps of 20,000 (hence the share 0.025). Causal models need lower rates, so the searched range begins at 1e-6.
    """

    name = "fine_tuning"
    title = "Fine-tuning"
    colour, marker, sort_order = "muted", "X", 70
    uses_rank = False
    draws_initial_values = False  # they are the weights of the model
    recipe: ClassVar = Recipe(learning_rate=3e-4, optimizer="adamw", schedule="linear", warmup=0.025)
    ranges: ClassVar = {"learning_rate": Real(1e-6, 1e-3, log=True)}

    def weights_precision(self, precision: str) -> str:
        return "fp32" if precision == "bf16" else precision

    def counts(self, shape: Shape) -> Counts:
        if shape.model is None:
            raise ValueError("fine_tuning trains the whole model: give backbone, not width")
        parameter_count = shape.model.parameters
        return Counts(trainable=parameter_count, stored=parameter_count, materialised=0)

    def attach(self, model: Any, config: TrialSettings) -> dict[str, Tensor]:
        return dict(model.requires_grad_(True).named_parameters())


SPEC = FineTuning()
