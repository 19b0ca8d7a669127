"""Decoder-only models: GPT-2, Llama and kin, any `AutoModelForCausalLM` that takes `inputs_embeds`.

A prefix stands before everything; a suffix after the last token, where the label is then read. There are two forms of a
pass: the plain one pads all rows to one length, on the right, where a causal model's label position never sees it, so
that no attention mask is needed; the flat one (`_flat`) gives the same faster, and is taken where it does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lopt.backbones import Backbone, Facts, from_source, revision_of, source_of, window_of
from lopt.special_tokens import end_of, without_end

if TYPE_CHECKING:
    from lopt.backbones._flat import FlatForm


class CausalBackbone(Backbone):
    """A frozen causal language model. flat: how its passes are run; None takes the plain form. left_out: special tokens
    that the tokenizer, as others load it, appends to every text."""

    flat: FlatForm | None = None

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        from lopt.backbones._flat import FlatForm, flat_form_holds

        takes_cache = "use_cache" in inspect.signature(model.forward).parameters
        self._keywords = {"use_cache": False} if takes_cache else {}
        window = min(window_of(model.config.to_dict()), _rows_of_positions(model))
        self.left_out = tuple(end_of(tokenizer))
        super().__init__(name, revision, model, without_end(tokenizer), window=window)
        if self.dtype != torch.float64 and not self._whole_head:  # fp64 is for proofs
            form = FlatForm(self.model, self.pad_id)
            with torch.no_grad():
                if flat_form_holds(form, self._plain_state, self.some_ids(4, 12)):
                    self.flat = form

    def _logits(self, **inputs: Any) -> Any:
        return self.model(**inputs, **self._keywords).logits

    def take_form(self, flat: FlatForm | None, *, fused: bool, kernels: bool | None = None) -> None:
        """Runs passes in another form than the one chosen at load, to compare them: flat or plain, with fused norms or
        the model's own; `kernels` is the flat form's (None: the device's usual)."""
        from lopt.backbones._fused import fuse, unfuse
        from lopt.backbones._read import restrict

        (fuse if fused else unfuse)(self.model)
        self.flat = flat
        if flat is not None:
            restrict(self.model)  # which unfusing takes back
            flat.kernels = self.device.type != "cpu" if kernels is None else kernels

    def copy(self) -> Self:
        made = super().copy()
        made.flat = None  # its weights will change, and with them what is kept of texts
        return made

    def with_dropout(self, rate: float) -> Self:
        own = super().with_dropout(rate)
        own.flat = None  # which has no dropout in its attention, and keeps what a text says without it
        return own

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

    def row_tokens(self, soft_prompt: Any, length: int) -> int:
        return (
            super().row_tokens(soft_prompt, length) if self.flat is None else self.flat.row_tokens(soft_prompt, length)
        )

    def unread(self, soft_prompt: Any, texts: Any) -> Any:
        return [] if self.flat is None else self.flat.unread(soft_prompt, texts)

    def read(self, texts: Any) -> None:
        assert self.flat is not None, "there is nothing unread"
        self.flat.texts.keep(texts)

    def _state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        form = self._plain_state if self.flat is None else self.flat.state
        return form(soft_prompt, ids_BT, lengths_B)

    def _plain_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, places = self._inputs(soft_prompt, ids_BT, lengths_B)
        return self.model.base_model(**call, **self._keywords).last_hidden_state[places]

    def _whole_logits(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call, places = self._inputs(soft_prompt, ids_BT, lengths_B)
        return self._logits(**call)[places]

    def _inputs(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> tuple[dict[str, Any], Any]:
        """Embeddings for the model's forward, and where the label is read in its output: rows and positions.

        Positions are left to the model: some families begin at another number than 0.
        """
        import torch

        ids_BT, lengths_B = ids_BT.to(self.device), lengths_B.to(self.device)
        inputs_BSH, ends_B = self.model.get_input_embeddings()(ids_BT), lengths_B
        if soft_prompt is not None:
            inputs_BSH, ends_B = soft_prompt.placed(inputs_BSH, lengths_B)
            # Of prompts of several lengths the padding may reach beyond the window.
            inputs_BSH = inputs_BSH[:, : int(ends_B.max())]
        return {"inputs_embeds": inputs_BSH}, (torch.arange(len(ids_BT), device=self.device), ends_B - 1)


def _rows_of_positions(model: Any) -> int:
    """How many positions a model has that counts them from beyond its padding token, as RoBERTa does; else, many."""
    import torch

    counts = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    return min(counts, default=sys.maxsize)


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
