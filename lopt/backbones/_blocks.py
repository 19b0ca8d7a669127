"""What a pass in one line is made of: blocks of rows. There is padding inside a block's attention only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# What one more block costs in every layer, as so many tokens of padding in attention: guessed, not measured.
_BLOCK_TOKENS = {"cpu": 48, "cuda": 256}


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Rows that meet in attention as if all were `tokens` long; in the sequence, from `begin` on, each has its real
    tokens only.

    A token sees those before it in its own row and, before these, what `owners` or `past` says: the keys and values of
    another block's rows (`shared`, the row of it that each row has), or given ones.

    lengths: real tokens of each row, `[R]`; None where all rows are `tokens` long. real: where these stand in the rows
    laid end to end with their padding, `[sum of lengths]`.
    past: keys and values of each layer, `[L, 2, R, H_kv, S, D]`. past_lengths: how many of the S are real, `[R]`.
    """

    begin: int
    rows: int
    tokens: int
    lengths: np.ndarray | None = None
    real: Tensor | None = None
    shared: Block | None = None
    owners_R: Tensor | None = None
    past: Tensor | None = None
    past_lengths: Tensor | None = None

    @property
    def ends(self) -> np.ndarray:
        """Beyond each row's last token in the sequence, `[R]`."""
        lengths = np.full(self.rows, self.tokens) if self.lengths is None else self.lengths
        return self.begin + np.cumsum(lengths)

    @property
    def end(self) -> int:
        return self.begin + (self.rows * self.tokens if self.lengths is None else int(self.lengths.sum()))

    def of(self, heads_HND: Tensor) -> Tensor:
        """The block's rows of something of the whole sequence, zero where they are padded: `[R, H, T, D]`."""
        own_HXD = heads_HND[:, self.begin : self.end]
        if self.real is not None:
            heads, _, dimension = own_HXD.shape
            padded_HXD = own_HXD.new_zeros(heads, self.rows * self.tokens, dimension)
            own_HXD = padded_HXD.index_copy_(1, self.real, own_HXD)
        return own_HXD.view(len(own_HXD), self.rows, self.tokens, -1).transpose(0, 1)

    def with_past(self, heads_HND: Tensor, which: int, layer: int) -> Tensor:
        """Keys (`which` 0) or values (1) that the block's rows see, `[R, H, S+T, D]`."""
        own_RHTD = self.of(heads_HND)
        if self.shared is not None:
            return torch.cat([self.shared.of(heads_HND)[self.owners_R], own_RHTD], dim=2)
        return own_RHTD if self.past is None else torch.cat([self.past[layer, which], own_RHTD], dim=2)


def without_padding(padded_RTX: Tensor, real: Tensor | None) -> Tensor:
    """Rows laid end to end, `[sum of lengths, ...]`."""
    flat = padded_RTX.flatten(0, 1)
    return flat if real is None else flat[real]


@dataclass(eq=False)
class Layout:
    """The blocks of a pass, in their order; `kept` takes keys and values `[2, H_kv, N, D]` of each layer when it is a
    list; `scores` is what the scores of attention are multiplied by; with `kernels` PyTorch's own compute it."""

    blocks: Sequence[Block]
    kept: list[Tensor] | None = None
    scores: float = 1.0
    kernels: bool = False
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, number: int, like: Tensor) -> Tensor:
        """What the block's tokens may see, to be added to scores: `[1 or R, 1, T, S+T]`; made once for all layers."""
        if number not in self._masks:
            self._masks[number] = _mask(self.blocks[number], like)
        return self._masks[number]


def _mask(block: Block, like: Tensor) -> Tensor:
    own_TT = torch.full((block.tokens, block.tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)
    before = block.shared.tokens if block.shared is not None else 0
    if block.past is None:
        return torch.nn.functional.pad(own_TT, (before, 0))[None, None]
    assert block.past_lengths is not None
    size = block.past.shape[4]
    real_RS = torch.arange(size, device=like.device)[None] < block.past_lengths.to(like.device)[:, None]
    past_RS = torch.zeros(real_RS.shape, dtype=like.dtype, device=like.device).masked_fill(~real_RS, -torch.inf)
    past_RTS = past_RS[:, None].expand(-1, block.tokens, -1)
    return torch.cat([past_RTS, own_TT.expand(block.rows, -1, -1)], dim=2)[:, None]


def cut(lengths: Sequence[int] | np.ndarray, device: str) -> list[tuple[int, int]]:
    """Cuts rows, sorted by length from the shortest, into blocks: (first row, first row beyond), as few and with as
    little padding in attention as the price of a block allows. The best cut, by dynamic programming over the distinct
    lengths."""
    lengths = np.asarray(lengths)
    price = _BLOCK_TOKENS["cpu" if device == "cpu" else "cuda"]
    ends = np.flatnonzero(np.diff(lengths, append=lengths[-1] + 1)) + 1  # a block ends where a length does
    begins = np.concatenate([[0], ends[:-1]])
    best, chosen = np.zeros(len(ends) + 1), []
    for number, end in enumerate(ends):
        costs = best[: number + 1] + (end - begins[: number + 1]) * lengths[end - 1] + price
        chosen.append(int(costs.argmin()))
        best[number + 1] = costs[chosen[-1]]
    found, number = [], len(ends)
    while number:
        first = chosen[number - 1]
        found.append((int(begins[first]), int(ends[number - 1])))
        number = first
    return found[::-1]
