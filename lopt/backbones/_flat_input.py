"""The input of a flat pass: rows of any lengths, laid end to end in blocks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.backbones._blocks import Block, cut_into_blocks, drop_padding
from lopt.device import to_device


class FlatInput:
    """The input of a flat pass while it is put together.

    Attributes:
        ids: token ids of the batch's texts, `[B, T]`.
        lengths: number of real tokens of each text, `[B]`.
        blocks: the blocks so far.
        embeddings, position_ids: for each block, one tensor with the entries of its real tokens.
        label_index_of_row: for each row of the batch, the index in the sequence at which its label is read.
    """

    def __init__(self, device: Any, ids: np.ndarray, lengths: np.ndarray) -> None:
        self.device, self.ids, self.lengths = device, ids, lengths
        self.blocks: list[Block] = []
        self.embeddings: list[Tensor] = []
        self.position_ids: list[Tensor] = []
        self.label_index_of_row: dict[int, int] = {}

    def append(
        self,
        rows_RTH: Tensor,
        lengths: np.ndarray | None = None,
        *,
        first_position: int | Tensor = 0,
        **block_fields: Any,
    ) -> Block:
        """Append a block and return it.

        Args:
            rows_RTH: embeddings of the block's rows.
            lengths: number of real tokens of each row. None if all T are real.
            first_position: position of a row's first token: one for all rows, or one for each.
            block_fields: the fields of `Block` that describe what precedes the rows.
        """
        row_count, padded_length, _ = rows_RTH.shape
        begin, real_indices = self.blocks[-1].end if self.blocks else 0, None
        if lengths is not None and (lengths < padded_length).any():
            real_indices = to_device(np.flatnonzero(np.arange(padded_length) < lengths[:, None]), self.device)
        if torch.is_tensor(first_position):
            first_position = first_position[:, None]
        position_ids_RT = (first_position + torch.arange(padded_length, device=self.device)).expand(row_count, -1)
        self.position_ids.append(drop_padding(position_ids_RT, real_indices))
        self.embeddings.append(drop_padding(rows_RTH, real_indices))
        block = Block(
            begin=begin,
            row_count=row_count,
            padded_length=padded_length,
            lengths=None if real_indices is None else lengths,
            real_indices=real_indices,
            **block_fields,
        )
        self.blocks.append(block)
        return block

    def mark_label_positions(self, block: Block, batch_rows: np.ndarray) -> None:
        """Record where the labels of batch rows are read: at the last tokens of the block's rows, in the same order."""
        self.label_index_of_row.update(zip(batch_rows.tolist(), (block.row_ends - 1).tolist(), strict=True))


def cut_rows(rows: np.ndarray, lengths: np.ndarray, device: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Cut rows of the batch into blocks of similar lengths. Yield each block's rows and their longest length."""
    if len(rows):
        sorted_rows = rows[np.argsort(lengths[rows], kind="stable")]
        for first, end in cut_into_blocks(lengths[sorted_rows], device.type):
            yield sorted_rows[first:end], int(lengths[sorted_rows[end - 1]])
