"""The model's last MLP is computed only where its output is used.

Of a flat pass's last hidden states, only those at label positions are used. A pass that computes keys and values of
texts uses none of them. The last MLP is up to a fortieth of all the weights that a token meets, forward and backward.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList

_current_pass = threading.local()  # by thread, because passes may run side by side


@contextlib.contextmanager
def read_at(indices_M: Tensor) -> Iterator[None]:
    """Say that the passes `[1, N, H]` that this thread runs in the context are read at these indices only.

    The last hidden states at all other indices are wrong.
    """
    _current_pass.indices_M = indices_M
    try:
        yield
    finally:
        _current_pass.indices_M = None


def restrict_last_mlp(model: Any) -> None:
    """Make a causal model's last MLP heed `read_at`, if the model has one. As in `_fused`, its class is changed."""
    layer_count = model.config.num_hidden_layers
    stacks = (
        module for module in model.base_model.modules() if isinstance(module, ModuleList) and len(module) == layer_count
    )
    mlp = getattr(next(stacks, [None])[-1], "mlp", None)
    mlp_class: Any = type(mlp)
    if mlp is not None and not hasattr(mlp_class, "original_class"):
        mlp.__class__ = _restricted_class(mlp_class)


@cache
def _restricted_class(original_class: type) -> type:
    class RestrictedMLP(original_class):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            indices_M = getattr(_current_pass, "indices_M", None)
            if indices_M is None or arguments or options:  # BLOOM's MLP takes the residual and adds it itself
                return super().forward(hidden_states, *arguments, **options)
            output = super().forward(hidden_states[:, indices_M])
            if not torch.is_tensor(output):  # some mixtures of experts return more than the states
                return super().forward(hidden_states)
            return torch.zeros_like(hidden_states).index_copy(1, indices_M, output)

    RestrictedMLP.__name__ = original_class.__name__
    RestrictedMLP.original_class = original_class  # type: ignore[attr-defined]
    return RestrictedMLP
