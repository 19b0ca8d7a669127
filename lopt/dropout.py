"""Dropout of a model whose weights others may use at the same time, with masks that a seed and a step decide."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules.dropout import _DropoutNd


def with_dropout(model: Any, rate: float) -> Any:
    """A copy of a transformers model in training mode, which has the model's own weights and every dropout at `rate`.

    A rate is the `p` of a dropout module, or a number with "drop" in its name, of a module or of its configuration.
    Whole layers that a model leaves out at random (`layerdrop`) are another matter, and stay as they are.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, weights).train()
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.p = rate
        for holder in (module, getattr(module, "config", None)):
            for name, value in vars(holder).items() if hasattr(holder, "__dict__") else ():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if is_number and "drop" in name and "layerdrop" not in name:
                    setattr(holder, name, rate)
    return twin


@contextlib.contextmanager
def masks(device: torch.device, *numbers: int) -> Iterator[None]:
    """What is drawn at random in here, on the processor or on this device, is a function of these numbers alone. The
    generators are then as before."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
