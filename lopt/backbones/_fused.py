"""Parts of a frozen model that transformers composes of many small steps, each as one function: RMS norms, with a
backward pass of their own, and GPT-2's GELU. A good part of a step's time goes by in them (LOG.md).

A part is exchanged by changing its class, so that its weights, its name and its copies stay as they are, and only where
it gives what the original gives. With weights that are trained the original is used.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fuse(model: Any) -> None:
    """Exchanges the parts of a model that have a fused form here."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if any(weight.requires_grad for weight in module.parameters(recurse=False)):
                continue
            for applies, form in ((_is_rms_norm, _rms_norm), (_is_gelu, _gelu)):
                kind: Any = type(module)
                if applies(module) and _agree(module, form(kind)):
                    module.__class__ = form(kind)


def unfuse(model: Any) -> None:
    """Gives exchanged parts their own classes back."""
    for module in model.modules():
        if hasattr(type(module), "original"):
            module.__class__ = type(module).original


def _is_rms_norm(module: Any) -> bool:
    return type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")) and hasattr(module, "variance_epsilon")


def _is_gelu(module: Any) -> bool:
    return type(module).__name__ == "NewGELUActivation"


def _agree(module: Any, form: type) -> bool:
    """Whether the form gives what the module gives, on numbers drawn at random."""
    import torch

    weight = next(module.parameters(), torch.empty(4, 16))
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, weight.shape[-1], generator=draw).to(weight.device, weight.dtype)
    before, expected = type(module), module(inputs)
    try:
        module.__class__ = form
        found = module(inputs)
    finally:
        module.__class__ = before
    tolerance = 2e-2 if weight.dtype == torch.bfloat16 else 1e-5
    return bool((found - expected).norm() <= tolerance * expected.norm())


@cache
def _rms_norm(original: type) -> type:
    class FusedRMSNorm(original):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor) -> Tensor:
            if self.weight.requires_grad:
                return super().forward(hidden_states)
            if hidden_states.is_cuda:  # one kernel
                from torch.nn.functional import rms_norm

                return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
            return _function().apply(hidden_states, self.weight, self.variance_epsilon)

    return _named(FusedRMSNorm, original)


@cache
def _gelu(original: type) -> type:
    class FusedGELU(original):  # type: ignore[misc, valid-type]
        def forward(self, input: Tensor) -> Tensor:
            from torch.nn.functional import gelu

            return gelu(input, approximate="tanh")

    return _named(FusedGELU, original)


def _named(form: type, original: type) -> type:
    form.__name__, form.original = original.__name__, original  # type: ignore[attr-defined]
    return form


@cache
def _function() -> Any:
    import torch

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

    return RMSNorm
