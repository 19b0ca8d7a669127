"""Decoder-only models: GPT-2, Llama and similar, any `AutoModelForCausalLM` that takes `inputs_embeds`.

A soft prompt as a prefix comes before the text. As a suffix it comes after the last token of the text, and the label is
read after the suffix.

A pass has two forms. The plain form pads all rows to one length on the right. The label position of a causal model
never sees what follows it, so no attention mask is needed. The flat form (`_flat`) is faster. It is used if
`flat_form_agrees` finds that it gives the same results.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.backbones import Backbone, Facts, load_from_source, revision_of, source_of, window_of
from lopt.device import to_device
from lopt.special_tokens import end_tokens, without_end_tokens

if TYPE_CHECKING:
    from lopt.backbones._flat import FlatForm


class CausalBackbone(Backbone):
    """A frozen causal language model.

    Attributes:
        flat: the flat form of its passes, or None if passes take the plain form.
        left_out_tokens: special tokens that the original tokenizer appends to every text. Here they are left out.
    """

    flat: FlatForm | None = None

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        from lopt.backbones._flat import FlatForm
        from lopt.backbones._flat_check import flat_form_agrees

        takes_use_cache = "use_cache" in inspect.signature(model.forward).parameters
        self._forward_options = {"use_cache": False} if takes_use_cache else {}
        window = min(window_of(model.config.to_dict()), _learned_position_count(model))
        self.left_out_tokens = tuple(end_tokens(tokenizer))
        super().__init__(name, revision, model, without_end_tokens(tokenizer), window=window)
        if self.dtype != torch.float64 and not self._uses_whole_head:  # fp64 is for tests, which use the plain form
            flat_form = FlatForm(self.model, self.pad_id)
            for use_varlen_kernel in flat_form.forms_of_attention:
                flat_form.use_varlen_kernel = use_varlen_kernel
                with torch.no_grad():
                    if flat_form_agrees(flat_form, self._plain_label_state, self.sample_ids(4, 12)):
                        self.flat = flat_form
                        break

    def _logits(self, **inputs: Any) -> Any:
        return self.model(**inputs, **self._forward_options).logits

    def take_form(
        self, flat_form: FlatForm | None, *, use_fused_parts: bool, use_torch_kernels: bool | None = None
    ) -> None:
        """Run passes in another form than the one chosen when the model was loaded, to compare forms.

        Args:
            flat_form: the flat form that runs the passes, or None for the plain form.
            use_fused_parts: whether to use the fused parts of `_fused` or the model's own.
            use_torch_kernels: whether the flat form uses PyTorch's attention. None leaves the choice to the device.
        """
        from lopt.backbones._fused import fuse, unfuse
        from lopt.backbones._last_mlp import restrict_last_mlp

        (fuse if use_fused_parts else unfuse)(self.model)
        self.flat = flat_form
        if flat_form is not None:
            restrict_last_mlp(self.model)  # `unfuse` has undone it
            flat_form.use_torch_kernels = self.device.type != "cpu" if use_torch_kernels is None else use_torch_kernels
            flat_form.use_varlen_kernel = flat_form.use_varlen_kernel and use_torch_kernels is None

    def fill_template(self, template: str) -> str:
        without_mask = template.removesuffix("{mask}").rstrip() if template.endswith("{mask}") else template
        if "{mask}" in without_mask:
            raise ValueError(
                f"template {template!r}: a causal model reads the label after the last token, so put {{mask}} last or "
                "leave it out"
            )
        return without_mask

    def token_count_of_row(self, soft_prompt: Any, length: int) -> int:
        token_count_of_row = super().token_count_of_row if self.flat is None else self.flat.token_count_of_row
        return token_count_of_row(soft_prompt, length)

    def uncached_texts(self, soft_prompt: Any, texts: Any) -> Any:
        return [] if self.flat is None else self.flat.uncached_texts(soft_prompt, texts)

    def cache_texts(self, texts: Any) -> None:
        assert self.flat is not None, "the plain form has no store of texts"
        self.flat.text_store.compute_and_store(texts)

    def _label_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        label_state = self._plain_label_state if self.flat is None else self.flat.label_state
        return label_state(soft_prompt, ids_BT, lengths_B)

    def _plain_label_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        inputs, label_indices = self._plain_inputs(soft_prompt, ids_BT, lengths_B)
        return self.model.base_model(**inputs, **self._forward_options).last_hidden_state[label_indices]

    def _vocabulary_logits(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        inputs, label_indices = self._plain_inputs(soft_prompt, ids_BT, lengths_B)
        return self._logits(**inputs)[label_indices]

    def _plain_inputs(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> tuple[dict[str, Any], Any]:
        """Return the arguments of the model's forward, and the rows and positions of the labels in its output.

        Position ids are left to the model, because some families do not begin at 0.
        """
        import torch

        ends_B, inputs_BSH = lengths_B, self.model.get_input_embeddings()(to_device(ids_BT, self.device))
        if soft_prompt is not None:
            inputs_BSH, ends_B = soft_prompt.join_text(inputs_BSH, lengths_B)
            # If prompts have different lengths, the padding may reach beyond the window.
            inputs_BSH = inputs_BSH[:, : int(ends_B.max())]
        label_positions_B = to_device(ends_B - 1, self.device)
        return {"inputs_embeds": inputs_BSH}, (torch.arange(len(ids_BT), device=self.device), label_positions_B)


def _learned_position_count(model: Any) -> int:
    """Return how many tokens a text can have if position ids begin after the padding id, as in RoBERTa.

    For other models return a number so large that it has no effect.
    """
    import torch

    position_counts = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    return min(position_counts, default=sys.maxsize)


class CausalSpec:
    """Causal models that transformers loads by name or from a folder."""

    name = "causal"
    known: ClassVar[Mapping[str, Facts]] = {
        name: Facts(
            width=width,
            layers=layers,
            vocabulary=50257,
            window=1024,
            licence="MIT",
            weight_count=weight_count,
            projections=((layers, width, 3 * width),),
        )
        for name, width, layers, weight_count in (
            ("gpt2", 768, 12, 124_439_808),
            ("gpt2-medium", 1024, 24, 354_823_168),
            ("gpt2-large", 1280, 36, 774_030_080),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        return load_from_source(
            CausalBackbone, "AutoModelForCausalLM", name, self.revision(name), source_of(name), precision
        )

    def revision(self, name: str) -> str:
        return revision_of(name)


SPEC = CausalSpec()
