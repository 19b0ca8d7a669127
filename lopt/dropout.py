"""Dropout in a model whose weights other trials may use at the same time. A seed and a step decide the masks."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules.dropout import _DropoutNd


def with_dropout(model: Any, rate: float) -> Any:
    """Return a copy of a transformers model in training mode, with `rate` as every dropout rate. The copy shares the
    model's weights.

    A dropout rate is the `p` of a dropout module, or a number in an attribute of a module or of its config whose name
    contains "drop". The rate at which a model leaves out whole layers (`layerdrop`) is no dropout rate and is kept.
    """
    shared_tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model_copy = copy.deepcopy(model, shared_tensors).train()
    for module in model_copy.modules():
        if isinstance(module, _DropoutNd):
            module.p = rate
        for module_or_config in (module, getattr(module, "config", None)):
            for name, value in vars(module_or_config).items() if hasattr(module_or_config, "__dict__") else ():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if is_number and "drop" in name and "layerdrop" not in name:
                    setattr(module_or_config, name, rate)
    return model_copy


@contextlib.contextmanager
def seeded_masks(device: torch.device, *seed_numbers: int) -> Iterator[None]:
    """Make all that torch draws in this context, on the CPU or on the device, depend on the seed numbers alone.
    Afterwards torch's generators are as before."""
    seed = int(np.random.SeedSequence(seed_numbers).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
