"""A loaded backbone: what the rest of the program asks of it, and what all kinds share."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lopt.backbones._checks import refuse_unfit
from lopt.soft_prompt import PackedPrompts, SoftPrompt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device, dtype

# Keys of a config that, where they are set, cap the logits.
_CAPPED = re.compile(r"^(?!attn).*logits?_soft_?cap")


@dataclass(frozen=True)
class Vocabulary:
    """A backbone's token embeddings, for initial values.

    embed: gives embeddings `[..., H]` of token ids `[...]` as the model sees them: some families scale them.
    size: number of its rows.
    """

    embed: Any
    size: int
    tokenizer: Any
    label_words: tuple[str, ...]

    def token_rows(self, ids: np.ndarray) -> np.ndarray:
        """Embeddings of token ids `[K]`, `[K, H]`, float64."""
        return self.embed(ids).double().cpu().numpy()

    def ordinary_ids(self, most: int) -> np.ndarray:
        """The first `most` token ids that are not special: vocabularies are ordered by frequency, or by merges."""
        import numpy as np

        special = set(self.tokenizer.all_special_ids)
        size = min(len(self.tokenizer), self.size)
        return np.array([i for i in range(min(size, most + len(special))) if i not in special][:most])

    def label_rows(self) -> np.ndarray:
        """One row a class: the mean embedding of its label word's tokens, `[C, H]`, float64."""
        import numpy as np

        pieces = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in self.label_words]
        return np.stack([self.token_rows(np.array(ids)).mean(axis=0) for ids in pieces])


class Backbone(ABC):
    """A loaded, frozen language model.

    autocast: None, or the type in which a copy whose weights are trained computes. dropout: the rate of a copy that is
    for training steps only.
    """

    width: int
    device: device
    dtype: dtype
    autocast: Any = None
    dropout = 0.0

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any, *, window: int) -> None:
        import torch

        from lopt.backbones._fused import fuse

        self.name, self.revision, self.tokenizer, self.window = name, revision, tokenizer, window
        self.model = model.eval().requires_grad_(False)
        row_H = self.embed([0])[0]
        self.width, self.device, self.dtype = len(row_H), row_H.device, row_H.dtype
        tokens = max(tokenizer.get_vocab().values(), default=-1) + 1  # of a vocabulary with gaps, more than its len
        if tokens > self.embedding_rows:
            raise ValueError(
                f"backbone {name!r}: its tokenizer has {tokens:,} tokens and its embeddings only "
                f"{self.embedding_rows:,} rows; they do not belong together"
            )
        self.pad_id = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        if self.dtype != torch.float64:  # which is for proofs
            fuse(self.model)
        with torch.no_grad():
            refuse_unfit(self, lambda **inputs: self._logits(**inputs).float())
            self._whole_head = not self._rows_of_head_suffice()

    def embed(self, ids: np.ndarray | Sequence[int]) -> Any:
        """Embeddings `[..., H]` of token ids `[...]`, as the model's own module gives them (Gemma's scales them)."""
        import torch

        module = self.model.get_input_embeddings()
        device = next(module.parameters()).device
        with torch.no_grad():
            return module(torch.as_tensor(ids, device=device))

    @property
    def embedding_rows(self) -> int:
        """Rows of the input embeddings."""
        return len(next(self.model.get_input_embeddings().parameters()))

    @property
    def side_by_side(self) -> bool:
        """Whether several threads may run passes at the same time."""
        return False  # the choice of attention kernels is the whole process's

    @property
    def pads_rows(self) -> bool:
        """Whether all rows of a pass are padded to its longest; else a pass takes rows of any lengths."""
        return True

    @abstractmethod
    def complete(self, template: str) -> str:
        """The template as this kind of model reads it: `{mask}`, where the label is read, made literal."""

    @property
    def head_scale(self) -> float:
        """What the model multiplies its last hidden state by before the head."""
        return 1.0

    @abstractmethod
    def _logits(self, **inputs: Any) -> Any:
        """The model's own logits `[B, T, V]` of `inputs_embeds` `[B, S, H]` or `input_ids` `[B, S]`."""

    @abstractmethod
    def _state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """Last hidden state at the label position, `[B, H]`."""

    @abstractmethod
    def _whole_logits(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """The model's own logits at the label position, `[B, V]`."""

    def label_ids(self, words: Sequence[str]) -> Tensor:
        """First token of each label word, `[C]`; ValueError when two words share it."""
        import torch

        first = []
        for word in words:
            ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
            if not ids or self.tokenizer.unk_token_id in ids:
                raise ValueError(f"label word {word!r} is unknown to the tokenizer of {self.name}; choose another")
            first.append(ids[0])
        if len(set(first)) < len(first):
            shared = [(w, i) for w, i in zip(words, first, strict=True) if first.count(i) > 1]
            pairs = ", ".join(f"{w!r}: {i}" for w, i in shared[:6]) + ", …" * (len(shared) > 6)
            blank = any(not self.tokenizer.decode([i]).strip() for i in first)
            mend = "leave out the blank in front, which is a token of its own" if blank else "choose words that differ"
            raise ValueError(f"label words share their first token for {self.name} ({pairs}); {mend}")
        return torch.tensor(first, device=self.device)

    def label_logits(
        self, soft_prompt: SoftPrompt | PackedPrompts | None, ids_BT: Tensor, lengths_B: Tensor, label_ids_C: Tensor
    ) -> Tensor:
        """Logits of the label words at the label position, float32 or wider, `[B, C]`.

        soft: what stands at the input, or None for nothing. Padding is on the right and changes nothing.
        """
        with self._kernels():
            if self._whole_head:
                logits_BC = self._whole_logits(soft_prompt, ids_BT, lengths_B)[:, label_ids_C]
            else:
                logits_BC = self._label_rows(self._state(soft_prompt, ids_BT, lengths_B), label_ids_C)
        return _widened(logits_BC)

    def row_tokens(self, soft_prompt: SoftPrompt, length: int) -> int:
        """Tokens that a row of so long a text takes in a pass of several rows, for the size of passes."""
        return soft_prompt.length + length

    def unread(self, soft_prompt: SoftPrompt, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Of texts (token ids) that such a prompt leaves as they are, those of which something would be kept and is not
        there yet."""
        return []

    def read(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Computes what is kept of unread texts, for the passes that meet them; in several threads where passes may
        run side by side."""
        raise AssertionError("nothing is kept of texts here, so none is unread")

    def vocabulary(self, label_words: tuple[str, ...]) -> Vocabulary:
        """Token embeddings, for initial values."""
        return Vocabulary(self.embed, self.embedding_rows, self.tokenizer, label_words)

    def copy(self) -> Self:
        """One whose weights may be changed; the tokenizer is shared."""
        from lopt.backbones._fused import unfuse

        own = copy.copy(self)
        own.model = copy.deepcopy(self.model)
        unfuse(own.model)
        return own

    def with_dropout(self, rate: float) -> Self:
        """One for training steps alone, which shares the weights, with every dropout of the model on, at this rate in
        (0, 1); what is left out is drawn from torch's generators. ValueError when the model has no dropout."""
        import torch

        from lopt.dropout import masks, with_dropout

        own = copy.copy(self)
        own.dropout, own.model = rate, with_dropout(self.model, 0.5)  # high enough for eight tokens to show it
        ids_BT, lengths_B = self.some_ids(1, 8), torch.tensor([8], device=self.device)
        said = []
        with torch.no_grad():
            for seed in (0, 1):
                with masks(self.device, seed):
                    said.append(own._whole_logits(None, ids_BT, lengths_B))
        if torch.equal(*said):
            raise ValueError(
                f"dropout is {rate:g}, but backbone {self.name!r} has no place for it: its layers leave out nothing in "
                "training either. Give dropout 0, or another backbone"
            )
        own.model = with_dropout(self.model, rate)
        return own

    def checksum(self) -> str:
        """Hash of all weights: equal before and after training."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _label_rows(self, hidden_BH: Any, label_ids_C: Any) -> Any:
        import torch

        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        rows_CH = _widened(head.weight[label_ids_C])
        bias_C = None if bias is None else _widened(bias[label_ids_C])
        # In fp32: in bf16 a logit of 11 has steps of 1/16, and one or two examples in a hundred would be exact ties.
        with torch.autocast(self.device.type, enabled=False):
            return torch.nn.functional.linear(_widened(hidden_BH) * self.head_scale, rows_CH, bias_C)

    def _rows_of_head_suffice(self) -> bool:
        """Whether rows of the head give the model's own logits: some families scale or cap them (Gemma, Cohere)."""
        import torch

        if any(_CAPPED.search(key) and value for key, value in self.model.config.to_dict().items()):
            return False  # which a comparison in bf16 shows of large logits only
        ids_BT, lengths_B = self.some_ids(1, 8), torch.tensor([8], device=self.device)
        whole_V = self._whole_logits(None, ids_BT, lengths_B)[0].float()
        every = torch.arange(len(whole_V), device=self.device)
        try:
            rows_V = self._label_rows(self._state(None, ids_BT, lengths_B), every)[0].float()
        except (AttributeError, IndexError, RuntimeError, TypeError):  # no head, no last state, or another width
            return False
        rtol, atol = (2e-2, 5e-2) if self.dtype == torch.bfloat16 else (1e-4, 1e-3)
        return torch.allclose(whole_V, rows_V, rtol=rtol, atol=atol)

    def some_ids(self, rows: int, tokens: int) -> Any:
        """Ordinary token ids `[rows, tokens]`, all different where the vocabulary allows."""
        import torch

        first = min(100, self.embedding_rows // 2)  # the very first are often special
        ids = first + torch.arange(rows * tokens, device=self.device) % (self.embedding_rows - first)
        return ids.view(rows, tokens)

    @contextlib.contextmanager
    def _kernels(self) -> Any:
        """On the CPU the plain attention: the fused one's backward pass is several times slower at these lengths. With
        dropout everywhere: gradients of the fused ones need not be the same bits twice."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with contextlib.ExitStack() as stack:
            slow = self.device.type == "cpu" and torch.is_grad_enabled() and not self.side_by_side
            if slow or self.dropout:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, self.autocast))
            yield


def _widened(tensor: Any) -> Any:
    """In fp32, or wider as it is."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()
