"""Encoder-decoder models of the T5 family: T5, T5 v1.1, Flan-T5, mT5.

The prompt stands in the encoder's input. `<extra_id_0>` stands in the text where the label is missing; the decoder is
given `[start, <extra_id_0>]` and the label is read at its second step, as in T5's own pre-training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts
from lopt.backbones._model import FrozenModel, from_source, revision_of, source_of

SENTINEL = "<extra_id_0>"


class Seq2SeqBackbone(FrozenModel):
    """A frozen T5-like model. fp16 overflows in these models, so it is not among the precisions (bf16, fp32, fp64)."""

    def __init__(self, name: str, revision: str, model: Any, tokenizer: Any) -> None:
        self._sentinel_id = tokenizer.get_vocab().get(SENTINEL)
        if self._sentinel_id is None:
            raise ValueError(f"backbone {name!r}: its tokenizer has no {SENTINEL}; encoder-decoders of T5's kind have")
        start_id = getattr(model.config, "decoder_start_token_id", None)
        self._start_id = model.config.pad_token_id if start_id is None else start_id  # T5 starts with padding
        # Positions are relative, so a longer input is possible; T5 was trained on 512 tokens.
        window = int(getattr(model.config, "n_positions", None) or 512)
        super().__init__(name, revision, model, tokenizer, window=window)

    def complete(self, template: str) -> str:
        return template.replace("{mask}", SENTINEL) if "{mask}" in template else f"{template} {SENTINEL}"

    @property
    def head_scale(self) -> float:
        """T5 with tied embeddings multiplies the last hidden state by d^-0.5 before the head."""
        return self.width**-0.5 if getattr(self.model.config, "scale_decoder_outputs", False) else 1.0

    def _encoder_inputs(self, soft: Any, ids_BT: Any, lengths_B: Any) -> dict[str, Any]:
        import torch

        ids_BT, lengths_B = ids_BT.to(self.device), lengths_B.to(self.device)
        embedded = self.model.get_input_embeddings()(ids_BT)
        if soft is not None:
            embedded, lengths_B = soft.placed(embedded, lengths_B)
        mask_BS = torch.arange(embedded.shape[1], device=self.device)[None] < lengths_B[:, None]
        return {"inputs_embeds": embedded, "attention_mask": mask_BS.long()}

    def _decoder_ids(self, rows: int) -> Any:
        import torch

        return torch.tensor([[self._start_id, self._sentinel_id]], device=self.device).expand(rows, -1)

    def _state(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call = self._encoder_inputs(soft, ids_BT, lengths_B)
        encoded_BSH = self.model.get_encoder()(**call).last_hidden_state
        decoded = self.model.get_decoder()(
            input_ids=self._decoder_ids(len(ids_BT)),
            encoder_hidden_states=encoded_BSH,
            encoder_attention_mask=call["attention_mask"],
            use_cache=False,
        )
        return decoded.last_hidden_state[:, 1]

    def _whole_logits(self, soft: Any, ids_BT: Any, lengths_B: Any) -> Any:
        call = self._encoder_inputs(soft, ids_BT, lengths_B)
        return self.model(**call, decoder_input_ids=self._decoder_ids(len(ids_BT)), use_cache=False).logits[:, 1]


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
            size=size,
            projections=((6 * layers, width, width),),  # q and v of 3 attentions a layer: encoder, decoder, cross
        )
        for name, width, layers, size in (
            ("t5-small", 512, 6, 60_506_624),
            ("t5-base", 768, 12, 222_903_552),
            ("t5-large", 1024, 24, 737_668_096),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        return from_source(
            Seq2SeqBackbone, "AutoModelForSeq2SeqLM", name, self.revision(name), source_of(name), precision
        )

    def revision(self, name: str) -> str:
        return revision_of(name)


SPEC = Seq2SeqSpec()
