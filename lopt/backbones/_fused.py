"""Parts of a frozen model that transformers composes of many small steps, each as one function: RMS norms and rotary
positions, with a backward pass of their own, and GPT-2's GELU. A good part of a step's time goes by in them (LOG.md).

A part is exchanged by changing its class, so that its weights, its name and its copies stay as they are, and only where
it gives what the original gives. With weights that are trained the original is used.
"""

from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, rms_norm

_ROTATE = "apply_rotary_pos_emb"


def fuse(model: Any) -> None:
    """Exchanges the parts of a model that have a fused form here."""
    with torch.no_grad():
        for module in model.modules():
            if any(weight.requires_grad for weight in module.parameters(recurse=False)):
                continue
            form, agree = _fused_form(module)
            if form is not None and _holds(agree, module, form):
                module.__class__ = form


def unfuse(model: Any) -> None:
    """Gives exchanged parts their own classes back."""
    for module in model.modules():
        if hasattr(type(module), "original"):
            module.__class__ = type(module).original


def _holds(agree: Any, module: Any, form: type) -> bool:
    """Whether they agree; a part that is called in another way, or lacks what its kin have, is left alone."""
    try:
        return agree(module, form)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False


def _fused_form(module: Any) -> tuple[Any, Any]:
    """The class that a part would get, and what compares the two; None where there is none."""
    kind: Any = type(module)
    if kind.__name__.endswith(("RMSNorm", "T5LayerNorm")) and hasattr(module, "variance_epsilon"):
        return _rms_norm(kind), _agree
    if kind.__name__ == "NewGELUActivation":
        return _gelu(kind), _agree
    # Attention that rotates its queries and keys by transformers' function of that name.
    if isinstance(kind.forward, FunctionType) and _ROTATE in kind.forward.__code__.co_names:
        return _rotary(kind), _rotations_agree
    return None, None


def _agree(module: Any, form: type) -> bool:
    """Whether the form gives what the module gives, on numbers drawn at random."""
    weight = next(module.parameters(), torch.empty(4, 16))
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, weight.shape[-1], generator=draw).to(weight.device, weight.dtype)
    before, expected = type(module), module(inputs)
    try:
        module.__class__ = form
        found = module(inputs)
    finally:
        module.__class__ = before
    return _close(found, expected)


def _rotations_agree(module: Any, form: Any) -> bool:
    """Whether the form's rotation is the module's own; some families turn neighbours, or a part of a head."""
    weight = next(module.parameters(), None)
    size, draw = getattr(module, "head_dim", 0), torch.Generator().manual_seed(0)
    if weight is None or not size or size % 2:
        return False
    inputs = [torch.randn(1, heads, 3, size, generator=draw) for heads in (2, 1)]
    agreed = []
    for turned in (size, size // 2):  # some families turn the first half of a head, or less
        angles = torch.rand(1, 3, turned // 2, generator=draw).repeat(1, 1, 2)
        arguments = [tensor.to(weight.device, weight.dtype) for tensor in (*inputs, angles.cos(), angles.sin())]
        try:
            originals = type(module).forward.__globals__[_ROTATE](*arguments)
        except RuntimeError:  # it turns whole heads only, so no others will come
            continue
        rotated = form.forward.__globals__[_ROTATE](*arguments)
        agreed.append(all(_close(some, other) for some, other in zip(rotated, originals, strict=True)))
    return bool(agreed) and all(agreed)


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 2e-2 if found.dtype == torch.bfloat16 else 1e-5
    return bool((found - expected).norm() <= tolerance * expected.norm())


@cache
def _rms_norm(original: type) -> type:
    class FusedRMSNorm(original):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor) -> Tensor:
            if self.weight.requires_grad:
                return super().forward(hidden_states)
            if hidden_states.is_cuda:  # one kernel
                return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
            return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)

    return _named(FusedRMSNorm, original)


@cache
def _gelu(original: type) -> type:
    class FusedGELU(original):  # type: ignore[misc, valid-type]
        def forward(self, input: Tensor) -> Tensor:
            return gelu(input, approximate="tanh")

    return _named(FusedGELU, original)


@cache
def _rotary(original: Any) -> type:
    forward = original.forward
    own = FunctionType(
        forward.__code__, {**forward.__globals__, _ROTATE: _rotated}, forward.__name__, forward.__defaults__,
        forward.__closure__,
    )  # fmt: skip
    own.__kwdefaults__ = forward.__kwdefaults__
    return _named(type(original.__name__, (original,), {"forward": own}), original)


def _rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """transformers' `apply_rotary_pos_emb`, on tensors of one type; of heads longer than the angles, the first part."""
    cos, sin = cos.unsqueeze(unsqueeze_dim).to(query.dtype), sin.unsqueeze(unsqueeze_dim).to(query.dtype)
    return _turned(query, cos, sin), _turned(key, cos, sin)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    size = cos.shape[-1]
    if size == heads.shape[-1]:
        return Rotation.apply(heads, cos, sin)
    return torch.cat([Rotation.apply(heads[..., :size], cos, sin), heads[..., size:]], dim=-1)


def _named(form: type, original: type) -> type:
    form.__name__, form.original = original.__name__, original  # type: ignore[attr-defined]
    return form


class RMSNorm(torch.autograd.Function):
    """y = w · x / √(mean(x²) + ε), in fp32, rounded before w as in Llama."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = scale.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """s · (g - x · s² · <g, x> / d), where s is the scale and g the gradient times w."""
        x, weight, scale = ctx.saved_tensors
        wide = x.to(torch.float32)
        made = (gradients[0] * weight).to(torch.float32)
        along = (made * wide).sum(-1, keepdim=True).mul_(scale.square()).div_(-x.shape[-1])
        return made.addcmul(wide, along).mul_(scale).to(x.dtype), None, None


def _turned_by(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Every pair (i, i + D/2) of `[..., D]`, turned by its angle, or back."""
    half = x.shape[-1] // 2
    made = x * cos
    made[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    made[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return made


class Rotation(torch.autograd.Function):
    """Rotary positions (arXiv 2104.09864), as Llama pairs a head's entries; angles of both halves are the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned_by(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned_by(gradients[0], cos, sin, -1), None, None
