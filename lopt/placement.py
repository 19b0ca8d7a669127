"""Placements: whether a soft prompt comes before or after the text."""

from abc import ABC, abstractmethod

from lopt.types import Tensor


class Placement(ABC):
    """How prompt and text are joined.

    Attributes:
        prompt_first: whether no text comes before the prompt. Then a pass computes a prompt once for all its rows.
        text_first: whether the whole text comes before the prompt. Then what is computed for a text serves all steps.
        in_peft: whether PEFT's prompt tuning can express the placement.
    """

    name: str
    prompt_first = False
    text_first = False
    in_peft = False

    @abstractmethod
    def text_before(self, lengths_B: Tensor) -> Tensor:
        """Return how many tokens of each row's text come before the prompt, `[B]`, from the texts' real lengths."""

    @abstractmethod
    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        """Return text and prompt joined, `[B, P+T, H]`. The first `lengths_B + P` places of a row are real; padding
        follows."""


class Prefix(Placement):
    """The prompt comes before everything, the BOS token included."""

    name, prompt_first, in_peft = "prefix", True, True

    def text_before(self, lengths_B: Tensor) -> Tensor:
        return lengths_B * 0

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        return torch.cat([prompt_BPH, text_BTH], dim=1)


class Suffix(Placement):
    """The prompt comes after the last token of the text."""

    name, text_first = "suffix", True

    def text_before(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        tokens, length = text_BTH.shape[1], prompt_BPH.shape[1]
        joined = torch.cat([text_BTH, prompt_BPH], dim=1)
        place_1S = torch.arange(tokens + length, device=text_BTH.device)[None]
        text_ends_B1 = lengths_B.to(text_BTH.device)[:, None]
        source_BS = torch.where(place_1S < text_ends_B1, place_1S, tokens + place_1S - text_ends_B1)
        # After the prompt the index would run past the end. Those places are padding, so any value will do.
        source_BS = source_BS.clamp(max=tokens + length - 1)
        return joined.gather(1, source_BS[..., None].expand(-1, -1, joined.shape[2]))


PREFIX = Prefix()
PLACEMENTS: dict[str, Placement] = {placement.name: placement for placement in (PREFIX, Suffix())}
