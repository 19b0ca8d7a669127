"""What a prompt method puts at a model's input: the method makes it, its placement (`lopt.placement`) joins it to the
text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lopt.placement import PREFIX, Placement
from lopt.types import Tensor

TENSORS = "prompt.safetensors"  # the file of a saved prompt; the tensor "prompt" in it is X, `[P, H]`


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftPrompt:
    """A prompt, and perhaps an update of the text's own embeddings.

    prompt: X, `[P, H]`, or one a row `[B, P, H]`. update: added to the first S embeddings of template and text,
    `[S, H]` or `[B, S, H]`. placement: where the prompt stands.
    """

    prompt: Tensor
    update: Tensor | None = None
    placement: Placement = PREFIX

    @property
    def length(self) -> int:
        return int(self.prompt.shape[-2])

    @property
    def keeps_text(self) -> bool:
        """Whether what is computed of a text is the same at every step, and of every trial."""
        return self.placement.text_first and self.update is None

    def map(self, change: Any) -> SoftPrompt:
        """The same with `change` applied to each tensor: detached, on another device."""
        return replace(self, prompt=change(self.prompt), update=None if self.update is None else change(self.update))

    def updated(self, text_BTH: Tensor) -> Tensor:
        """Embeddings of the text with the update added, `[B, T, H]`; tokens beyond S keep theirs."""
        if self.update is None:
            return text_BTH
        return (text_BTH + _to_length(self.update, text_BTH.shape[1])).to(text_BTH.dtype)

    def packed(self, rows: int) -> PackedPrompts:
        """The same as the prompts of so many rows."""
        if self.prompt.ndim == 2 and (self.update is None or self.update.ndim == 2):
            return PackedPrompts(prompts=[self], owners=[0] * rows)
        prompts = [self.map(lambda t, row=row: t if t.ndim == 2 else t[row]) for row in range(rows)]
        return PackedPrompts(prompts=prompts, owners=range(rows))

    def placed(self, text_BTH: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt and text in one, `[B, P+T, H]`, and how many of a row's places are real: the real tokens of row b are
        its first `lengths_B[b]`, so with the prompt its first `lengths_B[b] + P`; what follows is padding."""
        text_BTH = self.updated(text_BTH)
        prompt_BPH = self.prompt.to(text_BTH.dtype).expand(len(text_BTH), -1, -1)
        return self.placement.join(text_BTH, prompt_BPH, lengths_B), lengths_B + self.length


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedPrompts:
    """Soft prompts of several trials, one of them for each row of a batch; the same interface as one.

    prompts: K of them, of any lengths and placements. owners: which of them each row has, `[B]`.
    """

    prompts: Sequence[SoftPrompt]
    owners: Sequence[int]

    def packed(self, rows: int) -> PackedPrompts:
        """See `SoftPrompt.packed`."""
        return self

    def of_rows(self, rows: Sequence[int]) -> PackedPrompts:
        """The prompts of some rows, in their order."""
        return PackedPrompts(prompts=self.prompts, owners=[self.owners[row] for row in rows])

    def updated(self, text_BTH: Tensor) -> Tensor:
        """See `SoftPrompt.updated`; each row with the update of its own prompt."""
        import torch

        used = sorted(set(self.owners))
        updates = [self.prompts[owner].update for owner in used]
        if all(update is None for update in updates):
            return text_BTH
        tokens, width = text_BTH.shape[1:]
        nothing_0H = self.prompts[used[0]].prompt.new_zeros(0, width)
        padded_KTH = torch.stack([_to_length(nothing_0H if u is None else u, tokens) for u in updates])
        place = {owner: number for number, owner in enumerate(used)}
        owner_B = torch.tensor([place[owner] for owner in self.owners], device=text_BTH.device)
        return (text_BTH + padded_KTH[owner_B]).to(text_BTH.dtype)

    def placed(self, text_BTH: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `SoftPrompt.placed`; rows are as long as the longest needs."""
        import torch

        rows, tokens, width = text_BTH.shape
        device = text_BTH.device
        text_BTH = self.updated(text_BTH)
        source_FH = torch.cat([text_BTH.reshape(-1, width), *(s.prompt.to(text_BTH.dtype) for s in self.prompts)])
        sizes_K = torch.tensor([soft_prompt.length for soft_prompt in self.prompts])
        begins_K = rows * tokens + sizes_K.cumsum(0) - sizes_K  # of each prompt in the source
        owner_B = torch.tensor(self.owners)
        sizes_B1, begins_B1 = (x[owner_B].to(device)[:, None] for x in (sizes_K, begins_K))
        lengths_B1 = lengths_B.to(device)[:, None]
        kinds = list(dict.fromkeys(soft_prompt.placement for soft_prompt in self.prompts))
        kind_K = torch.tensor([kinds.index(soft_prompt.placement) for soft_prompt in self.prompts])
        of_each_kind = torch.stack([kind.before(lengths_B1[:, 0]) for kind in kinds])
        before_B1 = of_each_kind.gather(0, kind_K[owner_B].to(device)[None]).T  # text before the prompt
        place_S = torch.arange(tokens + int(sizes_K[owner_B].max()), device=device)[None]
        in_prompt_BS = (place_S >= before_B1) & (place_S < before_B1 + sizes_B1)
        text_BS = torch.where(place_S < before_B1, place_S, place_S - sizes_B1).clamp(0, tokens - 1)
        text_BS = text_BS + tokens * torch.arange(rows, device=device)[:, None]
        index_BS = torch.where(in_prompt_BS, begins_B1 + place_S - before_B1, text_BS)
        return source_FH[index_BS], lengths_B + sizes_B1[:, 0].to(lengths_B.device)


def _to_length(update_SH: Tensor, tokens: int) -> Tensor:
    """Zeros for the tokens beyond S; an input shorter than S takes the first rows."""
    from torch.nn.functional import pad

    return pad(update_SH, (0, 0, 0, tokens - update_SH.shape[-2]))
