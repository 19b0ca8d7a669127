"""The flat form of a T5-style pass: prompts and texts of all rows are in one sequence, without padding.

As in `_flat`, only attention depends on the row of a token. The encoder's attention adds a bias that depends on the
distance of two tokens, so every block has that bias as its mask. The decoder has two tokens for each row; they see the
encoder's tokens of their row. A prompt is in the sequence once for each row, because the encoder's prompt sees the
text. `_flat_check` compares this form with the plain one when a model is loaded.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.backbones._attention import AttentionSwitch, attend
from lopt.backbones._blocks import Block, Layout
from lopt.backbones._flat_input import FlatInput, cut_rows
from lopt.device import to_device
from lopt.soft_prompt import PackedPrompts, SoftPrompt

_ATTENTION_NAME = "lopt_flat_encoder"
_current_pass = threading.local()  # each thread has its own, because passes may run at the same time


@dataclass(eq=False)
class EncoderLayout(Layout):
    """The layout of the encoder's own attention: a token sees all tokens of its row.

    Attributes:
        position_bias: what is added to the scores of rows of T tokens, `[1, H_q, T, T]`, T at least that of any block.
    """

    position_bias: Tensor | None = None

    def use_bias(self, position_bias: Tensor) -> None:
        """Take the bias of a layer. In T5 all layers have the same."""
        if position_bias is not self.position_bias:
            self.position_bias = position_bias
            self._masks.clear()

    def _make_mask(self, block: Block, like: Tensor) -> Tensor:
        assert self.position_bias is not None
        tokens = block.padded_length
        bias_1HTT = self.position_bias[:, :, :tokens, :tokens].to(like.dtype)
        return bias_1HTT if block.lengths is None else bias_1HTT + _padding_mask(block, like)


@dataclass(eq=False)
class CrossLayout(Layout):
    """The layout of the decoder's attention to the encoder's tokens: the decoder's tokens of a row see its tokens."""

    @property
    def block_pairs(self) -> Sequence[tuple[Block, Block]]:
        pairs, begin = [], 0
        for block in self.blocks:
            query_block = Block(begin=begin, row_count=block.row_count, padded_length=_DECODER_TOKENS)
            pairs.append((query_block, block))
            begin = query_block.end
        return pairs

    def _make_mask(self, block: Block, like: Tensor) -> Tensor:
        if block.lengths is None:
            return torch.zeros(1, 1, 1, 1, dtype=like.dtype, device=like.device)
        return _padding_mask(block, like)


_DECODER_TOKENS = 2


def _padding_mask(block: Block, like: Tensor) -> Tensor:
    """Return 0 for real tokens and -inf for padding, `[R, 1, 1, T]`."""
    assert block.lengths is not None
    is_padding_RT = np.arange(block.padded_length) >= block.lengths[:, None]
    mask_RT = to_device(np.where(is_padding_RT, -np.inf, 0.0).astype(np.float32), like.device)
    return mask_RT.to(like.dtype)[:, None, None]


class FlatEncoderForm:
    """Runs passes of a frozen encoder-decoder in the flat form.

    Args:
        decoder_ids: the ids of the decoder's two tokens.
    """

    def __init__(self, model: Any, decoder_ids: Sequence[int]) -> None:
        assert len(decoder_ids) == _DECODER_TOKENS
        self.model, self._decoder_ids = model, list(decoder_ids)
        weight_VH = model.get_input_embeddings().weight
        self.device, self.dtype = weight_VH.device, weight_VH.dtype
        self.use_torch_kernels = self.device.type != "cpu"
        configs = {id(part.config): part.config for part in (model.get_encoder(), model.get_decoder())}
        self._flat_attention = AttentionSwitch(list(configs.values()), _ATTENTION_NAME)
        _register()
        _limit_bias(model.get_encoder().modules())

    def label_state(
        self,
        soft_prompt: SoftPrompt | PackedPrompts | None,
        ids_BT: Tensor,
        lengths_B: Tensor,
        *,
        score_factor: float = 1.0,
    ) -> Tensor:
        """Return the decoder's last hidden state at its second token, `[B, H]`.

        Args:
            score_factor: multiplies all attention scores. Any number except 1 gives wrong results on purpose.
        """
        ids, lengths = ids_BT.cpu().numpy(), lengths_B.cpu().numpy()
        flat_input = FlatInput(self.device, ids, lengths)
        sequence_rows = self._append_rows(flat_input, soft_prompt)
        options = {"score_factor": score_factor, "use_torch_kernels": self.use_torch_kernels}
        with self._flat_attention, _bias_for(max(block.padded_length for block in flat_input.blocks)):
            encoded_1NH = self.model.get_encoder()(
                inputs_embeds=torch.cat(flat_input.embeddings)[None], layout=EncoderLayout(flat_input.blocks, **options)
            ).last_hidden_state
            decoded_B2H = self.model.get_decoder()(
                input_ids=to_device([self._decoder_ids], self.device).expand(len(ids), -1),
                encoder_hidden_states=encoded_1NH,
                use_cache=False,
                layout=CrossLayout(flat_input.blocks, **options),
            ).last_hidden_state
        sequence_index_of_row = np.empty(len(ids), dtype=np.int64)
        sequence_index_of_row[sequence_rows] = np.arange(len(ids))
        return decoded_B2H[:, 1].index_select(0, to_device(sequence_index_of_row, self.device))

    def _append_rows(self, flat_input: FlatInput, soft_prompt: SoftPrompt | PackedPrompts | None) -> np.ndarray:
        """Append all rows in blocks of similar lengths. Return the rows of the batch in the order of the sequence."""
        ids, lengths = flat_input.ids, flat_input.lengths
        packed_prompts = None if soft_prompt is None else soft_prompt.as_packed(len(ids))
        row_lengths = lengths
        if packed_prompts is not None:
            prompt_lengths = [packed_prompts.prompts[index].length for index in packed_prompts.prompt_indices]
            row_lengths = lengths + np.array(prompt_lengths)
        sequence_rows = []
        for rows, _ in cut_rows(np.arange(len(ids)), row_lengths, self.device):
            ids_RT = ids[rows, : lengths[rows].max()]
            rows_RSH = self.model.get_input_embeddings()(to_device(ids_RT, self.device))
            if packed_prompts is not None:
                row_prompts = packed_prompts.select_rows(rows.tolist()).without_unused()
                rows_RSH, _ = row_prompts.join_text(rows_RSH, torch.from_numpy(lengths[rows]))
            flat_input.append(rows_RSH[:, : row_lengths[rows].max()], row_lengths[rows])
            sequence_rows.append(rows)
        return np.concatenate(sequence_rows)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    position_bias: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention of a module of the encoder or the decoder, `[..., tokens, H_q, D]`.

    Raises:
        ValueError: the model asks for a kind of attention that has no flat form.
    """
    if dropout or position_bias is None or scaling is None or options.get("softcap") or options.get("sliding_window"):
        raise ValueError(
            "attention without a position bias, with dropout, with a cap or with a window has no flat form"
        )
    scale = scaling * layout.score_factor
    if isinstance(layout, EncoderLayout):
        layout.use_bias(position_bias)
        return attend(query.squeeze(0), key.squeeze(0), value.squeeze(0), layout, 0, scale)[None], None
    if module.is_causal:  # the decoder's own two tokens
        later_22 = torch.full((_DECODER_TOKENS,) * 2, -torch.inf, device=query.device).triu(1)
        scores_RHTT = query @ key.transpose(2, 3) * scale + (position_bias + later_22).to(query.dtype)
        return (scores_RHTT.softmax(-1) @ value).transpose(1, 2), None
    query_HND = query.transpose(0, 1).flatten(1, 2)
    output_NHD = attend(query_HND, key.squeeze(0), value.squeeze(0), layout, 0, scale)
    return output_NHD.view(len(query), _DECODER_TOKENS, *output_NHD.shape[1:]), None


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION_NAME, _attend)


@contextmanager
def _bias_for(token_count: int) -> Iterator[None]:
    """In the context, let the encoder's attention of this thread compute the bias of so many tokens only, not that of
    the whole sequence."""
    _current_pass.token_count = token_count
    try:
        yield
    finally:
        _current_pass.token_count = None


def _limit_bias(modules: Iterable[Any]) -> None:
    """Let `_bias_for` act on attention modules. As in `_fused`, only the class of a module is changed."""
    for module in modules:
        module_class: Any = type(module)
        if hasattr(module_class, "compute_bias") and not hasattr(module_class, "original_class"):
            module.__class__ = _make_limited_class(module_class)


@cache
def _make_limited_class(original_class: Any) -> type:
    class LimitedBiasAttention(original_class):  # type: ignore[misc]
        def compute_bias(self, *lengths: int, **options: Any) -> Any:
            token_count = getattr(_current_pass, "token_count", None)
            if token_count is not None:
                lengths = (token_count, token_count, *lengths[2:])
            return super().compute_bias(*lengths, **options)

    LimitedBiasAttention.__name__ = original_class.__name__
    LimitedBiasAttention.original_class = original_class  # type: ignore[attr-defined]
    return LimitedBiasAttention
