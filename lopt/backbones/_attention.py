"""Attention of a flat pass, computed block by block. A token sees only tokens of its own row.

transformers lets a program register an attention function under a name. Here this is `attend_in_blocks`. Every layer of
the model calls it with queries, keys and values of the whole sequence, and with the pass's `Layout` (`_blocks`). For
each block of rows the function cuts the rows out of the sequence, pads them, computes attention, and writes the results
of the real tokens back to their places in the sequence.
"""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lopt.backbones._blocks import Block, Layout, drop_padding
from lopt.backbones._varlen import attend_with_varlen_kernel

ATTENTION_NAME = "lopt_flat"
# Arguments of transformers' attention functions that change the result and that the flat form does not support.
_UNSUPPORTED_ARGUMENTS = ("softcap", "sliding_window", "position_bias", "s_aux")


@cache
def register() -> None:
    """Register `attend_in_blocks` with transformers, under `ATTENTION_NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attend_in_blocks)


def attend_in_blocks(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention inside the rows of a layout's blocks, `[1, N, H_q, D]`, and None for the attention weights.

    Args:
        module: the model's attention module.
        query: `[1, H_q, N, D]`.
        key, value: `[1, H_kv, N, D]`.
        attention_mask: not used, because the layout says what a token sees.

    Raises:
        ValueError: the model asks for a kind of attention that has no flat form.
    """
    unsupported = [name for name in _UNSUPPORTED_ARGUMENTS if options.get(name) is not None]
    if unsupported or dropout:
        raise ValueError(f"attention with {', '.join(unsupported) or 'dropout'} has no flat form")
    if layout.recorded_states is not None:
        layout.recorded_states.append(torch.stack([key.squeeze(0), value.squeeze(0)]))
    scale = (query.shape[-1] ** -0.5 if scaling is None else scaling) * layout.score_factor
    # Unlike an index, squeeze has a backward pass that copies nothing.
    return attend(query.squeeze(0), key.squeeze(0), value.squeeze(0), layout, module.layer_idx, scale)[None], None


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer_index: int, scale: float) -> Tensor:
    """Return attention `[N, H_q, D]` of queries `[H_q, N, D]` and keys and values `[H_kv, N, D]`."""
    if layout.use_varlen_kernel:
        return attend_with_varlen_kernel(query, key, value, layout, layer_index, scale)
    attend_blocks = _attend_with_torch_kernels if layout.use_torch_kernels else _attend_on_cpu
    return attend_blocks(query, key, value, layout, layer_index, scale)


def _attend_with_torch_kernels(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer_index: int, scale: float
) -> Tensor:
    """Return attention `[N, H_q, D]` from PyTorch's kernels. Queries are `[H_q, N, D]`, keys and values
    `[H_kv, N, D]`."""
    block_outputs = []
    for block_number, (query_block, block) in enumerate(layout.block_pairs):
        queries_RHTD = query_block.padded_rows(query)
        attended_RHTD = scaled_dot_product_attention(
            queries_RHTD,
            block.visible_rows(key, 0, layer_index),
            block.visible_rows(value, 1, layer_index),
            attn_mask=layout.mask(block_number, queries_RHTD),
            scale=scale,
            enable_gqa=len(query) != len(key),
        )
        block_outputs.append(drop_padding(attended_RHTD.transpose(1, 2), query_block.real_indices))
    return torch.cat(block_outputs)


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer_index: int, scale: float) -> Tensor:
    return BlockAttention.apply(query, key, value, layout, layer_index, scale)


class BlockAttention(torch.autograd.Function):
    """Attention of all blocks as one function with its own backward pass, for the CPU.

    It replaces two slow things. At the lengths of these rows, PyTorch's fused kernel for the CPU has a slow backward
    pass. And for every block, autograd would make a gradient of the whole sequence, of which most is zero.

    Scores and their softmax are computed in fp32 or wider. The softmax is saved for `backward` in the model's type.
    The gradient of a tensor x is called `d_x`.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer_index: int, scale: float
    ) -> Tensor:
        """Return attention `[N, H_q, D]` of queries `[H_q, N, D]` and keys and values `[H_kv, N, D]`."""
        head_count, token_count, head_width = query.shape
        output = query.new_empty(token_count, head_count, head_width)
        score_dtype = torch.promote_types(query.dtype, torch.float32)
        saved_tensors = []
        for block_number, (query_block, block) in enumerate(layout.block_pairs):
            queries = _group_heads(query_block.padded_rows(query), len(key))
            keys, values = block.visible_rows(key, 0, layer_index), block.visible_rows(value, 1, layer_index)
            scores = torch.matmul(queries.to(score_dtype), keys.to(score_dtype).transpose(2, 3))
            scores_by_head = scores.view(*scores.shape[:2], -1, query_block.padded_length, scores.shape[3])
            torch.add(layout.mask(block_number, scores)[:, :, None], scores_by_head, alpha=scale, out=scores_by_head)
            attention_weights = torch.softmax(scores, dim=3, dtype=score_dtype).to(query.dtype)
            saved_tensors += [queries, attention_weights]
            _write_block(output, query_block, torch.matmul(attention_weights, values))
        ctx.save_for_backward(key, value, *saved_tensors)
        ctx.layout, ctx.layer_index, ctx.scale = layout, layer_index, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of queries, keys and values."""
        key, value, *saved_tensors = ctx.saved_tensors
        d_output = gradients[0]
        d_query = torch.empty_like(d_output, memory_format=torch.contiguous_format)
        d_key, d_value = (key.new_empty(key.shape[1], len(key), key.shape[2]) for _ in range(2))
        saved_by_block = zip(ctx.layout.block_pairs, saved_tensors[::2], saved_tensors[1::2], strict=True)
        for (query_block, block), queries, attention_weights in saved_by_block:
            d_rows = _group_heads(query_block.padded_rows(d_output.transpose(0, 1)), len(key))
            keys, values = block.visible_rows(key, 0, ctx.layer_index), block.visible_rows(value, 1, ctx.layer_index)
            d_attention_weights = torch.matmul(d_rows, values.transpose(2, 3))
            d_scores = torch._softmax_backward_data(d_attention_weights, attention_weights, 3, attention_weights.dtype)
            d_scores.mul_(ctx.scale)
            _write_block(d_query, query_block, torch.matmul(d_scores, keys))
            # Past states need no gradient.
            past_token_count = 0 if block.past_states is None else block.past_states.shape[4]
            d_keys = torch.matmul(d_scores[..., past_token_count:].transpose(2, 3), queries)
            d_values = torch.matmul(attention_weights[..., past_token_count:].transpose(2, 3), d_rows)
            _write_with_prefix_gradients(d_key, block, d_keys)
            _write_with_prefix_gradients(d_value, block, d_values)
        return *(gradient_NHD.transpose(0, 1) for gradient_NHD in (d_query, d_key, d_value)), None, None, None


def _group_heads(rows_RHTD: Tensor, group_count: int) -> Tensor:
    """Lay query heads that share a key head end to end. Return `[R, H_kv, H_q/H_kv * T, D]`, with one group of query
    heads for each of the `group_count` = H_kv key heads."""
    row_count, _, _, head_width = rows_RHTD.shape
    return rows_RHTD.reshape(row_count, group_count, -1, head_width)


def _write_block(sequence_NHD: Tensor, block: Block, grouped_RGXD: Tensor) -> None:
    """Write a block's rows to their place in the sequence. Their heads may be grouped as by `_group_heads`."""
    _, head_count, head_width = sequence_NHD.shape
    rows_RTHD = grouped_RGXD.reshape(block.row_count, head_count, block.padded_length, head_width).transpose(1, 2)
    block_XHD = sequence_NHD[block.begin : block.end]
    if block.real_indices is None:
        block_XHD.view(rows_RTHD.shape).copy_(rows_RTHD)
    else:
        block_XHD.copy_(drop_padding(rows_RTHD, block.real_indices))


def _write_with_prefix_gradients(sequence_NHD: Tensor, block: Block, gradient_RHSD: Tensor) -> None:
    """Write the gradient of a block's keys or values to the block's place in the sequence.

    If the rows see prefixes, the first of the S positions belong to the prefixes. That part of the gradient is summed
    over the rows that share a prefix, and added at the prefix's place in the sequence. The prefixes come earlier in the
    sequence, so the gradient from their own rows is already at that place.
    """
    prefix_token_count = gradient_RHSD.shape[2] - block.padded_length
    _write_block(sequence_NHD, block, gradient_RHSD[:, :, prefix_token_count:])
    prefix_block = block.prefix_block
    if prefix_block is not None:
        assert block.prefix_of_row_R is not None
        prefix_numbers_K1 = torch.arange(prefix_block.row_count, device=sequence_NHD.device)[:, None]
        is_prefix_of_row_KR = block.prefix_of_row_R[None] == prefix_numbers_K1
        gradient_by_row_RX = gradient_RHSD[:, :, :prefix_token_count].transpose(1, 2).flatten(1)
        prefix_gradients_KX = is_prefix_of_row_KR.to(sequence_NHD.dtype) @ gradient_by_row_RX
        prefix_gradients_NHD = prefix_gradients_KX.view(-1, *sequence_NHD.shape[1:])
        sequence_NHD[prefix_block.begin : prefix_block.end].add_(prefix_gradients_NHD)


class AttentionSwitch:
    """A context in which a model uses another attention function, as long as any thread is in it.

    Args:
        configs: the configurations that its attention modules read the name of the function from.
        name: the name under which transformers knows the function.
    """

    def __init__(self, configs: Sequence[Any], name: str) -> None:
        self._configs, self._name = configs, name
        self._usual_names: list[str] = []
        self._running_pass_count, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._running_pass_count:
                self._usual_names = [config._attn_implementation for config in self._configs]
                for config in self._configs:
                    config._attn_implementation = self._name
            self._running_pass_count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running_pass_count -= 1
            if not self._running_pass_count:
                for config, usual_name in zip(self._configs, self._usual_names, strict=True):
                    config._attn_implementation = usual_name
