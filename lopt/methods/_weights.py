"""Weight methods: tensors inside the model are trained, in a copy of the backbone that is the trial's own."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lopt.backbones import Backbone
from lopt.methods._base import Counts, Method, Shape, Tuned
from lopt.settings import TrialSettings
from lopt.types import Tensor


class WeightMethod(Method):
    """A plugin implements `attach` and `counts`."""

    uses_length = False
    shares_backbone = False

    @abstractmethod
    def attach(self, model: Any, config: TrialSettings) -> dict[str, Tensor]:
        """Prepares a model of the trial's own and returns its trained tensors by name; they require gradients."""

    def stored_tensors(self, shape: Shape) -> int:
        """As many as a model of so many layers usually has."""
        assert shape.model is not None
        return 12 * shape.model.layers

    def begin(self, backbone: Backbone, config: TrialSettings, values: Mapping[str, Tensor] | None = None) -> Tuned:
        import torch

        own = backbone.copy()
        factors = self.attach(own.model, config)
        if values is not None:
            if {n: v.shape for n, v in values.items()} != {n: f.shape for n, f in factors.items()}:
                raise ValueError(f"these weights are not those of {self.name} on backbone {config.backbone}")
            with torch.no_grad():
                for name, value in values.items():
                    factors[name].copy_(value)
        if config.precision == "bf16":
            own.autocast = torch.bfloat16
        trained = sum(t.numel() for t in factors.values())
        counts = Counts(trainable=trained, stored=trained, materialised=0)
        return Tuned(backbone=own, factors=factors, soft_prompt=lambda: None, counts=counts)
