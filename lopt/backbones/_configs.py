"""Facts of a model without its weights, read from its `config.json`."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lopt.backbones._adapted import Projections, adapted_projections
from lopt.errors import first_line_of_error

# Model types of encoder-decoders that read and write as T5 does.
T5_TYPES = ("t5", "mt5", "umt5", "switch_transformers", "longt5", "t5gemma")
_SUPPORTED_MODELS = (
    f"causal models (GPT-2, Llama and similar) and T5-style encoder-decoders ({', '.join(T5_TYPES)}) are supported"
)

# Quantisations that transformers undoes when it reads the weights, and one that leaves the weights as they are.
DEQUANTISED_FORMATS = ("fp8", "mxfp4")
_UNCHANGED_FORMATS = ("bitnet",)

# The keys under which a config may have a number, because families of models name the same number differently. The
# first of the keys that a config has is taken.
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "emb_dim")
_EMBEDDING_WIDTH_KEYS = ("word_embed_proj_dim", "input_embedding_size", "embedding_size", "embedding_dim")
_LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_WINDOW_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_target_positions",
    "context_length",
)
_DEFAULT_WINDOW, _DEFAULT_T5_WINDOW = 2048, 512


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model without its weights.

    Attributes:
        width: embedding width d.
        layers: number of layers.
        vocabulary: number of tokens.
        window: length of the longest input, in tokens.
        hub_name: the model's name on the model hub, if the backbone has another name here.
        same_weights_note: how to get the same weights, in Markdown, if those on the hub differ.
        seq2seq: whether the model has an encoder and a decoder.
        weight_count: number of weights. If it is None, `count_weights` computes it.
        projections: (number of projections, fan_in, fan_out) for each shape of projection that LoRA adapts by default.
        count_weights: a function that returns the number of weights.
        find_projections: a function that takes LoRA's option `targets` (None for the default) and returns triples such
            as those of `projections`. Like `count_weights`, it builds the model without memory for its weights.
    """

    width: int
    layers: int
    vocabulary: int
    window: int
    licence: str = "unknown"
    hub_name: str | None = None
    same_weights_note: str | None = None
    seq2seq: bool = False
    weight_count: int | None = None
    projections: Projections | None = None
    count_weights: Callable[[], int] | None = field(default=None, compare=False, repr=False)
    find_projections: Callable[[str | None], Projections] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def parameters(self) -> int:
        """Number of weights, with embeddings, and tied weights counted once.

        Raises:
            ValueError: the number is not known, or no model can be built from the config.
        """
        if self.weight_count is not None:
            return self.weight_count
        if self.count_weights is None:
            raise ValueError("this backbone does not say how many weights its model has; give another backbone")
        return self.count_weights()

    def lora_projections(self, targets: str | None = None) -> Projections:
        """Return (number of projections, fan_in, fan_out) for each shape of projection that LoRA adapts.

        Args:
            targets: names of modules, joined by "+". None for the default (`lopt.methods.lora`).

        Raises:
            ValueError: the projections are not known, the model has none of that name, or PEFT is missing.
        """
        if targets is None and self.projections is not None:
            return self.projections
        if self.find_projections is None:
            raise ValueError(
                "the parameters of `targets` can only be counted from a config.json, and this backbone has none: "
                "give a folder as `backbone`, or leave `targets` out"
            )
        return self.find_projections(targets)


def facts_from_config(name: str, config: Mapping[str, Any]) -> Facts:
    """Return the facts of the model that `config`, the content of a config.json, describes.

    Raises:
        ValueError: the config lacks a number that is needed, or describes a model of a kind that is not supported.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"backbone {name!r}: its config.json is not a JSON object")
    model_type, seq2seq = config.get("model_type"), bool(config.get("is_encoder_decoder"))
    if seq2seq and model_type not in T5_TYPES:
        raise ValueError(
            f"backbone {name!r} is not supported: it is an encoder-decoder of type {model_type}; {_SUPPORTED_MODELS}"
        )
    if not seq2seq and any(part in config for part in ("text_config", "vision_config", "audio_config")):
        raise ValueError(
            f"backbone {name!r} is not supported: type {model_type} reads more than text; {_SUPPORTED_MODELS}"
        )

    quantisation = config.get("quantization_config")
    readable_formats = (*DEQUANTISED_FORMATS, *_UNCHANGED_FORMATS)
    if isinstance(quantisation, Mapping) and quantisation.get("quant_method") not in readable_formats:
        raise ValueError(
            f"backbone {name!r} is not supported: its weights are quantised ({quantisation.get('quant_method')}), and "
            "gradients do not pass through quantised weights; give the model as it was before it was quantised"
        )

    def first_number(config_values: Mapping[str, Any], keys: Iterable[str]) -> int | None:
        for key in keys:
            value = config_values.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                if value < 1:
                    raise ValueError(f"backbone {name!r}: {key} in its config.json is {value}; 1 or more is valid")
                return value
        return None

    keys_by_fact = {
        "width": (*_EMBEDDING_WIDTH_KEYS, *_WIDTH_KEYS),
        "layers": _LAYER_COUNT_KEYS,
        "vocabulary": ("vocab_size",),
    }
    number_by_fact = {fact: first_number(config, keys) for fact, keys in keys_by_fact.items()}
    if None in number_by_fact.values():  # a number that the config leaves out has the default of the model type
        full_config = _fill_in_defaults(config)
        number_by_fact = {
            fact: number or first_number(full_config, keys_by_fact[fact]) for fact, number in number_by_fact.items()
        }
        config = {**full_config, **config}
    for fact, number in number_by_fact.items():
        if number is None:
            raise ValueError(
                f"backbone {name!r} is not supported: its config.json, of type {model_type}, does not give its {fact} "
                f"({', '.join(keys_by_fact[fact])}); {_SUPPORTED_MODELS}"
            )
    return Facts(
        **number_by_fact,  # type: ignore[arg-type]  # none of them is None
        window=window_of(config),
        seq2seq=seq2seq,
        count_weights=lambda: _count_weights(name, config),
        find_projections=lambda targets: adapted_projections(_build_model_without_memory(name, config), targets),
    )


def window_of(config: Mapping[str, Any]) -> int:
    """Return the largest number of tokens that a model with this config reads.

    Two families get a smaller window than their config states, so that no answer depends on the other texts of a batch.
    In LongRoPE, the longest text of a batch decides how positions are scaled, so the window ends where scaling would
    begin. In Doge, attention chooses among all tokens of a row, later ones included, so the window ends where attention
    would begin to choose.
    """
    is_seq2seq = config.get("is_encoder_decoder")
    text_config = {**_subconfig(config, "encoder"), **config} if is_seq2seq else config
    candidates = (text_config.get(key) for key in _WINDOW_KEYS)
    default_window = _DEFAULT_T5_WINDOW if is_seq2seq else _DEFAULT_WINDOW
    window = next(
        (candidate for candidate in candidates if isinstance(candidate, int) and candidate > 0), default_window
    )
    original_window_key = "original_max_position_embeddings"
    for scaling in _position_scalings(text_config):
        if scaling.get("rope_type", scaling.get("type")) in ("longrope", "su"):
            window = min(window, scaling.get(original_window_key) or text_config.get(original_window_key) or window)
    return min(window, text_config.get("keep_window_size") or window)


def _position_scalings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield how rotary positions are scaled: one entry for the model, or one for each type of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        scaling = config.get(key)
        if isinstance(scaling, Mapping):
            yield scaling
            yield from (scaling_of_type for scaling_of_type in scaling.values() if isinstance(scaling_of_type, Mapping))


def _subconfig(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    subconfig = config.get(name)
    return subconfig if isinstance(subconfig, Mapping) else {}


def _fill_in_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config with the defaults of its model type, under the type's own names.

    Width, number of layers and window are in the result under their common names as well. If an encoder-decoder has a
    config for each side, the encoder's numbers are taken. The config of an unknown type is returned as it is.
    """
    try:
        model_config = _read_model_config(config)
    except Exception:  # transformers raises many kinds of errors; the caller then says what is missing
        return config
    full_config = model_config.to_dict()
    for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings"):  # some types name them differently
        full_config[name] = full_config.get(name) or getattr(model_config, name, None)
    return {**full_config, **_subconfig(full_config, "encoder")}


def _read_model_config(config: Mapping[str, Any]) -> Any:
    """Return transformers' config object.

    It is read from a file, because in a config.json transformers writes infinity as a JSON object, and only its reader
    of files understands such an object.
    """
    from transformers import CONFIG_MAPPING

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(config, file)
        file.flush()
        return CONFIG_MAPPING[config["model_type"]].from_json_file(file.name)


def _build_model_without_memory(name: str, config: Mapping[str, Any]) -> Any:
    """Return the model that a config describes, on PyTorch's "meta" device: its weights take no memory."""
    import torch
    import transformers

    try:
        model_config = _read_model_config(config)
        is_seq2seq = model_config.is_encoder_decoder
        auto_class = transformers.AutoModelForSeq2SeqLM if is_seq2seq else transformers.AutoModelForCausalLM
        # The attention is "eager", because the one that the config names may not be installed.
        with torch.device("meta"):
            return auto_class.from_config(model_config, attn_implementation="eager")
    except Exception as error:  # transformers raises many kinds of errors; all mean that the config cannot be used
        raise ValueError(
            f"backbone {name!r}: no model can be built from its config.json ({first_line_of_error(error)})"
        ) from None


def _count_weights(name: str, config: Mapping[str, Any]) -> int:
    model = _build_model_without_memory(name, config)
    weight_count = sum(parameter.numel() for parameter in model.parameters())
    output_head = model.get_output_embeddings()
    is_tied = output_head is not None and output_head.weight is model.get_input_embeddings().weight
    if model.config.is_encoder_decoder and not getattr(model.config, "scale_decoder_outputs", True) and is_tied:
        weight_count += (
            output_head.weight.numel()
        )  # T5 v1.1 has its own head; transformers ties it until it reads the weights
    return weight_count
