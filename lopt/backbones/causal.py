"""Decoder-only models: GPT-2, Llama and kin, any `AutoModelForCausalLM` that takes `inputs_embeds`.

The prompt stands before everything, positions are explicit, padding is on the right: a causal model's label position
never sees it, so no attention mask is needed. Of the head, only the rows of the label words are computed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts, local_folder

# Measured on two cores (LOG.md): at 150 saved tokens a batch both forms take the same time, at 450 one pass takes 0.6.
_SHARE_FROM_TOKENS = 256


class CausalBackbone:
    """A frozen causal language model; see `lopt.backbones.Backbone` for the interface."""

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        self.name, self.revision, self.tokenizer = name, revision, tokenizer
        self.model = model.eval().requires_grad_(False)
        embeddings = model.get_input_embeddings()
        self.width = int(embeddings.weight.shape[1])
        self.window = int(getattr(model.config, "max_position_embeddings", None) or 2048)
        self.pad_id = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self.device, self.dtype = embeddings.weight.device, embeddings.weight.dtype
        self._embed, self._body, self._head = embeddings, model.base_model, model.get_output_embeddings()
        # fp64 is for proofs, so it takes the plain path; some norms compute in fp32 and would show the difference.
        self.share_from_tokens = _SHARE_FROM_TOKENS if self.dtype != torch.float64 else None
        self._whole_head = False
        with torch.no_grad():
            self._whole_head = not self._rows_of_head_suffice()

    def label_ids(self, words: Sequence[str]) -> Any:
        import torch

        first = [self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
        if len(set(first)) < len(first):
            pairs = ", ".join(f"{w!r}: {i}" for w, i in zip(words, first, strict=True))
            raise ValueError(f"label words share their first token for {self.name} ({pairs}); choose words that differ")
        return torch.tensor(first, device=self.device)

    def label_logits(self, prompt: Any, ids_BT: Any, lengths_B: Any, label_ids_C: Any) -> Any:
        import torch

        ids_BT, lengths_B = ids_BT.to(self.device), lengths_B.to(self.device)
        rows = torch.arange(len(ids_BT), device=self.device)
        with self._attention():
            call, position_B = self._inputs(prompt, self._embed(ids_BT), lengths_B - 1)
            if self._whole_head:
                logits_BV = self.model(**call).logits[rows, position_B]
                return _widened(logits_BV[:, label_ids_C])
            hidden_BH = self._body(**call).last_hidden_state[rows, position_B]
        return _widened(self._label_rows(hidden_BH, label_ids_C))

    def _inputs(self, prompt: Any, text_BTH: Any, last_B: Any) -> tuple[dict[str, Any], Any]:
        """Arguments of the model's forward, and the label position in its output.

        A prompt that all rows share is the same to every one of them, for a causal model's first positions do not see
        what follows: its keys and values can be computed once and not B times. That takes a pass of its own over the
        weights, so it is done where it saves enough tokens.
        """
        import torch
        from transformers import DynamicCache

        size, tokens = text_BTH.shape[:2]
        before, call = 0, {"inputs_embeds": text_BTH, "use_cache": False}
        if prompt is not None:
            prompt, before = prompt.to(self.dtype), prompt.shape[-2]
            saved = (size - 1) * before if prompt.ndim == 2 else 0
            if self.share_from_tokens is not None and saved >= self.share_from_tokens:
                cache = DynamicCache(config=self.model.config)
                self._body(
                    inputs_embeds=prompt[None], position_ids=self._positions(0, before, 1), past_key_values=cache
                )
                cache.batch_repeat_interleave(size)
                call |= {"past_key_values": cache, "use_cache": True}
            else:
                call["inputs_embeds"] = torch.cat([prompt.expand(size, -1, -1), text_BTH], dim=1)
                call["position_ids"] = self._positions(0, before + tokens, size)
                return call, before + last_B
        call["position_ids"] = self._positions(before, tokens, size)
        return call, last_B

    def _positions(self, first: int, count: int, rows: int) -> Any:
        import torch

        return torch.arange(first, first + count, device=self.device).expand(rows, -1)

    def checksum(self) -> str:
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _label_rows(self, hidden_BH: Any, label_ids_C: Any) -> Any:
        import torch

        bias = getattr(self._head, "bias", None)
        rows_CH = self._head.weight[label_ids_C]
        return torch.nn.functional.linear(hidden_BH, rows_CH, None if bias is None else bias[label_ids_C])

    def _rows_of_head_suffice(self) -> bool:
        """Whether rows of the head give the model's own logits: some families scale or cap them (Gemma, Cohere)."""
        import torch

        if self._head is None or self._head.weight.shape[1] != self.width:
            return False
        ids_BT = torch.arange(1, 9, device=self.device)[None] % self._embed.weight.shape[0]
        whole_V = self.model(input_ids=ids_BT, use_cache=False).logits[0, -1].float()
        hidden_BH = self._body(input_ids=ids_BT, use_cache=False).last_hidden_state[:, -1]
        rows_V = self._label_rows(hidden_BH, torch.arange(len(whole_V), device=self.device))[0].float()
        rtol, atol = (2e-2, 5e-2) if self.dtype == torch.bfloat16 else (1e-4, 1e-3)
        return torch.allclose(whole_V, rows_V, rtol=rtol, atol=atol)

    def _attention(self) -> Any:
        """On the CPU the plain kernel: the fused one's backward pass is several times slower at these lengths."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if self.device.type == "cpu" and torch.is_grad_enabled():
            return sdpa_kernel(SDPBackend.MATH)
        return contextlib.nullcontext()


def _widened(logits: Any) -> Any:
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def torch_dtype(precision: str) -> Any:
    """The torch type of "bf16", "fp32" or "fp64"."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]


def default_device() -> Any:
    """The first GPU that is visible, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_folder(name: str, revision: str, source: str | Path, precision: str) -> CausalBackbone:
    """Loads a folder or hub name with transformers. Code from a hub is never executed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch_dtype(precision), attn_implementation="sdpa")
    except Exception as error:  # transformers and the hub's client raise many kinds; the user needs one line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({reason}); give a folder with config.json, weights and tokenizer, "
            "set LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"backbone {name!r} has no fast tokenizer; one with a tokenizer.json is needed")
    return CausalBackbone(name, revision, model.to(default_device()), tokenizer)


@lru_cache(maxsize=8)
def _folder_revision(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]


class CausalSpec:
    """Models that transformers loads by name or from a folder."""

    name = "causal"
    known: ClassVar[Mapping[str, Facts]] = {
        "gpt2": Facts(width=768, layers=12, vocabulary=50257, window=1024, licence="MIT"),
        "gpt2-medium": Facts(width=1024, layers=24, vocabulary=50257, window=1024, licence="MIT"),
        "gpt2-large": Facts(width=1280, layers=36, vocabulary=50257, window=1024, licence="MIT"),
    }

    def load(self, name: str, precision: str) -> Backbone:
        return from_folder(name, self.revision(name), local_folder(name) or name, precision)

    def revision(self, name: str) -> str:
        """Hash of a folder's weights, config and tokenizer; the commit of a hub model."""
        folder = local_folder(name)
        if folder is not None:
            files = sorted(
                p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".model", ".txt")
            )
            return _folder_revision(folder, tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files))
        try:
            from huggingface_hub import hf_hub_download

            return "hub:" + Path(hf_hub_download(name, "config.json")).parent.name[:16]
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise ValueError(
                f"backbone {name!r} is not on this machine and the hub gave none ({reason}); give a folder, set "
                "LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
            ) from None


SPEC = CausalSpec()
