"""What a prompt method puts at a model's input: making it is the method's affair, placing it is done here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PLACEMENTS = ("prefix", "suffix")


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftPrompt:
    """A prompt, and perhaps an update of the text's own embeddings.

    prompt: X, `[P, H]`, or one a row `[B, P, H]`. update: added to the first S embeddings of template and text,
    `[S, H]` or `[B, S, H]`. placement: "prefix" (before everything, BOS included) or "suffix" (after the last token).
    """

    prompt: Tensor
    update: Tensor | None = None
    placement: str = "prefix"

    @property
    def length(self) -> int:
        return int(self.prompt.shape[-2])

    def map(self, change: Any) -> SoftPrompt:
        """The same with `change` applied to each tensor: detached, on another device."""
        update = None if self.update is None else change(self.update)
        return SoftPrompt(prompt=change(self.prompt), update=update, placement=self.placement)

    def updated(self, text_BTH: Tensor) -> Tensor:
        """Embeddings of the text with the update added, `[B, T, H]`; tokens beyond S keep theirs."""
        if self.update is None:
            return text_BTH
        from torch.nn.functional import pad

        missing = text_BTH.shape[1] - self.update.shape[-2]
        update = pad(self.update, (0, 0, 0, missing))  # a negative pad cuts: an input shorter than S
        return (text_BTH + update).to(text_BTH.dtype)

    def placed(self, text_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        """Prompt and text in one, `[B, P+T, H]`. The real tokens of row b are its first `lengths_B[b]`, so that with
        the prompt they are its first `lengths_B[b] + P`; what follows is padding."""
        import torch

        rows, tokens = text_BTH.shape[:2]
        text_BTH = self.updated(text_BTH)
        prompt_BPH = self.prompt.to(text_BTH.dtype).expand(rows, -1, -1)
        if self.placement == "prefix":
            return torch.cat([prompt_BPH, text_BTH], dim=1)
        joined = torch.cat([text_BTH, prompt_BPH], dim=1)
        place_S = torch.arange(tokens + self.length, device=text_BTH.device)[None]
        ends_B1 = lengths_B.to(text_BTH.device)[:, None]
        source_BS = torch.where(place_S < ends_B1, place_S, tokens + place_S - ends_B1)
        # Beyond the prompt the source runs over the end: those places hold padding, whatever the value.
        source_BS = source_BS.clamp(max=tokens + self.length - 1)
        return joined.gather(1, source_BS[..., None].expand(-1, -1, joined.shape[2]))
