"""What all loaded backbones share: label words, label logits from rows of the head, loading, revisions."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from lopt.backbones import facts, local_folder
from lopt.backbones._checks import refuse_unread
from lopt.backbones._configs import DEQUANTISED
from lopt.backbones._fused import fuse, unfuse
from lopt.dropout import masks, with_dropout
from lopt.errors import reason_of
from lopt.files import refuse_pointer

# Keys of a config that, where they are set, cap the logits.
_CAPPED = re.compile(r"^(?!attn).*logits?_soft_?cap")


@dataclass(frozen=True)
class TokenEmbeddings:
    """A model's input embeddings, for initial values; see `lopt.methods._initial.Vocabulary`.

    embed: gives embeddings `[..., H]` of token ids `[...]` as the model sees them: some families scale them.
    size: number of its rows.
    """

    embed: Any
    size: int
    tokenizer: Any
    label_words: tuple[str, ...]

    def token_rows(self, ids: np.ndarray) -> np.ndarray:
        return self.embed(ids).double().cpu().numpy()

    def ordinary_ids(self, most: int) -> np.ndarray:
        special = set(self.tokenizer.all_special_ids)
        size = min(len(self.tokenizer), self.size)
        return np.array([i for i in range(min(size, most + len(special))) if i not in special][:most])

    def label_rows(self) -> np.ndarray:
        pieces = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in self.label_words]
        return np.stack([self.token_rows(np.array(ids)).mean(axis=0) for ids in pieces])


class FrozenModel(ABC):
    """A frozen language model; see `lopt.backbones.Backbone` for the interface. dropout: the rate of a copy that is for
    training steps only."""

    dropout = 0.0

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any, *, window: int) -> None:
        import torch

        self.name, self.revision, self.tokenizer, self.window = name, revision, tokenizer, window
        self.model = model.eval().requires_grad_(False)
        row_H = self.embed(np.zeros(1, dtype=np.int64))[0]
        self.width, self.device, self.dtype = len(row_H), row_H.device, row_H.dtype
        tokens = max(tokenizer.get_vocab().values(), default=-1) + 1  # of a vocabulary with gaps, more than its len
        if tokens > self.embedding_rows:
            raise ValueError(
                f"backbone {name!r}: its tokenizer has {tokens:,} tokens and its embeddings only "
                f"{self.embedding_rows:,} rows; they do not belong together"
            )
        self.pad_id = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self.autocast: Any = None
        if self.dtype != torch.float64:  # which is for proofs
            fuse(self.model)
        with torch.no_grad():
            self._refuse_unfit()
            self._whole_head = not self._rows_of_head_suffice()

    def embed(self, ids: np.ndarray) -> Any:
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
        return False  # the choice of attention kernels is the whole process's

    @property
    def pads_rows(self) -> bool:
        return True

    @abstractmethod
    def complete(self, template: str) -> str:
        """See `lopt.backbones.Backbone`."""

    @property
    def head_scale(self) -> float:
        """What the model multiplies its last hidden state by before the head."""
        return 1.0

    @abstractmethod
    def _refuse_unfit(self) -> None:
        """Raises ValueError for a model at whose input a soft prompt cannot stand."""

    @abstractmethod
    def _state(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """Last hidden state at the label position, `[B, H]`."""

    @abstractmethod
    def _whole_logits(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        """The model's own logits at the label position, `[B, V]`."""

    def label_ids(self, words: Sequence[str]) -> Any:
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

    def label_logits(self, soft: Any, ids_BT: Any, lengths_B: Any, label_ids_C: Any) -> Any:
        with self._kernels():
            if self._whole_head:
                logits_BC = self._whole_logits(soft, ids_BT, lengths_B)[:, label_ids_C]
            else:
                logits_BC = self._label_rows(self._state(soft, ids_BT, lengths_B), label_ids_C)
        return _widened(logits_BC)

    def row_tokens(self, soft: Any, length: int) -> int:
        return soft.length + length

    def unread(self, soft: Any, texts: Any) -> Any:
        return []

    def read(self, texts: Any) -> None:
        raise AssertionError("nothing is kept of texts here, so none is unread")

    def vocabulary(self, label_words: tuple[str, ...]) -> TokenEmbeddings:
        return TokenEmbeddings(self.embed, self.embedding_rows, self.tokenizer, label_words)

    def copy(self) -> Self:
        made = copy.copy(self)
        made.model = copy.deepcopy(self.model)
        unfuse(made.model)
        return made

    def with_dropout(self, rate: float) -> Self:
        import torch

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


def torch_dtype(precision: str) -> Any:
    """The torch type of "bf16", "fp32" or "fp64"."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]


def default_device() -> Any:
    """The first GPU that is visible, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_source(kind: type, auto: str, name: str, revision: str, source: str | Path, precision: str) -> Any:
    """Loads a folder or hub name. Code that comes with a model is never executed.

    Args:
        kind: a backbone's class, made of (name, revision, model, tokenizer). auto: name of the transformers class that
            loads the model. name: what the backbone is called. revision: what identifies the weights. source: the
            folder or hub name. precision: "bf16", "fp32" or "fp64".

    Returns:
        The backbone, on the GPU when there is one.

    Raises:
        ValueError: it cannot be had, lacks some of its weights or has more of them, is an adapter, or has no fast
            tokenizer.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    facts(name)  # refuses what its config.json rules out
    options: dict[str, Any] = {"dtype": torch_dtype(precision), "trust_remote_code": False, "output_loading_info": True}
    if precision == "fp64":
        options["experts_implementation"] = "eager"  # PyTorch's grouped products have no fp64
    try:
        # trust_remote_code is said, not left open: transformers would ask on standard input.
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        options["config"] = _config_of(source)
        model, loading = _with_attention(getattr(transformers, auto).from_pretrained, source, options)
    except Exception as error:  # transformers and the hub's client raise many kinds; the user needs one line
        reason = reason_of(error)
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({reason}); give a folder with config.json, weights and tokenizer, "
            "set LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:  # transformers would go on with random ones
        raise ValueError(
            f"backbone {name!r} lacks {len(missing)} of its weights ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}): its config.json is another model's, or its files are incomplete"
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # its weights are another folder's
        raise ValueError(
            f"backbone {name!r} has an adapter_config.json, so that transformers reads an adapter of PEFT and the "
            f"model below it, {model.name_or_path!r}: give a model with the adapter merged into it, or take that "
            "file away"
        )
    refuse_unread(name, model, loading["unexpected_keys"])
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"backbone {name!r} has no fast tokenizer; one with a tokenizer.json is needed")
    backbone = kind(name, revision, model.to(default_device()), tokenizer)
    if backbone.width != facts(name).width:
        raise ValueError(
            f"backbone {name!r}: its config.json says that embeddings are {facts(name).width} wide, and they are "
            f"{backbone.width} wide; give files that belong together"
        )
    return backbone


def _config_of(source: str | Path) -> Any:
    """The model's configuration, without what it says of how the model is run: that is decided here."""
    from transformers import AutoConfig

    ours = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **ours)
    quantised = getattr(config, "quantization_config", None)
    if (
        isinstance(quantised, dict) and quantised.get("quant_method") in DEQUANTISED
    ):  # a GPU might keep them as they are
        quantised["dequantize"] = True
    return config


def _with_attention(load: Any, source: str | Path, options: dict[str, Any]) -> Any:
    """Loads with PyTorch's attention, or with the family's own where PyTorch's cannot express it (Gemma 2, BLOOM)."""
    try:
        return load(source, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        return load(source, attn_implementation="eager", **options)


def source_of(name: str) -> str | Path:
    """What transformers loads for a name: a local folder, or the name itself, for the hub."""
    return local_folder(name) or name


def revision_of(name: str) -> str:
    """Hash of a local folder's files, or the commit of the hub.

    Raises:
        ValueError: neither is at hand.
    """
    folder = local_folder(name)
    if folder is not None:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".model", ".txt"))
        for file in files:
            refuse_pointer(file)
        return _folder_revision(folder, tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files))
    try:
        from huggingface_hub import hf_hub_download

        return "hub:" + Path(hf_hub_download(name, "config.json")).parent.name[:16]
    except Exception as error:
        reason = reason_of(error)
        raise ValueError(
            f"backbone {name!r} is not on this machine and the hub gave none ({reason}); give a folder, set "
            "LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
        ) from None


@lru_cache(maxsize=8)
def _folder_revision(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]
