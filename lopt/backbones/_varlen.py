"""Attention of a flat pass in one variable-length FlashAttention call a layer, for bf16 on a GPU.

`_attention` computes one block after the other, and every block costs some forty small operations a layer. Here all
rows go into one call, whatever their lengths, without mask or padding. Its keys and values are those that each row
sees: its prefix or the kept states of its text, and its own. A `KeyPlan` says where they come from. It is made once a
pass on the CPU, and all layers share it.

The kernel adds the gradients of queries with atomic operations, so their last bits may differ from run to run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.backbones._blocks import Block, Layout
from lopt.device import to_device

_LARGEST_HEAD_WIDTH, _HEAD_WIDTH_UNIT = 256, 8  # of FlashAttention


def has_varlen_kernel(dtype: torch.dtype, head_width: int, device_type: str) -> bool:
    """Return whether PyTorch has a variable-length kernel for this kind of attention. It is checked again by running
    it when a model is loaded (`_flat_check`)."""
    is_supported_width = head_width <= _LARGEST_HEAD_WIDTH and head_width % _HEAD_WIDTH_UNIT == 0
    return device_type == "cuda" and dtype in (torch.bfloat16, torch.float16) and is_supported_width


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, plan: Any, scale: float) -> Tensor:
    """Return causal attention `[N, H_q, D]` of queries `[N, H_q, D]` to keys and values `[N_k, H_kv, D]`, row by row.

    The last query of a row sees all keys of its row, and each query before it one key less.
    """
    from torch.nn.attention.varlen import varlen_attn

    attended: Any = varlen_attn(
        query, key, value, plan.query_ends, plan.key_ends, plan.longest_query, plan.longest_key,
        scale=scale, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return attended  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _SharedPrefixes:
    """Prefixes of one length, which several rows see.

    Attributes:
        begin, end: their place in the sequence.
        key_places: where the rows have them among the keys, `[R·P]`.
        is_prefix_of_row_KR: 1 where a row sees a prefix, else 0.
    """

    begin: int
    end: int
    key_places: Tensor
    is_prefix_of_row_KR: Tensor


@dataclass(frozen=True, eq=False)
class KeyPlan:
    """Which keys the rows of a pass see.

    Attributes:
        query_ends, key_ends: where the queries and keys of each row end; both begin with 0. `[R+1]`, int32.
        longest_query, longest_key: the largest number of queries and of keys of a row.
        source: for each key, the token of the sequence that it belongs to. 0 for a key of an earlier pass. `[N_k]`
        token_places: for each token of the sequence, its place among the keys, `[N]`.
        prefixes: the tokens that several rows see.
        past_places: the places of the keys of earlier passes. None if there are none.
        past_source: for these, the index among the states of all blocks laid end to end.
    """

    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int
    source: Tensor
    token_places: Tensor
    prefixes: list[_SharedPrefixes]
    past_places: Tensor | None
    past_source: Tensor | None


def _ragged_ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return begins[0], begins[0]+1, …, lengths[0] numbers, then the same for the next row, and so on."""
    row_offsets = np.cumsum(lengths) - lengths
    return np.repeat(begins - row_offsets, lengths) + np.arange(lengths.sum())


def make_plan(layout: Layout, like: Tensor) -> KeyPlan:
    """Return the plan of a pass. Its tensors are on the device of `like`."""
    blocks, device = layout.blocks, like.device
    lengths = np.concatenate([block.row_lengths for block in blocks])
    lengths_before = np.concatenate([_lengths_before(block) for block in blocks])
    key_lengths = lengths_before + lengths
    key_begins = np.cumsum(key_lengths) - key_lengths
    token_places = _ragged_ranges(key_begins + lengths_before, lengths)
    source = np.zeros(key_lengths.sum(), dtype=np.int64)
    source[token_places] = np.arange(len(token_places))
    places_by_prefix_block: dict[int, list[tuple[Block, np.ndarray, np.ndarray]]] = {}
    past_places, past_source, past_offset, first_row = [], [], 0, 0
    for block in blocks:
        block_begins = key_begins[first_row : first_row + block.row_count]
        first_row += block.row_count
        if block.prefix_block is not None:
            prefix_block, prefix_numbers = block.prefix_block, block.prefix_numbers
            positions = np.arange(prefix_block.padded_length)
            places_RP = block_begins[:, None] + positions
            source[places_RP] = prefix_block.begin + prefix_numbers[:, None] * len(positions) + positions
            places_by_prefix_block.setdefault(prefix_block.begin, []).append((prefix_block, places_RP, prefix_numbers))
        elif block.past_states is not None:
            past_lengths, padded_length = block.past_token_counts, block.past_states.shape[4]
            past_places.append(_ragged_ranges(block_begins, past_lengths))
            past_source.append(_ragged_ranges(past_offset + padded_length * np.arange(block.row_count), past_lengths))
            past_offset += block.row_count * padded_length
    prefixes = []
    for parts in places_by_prefix_block.values():
        prefix_block, numbers_R = parts[0][0], np.concatenate([numbers for _, _, numbers in parts])
        is_prefix_of_row_KR = np.arange(prefix_block.row_count)[:, None] == numbers_R
        places = np.concatenate([places_RP.ravel() for _, places_RP, _ in parts])
        matrix = to_device(is_prefix_of_row_KR.astype(np.float32), device).to(like.dtype)
        prefixes.append(_SharedPrefixes(prefix_block.begin, prefix_block.end, to_device(places, device), matrix))

    def ends(row_lengths: np.ndarray) -> Tensor:
        return to_device(np.concatenate([[0], np.cumsum(row_lengths)]).astype(np.int32), device)

    return KeyPlan(
        query_ends=ends(lengths),
        key_ends=ends(key_lengths),
        longest_query=int(lengths.max()),
        longest_key=int(key_lengths.max()),
        source=to_device(source, device),
        token_places=to_device(token_places, device),
        prefixes=prefixes,
        past_places=to_device(np.concatenate(past_places), device) if past_places else None,
        past_source=to_device(np.concatenate(past_source), device) if past_source else None,
    )


def _lengths_before(block: Block) -> np.ndarray:
    """Return how many keys each row of a block sees before its own, `[R]`."""
    if block.prefix_block is not None:
        return np.full(block.row_count, block.prefix_block.padded_length)
    return block.past_token_counts if block.past_states is not None else np.zeros(block.row_count, dtype=np.int64)


def attend_with_varlen_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer_index: int, scale: float
) -> Tensor:
    """Return attention `[N, H_q, D]`. Queries are `[H_q, N, D]`, keys and values `[H_kv, N, D]`."""
    if layout.key_plan is None:
        layout.key_plan = make_plan(layout, query)
    plan: KeyPlan = layout.key_plan

    def visible(states_HND: Tensor, key_or_value: int) -> Any:
        states_NHD = states_HND.transpose(0, 1)
        if not plan.prefixes and plan.past_places is None:  # every row sees its own tokens only
            return states_NHD
        past_states_XHD = _past_states(layout, key_or_value, layer_index) if plan.past_places is not None else None
        return VisibleStates.apply(states_NHD, past_states_XHD, plan)

    return varlen_attention(query.transpose(0, 1), visible(key, 0), visible(value, 1), plan, scale)


def _past_states(layout: Layout, key_or_value: int, layer_index: int) -> Tensor:
    """Return the kept keys or values of all blocks laid end to end with their padding, `[X, H_kv, D]`."""
    parts = [
        block.past_states[layer_index, key_or_value].transpose(1, 2).flatten(0, 1)
        for block in layout.blocks if block.past_states is not None
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class VisibleStates(torch.autograd.Function):
    """The keys or values that the rows see, `[N_k, H_kv, D]`, from those of the sequence, `[N, H_kv, D]`.

    The gradients of a prefix's rows are added by one small product, which gives the same bits every time.
    """

    @staticmethod
    def forward(ctx: Any, states_NHD: Tensor, past_states_XHD: Tensor | None, plan: KeyPlan) -> Tensor:
        ctx.plan = plan
        visible = states_NHD.index_select(0, plan.source)
        if past_states_XHD is not None:
            assert plan.past_places is not None and plan.past_source is not None
            visible.index_copy_(0, plan.past_places, past_states_XHD.index_select(0, plan.past_source))
        return visible

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        plan, gradient = ctx.plan, gradients[0]
        d_states = gradient.index_select(0, plan.token_places)
        for prefix in plan.prefixes:
            row_count = prefix.is_prefix_of_row_KR.shape[1]
            gradient_by_row_RX = gradient.index_select(0, prefix.key_places).view(row_count, -1)
            prefix_gradients = prefix.is_prefix_of_row_KR @ gradient_by_row_RX
            d_states[prefix.begin : prefix.end].add_(prefix_gradients.view(-1, *gradient.shape[1:]))
        return d_states, None, None
