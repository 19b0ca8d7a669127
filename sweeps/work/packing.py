"""How many trials share a device."""

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


def packed(tokens_a_step: float, good_pass: float, room: float = math.inf, trials: float = math.inf) -> int:
    """How many trials train together: about as many as a good pass holds, and no more than memory has room for.

    Args:
        tokens_a_step: of one trial, prompt and text. good_pass, room: in tokens.
        trials: that there are for a device. They are shared out evenly: the last two of twelve, left over after ten,
            would have what a step costs, whatever is in it, for themselves.
    """
    good, most = max(1, math.floor(good_pass / tokens_a_step)), math.floor(min(room / tokens_a_step, MOST_PACKED))
    if good < trials < math.inf:
        good = math.ceil(trials / max(1, round(trials / good)))
    return max(1, min(good, most))


def tokens_a_step(backbone: Backbone, config: TrialConfig, data: TaskData) -> float:
    """Tokens of an average batch of one trial, as the backbone counts them."""
    soft_prompt = methods.get(config.method).begin(backbone, config).soft_prompt()
    assert soft_prompt is not None
    lengths, counts = np.unique(data.train.lengths, return_counts=True)
    tokens = [backbone.row_tokens(soft_prompt, int(length)) for length in lengths]
    return min(config.batch_size, len(data.train)) * float(np.average(tokens, weights=counts))


def room(backbone: Backbone, data: TaskData, length: int) -> float:
    """Tokens that fit into one forward and backward pass on the backbone's device; no bound is known on a CPU."""
    import torch

    from lopt.batches import collate
    from lopt.soft_prompt import SoftPrompt

    if backbone.device.type != "cuda":
        return math.inf
    ids_BT, lengths_B, _ = collate(data.train, data.train.lengths.argsort()[-8:], backbone.pad_id)
    prompt = torch.zeros(length, backbone.width, device=backbone.device, requires_grad=True)
    label_ids = torch.arange(2, device=backbone.device)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    before = torch.cuda.memory_allocated(backbone.device)
    backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids).sum().backward()
    tokens = len(ids_BT) * (length + ids_BT.shape[1])
    bytes_a_token = (torch.cuda.max_memory_allocated(backbone.device) - before) / tokens
    free, _ = torch.cuda.mem_get_info(backbone.device)
    return _SHARE_OF_MEMORY * free / max(1.0, bytes_a_token)
