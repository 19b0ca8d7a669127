"""How many trials are packed on a device, to train together in the same passes.

A pack has about as many trials as fill one pass that uses the device well. If they do not fit into the GPU's free
memory, it has fewer. The tokens of a trial and the free memory are measured where the trials will run. The search
trials are divided evenly into packs, so that none is left to train by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lopt import methods

if TYPE_CHECKING:
    from lopt.backbones import Backbone
    from lopt.config import TrialConfig
    from lopt.data import TaskData

_MAX_PACK_SIZE_BY_DEVICE = {"cpu": 16, "cuda": 64}
_MEMORY_SHARE = 0.8  # the part of the free memory that trials may take
_MAX_SOLO_COUNT = 4  # trials that train alone, side by side on one GPU
# A trial that trains alone takes at most about this many times the memory of the model's weights: its frozen copy, its
# own copy, gradients, the optimiser's two averages, and activations.
_SOLO_MEMORY_FACTOR = 8


def choose_pack_size(
    step_tokens: float,
    pass_tokens: float,
    memory_tokens: float = math.inf,
    trials_per_device: float = math.inf,
    *,
    device_type: str = "cpu",
) -> int:
    """Return how many trials train together: about as many as fill a pass, and not more than fit into memory.

    Args:
        step_tokens: How many tokens one trial has in one step, prompt and texts together.
        pass_tokens: How many tokens make a pass that uses the device well.
        memory_tokens: How many tokens one pass may have at most to fit into memory.
        trials_per_device: How many trials each device will train; infinity if this is not known. They are divided
            evenly (twelve trials are not packed as ten and two), because a pass costs much even if it is nearly empty.
        device_type: "cpu" or "cuda". A GPU takes more trials.
    """
    pack_size = max(1, math.floor(pass_tokens / step_tokens))
    max_pack_size = math.floor(min(memory_tokens / step_tokens, _MAX_PACK_SIZE_BY_DEVICE[device_type]))
    if pack_size < trials_per_device < math.inf:
        round_count = max(1, round(trials_per_device / pack_size))
        pack_size = math.ceil(trials_per_device / round_count)
    return max(1, min(pack_size, max_pack_size))


def choose_solo_count(weight_bytes: float, memory_bytes: float) -> int:
    """Return how many trials that train alone should run side by side on one GPU.

    One trial by itself leaves a GPU waiting for the CPU most of the time.

    Args:
        weight_bytes: The size of the model's weights.
        memory_bytes: The memory of the GPU that these trials may share.
    """
    fitting_count = math.floor(_MEMORY_SHARE * memory_bytes / (_SOLO_MEMORY_FACTOR * weight_bytes))
    return max(1, min(_MAX_SOLO_COUNT, fitting_count))


def solo_count_here(backbone: Backbone) -> int:
    """Return `choose_solo_count` for the backbone's device; 1 if it is not a GPU."""
    import torch

    if backbone.device.type != "cuda":
        return 1
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
    free_bytes, _ = torch.cuda.mem_get_info(backbone.device)
    return choose_solo_count(weight_bytes, free_bytes + weight_bytes)


def tokens_per_step(backbone: Backbone, config: TrialConfig, data: TaskData) -> float:
    """Return how many tokens an average batch of one trial has, as the backbone counts them."""
    soft_prompt = methods.get(config.method).begin(backbone, config).soft_prompt()
    assert soft_prompt is not None
    text_lengths, text_counts = np.unique(data.train.token_counts, return_counts=True)
    token_counts = [backbone.token_count_of_row(soft_prompt, int(text_length)) for text_length in text_lengths]
    return min(config.batch_size, len(data.train)) * float(np.average(token_counts, weights=text_counts))


def tokens_in_memory(backbone: Backbone, data: TaskData, prompt_length: int) -> float:
    """Return how many tokens fit into one forward and backward pass on the backbone's device.

    This is measured in one pass over the longest training texts (eight at most), with a prompt of `prompt_length`
    tokens in front of each. On a CPU no limit is known, and the result is infinity.
    """
    import torch

    from lopt.batches import collate
    from lopt.soft_prompt import SoftPrompt

    if backbone.device.type != "cuda":
        return math.inf
    ids_BT, lengths_B, _ = collate(data.train, data.train.token_counts.argsort()[-8:], backbone.pad_id)
    prompt_PH = torch.zeros(prompt_length, backbone.width, device=backbone.device, requires_grad=True)
    label_ids = torch.arange(2, device=backbone.device)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    bytes_before = torch.cuda.memory_allocated(backbone.device)
    backbone.label_logits(SoftPrompt(prompt=prompt_PH), ids_BT, lengths_B, label_ids).sum().backward()
    token_count = len(ids_BT) * (prompt_length + ids_BT.shape[1])
    bytes_per_token = (torch.cuda.max_memory_allocated(backbone.device) - bytes_before) / token_count
    free_bytes, _ = torch.cuda.mem_get_info(backbone.device)
    return _MEMORY_SHARE * free_bytes / max(1.0, bytes_per_token)
