"""Attention inside the blocks of a flat pass, by way of transformers' interface for attention functions."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lopt.backbones._blocks import Block, Layout, without_padding

NAME = "lopt_flat"
# Arguments of transformers' attention functions that change what is computed.
_SPECIAL = ("softcap", "sliding_window", "position_bias", "s_aux")


@cache
def register() -> None:
    """Makes the attention known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention inside the blocks of a layout, `[1, N, H_q, D]`; ValueError when the model asks for a special kind.

    query: `[1, H_q, N, D]`. key, value: `[1, H_kv, N, D]`.
    """
    special = [name for name in _SPECIAL if more.get(name) is not None]
    if special or dropout:
        raise ValueError(f"attention with {', '.join(special) or 'dropout'} has no flat form")
    if layout.kept is not None:
        layout.kept.append(torch.stack([key[0], value[0]]))
    scale = (query.shape[-1] ** -0.5 if scaling is None else scaling) * layout.scores
    run = _attended_by_kernels if layout.kernels else _attended
    return run(query[0], key[0], value[0], layout, module.layer_idx, scale)[None], None


def _attended_by_kernels(query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer: int, scale: float) -> Tensor:
    """PyTorch's own kernels, block by block: `[N, H_q, D]`."""
    done = []
    for number, block in enumerate(layout.blocks):
        queries = block.of(query)
        attended_RHTD = scaled_dot_product_attention(
            queries,
            block.with_past(key, 0, layer),
            block.with_past(value, 1, layer),
            attn_mask=layout.mask(number, queries),
            scale=scale,
            enable_gqa=len(query) != len(key),
        )
        done.append(without_padding(attended_RHTD.transpose(1, 2), block.real))
    return torch.cat(done)


def _attended(query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer: int, scale: float) -> Tensor:
    return BlockAttention.apply(query, key, value, layout, layer, scale)


class BlockAttention(torch.autograd.Function):
    """All blocks in one function with a backward pass of its own, for the CPU: the fused kernel there is slow backwards
    at these lengths, and autograd would fill a gradient with zeros for every block that is cut out.

    Scores and their softmax are computed in fp32 at least; the softmax is kept in the model's type.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer: int, scale: float
    ) -> Tensor:
        heads, tokens, dimension = query.shape
        made = query.new_empty(tokens, heads, dimension)
        wide = torch.promote_types(query.dtype, torch.float32)
        kept = []
        for number, block in enumerate(layout.blocks):
            queries = _grouped(block.of(query), len(key))
            keys, values = block.with_past(key, 0, layer), block.with_past(value, 1, layer)
            scores = torch.matmul(queries.to(wide), keys.to(wide).transpose(2, 3))
            by_head = scores.view(*scores.shape[:2], -1, block.tokens, scores.shape[3])
            torch.add(layout.mask(number, scores)[:, :, None], by_head, alpha=scale, out=by_head)
            weights = torch.softmax(scores, dim=3, dtype=wide).to(query.dtype)
            kept += [queries, weights]
            _write(made, block, torch.matmul(weights, values))
        ctx.save_for_backward(key, value, *kept)
        ctx.layout, ctx.layer, ctx.scale = layout, layer, scale
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        key, value, *kept = ctx.saved_tensors
        d_made = gradients[0]
        d_query, d_key, d_value = (
            key.new_empty(len(d_made), heads, d_made.shape[2]) for heads in (d_made.shape[1], len(key), len(value))
        )
        for block, queries, weights in zip(ctx.layout.blocks, kept[::2], kept[1::2], strict=True):
            d_out = _grouped(block.of(d_made.transpose(0, 1)), len(key))
            keys, values = block.with_past(key, 0, ctx.layer), block.with_past(value, 1, ctx.layer)
            d_weights = torch.matmul(d_out, values.transpose(2, 3))
            d_scores = torch._softmax_backward_data(d_weights, weights, 3, weights.dtype).mul_(ctx.scale)
            _write(d_query, block, torch.matmul(d_scores, keys))
            given = 0 if block.past is None else block.past.shape[4]  # of which nobody wants the gradient
            d_keys = torch.matmul(d_scores[..., given:].transpose(2, 3), queries)
            d_values = torch.matmul(weights[..., given:].transpose(2, 3), d_out)
            _write_with_past(d_key, block, d_keys)
            _write_with_past(d_value, block, d_values)
        return *(heads.transpose(0, 1) for heads in (d_query, d_key, d_value)), None, None, None


def _grouped(rows_RHTD: Tensor, groups: int) -> Tensor:
    """Heads that share keys side by side: `[R, G, H/G * T, D]`."""
    rows, _, _, dimension = rows_RHTD.shape
    return rows_RHTD.reshape(rows, groups, -1, dimension)


def _write(made_NHD: Tensor, block: Block, grouped_RGXD: Tensor) -> None:
    """Puts a block's rows into their place in the sequence."""
    _, heads, dimension = made_NHD.shape
    rows_RTHD = grouped_RGXD.reshape(block.rows, heads, block.tokens, dimension).transpose(1, 2)
    into = made_NHD[block.begin : block.end]
    if block.real is None:
        into.view(rows_RTHD.shape).copy_(rows_RTHD)
    else:
        into.copy_(without_padding(rows_RTHD, block.real))


def _write_with_past(made_NHD: Tensor, block: Block, gradient_RHSD: Tensor) -> None:
    """Puts the gradient of a block's own keys or values into their place; that of shared ones is added to theirs, which
    stand earlier in the sequence."""
    before = gradient_RHSD.shape[2] - block.tokens
    _write(made_NHD, block, gradient_RHSD[:, :, before:])
    shared = block.shared
    if shared is not None:
        assert block.owners_R is not None
        is_owner_KR = block.owners_R[None] == torch.arange(shared.rows, device=made_NHD.device)[:, None]
        of_rows_RX = gradient_RHSD[:, :, :before].transpose(1, 2).flatten(1)
        summed_KX = is_owner_KR.to(made_NHD.dtype) @ of_rows_RX
        made_NHD[shared.begin : shared.end] += summed_KX.view(-1, *made_NHD.shape[1:])
