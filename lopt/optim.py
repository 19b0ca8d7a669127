"""The optimiser of the recipe, and its schedules."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import AdamW, Optimizer

from lopt.settings import TrialSettings


def make_optimizer(config: TrialSettings, factors: Mapping[str, Tensor], rates: Mapping[str, float]) -> Optimizer:
    """Adafactor with a learning rate of its own (arXiv 1804.04235, external step size), or AdamW.

    AdamW's eps is PyTorch's, 1e-8, unless the method has an option `adam_eps`. Of Adafactor, scale_parameter,
    relative_step and warmup_init are off, clip_threshold is 1, decay_rate -0.8 and eps (1e-30, 1e-3), as in the code
    base LoPT builds on. PyTorch's own Adafactor cannot do this: it caps the rate at 1/√t and always scales by the
    parameter's size.

    Args:
        rates: learning rates of the factors that have another one than `config.learning_rate`.
    """
    assert config.learning_rate is not None and config.weight_decay is not None
    by_rate: dict[float, list[Tensor]] = {}
    for name, factor in factors.items():
        by_rate.setdefault(rates.get(name, config.learning_rate), []).append(factor)
    groups = [{"params": tensors, "lr": rate, "rate": rate} for rate, tensors in by_rate.items()]
    if config.optimizer == "adamw":
        return AdamW(groups, weight_decay=config.weight_decay, eps=config.options.get("adam_eps", 1e-8))
    from transformers.optimization import Adafactor

    return Adafactor(
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        clip_threshold=1.0,
        decay_rate=-0.8,
        eps=(1e-30, 1e-3),
    )


def share_of_rate(config: TrialSettings, step: int) -> float:
    """What update number `step` (0 is the first) takes of the learning rates: it rises linearly over the warm-up, and
    then stays, or falls linearly to 0 at `max_steps` (as transformers' get_linear_schedule_with_warmup)."""
    rising = round((config.warmup or 0.0) * config.max_steps)
    if step < rising:
        return step / rising
    if config.schedule == "linear":
        return max(0.0, (config.max_steps - step) / max(1, config.max_steps - rising))
    return 1.0
