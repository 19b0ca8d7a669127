"""Dropout in a model whose weights other trials may use at the same time. A seed and a step decide the masks."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules.dropout import _DropoutNd


def with_dropout(model: Any, rate: float) -> Any:
    """Return a copy of a transformers model in training mode, with `rate` as every dropout rate. It shares the weights.

    Dropout rates are the `p` of each dropout module, and each attribute of a module or of its config that is a number
    and has "drop" in its name.
    The rates at which a model leaves out whole layers at random (`layerdrop`) are not dropout and stay as they are.
    """
    shared_tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model_copy = copy.deepcopy(model, shared_tensors).train()
    for module in model_copy.modules():
        if isinstance(module, _DropoutNd):
            module.p = rate
        for holder in (module, getattr(module, "config", None)):
            for name, value in vars(holder).items() if hasattr(holder, "__dict__") else ():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if is_number and "drop" in name and "layerdrop" not in name:
                    setattr(holder, name, rate)
    return model_copy


@contextlib.contextmanager
def seeded_masks(device: torch.device, *numbers: int) -> Iterator[None]:
    """In this context, whatever torch draws, on the CPU or on this device, depends on these numbers alone. Afterwards
    torch's generators are as before."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
