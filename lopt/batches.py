"""Batches of about one text length; a function of the lengths and a seed alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.encoding import Encoded

_POOL_BATCHES = 50  # batches sorted by length together: large enough for little padding, small enough to mix


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, skip: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of positions `[B]`, without the first `skip`; a function of the lengths and the seed alone.

    Each epoch is a fresh permutation, cut into pools that are sorted by length, so that a batch holds texts of about
    one length; the batches of an epoch come in random order. What does not fill a batch waits for another epoch.
    """
    count = len(lengths)
    batch_size = min(batch_size, count)
    epoch, skip = divmod(skip, count // batch_size)
    while True:
        draw = np.random.RandomState([seed, epoch])
        order = draw.permutation(count)[: count - count % batch_size]
        pools = [order[i : i + _POOL_BATCHES * batch_size] for i in range(0, len(order), _POOL_BATCHES * batch_size)]
        batches = [
            pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size) for pool in pools if len(pool)
        ]
        yield from draw.permutation(np.concatenate(batches))[skip:]
        epoch, skip = epoch + 1, 0


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Every position once, longest first, in batches `[<=B]`; always the same."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def on_device(values: Any, device: Any) -> Tensor:
    """Numbers as a tensor on a device; to a GPU they go while the processor does other work."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collate(encoded: Encoded, positions: np.ndarray, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids `[B, T]` padded on the right, token counts `[B]`, classes `[B]`."""
    rows = [encoded.token_ids[i] for i in positions]
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids, torch.tensor([len(r) for r in rows]), torch.from_numpy(encoded.labels[positions])
