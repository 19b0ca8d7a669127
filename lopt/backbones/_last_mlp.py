"""A change to a model: its last MLP is computed only where its output is used.

A flat pass (`_flat`) uses its last hidden states at label positions only. A pass that computes keys and values of texts
uses none of them. Of all the weights that a token passes, forward and backward, up to a fortieth are in the last MLP.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList

_current_pass = threading.local()  # each thread has its own, because passes may run at the same time


@contextlib.contextmanager
def last_mlp_only_at(indices_M: Tensor) -> Iterator[None]:
    """In the context, compute the last MLP of this thread's passes `[1, N, H]` at these indices only.

    The last hidden states at all other indices are then wrong.
    """
    _current_pass.indices_M = indices_M
    try:
        yield
    finally:
        _current_pass.indices_M = None


def restrict_last_mlp(model: Any) -> None:
    """Let `last_mlp_only_at` act on a causal model, if its last layer has an MLP.

    As in `_fused`, only the class of the MLP's module is changed.
    """
    layer_count = model.config.num_hidden_layers
    layer_stacks = (
        module for module in model.base_model.modules() if isinstance(module, ModuleList) and len(module) == layer_count
    )
    mlp = getattr(next(layer_stacks, [None])[-1], "mlp", None)
    mlp_class: Any = type(mlp)
    if mlp is not None and not hasattr(mlp_class, "original_class"):
        mlp.__class__ = _make_restricted_class(mlp_class)


@cache
def _make_restricted_class(original_class: type) -> type:
    class RestrictedMLP(original_class):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            indices_M = getattr(_current_pass, "indices_M", None)
            if indices_M is None or arguments or options:  # BLOOM's MLP takes the residual and adds it itself
                return super().forward(hidden_states, *arguments, **options)
            output = super().forward(hidden_states[:, indices_M])
            if not torch.is_tensor(output):  # some mixtures of experts return more than one tensor
                return super().forward(hidden_states)
            return torch.zeros_like(hidden_states).index_copy(1, indices_M, output)

    RestrictedMLP.__name__ = original_class.__name__
    RestrictedMLP.original_class = original_class  # type: ignore[attr-defined]
    return RestrictedMLP
