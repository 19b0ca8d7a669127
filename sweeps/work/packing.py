"""How many trials are packed on a device.

The number is measured where trials will run: about as many as fill one good pass, fewer if the GPU's free memory is
not enough. It is chosen so that the trials of the search divide evenly, and none is left to train by itself.
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

MOST_PACKED = 16
_SHARE_OF_MEMORY = 0.8


def trials_to_pack(
    step_tokens: float, pass_tokens: float, memory_tokens: float = math.inf, trials_per_device: float = math.inf
) -> int:
    """Return how many trials train together: about as many as fill a pass, and not more than fit into memory.

    Args:
        step_tokens: Tokens of one trial in one step, those of prompt and texts together.
        pass_tokens: Tokens of a pass that uses the device well.
        memory_tokens: Tokens of the largest pass that fits into memory.
        trials_per_device: How many trials each device will train. They are divided evenly: if twelve trials were
            packed as ten and two, the last two would take passes of their own, and a pass costs much even if it is
            nearly empty.
    """
    count = max(1, math.floor(pass_tokens / step_tokens))
    most = math.floor(min(memory_tokens / step_tokens, MOST_PACKED))
    if count < trials_per_device < math.inf:
        rounds = max(1, round(trials_per_device / count))
        count = math.ceil(trials_per_device / rounds)
    return max(1, min(count, most))


def tokens_per_step(backbone: Backbone, config: TrialConfig, data: TaskData) -> float:
    """Return the tokens of an average batch of one trial, as the backbone counts them."""
    soft_prompt = methods.get(config.method).begin(backbone, config).soft_prompt()
    assert soft_prompt is not None
    lengths, counts = np.unique(data.train.lengths, return_counts=True)
    tokens = [backbone.row_tokens(soft_prompt, int(length)) for length in lengths]
    return min(config.batch_size, len(data.train)) * float(np.average(tokens, weights=counts))


def tokens_in_memory(backbone: Backbone, data: TaskData, length: int) -> float:
    """Return how many tokens fit into one forward and backward pass on the backbone's device.

    A prompt of `length` tokens before the longest training texts is measured. On a CPU no limit is known: infinity.
    """
    import torch

    from lopt.batches import collate
    from lopt.soft_prompt import SoftPrompt

    if backbone.device.type != "cuda":
        return math.inf
    ids_BT, lengths_B, _ = collate(data.train, data.train.lengths.argsort()[-8:], backbone.pad_id)
    prompt = torch.zeros(length, backbone.width, device=backbone.device, requires_grad=True)
    label_ids = torch.arange(2, device=backbone.device)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    allocated_before = torch.cuda.memory_allocated(backbone.device)
    backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids).sum().backward()
    tokens = len(ids_BT) * (length + ids_BT.shape[1])
    bytes_per_token = (torch.cuda.max_memory_allocated(backbone.device) - allocated_before) / tokens
    free_bytes, _ = torch.cuda.mem_get_info(backbone.device)
    return _SHARE_OF_MEMORY * free_bytes / max(1.0, bytes_per_token)
