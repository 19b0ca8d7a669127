"""Weight methods: tensors inside the model are trained, in a copy of the backbone that is the trial's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lopt.methods import Counts, Method, Tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lopt.backbones import Backbone
    from lopt.settings import TrialSettings


class WeightMethod(Method):
    """A plugin implements `attach` and `counts`."""

    uses_length = False
    shares_backbone = False
    has_adapter = False  # whether PEFT has an adapter for what is trained; `adapter_config` then gives it

    @abstractmethod
    def attach(self, model: Any, config: TrialSettings) -> dict[str, Tensor]:
        """Prepares a model of the trial's own and returns its trained tensors by name; they require gradients."""

    def adapter_config(self, config: TrialSettings, model: Any) -> Any:
        """PEFT's own configuration of what is trained in a model, for methods that have one."""
        raise ValueError(f"{self.name} trains no adapter")

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
        return Tuned(backbone=own, factors=factors, soft=lambda: None, counts=counts)
