"""Fused parts of a frozen model. transformers computes such a part in many small steps; here one function does it.

The parts are RMS norms and rotary positions, both with their own backward pass, and GPT-2's GELU. Unfused, they take a
good part of a step's time (LOG.md). A part is fused only if its fused class gives what the original class gives. To
fuse a part, only the class of its module is changed, so the module keeps its weights and its name. If a part's weights
are trained, the original code runs.
"""

from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, rms_norm

_ROTARY_FUNCTION = "apply_rotary_pos_emb"  # transformers' function that rotates queries and keys


def fuse(model: Any) -> None:
    """Replace the parts of a model that have a fused class."""
    with torch.no_grad():
        for module in model.modules():
            if any(weight.requires_grad for weight in module.parameters(recurse=False)):
                continue
            fused_class, check = _find_fused_class_and_check(module)
            if fused_class is not None and _check_passes(check, module, fused_class):
                module.__class__ = fused_class


def unfuse(model: Any) -> None:
    """Give all replaced parts their original classes back."""
    for module in model.modules():
        if hasattr(type(module), "original_class"):
            module.__class__ = type(module).original_class


def _check_passes(check: Any, module: Any, fused_class: type) -> bool:
    """Return whether the check finds that the fused class gives the same.

    An error counts as no: then the part is called in another way, or lacks an attribute that similar parts have.
    """
    try:
        return check(module, fused_class)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False


def _find_fused_class_and_check(module: Any) -> tuple[Any, Any]:
    """Return the fused class of a part and the check that compares it with the original, or None and None."""
    module_class: Any = type(module)
    if module_class.__name__.endswith(("RMSNorm", "T5LayerNorm")) and hasattr(module, "variance_epsilon"):
        return _make_fused_rms_norm(module_class), _outputs_agree
    if module_class.__name__ == "NewGELUActivation":
        return _make_fused_gelu(module_class), _outputs_agree
    forward = module_class.forward
    # An attention module whose code calls transformers' rotary function.
    if isinstance(forward, FunctionType) and _ROTARY_FUNCTION in forward.__code__.co_names:
        return _make_fused_rotary(module_class), _rotations_agree
    return None, None


def _outputs_agree(module: Any, fused_class: type) -> bool:
    """Return whether the fused class gives what the module gives, on random numbers."""
    weight = next(module.parameters(), torch.empty(4, 16))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, weight.shape[-1], generator=generator).to(weight.device, weight.dtype)
    original_class, expected = type(module), module(inputs)
    try:
        module.__class__ = fused_class
        output = module(inputs)
    finally:
        module.__class__ = original_class
    return _is_close(output, expected)


def _rotations_agree(module: Any, fused_class: Any) -> bool:
    """Return whether the fused rotation gives what the module's own rotation gives, for whole heads and half heads.

    The two may differ, because some families pair neighbouring entries of a head. Half heads are compared, because some
    families rotate only the first half of a head or less.
    """
    weight = next(module.parameters(), None)
    head_width = getattr(module, "head_dim", 0)
    if weight is None or not head_width or head_width % 2:
        return False
    generator = torch.Generator().manual_seed(0)
    query_and_key = [torch.randn(1, count, 3, head_width, generator=generator) for count in (2, 1)]
    agreements = []
    for rotated_width in (head_width, head_width // 2):
        angles = torch.rand(1, 3, rotated_width // 2, generator=generator).repeat(1, 1, 2)
        arguments = [tensor.to(weight.device, weight.dtype) for tensor in (*query_and_key, angles.cos(), angles.sin())]
        try:
            expected = type(module).forward.__globals__[_ROTARY_FUNCTION](*arguments)
        except RuntimeError:  # the module rotates whole heads only, so it never meets this case
            continue
        rotated = fused_class.forward.__globals__[_ROTARY_FUNCTION](*arguments)
        agreements.append(all(_is_close(*pair) for pair in zip(rotated, expected, strict=True)))
    return bool(agreements) and all(agreements)


def _is_close(output: Tensor, expected: Tensor) -> bool:
    tolerance = 2e-2 if output.dtype == torch.bfloat16 else 1e-5
    return bool((output - expected).norm() <= tolerance * expected.norm())


@cache
def _make_fused_rms_norm(original_class: type) -> type:
    class FusedRMSNorm(original_class):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor) -> Tensor:
            if self.weight.requires_grad:
                return super().forward(hidden_states)
            if hidden_states.is_cuda:  # PyTorch has one kernel for this
                return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
            return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)

    return _link_to_original(original_class, FusedRMSNorm)


@cache
def _make_fused_gelu(original_class: type) -> type:
    class FusedGELU(original_class):  # type: ignore[misc, valid-type]
        def forward(self, input: Tensor) -> Tensor:
            return gelu(input, approximate="tanh")

    return _link_to_original(original_class, FusedGELU)


@cache
def _make_fused_rotary(original_class: Any) -> type:
    """Return a subclass whose `forward` has the original code but calls `_rotate_queries_and_keys`."""
    forward = original_class.forward
    fused_forward = FunctionType(
        forward.__code__, {**forward.__globals__, _ROTARY_FUNCTION: _rotate_queries_and_keys}, forward.__name__,
        forward.__defaults__, forward.__closure__,
    )  # fmt: skip
    fused_forward.__kwdefaults__ = forward.__kwdefaults__
    return _link_to_original(
        original_class, type(original_class.__name__, (original_class,), {"forward": fused_forward})
    )


def _rotate_queries_and_keys(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Do what transformers' `apply_rotary_pos_emb` does. Of heads wider than `cos`, only the first part is rotated."""
    cos, sin = cos.unsqueeze(unsqueeze_dim).to(query.dtype), sin.unsqueeze(unsqueeze_dim).to(query.dtype)
    return _rotate_heads(query, cos, sin), _rotate_heads(key, cos, sin)


def _rotate_heads(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotated_width = cos.shape[-1]
    if rotated_width == heads.shape[-1]:
        return Rotation.apply(heads, cos, sin)
    return torch.cat([Rotation.apply(heads[..., :rotated_width], cos, sin), heads[..., rotated_width:]], dim=-1)


def _link_to_original(original_class: type, fused_class: type) -> type:
    """Return the fused class with the original class's name and, for `unfuse`, a reference to the original class."""
    fused_class.__name__ = original_class.__name__
    fused_class.original_class = original_class  # type: ignore[attr-defined]
    return fused_class


class RMSNorm(torch.autograd.Function):
    """The function y = w · x / √(mean(x²) + ε).

    The quotient is computed in fp32 and rounded before it is multiplied by w, as in Llama.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x_fp32 = x.to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(x_fp32, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = scale.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return x_fp32.mul_(scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return s · (g - x · s² · <g, x> / d), where s is the scale 1 / √(mean(x²) + ε) and g the gradient times w."""
        x, weight, scale = ctx.saved_tensors
        x_fp32 = x.to(torch.float32)
        scaled_gradient = (gradients[0] * weight).to(torch.float32)
        along_x = (scaled_gradient * x_fp32).sum(-1, keepdim=True).mul_(scale.square()).div_(-x.shape[-1])
        return scaled_gradient.addcmul(x_fp32, along_x).mul_(scale).to(x.dtype), None, None


def _rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Rotate every pair of entries (i, i + D/2) of `[..., D]` by its angle (sign 1), or back (sign -1)."""
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return rotated


class Rotation(torch.autograd.Function):
    """Rotary positions (arXiv 2104.09864), with the entries of a head paired as in Llama.

    The first half of `cos` (and of `sin`) equals its second half.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_pairs(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotate_pairs(gradients[0], cos, sin, -1), None, None
