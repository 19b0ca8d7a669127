"""Facts from a model's `config.json`, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lopt.backbones import Facts
from lopt.errors import reason_of


def facts_of(name: str, config: Mapping[str, Any]) -> Facts:
    """Facts of the model that `config` describes.

    Raises:
        ValueError: the config does not say what is needed.
    """

    if not isinstance(config, Mapping):
        raise ValueError(f"backbone {name!r}: its config.json is no JSON object")

    def first(*keys: str, default: int | None = None) -> int:
        for key in keys:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                if value < 1:
                    raise ValueError(f"backbone {name!r}: {key} in its config.json is {value}; 1 or more is valid")
                return value
        if default is not None:
            return default
        raise ValueError(f"backbone {name!r}: its config.json has none of {', '.join(keys)}")

    seq2seq = bool(config.get("is_encoder_decoder"))
    return Facts(
        width=first("hidden_size", "n_embd", "d_model"),
        layers=first("num_hidden_layers", "n_layer", "num_layers"),
        vocabulary=first("vocab_size"),
        window=first("max_position_embeddings", "n_positions", "n_ctx", default=512 if seq2seq else 2048),
        seq2seq=seq2seq,
        count=lambda: _size(name, config),
        project=lambda: adapted_projections(_on_meta(name, config)),
    )


def _on_meta(name: str, config: Mapping[str, Any]) -> Any:
    """The model that a config describes, without memory for its weights."""
    import torch
    import transformers
    from transformers import AutoConfig

    try:
        made = AutoConfig.for_model(**config)
        family = transformers.AutoModelForSeq2SeqLM if made.is_encoder_decoder else transformers.AutoModelForCausalLM
        with torch.device("meta"):
            return family.from_config(made)
    except Exception as error:  # transformers raises many kinds; all mean that the config cannot be read
        reason = reason_of(error)
        raise ValueError(f"backbone {name!r}: no model can be made of its config.json ({reason})") from None


def _size(name: str, config: Mapping[str, Any]) -> int:
    model = _on_meta(name, config)
    size = sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if model.config.is_encoder_decoder and not getattr(model.config, "scale_decoder_outputs", True) and tied:
        size += head.weight.numel()  # T5 v1.1 has a head of its own, which transformers ties until it reads the weights
    return size


def adapted_projections(model: Any) -> tuple[tuple[int, int, int], ...]:
    """(how many, fan_in, fan_out) of the modules that PEFT's LoRA adapts by default in this family of models."""
    try:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as targets
    except ImportError:
        raise ValueError("counting LoRA's parameters on this model needs the package peft: pip install peft") from None

    names = targets.get(model.config.model_type)
    if not names:
        raise ValueError(f"PEFT names no default LoRA targets for models of type {model.config.model_type}")
    shapes: dict[tuple[int, int], int] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name.rsplit(".", 1)[-1] in names and weight is not None and weight.ndim == 2:
            fans = tuple(weight.shape) if type(module).__name__ == "Conv1D" else tuple(weight.shape)[::-1]
            shapes[fans] = shapes.get(fans, 0) + 1
    return tuple((count, *fans) for fans, count in shapes.items())
