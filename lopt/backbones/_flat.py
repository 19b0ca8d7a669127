"""The flat form of a causal pass: the tokens of all rows are in one sequence, without padding.

The idea: linear layers and norms treat every token by itself, so only attention depends on the row of a token. The flat
form lays the tokens of all rows end to end, `[1, N, H]`, gives every token the position that it has in its own row, and
lets the model call an attention function that stays inside rows (`_attention`, with the blocks of `_blocks`). So one
pass over the weights serves rows of any lengths and of any trials:

- A prefix is in the sequence once, and all rows of its trial see its keys and values
  (`FlatForm._append_rows_with_prefix`).
- A text before a suffix does not depend on the trial. Its keys and values come from a store that computes every text
  once (`_texts`), and only the suffix is in the sequence (`FlatForm._append_suffixes`).
- A row that shares nothing is in the sequence as a whole. There are two kinds: a text with a suffix whose update (DePT)
  changes the text (`FlatForm._append_whole_rows`), and a text without a prompt.

The label of a row is read at the row's last token. The model's last MLP is computed only there (`_last_mlp`).
`_flat_check` checks, when a model is loaded, that the flat form gives the same as the plain form (`causal`).
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.backbones._attention import ATTENTION_NAME, AttentionSwitch, register
from lopt.backbones._blocks import Layout
from lopt.backbones._flat_input import FlatInput, cut_rows
from lopt.backbones._last_mlp import last_mlp_only_at, restrict_last_mlp
from lopt.backbones._texts import TextIds, TextStore
from lopt.backbones._varlen import has_varlen_kernel
from lopt.device import to_device
from lopt.soft_prompt import PackedPrompts, SoftPrompt

_TOKENS_PER_TEXT_PASS = 2048  # in a pass that computes keys and values of texts, without gradients
# This many stored tokens cost as much as one computed token. This is a guess, used only for the size of passes.
_STORED_TOKENS_PER_COMPUTED_TOKEN = 8


class FlatForm:
    """Runs passes of a frozen causal model in the flat form."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        weight_VH = model.get_input_embeddings().weight
        self.device, self.dtype = weight_VH.device, weight_VH.dtype
        self.use_torch_kernels = self.device.type != "cpu"  # if not, `_attention.BlockAttention` runs
        self.use_varlen_kernel = False  # in place of both; see `_varlen`
        self._flat_attention = AttentionSwitch([model.config], ATTENTION_NAME)
        register()
        restrict_last_mlp(model)

    def label_state(
        self,
        soft_prompt: SoftPrompt | PackedPrompts | None,
        ids_BT: Tensor,
        lengths_B: Tensor,
        *,
        score_factor: float = 1.0,
    ) -> Tensor:
        """Return the last hidden state at the label position, `[B, H]`.

        Args:
            score_factor: multiplies all attention scores. Any number except 1 gives wrong results on purpose.
        """
        ids, lengths = ids_BT.cpu().numpy(), lengths_B.cpu().numpy()
        packed_prompts = None if soft_prompt is None else soft_prompt.as_packed(len(ids))
        flat_input = FlatInput(self.device, ids, lengths)
        all_rows = np.arange(len(ids))
        if packed_prompts is None:
            for block_rows, longest_length in cut_rows(all_rows, lengths, self.device):
                block = flat_input.append(self._embed(ids[block_rows, :longest_length]), lengths[block_rows])
                flat_input.mark_label_positions(block, block_rows)
        else:
            prompt_of_row = [packed_prompts.prompts[index] for index in packed_prompts.prompt_indices]
            is_prefix = np.array([prompt.placement.is_prompt_first for prompt in prompt_of_row])
            has_shareable_text = np.array([prompt.has_shareable_text for prompt in prompt_of_row])
            prompt_lengths = np.array([prompt.length for prompt in prompt_of_row])
            for length in np.unique(prompt_lengths):
                has_length = prompt_lengths == length
                self._append_rows_with_prefix(flat_input, packed_prompts, all_rows[is_prefix & has_length])
                self._append_suffixes(flat_input, packed_prompts, all_rows[has_shareable_text & has_length])
            self._append_whole_rows(flat_input, packed_prompts, all_rows[~is_prefix & ~has_shareable_text])
        label_indices_B = to_device([flat_input.label_index_of_row[row] for row in range(len(ids))], self.device)
        return self._run(flat_input, label_indices_B, score_factor=score_factor).index_select(0, label_indices_B)

    @property
    def forms_of_attention(self) -> list[bool]:
        """Values of `use_varlen_kernel` in the order in which they should be tried."""
        # A configuration does not say it, if layers differ. Then, or if no layer says it, the kernel is not used.
        widths: set[int] = {module.head_dim for module in self.model.modules() if hasattr(module, "head_dim")}
        has_kernel = len(widths) == 1 and has_varlen_kernel(self.dtype, widths.pop(), self.device.type)
        return [True, False] if has_kernel else [False]

    def token_count_of_row(self, soft_prompt: SoftPrompt, length: int) -> int:
        """Return about how many tokens a row with a text of this length takes in a pass. A stored token counts for a
        fraction of a token."""
        if soft_prompt.placement.is_prompt_first:
            return length  # the prompt is in the pass once for many rows
        text_tokens = length // _STORED_TOKENS_PER_COMPUTED_TOKEN if soft_prompt.has_shareable_text else length
        return soft_prompt.length + text_tokens

    def uncached_texts(self, soft_prompt: SoftPrompt, texts: Iterable[TextIds]) -> list[TextIds]:
        """See `lopt.backbones.Backbone.uncached_texts`."""
        return self.text_store.missing_texts(texts) if soft_prompt.has_shareable_text else []

    def _append_rows_with_prefix(self, flat_input: FlatInput, packed_prompts: PackedPrompts, rows: np.ndarray) -> None:
        """Append rows whose prompts are prefixes of one length. Each prompt is appended once."""
        if not len(rows):
            return
        prompt_indices, prefix_numbers = np.unique(np.asarray(packed_prompts.prompt_indices)[rows], return_inverse=True)
        prompts_KPH = torch.stack([packed_prompts.prompts[index].prompt for index in prompt_indices]).to(self.dtype)
        prefix_block = flat_input.append(prompts_KPH)
        prefix_number_of_row = dict(zip(rows.tolist(), prefix_numbers.tolist(), strict=True))
        for block_rows, longest_length in cut_rows(rows, flat_input.lengths, self.device):
            text_RTH = self._embed(flat_input.ids[block_rows, :longest_length])
            text_RTH = packed_prompts.select_rows(block_rows.tolist()).add_update(text_RTH)
            prefix_of_row = np.array([prefix_number_of_row[row] for row in block_rows.tolist()])
            block = flat_input.append(
                text_RTH,
                flat_input.lengths[block_rows],
                first_position=prefix_block.padded_length,
                prefix_block=prefix_block,
                prefix_of_row_R=to_device(prefix_of_row, self.device),
                host_prefix_of_row=prefix_of_row,
            )
            flat_input.mark_label_positions(block, block_rows)

    def _append_suffixes(self, flat_input: FlatInput, packed_prompts: PackedPrompts, rows: np.ndarray) -> None:
        """Append the prompts of rows whose texts come from the store. The prompts are suffixes of one length."""
        for block_rows, _ in cut_rows(rows, flat_input.lengths, self.device):
            texts = [tuple(flat_input.ids[row, : flat_input.lengths[row]].tolist()) for row in block_rows]
            past_states, past_lengths_R = self.text_store.get(texts)
            prompt_index_of_row = [packed_prompts.prompt_indices[row] for row in block_rows]
            used_indices = sorted(set(prompt_index_of_row))
            prompts_KPH = torch.stack([packed_prompts.prompts[index].prompt for index in used_indices]).to(self.dtype)
            prompt_of_row_R = to_device([used_indices.index(index) for index in prompt_index_of_row], self.device)
            block = flat_input.append(
                prompts_KPH[prompt_of_row_R],
                first_position=past_lengths_R,
                past_states=past_states,
                past_lengths=past_lengths_R,
                host_past_lengths=flat_input.lengths[block_rows],
            )
            flat_input.mark_label_positions(block, block_rows)

    def _append_whole_rows(self, flat_input: FlatInput, packed_prompts: PackedPrompts, rows: np.ndarray) -> None:
        """Append rows of text and prompt that share nothing with other rows."""
        prompt_lengths = np.array([packed_prompts.prompts[index].length for index in packed_prompts.prompt_indices])
        for block_rows, _ in cut_rows(rows, flat_input.lengths + prompt_lengths, self.device):
            lengths = flat_input.lengths[block_rows]
            text_RTH = self._embed(flat_input.ids[block_rows, : lengths.max()])
            rows_RSH, ends_R = packed_prompts.select_rows(block_rows.tolist()).join_text(
                text_RTH, torch.from_numpy(lengths)
            )
            flat_input.mark_label_positions(flat_input.append(rows_RSH, ends_R.numpy()), block_rows)

    def _embed(self, ids: np.ndarray) -> Tensor:
        return self.model.get_input_embeddings()(to_device(ids, self.device))

    def _run(
        self,
        flat_input: FlatInput,
        read_indices_M: Tensor,
        recorded_states: list[Tensor] | None = None,
        score_factor: float = 1.0,
    ) -> Tensor:
        """Run the pass. Return its last hidden states, `[N, H]`, of which only those at the read indices are right."""
        with self._flat_attention, last_mlp_only_at(read_indices_M):
            output = self.model.base_model(
                inputs_embeds=torch.cat(flat_input.embeddings)[None],
                position_ids=torch.cat(flat_input.position_ids)[None],
                use_cache=False,
                layout=Layout(
                    flat_input.blocks, recorded_states, score_factor, self.use_torch_kernels, self.use_varlen_kernel
                ),
            )
        return output.last_hidden_state.squeeze(0)

    @cached_property
    def text_store(self) -> TextStore:
        """The store of keys and values of texts before a suffix."""
        (states_L2HTD,) = self._compute_text_states([(self.pad_id,)])
        layers, _, heads, _, dimension = states_L2HTD.shape
        return TextStore((layers, heads, dimension), self.dtype, self.device, self._compute_text_states)

    def _compute_text_states(self, texts: Sequence[TextIds]) -> list[Tensor]:
        """Return the keys and values of each text, `[L, 2, H_kv, T, D]`."""
        states_by_row: dict[int, Tensor] = {}
        lengths = np.array([len(text) for text in texts])
        ids = np.full((len(texts), lengths.max()), self.pad_id)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        waiting_rows = np.argsort(lengths, kind="stable")
        with torch.no_grad():
            while len(waiting_rows):  # the longest texts first
                row_count = max(1, _TOKENS_PER_TEXT_PASS // lengths[waiting_rows[-1]])
                pass_rows, waiting_rows = waiting_rows[-row_count:], waiting_rows[:-row_count]
                recorded_states: list[Tensor] = []
                flat_input, blocks_and_rows = FlatInput(self.device, ids, lengths), []
                for block_rows, longest_length in cut_rows(pass_rows, lengths, self.device):
                    block = flat_input.append(self._embed(ids[block_rows, :longest_length]), lengths[block_rows])
                    blocks_and_rows.append((block, block_rows))
                self._run(flat_input, to_device(np.arange(0), self.device), recorded_states)
                states_L2HND = torch.stack(recorded_states)
                for block, block_rows in blocks_and_rows:
                    for end, row in zip(block.row_ends.tolist(), block_rows.tolist(), strict=True):
                        states_by_row[row] = states_L2HND[..., end - lengths[row] : end, :].clone()
        return [states_by_row[row] for row in range(len(texts))]
