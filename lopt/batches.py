"""Batches of texts of similar length. They depend on nothing but the lengths and a seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.encoding import Encoded

_POOL_BATCHES = 50  # batches in a pool that is sorted by length: enough for little padding, few enough to mix well


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, skip: int = 0) -> Iterator[np.ndarray]:
    """Yield batches without end, after skipping the first `skip`. A batch is the positions of its texts, `[B]`.

    Each epoch is a new permutation, cut into pools that are sorted by length, so that the texts of a batch have
    similar lengths. The batches of an epoch come in random order. Positions that do not fill a batch are left out of
    that epoch. The batches depend on nothing but the lengths and the seed.
    """
    count = len(lengths)
    batch_size = min(batch_size, count)
    epoch, skip = divmod(skip, count // batch_size)
    while True:
        generator = np.random.RandomState([seed, epoch])
        order = generator.permutation(count)[: count - count % batch_size]
        pools = [order[i : i + _POOL_BATCHES * batch_size] for i in range(0, len(order), _POOL_BATCHES * batch_size)]
        batches = [
            pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size) for pool in pools if len(pool)
        ]
        yield from generator.permutation(np.concatenate(batches))[skip:]
        epoch, skip = epoch + 1, 0


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield every position once, longest text first, in batches `[<=B]`. Their order is always the same."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def to_device(values: Any, device: Any) -> Tensor:
    """Return numbers as a tensor on a device. The copy to a GPU does not block the processor."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collate(encoded: Encoded, positions: np.ndarray, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids `[B, T]` padded on the right, token counts `[B]` and classes `[B]`."""
    texts = [encoded.token_ids[i] for i in positions]
    ids_BT = torch.full((len(texts), max(map(len, texts))), pad_id, dtype=torch.long)
    for row, token_ids in enumerate(texts):
        ids_BT[row, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.long)
    return ids_BT, torch.tensor([len(token_ids) for token_ids in texts]), torch.from_numpy(encoded.labels[positions])
