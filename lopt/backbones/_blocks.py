"""Blocks: which tokens of a flat pass belong together in attention.

In a flat pass (`_flat`) the tokens of all rows are in one sequence without padding. A block is a group of
neighbouring rows of about the same length. Attention computes one block at a time and needs rows of equal length, so it
pads the rows of the block. No other part of the model sees padding.

Few blocks mean much padding in attention, and many blocks mean many small calls. `cut_into_blocks` finds the cheapest
cut between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

# One more block costs as much as this many tokens of padding in attention. These numbers are guessed, not measured.
_BLOCK_COST_TOKENS = {"cpu": 48, "cuda": 256}


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """A group of R rows that attention computes together, each padded to `padded_length` tokens.

    A token sees the earlier tokens of its own row. Before them, it sees either a row of another block in the same pass
    (`prefix_block`: soft prompts in front of texts), or keys and values that an earlier pass computed (`past_states`:
    texts in front of soft prompts), or nothing.

    Attributes:
        begin: index of the block's first token in the sequence.
        row_count: number of rows R.
        padded_length: length T to which attention pads the rows.
        lengths: number of real tokens of each row, `[R]`. None if all rows have `padded_length` tokens.
        real_indices: indices of the real tokens among the R·T places of the padded rows, `[sum of lengths]`. None if
            there is no padding.
        prefix_block: the block whose rows (soft prompts) precede this block's rows.
        prefix_of_row_R: for each row, the index of the row of `prefix_block` that precedes it.
        past_states: keys and values that precede the rows in each layer, `[L, 2, R, H_kv, S, D]`.
        past_lengths: how many of the S places are real, `[R]`.
        host_prefix_of_row, host_past_lengths: the same numbers as `prefix_of_row_R` and `past_lengths` in the CPU's
            memory, so that nothing waits for a GPU.
    """

    begin: int
    row_count: int
    padded_length: int
    lengths: np.ndarray | None = None
    real_indices: Tensor | None = None
    prefix_block: Block | None = None
    prefix_of_row_R: Tensor | None = None
    past_states: Tensor | None = None
    past_lengths: Tensor | None = None
    host_prefix_of_row: np.ndarray | None = None
    host_past_lengths: np.ndarray | None = None

    @property
    def row_lengths(self) -> np.ndarray:
        """Number of real tokens of each row, `[R]`."""
        return np.full(self.row_count, self.padded_length) if self.lengths is None else self.lengths

    @property
    def row_ends(self) -> np.ndarray:
        """For each row, the index one past its last token in the sequence, `[R]`."""
        return self.begin + np.cumsum(self.row_lengths)

    @property
    def prefix_numbers(self) -> np.ndarray:
        """For each row, the index of the row of `prefix_block` that precedes it, `[R]`."""
        assert self.prefix_of_row_R is not None
        return self.prefix_of_row_R.cpu().numpy() if self.host_prefix_of_row is None else self.host_prefix_of_row

    @property
    def past_token_counts(self) -> np.ndarray:
        """For each row, the number of tokens of the earlier pass that precede it, `[R]`."""
        assert self.past_lengths is not None
        return self.past_lengths.cpu().numpy() if self.host_past_lengths is None else self.host_past_lengths

    @property
    def end(self) -> int:
        """The index one past the block's last token in the sequence."""
        return self.begin + (self.row_count * self.padded_length if self.lengths is None else int(self.lengths.sum()))

    def padded_rows(self, sequence_HND: Tensor) -> Tensor:
        """Return the block's rows of the sequence's queries, keys or values, padded with zeros, `[R, H, T, D]`."""
        block_HXD = sequence_HND[:, self.begin : self.end]
        if self.real_indices is not None:
            head_count, _, head_width = block_HXD.shape
            padded_HXD = block_HXD.new_zeros(head_count, self.row_count * self.padded_length, head_width)
            block_HXD = padded_HXD.index_copy_(1, self.real_indices, block_HXD)
        return block_HXD.view(len(block_HXD), self.row_count, self.padded_length, -1).transpose(0, 1)

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
    flat_rows_FX = padded_RTX.flatten(0, 1)
    return flat_rows_FX if real_indices is None else flat_rows_FX[real_indices]


@dataclass(eq=False)
class Layout:
    """What attention needs of a flat pass, in addition to queries, keys and values.

    Attributes:
        blocks: the blocks of the pass, in the order of the sequence.
        recorded_states: if this is a list, attention appends the keys and values of each layer, `[2, H_kv, N, D]`.
        score_factor: multiplies all attention scores. A number other than 1 makes attention wrong on purpose, to test
            whether the comparison with the plain form notices a wrong attention.
        use_torch_kernels: whether PyTorch's own attention runs. If not, `BlockAttention` runs.
        use_varlen_kernel: whether one variable-length call computes all blocks (`_varlen`), in place of both.
        key_plan: what that call needs, made in the first layer.
    """

    blocks: Sequence[Block]
    recorded_states: list[Tensor] | None = None
    score_factor: float = 1.0
    use_torch_kernels: bool = False
    use_varlen_kernel: bool = False
    key_plan: Any = None
    _masks: dict[int, Tensor] = field(default_factory=dict)

    @property
    def block_pairs(self) -> Sequence[tuple[Block, Block]]:
        """For each block of keys and values, the block of the queries that see it, and itself. Here these are one."""
        return [(block, block) for block in self.blocks]

    def mask(self, block_number: int, like: Tensor) -> Tensor:
        """Return what is added to a block's attention scores: 0 for what a token sees and -inf for the rest,
        `[1 or R, 1, T, S+T]`. It has the type and device of `like`. All layers share one mask."""
        if block_number not in self._masks:
            self._masks[block_number] = self._make_mask(self.blocks[block_number], like)
        return self._masks[block_number]

    def _make_mask(self, block: Block, like: Tensor) -> Tensor:
        return _make_causal_mask(block, like)


def _make_causal_mask(block: Block, like: Tensor) -> Tensor:
    size = (block.padded_length, block.padded_length)
    causal_TT = torch.full(size, -torch.inf, dtype=like.dtype, device=like.device).triu(1)
    if block.past_states is None:
        prefix_token_count = block.prefix_block.padded_length if block.prefix_block is not None else 0
        return torch.nn.functional.pad(causal_TT, (prefix_token_count, 0))[None, None]
    assert block.past_lengths is not None
    past_token_count = block.past_states.shape[4]
    is_real_RS = torch.arange(past_token_count, device=like.device)[None] < block.past_lengths.to(like.device)[:, None]
    past_RS = torch.zeros(is_real_RS.shape, dtype=like.dtype, device=like.device).masked_fill(~is_real_RS, -torch.inf)
    past_RTS = past_RS[:, None].expand(-1, block.padded_length, -1)
    return torch.cat([past_RTS, causal_TT.expand(block.row_count, -1, -1)], dim=2)[:, None]


def cut_into_blocks(lengths: Sequence[int] | np.ndarray, device_type: str) -> list[tuple[int, int]]:
    """Cut rows into blocks so that the cost of padding and of the blocks together is lowest.

    Dynamic programming over the distinct lengths finds the best cut.

    Args:
        lengths: lengths of the rows, sorted from the shortest to the longest.

    Returns:
        For each block, the number of its first row and the number after its last row.
    """
    lengths = np.asarray(lengths)
    block_cost = _BLOCK_COST_TOKENS["cpu" if device_type == "cpu" else "cuda"]
    # Rows of equal length form a group, and always share a block.
    group_ends = np.flatnonzero(np.diff(lengths, append=lengths[-1] + 1)) + 1
    group_begins = np.concatenate([[0], group_ends[:-1]])
    lowest_costs = np.zeros(len(group_ends) + 1)  # entry i is the lowest cost of the first i groups
    best_begin_numbers = []  # entry i is the number of the first group in the block that ends with group i
    for end_number, end in enumerate(group_ends):
        costs = lowest_costs[: end_number + 1] + (end - group_begins[: end_number + 1]) * lengths[end - 1] + block_cost
        best_begin_numbers.append(int(costs.argmin()))
        lowest_costs[end_number + 1] = costs[best_begin_numbers[-1]]
    blocks, end_number = [], len(group_ends)
    while end_number:
        begin_number = best_begin_numbers[end_number - 1]
        blocks.append((int(group_begins[begin_number]), int(group_ends[end_number - 1])))
        end_number = begin_number
    return blocks[::-1]
