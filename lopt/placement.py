"""Where a prompt stands beside the text: one object a placement, and the table of them."""

from abc import ABC, abstractmethod

from lopt.types import Tensor


class Placement(ABC):
    """How prompt and text are put together.

    prompt_first: no text stands before the prompt, so that one pass computes it once for all rows. text_first: the
    whole text does, so that what is computed of it serves all steps. in_peft: PEFT's prompt tuning can express it.
    """

    name: str
    prompt_first = False
    text_first = False
    in_peft = False

    @abstractmethod
    def before(self, lengths_B: Tensor) -> Tensor:
        """How many tokens of each row's text stand before the prompt, `[B]`, of texts of so many real tokens."""

    @abstractmethod
    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        """Rows whose first `lengths_B + P` places are real, `[B, P+T, H]`; padding follows."""


class Prefix(Placement):
    """Before everything, BOS included."""

    name, prompt_first, in_peft = "prefix", True, True

    def before(self, lengths_B: Tensor) -> Tensor:
        return lengths_B * 0

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        return torch.cat([prompt_BPH, text_BTH], dim=1)


class Suffix(Placement):
    """After the last token."""

    name, text_first = "suffix", True

    def before(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def join(self, text_BTH: Tensor, prompt_BPH: Tensor, lengths_B: Tensor) -> Tensor:
        import torch

        tokens, length = text_BTH.shape[1], prompt_BPH.shape[1]
        joined = torch.cat([text_BTH, prompt_BPH], dim=1)
        place_S = torch.arange(tokens + length, device=text_BTH.device)[None]
        ends_B1 = lengths_B.to(text_BTH.device)[:, None]
        source_BS = torch.where(place_S < ends_B1, place_S, tokens + place_S - ends_B1)
        # Beyond the prompt the source runs over the end: those places hold padding, whatever the value.
        source_BS = source_BS.clamp(max=tokens + length - 1)
        return joined.gather(1, source_BS[..., None].expand(-1, -1, joined.shape[2]))


PREFIX = Prefix()
PLACEMENTS: dict[str, Placement] = {placement.name: placement for placement in (PREFIX, Suffix())}
