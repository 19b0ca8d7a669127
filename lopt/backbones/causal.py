"""Decoder-only models: GPT-2, Llama and kin, any `AutoModelForCausalLM` that takes `inputs_embeds`.

Positions are explicit and padding is on the right: a causal model's label position never sees it, so no attention mask
is needed. A prefix stands before everything; a suffix after the last token, where the label is then read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts
from lopt.backbones._model import FrozenModel, from_source, revision_of, source_of

# Measured on two cores (LOG.md): at 150 saved tokens a batch both forms take the same time, at 450 one pass takes 0.6.
_SHARE_FROM_TOKENS = 256


class CausalBackbone(FrozenModel):
    """A frozen causal language model."""

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        window = int(getattr(model.config, "max_position_embeddings", None) or 2048)
        super().__init__(name, revision, model, tokenizer, window=window)
        # fp64 is for proofs, so it takes the plain path; some norms compute in fp32 and would show the difference.
        self.share_from_tokens = _SHARE_FROM_TOKENS if self.dtype != torch.float64 else None
        with torch.no_grad():
            if not self._ignores_what_follows():
                raise ValueError(
                    f"backbone {name!r} looks at the tokens that follow, as encoders such as BERT do: give a decoder "
                    "(GPT-2, Llama and kin) or an encoder-decoder of T5's kind"
                )

    def complete(self, template: str) -> str:
        completed = template.removesuffix("{mask}").rstrip() if template.endswith("{mask}") else template
        if "{mask}" in completed:
            raise ValueError(
                f"template {template!r}: a causal model reads the label after the last token, so {{mask}} stands last"
            )
        return completed

    def _ignores_what_follows(self) -> bool:
        import torch

        ids_BT = torch.arange(1, 9, device=self.device)[None] % self.model.get_input_embeddings().weight.shape[0]
        whole_TH = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0, :4].float()
        part_TH = self.model.base_model(input_ids=ids_BT[:, :4], use_cache=False).last_hidden_state[0].float()
        rounding = 0.05 if self.dtype == torch.bfloat16 else 1e-3
        return bool((whole_TH - part_TH).norm() <= rounding * part_TH.norm())

    def _state(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, position_B = self._inputs(soft, ids_BT, lengths_B)
        return self.model.base_model(**call).last_hidden_state[self._rows(ids_BT), position_B]

    def _whole_logits(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, position_B = self._inputs(soft, ids_BT, lengths_B)
        return self.model(**call).logits[self._rows(ids_BT), position_B]

    def _rows(self, ids_BT: Any) -> Any:
        import torch

        return torch.arange(len(ids_BT), device=self.device)

    def _inputs(self, soft: Any, ids_BT: Any, lengths_B: Any) -> tuple[dict[str, Any], Any]:
        """Arguments of the model's forward, and the label position in its output.

        A prefix that several rows share is the same to every one of them, for a causal model's first positions do not
        see what follows: its keys and values can be computed once and not once a row. That takes a pass of its own over
        the weights, so it is done where it saves enough tokens.
        """
        import torch
        from transformers import DynamicCache

        text_BTH = self.model.get_input_embeddings()(ids_BT)
        size, tokens = ids_BT.shape
        if soft is None:
            call = {"inputs_embeds": text_BTH, "position_ids": self._positions(0, tokens, size), "use_cache": False}
            return call, lengths_B - 1
        shared = soft.shared_prefix(size) if self.share_from_tokens is not None else None
        if shared is None or (size - len(shared[0])) * shared[0].shape[1] < self.share_from_tokens:
            inputs_BSH, ends_B = soft.placed(text_BTH, lengths_B)
            positions = self._positions(0, inputs_BSH.shape[1], size)
            return {"inputs_embeds": inputs_BSH, "position_ids": positions, "use_cache": False}, ends_B - 1
        prompts_KPH, owners = shared
        count, before = prompts_KPH.shape[:2]
        cache = DynamicCache(config=self.model.config)
        self.model.base_model(
            inputs_embeds=prompts_KPH.to(self.dtype),
            position_ids=self._positions(0, before, count),
            past_key_values=cache,
        )
        cache.batch_select_indices(torch.tensor(owners, device=self.device))
        call = {
            "inputs_embeds": soft.updated(text_BTH),
            "position_ids": self._positions(before, tokens, size),
            "past_key_values": cache,
            "use_cache": True,
        }
        return call, lengths_B - 1

    def _positions(self, first: int, count: int, rows: int) -> Any:
        import torch

        return torch.arange(first, first + count, device=self.device).expand(rows, -1)


class CausalSpec:
    """Models that transformers loads by name or from a folder."""

    name = "causal"
    known: ClassVar[Mapping[str, Facts]] = {
        name: Facts(
            width=width,
            layers=layers,
            vocabulary=50257,
            window=1024,
            licence="MIT",
            size=size,
            projections=((layers, width, 3 * width),),
        )
        for name, width, layers, size in (
            ("gpt2", 768, 12, 124_439_808),
            ("gpt2-medium", 1024, 24, 354_823_168),
            ("gpt2-large", 1280, 36, 774_030_080),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        return from_source(
            CausalBackbone, "AutoModelForCausalLM", name, self.revision(name), source_of(name), precision
        )

    def revision(self, name: str) -> str:
        return revision_of(name)


SPEC = CausalSpec()
