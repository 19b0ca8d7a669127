"""The optimiser of the recipe, and its schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from lopt.config import TrialConfig


def make_optimizer(config: TrialConfig, parameters: Iterable[Tensor]) -> Optimizer:
    """Adafactor with a learning rate of its own (arXiv 1804.04235, external step size), or AdamW.

    Of Adafactor, scale_parameter, relative_step and warmup_init are off, clip_threshold is 1, decay_rate -0.8 and
    eps (1e-30, 1e-3), as in the code base LoPT builds on. PyTorch's own Adafactor cannot do this: it caps the rate at
    1/√t and always scales by the parameter's size.
    """
    if config.optimizer == "adamw":
        from torch.optim import AdamW

        return AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        clip_threshold=1.0,
        decay_rate=-0.8,
        eps=(1e-30, 1e-3),
    )


def learning_rate_at(config: TrialConfig, step: int) -> float:
    """Learning rate of update number `step` (0 is the first): constant, or linear to 0 at `max_steps`."""
    if config.schedule == "linear":
        return config.learning_rate * max(0.0, 1.0 - step / config.max_steps)
    return config.learning_rate
