"""Blocks: which tokens of a flat pass belong together in attention.

In a flat pass (`_flat`) the tokens of all rows are in one sequence without padding. A block is a group of
neighbouring rows of about the same length. Attention computes one block at a time and needs rows of equal length, so
the rows of a block are padded for the time of one call of attention. Nothing else sees padding.

Few blocks mean much padding in attention, and many blocks mean many small calls. `cut_into_blocks` weighs the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# One more block costs as much as this many tokens of padding in attention. These numbers are guessed, not measured.
_BLOCK_COST_TOKENS = {"cpu": 48, "cuda": 256}


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """A group of R rows that attention computes together, each padded to `tokens` tokens.

    A token sees the earlier tokens of its own row. Before them, it sees either a row of another block in the same pass
    (`prefix_block`: soft prompts in front of texts), or keys and values that an earlier pass computed (`past_states`:
    texts in front of soft prompts), or nothing.

    Attributes:
        begin: index of the block's first token in the sequence.
        rows: number of rows R.
        tokens: length T to which attention pads the rows.
        lengths: number of real tokens of each row, `[R]`. None if all rows have `tokens` tokens.
        real_indices: indices of the real tokens among the R·T places of the padded rows, `[sum of lengths]`. None if
            there is no padding.
        prefix_block: the block whose rows precede this block's rows.
        prefix_of_row_R: for each row, the index of the row of `prefix_block` that precedes it.
        past_states: keys and values that precede the rows in each layer, `[L, 2, R, H_kv, S, D]`.
        past_lengths: how many of the S places are real, `[R]`.
    """

    begin: int
    rows: int
    tokens: int
    lengths: np.ndarray | None = None
    real_indices: Tensor | None = None
    prefix_block: Block | None = None
    prefix_of_row_R: Tensor | None = None
    past_states: Tensor | None = None
    past_lengths: Tensor | None = None

    @property
    def row_ends(self) -> np.ndarray:
        """For each row, the index one past its last token in the sequence, `[R]`."""
        lengths = np.full(self.rows, self.tokens) if self.lengths is None else self.lengths
        return self.begin + np.cumsum(lengths)

    @property
    def end(self) -> int:
        """The index one past the block's last token in the sequence."""
        return self.begin + (self.rows * self.tokens if self.lengths is None else int(self.lengths.sum()))

    def padded_rows(self, sequence_HND: Tensor) -> Tensor:
        """Return the block's rows of the sequence's queries, keys or values, padded with zeros, `[R, H, T, D]`."""
        block_HXD = sequence_HND[:, self.begin : self.end]
        if self.real_indices is not None:
            heads, _, dimension = block_HXD.shape
            padded_HXD = block_HXD.new_zeros(heads, self.rows * self.tokens, dimension)
            block_HXD = padded_HXD.index_copy_(1, self.real_indices, block_HXD)
        return block_HXD.view(len(block_HXD), self.rows, self.tokens, -1).transpose(0, 1)

    def visible_rows(self, sequence_HND: Tensor, key_or_value: int, layer: int) -> Tensor:
        """Return the keys (`key_or_value` 0) or values (1) that the block's rows see, `[R, H, S+T, D]`."""
        rows_RHTD = self.padded_rows(sequence_HND)
        if self.prefix_block is not None:
            return torch.cat([self.prefix_block.padded_rows(sequence_HND)[self.prefix_of_row_R], rows_RHTD], dim=2)
        if self.past_states is not None:
            return torch.cat([self.past_states[layer, key_or_value], rows_RHTD], dim=2)
        return rows_RHTD


def drop_padding(padded_RTX: Tensor, real_indices: Tensor | None) -> Tensor:
    """Lay padded rows end to end and drop the padding, `[sum of lengths, ...]`."""
    flat = padded_RTX.flatten(0, 1)
    return flat if real_indices is None else flat[real_indices]


@dataclass(eq=False)
class Layout:
    """What attention needs of a flat pass, in addition to queries, keys and values.

    Attributes:
        blocks: the blocks of the pass, in the order of the sequence.
        recorded_states: if this is a list, attention appends the keys and values of each layer, `[2, H_kv, N, D]`.
        score_factor: multiplies all attention scores. A number other than 1 makes attention wrong on purpose, to test
            that the comparison with the plain form would notice a wrong attention.
        use_torch_kernels: whether PyTorch's own attention runs. If not, `BlockAttention` runs.
    """

    blocks: Sequence[Block]
    recorded_states: list[Tensor] | None = None
    score_factor: float = 1.0
    use_torch_kernels: bool = False
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, block_number: int, like: Tensor) -> Tensor:
        """Return what is added to a block's attention scores: 0 for what a token sees and -inf for the rest,
        `[1 or R, 1, T, S+T]`. It has the type and device of `like`. All layers share one mask."""
        if block_number not in self._masks:
            self._masks[block_number] = _mask(self.blocks[block_number], like)
        return self._masks[block_number]


def _mask(block: Block, like: Tensor) -> Tensor:
    causal_TT = torch.full((block.tokens, block.tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)
    if block.past_states is None:
        prefix_token_count = block.prefix_block.tokens if block.prefix_block is not None else 0
        return torch.nn.functional.pad(causal_TT, (prefix_token_count, 0))[None, None]
    assert block.past_lengths is not None
    past_token_count = block.past_states.shape[4]
    is_real_RS = torch.arange(past_token_count, device=like.device)[None] < block.past_lengths.to(like.device)[:, None]
    past_RS = torch.zeros(is_real_RS.shape, dtype=like.dtype, device=like.device).masked_fill(~is_real_RS, -torch.inf)
    past_RTS = past_RS[:, None].expand(-1, block.tokens, -1)
    return torch.cat([past_RTS, causal_TT.expand(block.rows, -1, -1)], dim=2)[:, None]


def cut_into_blocks(lengths: Sequence[int] | np.ndarray, device: str) -> list[tuple[int, int]]:
    """Cut rows into blocks so that the cost of padding and of the blocks together is lowest.

    Dynamic programming over the distinct lengths finds the best cut.

    Args:
        lengths: lengths of the rows, sorted from the shortest to the longest.

    Returns:
        For each block, the number of its first row and the number after its last row.
    """
    lengths = np.asarray(lengths)
    block_cost = _BLOCK_COST_TOKENS["cpu" if device == "cpu" else "cuda"]
    ends = np.flatnonzero(np.diff(lengths, append=lengths[-1] + 1)) + 1  # rows of equal length share a block
    begins = np.concatenate([[0], ends[:-1]])
    lowest_costs = np.zeros(len(ends) + 1)  # of the rows up to each end
    best_begins = []  # for the rows up to each end, where their last block begins: an index in `begins`
    for number, end in enumerate(ends):
        costs = lowest_costs[: number + 1] + (end - begins[: number + 1]) * lengths[end - 1] + block_cost
        best_begins.append(int(costs.argmin()))
        lowest_costs[number + 1] = costs[best_begins[-1]]
    blocks, number = [], len(ends)
    while number:
        begin_number = best_begins[number - 1]
        blocks.append((int(begins[begin_number]), int(ends[number - 1])))
        number = begin_number
    return blocks[::-1]
