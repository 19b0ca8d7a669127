"""Weight methods train tensors inside the model, in the trial's own copy of the backbone."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lopt.backbones import Backbone
from lopt.methods._base import Counts, Method, Shape, TrainableModel
from lopt.settings import TrialSettings
from lopt.types import Tensor


class WeightMethod(Method):
    """Base of weight methods. A plugin implements `attach` and `counts`."""

    uses_length = False
    shares_backbone = False

    @abstractmethod
    def attach(self, model: Any, config: TrialSettings) -> dict[str, Tensor]:
        """Prepare the trial's own copy of the model and return its trained tensors by name. They require gradients."""

    def stored_tensor_count(self, shape: Shape) -> int:
        """Return about how many tensors the whole model has: twelve for each layer."""
        assert shape.model is not None
        return 12 * shape.model.layers

    def begin(
        self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None
    ) -> TrainableModel:
        import torch

        backbone_copy = backbone.copy()
        factors = self.attach(backbone_copy.model, config)
        if values is not None:
            expected_shapes = {name: factor.shape for name, factor in factors.items()}
            if {name: value.shape for name, value in values.items()} != expected_shapes:
                raise ValueError(
                    f"these weights are not those of {self.name} on backbone {config.backbone}; give the backbone on "
                    "which they were trained"
                )
            with torch.no_grad():
                for name, value in values.items():
                    factors[name].copy_(value)
        if config.precision == "bf16":
            backbone_copy.autocast_dtype = torch.bfloat16
        trainable_count = sum(factor.numel() for factor in factors.values())
        counts = Counts(trainable=trainable_count, stored=trainable_count, materialised=0)
        return TrainableModel(backbone=backbone_copy, factors=factors, soft_prompt=lambda: None, counts=counts)
