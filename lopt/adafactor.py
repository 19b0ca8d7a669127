"""Adafactor (arXiv 1804.04235) for the factors of several trials in stacked tensors.

It computes what transformers' Adafactor computes with the settings of `lopt.optim`, for K trials at once. Each trial
has its own learning rate, weight decay and number of steps.
"""

import math

import torch
from torch import Tensor

_DECAY_RATE, _EPSILON, _CLIP_THRESHOLD = -0.8, 1e-30, 1.0


def share_of_new(step: int) -> float:
    """Return the weight of the new squares in the averages in update `step`. The first update is number 1."""
    return math.pow(step, _DECAY_RATE)


def empty_averages(factor_KX: Tensor) -> dict[str, Tensor]:
    """Return the averages of the squared gradients before the first update, by their names in transformers."""
    shape = factor_KX.shape
    if len(shape) < 3:
        return {"exp_avg_sq": torch.zeros_like(factor_KX)}
    return {
        "exp_avg_sq_row": factor_KX.new_zeros(shape[:-1]),
        "exp_avg_sq_col": factor_KX.new_zeros(shape[:-2] + shape[-1:]),
    }


def update_factors(
    factor_KX: Tensor,
    gradient_KX: Tensor,
    averages: dict[str, Tensor],
    *,
    rates_K: Tensor,
    decays_K: Tensor | None,
    old_shares_K: Tensor,
    new_shares_K: Tensor,
) -> Tensor:
    """Update a stacked factor and its averages in place.

    Args:
        factor_KX: `[K, rows, columns]`, or `[K, entries]` for a factor that is a vector.
        rates_K: learning rates.
        decays_K: what the weight decay takes away, as a share of the factor. None for nothing.
        old_shares_K, new_shares_K: the weights of the old averages and of the new squares (`share_of_new`). Their sum
            is 1. Both are needed, because in fp32 one minus a number near 1 has few digits.

    Returns:
        The root mean square of each factor before the update, `[K]`.
    """
    dimensions = tuple(range(1, factor_KX.ndim))
    root_size = math.sqrt(factor_KX[0].numel())

    def over_trials(values_K: Tensor, like: Tensor) -> Tensor:
        return values_K.view(-1, *(1,) * (like.ndim - 1))

    def average(entry: Tensor, values: Tensor) -> None:
        entry.mul_(over_trials(old_shares_K, entry)).add_(values * over_trials(new_shares_K, entry))

    def root_mean_square(tensor: Tensor) -> Tensor:
        return torch.linalg.vector_norm(tensor, dim=dimensions) / root_size

    factor_sizes_K = root_mean_square(factor_KX)
    squares = gradient_KX.square().add_(_EPSILON)
    if factor_KX.ndim < 3:
        mean_squares = averages["exp_avg_sq"]
        average(mean_squares, squares)
        update = mean_squares.rsqrt().mul_(gradient_KX)
    else:
        rows, columns = averages["exp_avg_sq_row"], averages["exp_avg_sq_col"]
        average(rows, squares.mean(dim=-1))
        average(columns, squares.mean(dim=-2))
        row_factors = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        update = (row_factors * columns.rsqrt().unsqueeze(-2)).mul_(gradient_KX)
    update.div_(over_trials((root_mean_square(update) / _CLIP_THRESHOLD).clamp_(min=1.0), update))
    update.mul_(over_trials(rates_K, update))
    if decays_K is not None:
        factor_KX.mul_(1.0 - over_trials(decays_K, factor_KX))
    factor_KX.sub_(update)
    return factor_sizes_K
