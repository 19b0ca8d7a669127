"""Decoder-only models: GPT-2, Llama and kin, any `AutoModelForCausalLM` that takes `inputs_embeds`.

A prefix stands before everything; a suffix after the last token, where the label is then read. There are two forms of a
pass: the plain one pads all rows to one length, on the right, where a causal model's label position never sees it, so
that no attention mask is needed; the flat one (`_flat`) gives the same faster, and is taken where it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lopt.backbones import Backbone, Facts
from lopt.backbones._flat import FlatForm
from lopt.backbones._model import FrozenModel, from_source, revision_of, source_of
from lopt.soft_prompt import PLACEMENTS, SoftPrompt


class CausalBackbone(FrozenModel):
    """A frozen causal language model. flat: how its passes are run; None takes the plain form."""

    flat: FlatForm | None = None

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        window = int(getattr(model.config, "max_position_embeddings", None) or 2048)
        super().__init__(name, revision, model, tokenizer, window=window)
        with torch.no_grad():
            if not self._ignores_what_follows():
                raise ValueError(
                    f"backbone {name!r} looks at the tokens that follow, as encoders such as BERT do: give a decoder "
                    "(GPT-2, Llama and kin) or an encoder-decoder of T5's kind"
                )
            # fp64 is for proofs, so it takes the plain form; some norms compute in fp32 and would show the difference.
            form = FlatForm(self.model, self.pad_id)
            if self.dtype != torch.float64 and self._flat_form_holds(form):
                self.flat = form

    def copy(self) -> Self:
        made = super().copy()
        made.flat = None  # its weights will change, and with them what is kept of texts
        return made

    def with_dropout(self, rate: float) -> Self:
        made = super().with_dropout(rate)
        made.flat = None  # which has no dropout in its attention, and keeps what a text says without it
        return made

    @property
    def side_by_side(self) -> bool:
        return self.flat is not None

    @property
    def pads_rows(self) -> bool:
        return self.flat is None

    def complete(self, template: str) -> str:
        completed = template.removesuffix("{mask}").rstrip() if template.endswith("{mask}") else template
        if "{mask}" in completed:
            raise ValueError(
                f"template {template!r}: a causal model reads the label after the last token, so {{mask}} stands last"
            )
        return completed

    def row_tokens(self, soft: Any, length: int) -> int:
        if self.flat is None:
            return super().row_tokens(soft, length)
        return self.flat.row_tokens(soft, length)

    def unread(self, soft: Any, texts: Any) -> Any:
        return [] if self.flat is None else self.flat.unread(soft, texts)

    def read(self, texts: Any) -> None:
        assert self.flat is not None, "there is nothing unread"
        self.flat.texts.keep(texts)

    def _ignores_what_follows(self) -> bool:
        import torch

        ids_BT = torch.arange(1, 9, device=self.device)[None] % self.model.get_input_embeddings().weight.shape[0]
        whole_TH = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0, :4].float()
        part_TH = self.model.base_model(input_ids=ids_BT[:, :4], use_cache=False).last_hidden_state[0].float()
        if not part_TH.isfinite().all():
            raise ValueError(f"backbone {self.name!r} gives numbers that are not finite: its weights are damaged")
        rounding = 0.05 if self.dtype == torch.bfloat16 else 1e-3
        return bool((whole_TH - part_TH).norm() <= rounding * part_TH.norm())

    def _flat_form_holds(self, form: FlatForm) -> bool:
        """Whether the flat form gives what the plain one gives: not with attention of a special kind."""
        import torch

        config = self.model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if getattr(config, "sliding_window", None) or kinds != {"full_attention"}:
            return False
        some = (100 + torch.arange(14, device=self.device)).view(2, 7)  # ordinary tokens; the first are often special
        ids_BT, lengths_B = some % len(self.model.get_input_embeddings().weight), torch.tensor([7, 4])
        prompt_PH = self.model.get_input_embeddings()(ids_BT[0, :3])
        rounding = 0.5 if self.dtype == torch.bfloat16 else 1e-3  # other places of rounding, through all layers
        for placement in PLACEMENTS:
            soft = SoftPrompt(prompt=prompt_PH, placement=placement)
            plain_BH = self._plain_state(soft, ids_BT, lengths_B).float()
            try:
                flat_BH = form.state(soft, ids_BT, lengths_B).float()
            except (TypeError, ValueError, RuntimeError, AttributeError):
                return False  # attention of a special kind, or one that is not handed what it needs
            if not (flat_BH - plain_BH).norm() <= rounding * plain_BH.norm():
                return False
        return True

    def _state(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        form = self._plain_state if self.flat is None else self.flat.state
        return form(soft, ids_BT, lengths_B)

    def _plain_state(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, position_B = self._inputs(soft, ids_BT, lengths_B)
        return self.model.base_model(**call).last_hidden_state[self._rows(ids_BT), position_B]

    def _whole_logits(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, position_B = self._inputs(soft, ids_BT, lengths_B)
        return self.model(**call).logits[self._rows(ids_BT), position_B]

    def _rows(self, ids_BT: Any) -> Any:
        import torch

        return torch.arange(len(ids_BT), device=self.device)

    def _inputs(self, soft: Any, ids_BT: Any, lengths_B: Any) -> tuple[dict[str, Any], Any]:
        """Arguments of the model's forward, and the label position in its output."""
        import torch

        ids_BT, lengths_B = ids_BT.to(self.device), lengths_B.to(self.device)
        inputs_BSH, ends_B = self.model.get_input_embeddings()(ids_BT), lengths_B
        if soft is not None:
            inputs_BSH, ends_B = soft.placed(inputs_BSH, lengths_B)
        positions = torch.arange(inputs_BSH.shape[1], device=self.device).expand(len(ids_BT), -1)
        return {"inputs_embeds": inputs_BSH, "position_ids": positions, "use_cache": False}, ends_B - 1


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
