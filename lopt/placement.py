"""Placements: whether a soft prompt comes before or after the text."""

from abc import ABC, abstractmethod

from lopt.device import to_device
from lopt.types import Tensor


class Placement(ABC):
    """How prompt and text are joined.

    Attributes:
        is_prompt_first: whether no text comes before the prompt. A pass then computes a prompt once for all its rows.
        is_text_first: whether the whole text comes before the prompt. What a pass computes for a text can then be used
            again in all steps.
        is_in_peft: whether PEFT's prompt tuning can express the placement.
    """

    name: str
    is_prompt_first = False
    is_text_first = False
    is_in_peft = False

    @abstractmethod
    def tokens_before_prompt(self, lengths_B: Tensor) -> Tensor:
        """Return how many tokens of each row's text come before the prompt, `[B]`, given the texts' real lengths."""

    @abstractmethod
    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        """Return text and prompt joined, `[B, P+T, H]`. The first `lengths_B + P` positions of a row are real;
        padding follows."""


class Prefix(Placement):
    """The prompt comes before everything, the BOS token included."""

    name, is_prompt_first, is_in_peft = "prefix", True, True

    def tokens_before_prompt(self, lengths_B: Tensor) -> Tensor:
        return lengths_B * 0

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        return torch.cat([prompt_BPH, text_BTH], dim=1)


class Suffix(Placement):
    """The prompt comes after the last token of the text."""

    name, is_text_first = "suffix", True

    def tokens_before_prompt(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        text_length, prompt_length = text_BTH.shape[1], prompt_BPH.shape[1]
        joined_BSH = torch.cat([text_BTH, prompt_BPH], dim=1)
        position_1S = torch.arange(text_length + prompt_length, device=text_BTH.device)[None]
        text_ends_B1 = to_device(lengths_B, text_BTH.device)[:, None]
        source_position_BS = torch.where(
            position_1S < text_ends_B1, position_1S, text_length + position_1S - text_ends_B1
        )
        # Behind the prompt, the index would run past the end. What stands there is padding, so any value will do.
        source_position_BS = source_position_BS.clamp(max=text_length + prompt_length - 1)
        return joined_BSH.gather(1, source_position_BS[..., None].expand(-1, -1, joined_BSH.shape[2]))


PREFIX = Prefix()
PLACEMENTS: dict[str, Placement] = {placement.name: placement for placement in (PREFIX, Suffix())}
