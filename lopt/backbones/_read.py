"""The last layer's MLP where its output is read, and nowhere else.

Of a pass's last states only those at label positions are looked at, and of texts whose keys and values are kept, none.
The last MLP is as much as a fortieth of all the weights that a token meets, forward and backward.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList

_here = threading.local()  # passes may run side by side


@contextlib.contextmanager
def read_at(places: Tensor) -> Iterator[None]:
    """Of passes `[1, N, H]` that this thread begins in here, last states are right at these places `[M]` only."""
    _here.places = places
    try:
        yield
    finally:
        _here.places = None


def restrict(model: Any) -> None:
    """Makes a causal model's last MLP heed `read_at`, where it has one; like `_fused.fuse`, by its class."""
    layers = model.config.num_hidden_layers
    stacks = (m for m in model.base_model.modules() if isinstance(m, ModuleList) and len(m) == layers)
    mlp = getattr(next(stacks, [None])[-1], "mlp", None)
    kind: Any = type(mlp)
    if mlp is not None and not hasattr(kind, "original"):
        mlp.__class__ = _restricted(kind)


@cache
def _restricted(original: type) -> type:
    class RestrictedMLP(original):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *others: Any, **named: Any) -> Any:
            places = getattr(_here, "places", None)
            if places is None or others or named:  # BLOOM's adds the residual by itself
                return super().forward(hidden_states, *others, **named)
            found = super().forward(hidden_states[:, places])
            if not torch.is_tensor(found):  # some mixtures of experts say more
                return super().forward(hidden_states)
            return torch.zeros_like(hidden_states).index_copy(1, places, found)

    RestrictedMLP.__name__, RestrictedMLP.original = original.__name__, original  # type: ignore[attr-defined]
    return RestrictedMLP
