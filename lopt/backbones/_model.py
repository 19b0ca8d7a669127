"""A loaded backbone: the interface that the rest of the program uses, and what all kinds of backbones share."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from lopt.backbones._checks import refuse_unfit_model
from lopt.backbones._vocabulary import Vocabulary
from lopt.soft_prompt import PackedPrompts, SoftPrompt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device, dtype

# Matches config keys that cap the logits. A key that begins with "attn" caps attention scores instead.
_LOGIT_CAP_KEY = re.compile(r"^(?!attn).*logits?_soft_?cap")


class Backbone(ABC):
    """A loaded, frozen language model.

    Attributes:
        autocast_dtype: the type in which a copy with trained weights computes. None for the type of its weights.
        dropout: the dropout rate, above 0 only in a copy for training steps (`with_dropout`).
        flat: the flat form of passes, without padding, or None if passes take the plain form.
    """

    width: int
    device: device
    dtype: dtype
    autocast_dtype: Any = None
    dropout = 0.0
    flat: Any = None

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any, *, window: int) -> None:
        import torch

        from lopt.backbones._fused import fuse

        self.name, self.revision, self.tokenizer, self.window = name, revision, tokenizer, window
        self.model = model.eval().requires_grad_(False)
        row_H = self.embed([0])[0]
        self.width, self.device, self.dtype = len(row_H), row_H.device, row_H.dtype
        token_count = max(tokenizer.get_vocab().values(), default=-1) + 1  # more than len() if the vocabulary has gaps
        if token_count > self.embedding_rows:
            raise ValueError(
                f"backbone {name!r}: its tokenizer has {token_count:,} tokens and its embeddings only "
                f"{self.embedding_rows:,} rows; they do not belong together"
            )
        candidate_ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(token_id for token_id in candidate_ids if token_id is not None)
        if self.dtype != torch.float64:  # fp64 is for tests, which compare with the model's own code
            fuse(self.model)
        with torch.no_grad():
            refuse_unfit_model(self, lambda **inputs: self._logits(**inputs).float())
            self._uses_whole_head = not self._head_rows_give_the_logits()

    def embed(self, ids: np.ndarray | Sequence[int]) -> Any:
        """Return the embeddings `[..., H]` of token ids `[...]`, scaled if the model scales them (Gemma)."""
        import torch

        embedding_layer = self.model.get_input_embeddings()
        device = next(embedding_layer.parameters()).device
        with torch.no_grad():
            return embedding_layer(torch.as_tensor(ids, device=device))

    @property
    def embedding_rows(self) -> int:
        """Number of rows of the input embeddings."""
        return len(next(self.model.get_input_embeddings().parameters()))

    @property
    def allows_parallel_passes(self) -> bool:
        """Whether several threads may run passes at the same time."""
        return self.flat is not None  # a pass in the plain form chooses the attention kernel for the whole process

    @property
    def pads_rows(self) -> bool:
        """Whether all rows of a pass are padded to the longest. If not, a pass takes rows of any lengths."""
        return self.flat is None

    @abstractmethod
    def fill_template(self, template: str) -> str:
        """Return the template as this kind of model reads it.

        `{mask}` is the place of the label. For a causal model it is removed. For an encoder-decoder a special token
        replaces it.
        """

    @property
    def head_scale(self) -> float:
        """The factor by which the model multiplies its last hidden state before the head."""
        return 1.0

    @abstractmethod
    def _logits(self, **inputs: Any) -> Any:
        """Return the model's own logits `[B, T, V]` for `inputs_embeds` `[B, S, H]` or `input_ids` `[B, S]`."""

    @abstractmethod
    def _label_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """Return the last hidden state at the label position, `[B, H]`."""

    @abstractmethod
    def _vocabulary_logits(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """Return the model's own logits of the whole vocabulary at the label position, `[B, V]`."""

    def label_ids(self, words: Sequence[str]) -> Tensor:
        """Return the first token of each label word, `[C]`.

        Raises:
            ValueError: the tokenizer does not know a word, or two words share their first token.
        """
        import torch

        first_ids = []
        for word in words:
            ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
            if not ids or self.tokenizer.unk_token_id in ids:
                raise ValueError(f"label word {word!r} is unknown to the tokenizer of {self.name}; choose another")
            first_ids.append(ids[0])
        if len(set(first_ids)) < len(first_ids):
            words_and_ids = zip(words, first_ids, strict=True)
            shared = [f"{word!r}: {token_id}" for word, token_id in words_and_ids if first_ids.count(token_id) > 1]
            pairs = ", ".join(shared[:6]) + ", …" * (len(shared) > 6)
            if any(not self.tokenizer.decode([token_id]).strip() for token_id in first_ids):
                advice = "leave out the leading space, which is a token of its own"
            else:
                advice = "choose words that differ"
            raise ValueError(f"label words share their first token for {self.name} ({pairs}); {advice}")
        return torch.tensor(first_ids, device=self.device)

    def label_logits(
        self, soft_prompt: SoftPrompt | PackedPrompts | None, ids_BT: Tensor, lengths_B: Tensor, label_ids_C: Tensor
    ) -> Tensor:
        """Return the logits of the label words at the label position, float32 or wider, `[B, C]`.

        Args:
            soft_prompt: one soft prompt, or those of several trials. None for the text alone.
            ids_BT: token ids of template and text, padded on the right. The padding does not change the result.
            lengths_B: number of real tokens of each row.
            label_ids_C: token ids of the label words.
        """
        with self._attention_and_autocast():
            if self._uses_whole_head:
                logits_BC = self._vocabulary_logits(soft_prompt, ids_BT, lengths_B)[:, label_ids_C]
            else:
                state_BH = self._label_state(soft_prompt, ids_BT, lengths_B)
                logits_BC = self._logits_from_rows_of_head(state_BH, label_ids_C)
        return _at_least_fp32(logits_BC)

    def token_count_of_row(self, soft_prompt: SoftPrompt, length: int) -> int:
        """Return how many tokens a row with a text of this length takes in a pass of several rows.

        From this the number of rows in a pass is computed.
        """
        return soft_prompt.length + length

    def uncached_texts(self, soft_prompt: SoftPrompt, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the texts (token ids) that `cache_texts` should compute before passes with this prompt.

        These are the texts that are not yet in the store of keys and values (`_texts`). The list is empty if a text's
        keys and values depend on the prompt, or if the store is full.
        """
        return []

    def cache_texts(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Compute and store the keys and values of texts. Several threads may call this at the same time if
        `allows_parallel_passes` is true."""
        raise AssertionError("this backbone has no store of texts")

    def vocabulary(self, label_words: tuple[str, ...]) -> Vocabulary:
        """Return the token embeddings, for initial values."""
        return Vocabulary(self.embed, self.embedding_rows, self.tokenizer, label_words)

    def copy(self) -> Self:
        """Return a copy whose weights may be changed. The tokenizer is shared."""
        from lopt.backbones._fused import unfuse

        backbone_copy = copy.copy(self)
        backbone_copy.model = copy.deepcopy(self.model)
        unfuse(backbone_copy.model)
        backbone_copy.flat = None  # its weights will change, and the stored keys and values of texts would be wrong
        return backbone_copy

    def with_dropout(self, rate: float) -> Self:
        """Return a copy for training steps only, with every dropout of the model on. The copy shares the weights.

        What is dropped is drawn from torch's random generators.

        Args:
            rate: in (0, 1).

        Raises:
            ValueError: the model has no dropout.
        """
        import torch

        from lopt.dropout import seeded_masks, with_dropout

        backbone_copy = copy.copy(self)
        backbone_copy.dropout = rate
        backbone_copy.flat = (
            None  # the flat form has no dropout in attention, and stores texts computed without dropout
        )
        # The model must have dropout: a rate of 0.5 is then sure to change the logits of eight tokens.
        backbone_copy.model = with_dropout(self.model, 0.5)
        ids_BT, lengths_B = self.sample_ids(1, 8), torch.tensor([8], device=self.device)
        logits_by_seed = []
        with torch.no_grad():
            for seed in (0, 1):
                with seeded_masks(self.device, seed):
                    logits_by_seed.append(backbone_copy._vocabulary_logits(None, ids_BT, lengths_B))
        if torch.equal(*logits_by_seed):
            raise ValueError(
                f"dropout is {rate:g}, but backbone {self.name!r} has no dropout layers: give dropout "
                "0, or another backbone"
            )
        backbone_copy.model = with_dropout(self.model, rate)
        return backbone_copy

    def checksum(self) -> str:
        """Return a hash of all weights. Equal hashes before and after training show that they did not change."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _logits_from_rows_of_head(self, state_BH: Any, label_ids_C: Any) -> Any:
        """Return the product of a last hidden state and the rows of the head that belong to the label words, `[B, C]`.

        The product is computed in fp32 at least. In bf16, logits around 11 have steps of 1/16, and in one or two
        examples of a hundred the classes would tie exactly.
        """
        import torch

        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        head_rows_CH = _at_least_fp32(head.weight[label_ids_C])
        bias_C = None if bias is None else _at_least_fp32(bias[label_ids_C])
        with torch.autocast(self.device.type, enabled=False):
            return torch.nn.functional.linear(_at_least_fp32(state_BH) * self.head_scale, head_rows_CH, bias_C)

    def _head_rows_give_the_logits(self) -> bool:
        """Return whether the product of the last hidden state and rows of the head gives the model's own logits.

        It does not in families that scale or cap their logits (Gemma, Cohere).
        """
        import torch

        if any(_LOGIT_CAP_KEY.search(key) and value for key, value in self.model.config.to_dict().items()):
            return False  # in bf16 the comparison below would show a cap on large logits only
        ids_BT, lengths_B = self.sample_ids(1, 8), torch.tensor([8], device=self.device)
        logits_by_whole_head_V = self._vocabulary_logits(None, ids_BT, lengths_B)[0].float()
        all_ids_V = torch.arange(len(logits_by_whole_head_V), device=self.device)
        try:
            state_BH = self._label_state(None, ids_BT, lengths_B)
            logits_by_rows_V = self._logits_from_rows_of_head(state_BH, all_ids_V)[0].float()
        except (AttributeError, IndexError, RuntimeError, TypeError):  # no head, no last hidden state, or another width
            return False
        rtol, atol = (2e-2, 5e-2) if self.dtype == torch.bfloat16 else (1e-4, 1e-3)
        return torch.allclose(logits_by_whole_head_V, logits_by_rows_V, rtol=rtol, atol=atol)

    def sample_ids(self, row_count: int, token_count: int) -> Any:
        """Return ordinary token ids `[rows, tokens]` for a check, all different if the vocabulary is large enough."""
        import torch

        first_id = min(100, self.embedding_rows // 2)  # the very first ids are often special
        ids = first_id + torch.arange(row_count * token_count, device=self.device) % (self.embedding_rows - first_id)
        return ids.view(row_count, token_count)

    @contextlib.contextmanager
    def _attention_and_autocast(self) -> Any:
        """Choose PyTorch's attention kernel, and the type of autocast, for a pass.

        The plain kernel is chosen in two cases. The first is a pass with gradients on the CPU, where the fused kernel's
        backward pass is several times slower at these lengths; but not if `allows_parallel_passes`, because the choice
        holds for all threads. The second is a pass with dropout on any device, because gradients of the fused kernels
        may differ in some bits from run to run. On a GPU, cuDNN's kernel is never chosen: it makes a plan for every new
        shape, and texts bring new shapes at nearly every step.
        """
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with contextlib.ExitStack() as contexts:
            is_fused_kernel_slow = (
                self.device.type == "cpu" and torch.is_grad_enabled() and not self.allows_parallel_passes
            )
            if is_fused_kernel_slow or self.dropout:
                contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
            elif self.device.type == "cuda":
                kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
                contexts.enter_context(sdpa_kernel(kernels))
            if self.autocast_dtype is not None:
                contexts.enter_context(torch.autocast(self.device.type, self.autocast_dtype))
            yield


def _at_least_fp32(tensor: Any) -> Any:
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()
