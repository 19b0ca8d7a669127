"""Soft prompts: what a prompt method puts at a model's input.

A method makes the soft prompt, and its placement (`lopt.placement`) says whether it comes before or after the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lopt.device import to_device
from lopt.placement import PREFIX, Placement
from lopt.types import Tensor

PROMPT_FILE = "prompt.safetensors"  # file of a saved prompt, whose tensor "prompt" is X, `[P, H]`


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftPrompt:
    """A soft prompt, and an update of the text's own embeddings if the method has one (DePT).

    Attributes:
        prompt: X. It is `[P, H]` if all rows have the same, or `[B, P, H]` with one for each row.
        update: what is added to the first S embeddings of template and text, `[S, H]` or `[B, S, H]`.
        placement: whether the prompt comes before or after the text.
    """

    prompt: Tensor
    update: Tensor | None = None
    placement: Placement = PREFIX

    @property
    def length(self) -> int:
        return int(self.prompt.shape[-2])

    @property
    def has_shareable_text(self) -> bool:
        """Whether a causal model computes the same for a text at every step and in every trial, because the text comes
        before the prompt and has no update. Trials can then share what is computed for the text."""
        return self.placement.is_text_first and self.update is None

    def map(self, function: Any) -> SoftPrompt:
        """Return the soft prompt with `function` applied to each tensor, for example to move it to another device."""
        update = None if self.update is None else function(self.update)
        return replace(self, prompt=function(self.prompt), update=update)

    def unbind(self) -> list[SoftPrompt]:
        """Return K soft prompts, each with its part of the tensors `[K, ...]` of this one."""
        updates = [None] * len(self.prompt) if self.update is None else self.update.unbind(0)
        pairs = zip(self.prompt.unbind(0), updates, strict=True)
        return [replace(self, prompt=prompt, update=update) for prompt, update in pairs]

    def add_update(self, text_BTH: Tensor) -> Tensor:
        """Return the embeddings of the text plus the update, `[B, T, H]`. Tokens beyond S stay as they are."""
        if self.update is None:
            return text_BTH
        return (text_BTH + _pad_or_cut(self.update, text_BTH.shape[1])).to(text_BTH.dtype)

    def as_packed(self, row_count: int) -> PackedPrompts:
        """Return this soft prompt as the packed prompts of a batch with this many rows."""
        if self.prompt.ndim == 2 and (self.update is None or self.update.ndim == 2):
            return PackedPrompts(prompts=[self], prompt_indices=[0] * row_count)
        prompts = [
            self.map(lambda tensor, row=row: tensor if tensor.ndim == 2 else tensor[row]) for row in range(row_count)
        ]
        return PackedPrompts(prompts=prompts, prompt_indices=range(row_count))

    def join_text(self, text_BTH: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Join prompt and text.

        Args:
            text_BTH: embeddings of the text, padded on the right.
            lengths_B: number of real tokens of each row.

        Returns:
            The embeddings `[B, P+T, H]`, and how many of each row are real, `[B]`. These are the first
            `lengths_B[b] + P` of row b; padding follows.
        """
        text_BTH = self.add_update(text_BTH)
        prompt_BPH = self.prompt.to(text_BTH.dtype).expand(len(text_BTH), -1, -1)
        return self.placement.join(text_BTH, prompt_BPH, lengths_B), lengths_B + self.length


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedPrompts:
    """Soft prompts of several trials. Each row of a batch has one of them. The interface is that of `SoftPrompt`.

    Attributes:
        prompts: K soft prompts of any lengths and placements.
        prompt_indices: for each row, the index of its soft prompt in `prompts`, `[B]`.
    """

    prompts: Sequence[SoftPrompt]
    prompt_indices: Sequence[int]

    def as_packed(self, row_count: int) -> PackedPrompts:
        """See `SoftPrompt.as_packed`."""
        return self

    def select_rows(self, rows: Sequence[int]) -> PackedPrompts:
        """Return the packed prompts of a batch that consists of these rows, in this order."""
        return PackedPrompts(prompts=self.prompts, prompt_indices=[self.prompt_indices[row] for row in rows])

    def without_unused(self) -> PackedPrompts:
        """Return the same packed prompts without those that no row has."""
        used_indices = sorted(set(self.prompt_indices))
        return PackedPrompts(
            prompts=[self.prompts[index] for index in used_indices],
            prompt_indices=[used_indices.index(index) for index in self.prompt_indices],
        )

    def add_update(self, text_BTH: Tensor) -> Tensor:
        """See `SoftPrompt.add_update`. Each row gets the update of its own prompt."""
        import torch

        used_prompt_indices = sorted(set(self.prompt_indices))
        updates = [self.prompts[index].update for index in used_prompt_indices]
        if all(update is None for update in updates):
            return text_BTH
        token_count, width = text_BTH.shape[1:]
        empty_0H = self.prompts[used_prompt_indices[0]].prompt.new_zeros(0, width)
        updates_KTH = torch.stack(
            [_pad_or_cut(empty_0H if update is None else update, token_count) for update in updates]
        )
        update_index_of_prompt = {index: number for number, index in enumerate(used_prompt_indices)}
        update_index_of_row = [update_index_of_prompt[index] for index in self.prompt_indices]
        return (text_BTH + updates_KTH[to_device(update_index_of_row, text_BTH.device)]).to(text_BTH.dtype)

    def join_text(self, text_BTH: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `SoftPrompt.join_text`. All rows are padded to the length that the longest prompt needs.

        Texts and prompts are laid end to end in one source `[F, H]`, and the result is gathered from it.
        `source_index_BS` gives, for each position of each row, the index in the source.
        """
        import torch

        row_count, token_count, width = text_BTH.shape
        text_BTH = self.add_update(text_BTH)
        prompts = [soft_prompt.prompt.to(text_BTH.dtype) for soft_prompt in self.prompts]
        source_FH = torch.cat([text_BTH.reshape(-1, width), *prompts])
        # The indices are computed where the lengths are, on the CPU, and take one copy to a GPU.
        lengths_device = lengths_B.device
        prompt_index_B = torch.tensor(self.prompt_indices, device=lengths_device)
        prompt_lengths_K = torch.tensor([soft_prompt.length for soft_prompt in self.prompts], device=lengths_device)
        prompt_begins_K = row_count * token_count + prompt_lengths_K.cumsum(0) - prompt_lengths_K  # in the source
        prompt_lengths_B1 = prompt_lengths_K[prompt_index_B][:, None]
        prompt_begins_B1 = prompt_begins_K[prompt_index_B][:, None]
        placements = list(dict.fromkeys(soft_prompt.placement for soft_prompt in self.prompts))
        placement_numbers = [placements.index(soft_prompt.placement) for soft_prompt in self.prompts]
        placement_K = torch.tensor(placement_numbers, device=lengths_device)
        tokens_before_prompt_XB = torch.stack([placement.tokens_before_prompt(lengths_B) for placement in placements])
        tokens_before_prompt_B1 = tokens_before_prompt_XB.gather(0, placement_K[prompt_index_B][None]).T
        longest = token_count + int(prompt_lengths_K[prompt_index_B].max())
        position_1S = torch.arange(longest, device=lengths_device)[None]
        is_prompt_BS = (position_1S >= tokens_before_prompt_B1) & (
            position_1S < tokens_before_prompt_B1 + prompt_lengths_B1
        )
        is_before_prompt_BS = position_1S < tokens_before_prompt_B1
        text_position_BS = torch.where(is_before_prompt_BS, position_1S, position_1S - prompt_lengths_B1)
        text_position_BS = text_position_BS.clamp(0, token_count - 1)  # prompt and padding have no text position
        text_index_BS = text_position_BS + token_count * torch.arange(row_count, device=lengths_device)[:, None]
        source_index_BS = torch.where(
            is_prompt_BS, prompt_begins_B1 + position_1S - tokens_before_prompt_B1, text_index_BS
        )
        return source_FH[to_device(source_index_BS, text_BTH.device)], lengths_B + prompt_lengths_B1[:, 0]


def _pad_or_cut(update_SH: Tensor, token_count: int) -> Tensor:
    """Return the update for a text of this many tokens. It has zeros beyond S; for a shorter text it is cut."""
    from torch.nn.functional import pad

    return pad(update_SH, (0, 0, 0, token_count - update_SH.shape[-2]))
