"""The optimiser of a trial and the schedule of its learning rates."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor
from torch.optim import AdamW, Optimizer

from lopt.settings import TrialSettings


def make_optimizer(
    config: TrialSettings,
    factors: Mapping[str, Tensor],
    rates_by_factor: Mapping[str, float],
    units: Mapping[str, float] = MappingProxyType({}),
) -> Optimizer:
    """Return Adafactor (arXiv 1804.04235) with the learning rate of the trial, or AdamW.

    Adafactor has the settings of the code base that LoPT builds on: scale_parameter, relative_step and warmup_init are
    off, clip_threshold is 1, decay_rate is -0.8 and eps is (1e-30, 1e-3). PyTorch's own Adafactor does not have them:
    it caps the learning rate at 1/√t and always scales by the parameter's size. AdamW's eps is PyTorch's, 1e-8, unless
    the method has an option `adam_eps`.

    Args:
        factors: trained tensors by name.
        rates_by_factor: learning rates by the name of the factor. Factors without one have `config.learning_rate`.
        units: by the name of the factor, the number that its learning rate is multiplied by, if it is not 1.
    """
    assert config.learning_rate is not None and config.weight_decay is not None
    tensors_by_rate_and_unit: dict[tuple[float, float], list[Tensor]] = {}
    for name, factor in factors.items():
        unit = units.get(name, 1.0)
        rate = rates_by_factor.get(name, config.learning_rate) * unit
        tensors_by_rate_and_unit.setdefault((rate, unit), []).append(factor)
    parameter_groups = [
        # A step takes rate · decay of a factor away, and the rate contains the unit.
        {"params": tensors, "lr": rate, "rate": rate, "weight_decay": config.weight_decay / unit}
        for (rate, unit), tensors in tensors_by_rate_and_unit.items()
    ]
    if config.optimizer == "adamw":
        return AdamW(parameter_groups, weight_decay=config.weight_decay, eps=config.options.get("adam_eps", 1e-8))
    from transformers.optimization import Adafactor

    return Adafactor(
        parameter_groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        clip_threshold=1.0,
        decay_rate=-0.8,
        eps=(1e-30, 1e-3),
    )


def clip_gradients(factors: Mapping[str, Tensor], units: Mapping[str, float], max_norm: float) -> None:
    """Scale the gradients of the factors so that their Euclidean norm over all factors is at most `max_norm`.

    A gradient is first multiplied by its factor's unit: it is then the gradient for the factor as a multiple of that
    unit. Adafactor and AdamW do not depend on a constant scale of the gradients.
    """
    from torch.nn.utils import clip_grad_norm_

    for name, unit in units.items():
        gradient = factors[name].grad
        assert gradient is not None
        gradient *= unit
    clip_grad_norm_(factors.values(), max_norm)


def set_learning_rates(optimizer: Optimizer, config: TrialSettings, step: int) -> None:
    """Set the learning rates of update `step`. The first update is number 0."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * rate_factor(config, step)


def rate_factor(config: TrialSettings, step: int) -> float:
    """Return the factor that multiplies the learning rates in update `step`. The first update is number 0.

    The factor rises linearly from 0 to 1 over the warm-up. Then it stays at 1 or, with the schedule "linear", falls
    linearly to 0 at `max_steps`, as in transformers' get_linear_schedule_with_warmup.
    """
    warmup_steps = round((config.warmup or 0.0) * config.max_steps)
    if step < warmup_steps:
        return step / warmup_steps
    if config.schedule == "linear":
        return max(0.0, (config.max_steps - step) / max(1, config.max_steps - warmup_steps))
    return 1.0
