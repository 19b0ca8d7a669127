"""T5-style encoder-decoder models: T5, T5 v1.1, Flan-T5, mT5, UMT5, Switch, LongT5, T5Gemma.

The prompt is in the encoder's input. In the text, the sentinel `<extra_id_0>` marks where the label is missing.
The decoder's input is `[start, <extra_id_0>]`, and the label is read at its second step, as in T5's own pre-training.

A pass has two forms. The plain form pads all rows to one length. The flat form (`_flat_encoder`) has no padding. It is
used if `flat_form_agrees` finds that it gives the same results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lopt.backbones import Backbone, Facts, load_from_source, revision_of, source_of, window_of
from lopt.device import to_device

if TYPE_CHECKING:
    from lopt.backbones._flat_encoder import FlatEncoderForm

SENTINEL = "<extra_id_0>"
_MARKED_SENTINEL = "\N{LOWER ONE EIGHTH BLOCK}<extra_id_0>"  # mT5's token begins with the character that marks a blank


class Seq2SeqBackbone(Backbone):
    """A frozen model like T5. There is no precision fp16, because fp16 overflows in these models."""

    flat: FlatEncoderForm | None = None

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        import torch

        from lopt.backbones._flat_check import flat_form_agrees

        vocabulary = tokenizer.get_vocab()
        self._sentinel_needs_blank = SENTINEL not in vocabulary and _MARKED_SENTINEL in vocabulary
        self._sentinel_id = vocabulary.get(_MARKED_SENTINEL if self._sentinel_needs_blank else SENTINEL)
        if self._sentinel_id is None:
            raise ValueError(f"backbone {name!r}: its tokenizer has no {SENTINEL}; give a T5-style encoder-decoder")
        self._start_id = _find_start_id(model.config)
        # The config gives the window, 512 tokens for T5. Positions are relative, so nothing would break beyond it.
        super().__init__(name, revision, model, tokenizer, window=window_of(model.config.to_dict()))
        if self._sentinel_id not in tokenizer(self.fill_template("Text")).input_ids:
            raise ValueError(f"backbone {name!r}: its tokenizer has {SENTINEL}, but does not recognise it in a text")
        if self.dtype != torch.float64 and not self._uses_whole_head:  # fp64 is for tests, which use the plain form
            flat_form = self.make_flat_form()
            with torch.no_grad():
                if flat_form_agrees(flat_form, self._plain_label_state, self.sample_ids(4, 12)):
                    self.flat = flat_form

    def make_flat_form(self) -> FlatEncoderForm:
        """Return the flat form of this backbone's passes."""
        from lopt.backbones._flat_encoder import FlatEncoderForm

        return FlatEncoderForm(self.model, (self._start_id, self._sentinel_id))

    def fill_template(self, template: str) -> str:
        with_mask = template if "{mask}" in template else f"{template} {{mask}}"
        if not self._sentinel_needs_blank:
            return with_mask.replace("{mask}", SENTINEL)
        before, after = with_mask.split("{mask}")
        return f"{before.rstrip(' ')} {SENTINEL}{after}"

    def _logits(self, **inputs: Any) -> Any:
        ids_B2 = self._decoder_ids(len(next(iter(inputs.values()))))
        decoder_inputs = {"decoder_input_ids": ids_B2, "decoder_attention_mask": ids_B2.new_ones(ids_B2.shape)}
        return self.model(**inputs, **decoder_inputs, use_cache=False).logits

    @property
    def head_scale(self) -> float:
        """T5 with tied embeddings multiplies the last hidden state by d^-0.5 before the head."""
        return self.width**-0.5 if getattr(self.model.config, "scale_decoder_outputs", False) else 1.0

    def _encoder_inputs(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> dict[str, Any]:
        """Return the embeddings `[B, S, H]` of prompt and text, and the attention mask `[B, S]`."""
        import torch

        inputs_BSH = self.model.get_input_embeddings()(to_device(ids_BT, self.device))
        if soft_prompt is not None:
            inputs_BSH, lengths_B = soft_prompt.join_text(inputs_BSH, lengths_B)
        mask_BS = (
            torch.arange(inputs_BSH.shape[1], device=self.device)[None] < to_device(lengths_B, self.device)[:, None]
        )
        return {"inputs_embeds": inputs_BSH, "attention_mask": mask_BS.long()}

    def _decoder_ids(self, row_count: int) -> Any:
        return to_device([[self._start_id, self._sentinel_id]], self.device).expand(row_count, -1)

    def _label_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        label_state = self._plain_label_state if self.flat is None else self.flat.label_state
        return label_state(soft_prompt, ids_BT, lengths_B)

    def _plain_label_state(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        encoder_inputs = self._encoder_inputs(soft_prompt, ids_BT, lengths_B)
        encoded_BSH = self.model.get_encoder()(**encoder_inputs).last_hidden_state
        decoder_ids_B2 = self._decoder_ids(len(ids_BT))
        decoder_output = self.model.get_decoder()(
            input_ids=decoder_ids_B2,
            attention_mask=decoder_ids_B2.new_ones(decoder_ids_B2.shape),  # the start token may be the padding token
            encoder_hidden_states=encoded_BSH,
            encoder_attention_mask=encoder_inputs["attention_mask"],
            use_cache=False,
        )
        return decoder_output.last_hidden_state[:, 1]

    def _vocabulary_logits(self, soft_prompt: Any, ids_BT: Any, lengths_B: Any) -> Any:
        return self._logits(**self._encoder_inputs(soft_prompt, ids_BT, lengths_B))[:, 1]


def _find_start_id(config: Any) -> int:
    """Return the decoder's start token: the one in the config, or T5Gemma's BOS, or padding as in T5."""
    bos_id = getattr(getattr(config, "decoder", None), "bos_token_id", None)
    candidate_ids = (getattr(config, "decoder_start_token_id", None), bos_id, config.pad_token_id)
    return next(int(token_id) for token_id in candidate_ids if token_id is not None)


class Seq2SeqSpec:
    """Models of the T5 family that transformers loads by name or from a folder."""

    name = "seq2seq"
    known: ClassVar[Mapping[str, Facts]] = {
        name: Facts(
            width=width,
            layers=layers,
            vocabulary=32128,
            window=512,
            licence="Apache-2.0",
            seq2seq=True,
            weight_count=weight_count,
            projections=((6 * layers, width, width),),  # q and v of 3 attentions in each layer: encoder, decoder, cross
        )
        for name, width, layers, weight_count in (
            ("t5-small", 512, 6, 60_506_624),
            ("t5-base", 768, 12, 222_903_552),
            ("t5-large", 1024, 24, 737_668_096),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        return load_from_source(
            Seq2SeqBackbone, "AutoModelForSeq2SeqLM", name, self.revision(name), source_of(name), precision
        )

    def revision(self, name: str) -> str:
        return revision_of(name)


SPEC = Seq2SeqSpec()
