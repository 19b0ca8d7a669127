"""Batches of texts of similar length. They depend on nothing but the lengths and a seed."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lopt.encoding import EncodedExamples

_BATCHES_PER_POOL = 50  # batches in a pool that is sorted by length: enough for little padding, few enough to mix well


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, skip: int = 0) -> Iterator[np.ndarray]:
    """Yield batches without end, but not the first `skip` of them. A batch is the positions of its texts, `[B]`.

    Each epoch is a new permutation, cut into pools that are sorted by length, so that the texts of a batch have
    similar lengths. The batches of an epoch come in random order. Positions that do not fill a batch are left out of
    that epoch. The batches depend on nothing but the lengths and the seed.
    """
    text_count = len(lengths)
    batch_size = min(batch_size, text_count)
    pool_size = _BATCHES_PER_POOL * batch_size
    epoch, skip = divmod(skip, text_count // batch_size)
    while True:
        generator = np.random.RandomState([seed, epoch])
        shuffled_positions = generator.permutation(text_count)[: text_count - text_count % batch_size]
        pool_starts = range(0, len(shuffled_positions), pool_size)
        pools = [shuffled_positions[start : start + pool_size] for start in pool_starts]
        batches = [
            pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size) for pool in pools if len(pool)
        ]
        yield from generator.permutation(np.concatenate(batches))[skip:]
        epoch, skip = epoch + 1, 0


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield every position once, longest text first, in batches of at most B. Their order is always the same."""
    sorted_positions = np.argsort(-lengths, kind="stable")
    for start in range(0, len(sorted_positions), batch_size):
        yield sorted_positions[start : start + batch_size]


def collate(encoded: EncodedExamples, positions: np.ndarray, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids `[B, T]` padded on the right, token counts `[B]` and classes `[B]`."""
    texts = [encoded.token_ids[i] for i in positions]
    ids_BT = torch.full((len(texts), max(map(len, texts))), pad_id, dtype=torch.long)
    for row, token_ids in enumerate(texts):
        ids_BT[row, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.long)
    return ids_BT, torch.tensor([len(token_ids) for token_ids in texts]), torch.from_numpy(encoded.labels[positions])
