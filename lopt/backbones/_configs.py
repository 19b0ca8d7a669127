"""Facts of a model without its weights, and how its `config.json` says them."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lopt.backbones._adapted import Projections, adapted_projections
from lopt.errors import reason_of

# Encoder-decoders that read and write as T5 does, by the model type of their config.
T5_KINDS = ("t5", "mt5", "umt5", "switch_transformers", "longt5", "t5gemma")
_SUPPORTED = f"causal models (GPT-2, Llama and kin) and those of T5's kind ({', '.join(T5_KINDS)}) are"

# Ways to quantise that transformers undoes when it reads the weights, and one that leaves them as they are.
DEQUANTISED = ("fp8", "mxfp4")
_KEPT_WHOLE = ("bitnet",)

_WIDTH = ("hidden_size", "n_embd", "d_model", "emb_dim")
_EMBEDDING_WIDTH = ("word_embed_proj_dim", "input_embedding_size", "embedding_size", "embedding_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_WINDOW = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions", "context_length")
_WINDOW_WITHOUT_POSITIONS, _T5_WINDOW = 2048, 512


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model without its weights: width d, layers, vocabulary size, window in tokens, licence.

    hub: its name on the model hub, where it has another name here. exact: how others get the very weights, in Markdown,
    where those of the hub differ. seq2seq: whether it has an encoder and a decoder. size, projections: number of
    weights, and (how many, fan_in, fan_out) of the attention projections that LoRA adapts; where they are None, `count`
    and `project` find them by making the model without memory.
    """

    width: int
    layers: int
    vocabulary: int
    window: int
    licence: str = "unknown"
    hub: str | None = None
    exact: str | None = None
    seq2seq: bool = False
    size: int | None = None
    projections: Projections | None = None
    count: Callable[[], int] | None = field(default=None, compare=False, repr=False)
    project: Callable[[str | None], Projections] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def parameters(self) -> int:
        """Number of weights, embeddings included and tied ones once; ValueError when it is not known, or no model can
        be made of the config."""
        if self.size is None and self.count is None:
            raise ValueError("the number of this model's weights is not known")
        return self.size if self.size is not None else self.count()  # type: ignore[misc]  # one of the two is there

    def adapted(self, targets: str | None = None) -> Projections:
        """(how many, fan_in, fan_out) of the projections that LoRA adapts, one for each of their shapes; ValueError
        when they are not known, the model has none of such a name, or PEFT is missing.

        targets: names of modules, joined by "+"; None for the default (`lopt.methods.lora`).
        """
        if targets is None and self.projections is not None:
            return self.projections
        if self.project is None:
            raise ValueError(
                "targets can be counted where a model's config.json is read, and this model is known by name: give "
                "backbone as a folder, or leave targets out"
            )
        return self.project(targets)


def facts_of(name: str, config: Mapping[str, Any]) -> Facts:
    """Facts of the model that `config` describes; ValueError when it does not say what is needed, or describes a model
    of another kind."""
    if not isinstance(config, Mapping):
        raise ValueError(f"backbone {name!r}: its config.json is not a JSON object")
    kind, seq2seq = config.get("model_type"), bool(config.get("is_encoder_decoder"))
    if seq2seq and kind not in T5_KINDS:
        raise ValueError(f"backbone {name!r} is not supported: it is an encoder-decoder of type {kind}; {_SUPPORTED}")
    if not seq2seq and any(part in config for part in ("text_config", "vision_config", "audio_config")):
        raise ValueError(f"backbone {name!r} is not supported: type {kind} reads more than text; {_SUPPORTED}")

    quantised = config.get("quantization_config")
    if isinstance(quantised, Mapping) and quantised.get("quant_method") not in (*DEQUANTISED, *_KEPT_WHOLE):
        raise ValueError(
            f"backbone {name!r} is not supported: its weights are quantised ({quantised.get('quant_method')}), and a "
            "gradient goes through whole numbers only with a method's own code: give the model as it was before that"
        )

    def first(values: Mapping[str, Any], keys: Iterable[str]) -> int | None:
        for key in keys:
            value = values.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                if value < 1:
                    raise ValueError(f"backbone {name!r}: {key} in its config.json is {value}; 1 or more is valid")
                return value
        return None

    needed = {"width": (*_EMBEDDING_WIDTH, *_WIDTH), "layers": _LAYERS, "vocabulary": ("vocab_size",)}
    numbers = {what: first(config, keys) for what, keys in needed.items()}
    if None in numbers.values():  # what a config leaves out has the default of its type
        completed = _completed(config)
        numbers = {what: number or first(completed, needed[what]) for what, number in numbers.items()}
        config = {**completed, **config}
    for what, number in numbers.items():
        if number is None:
            raise ValueError(
                f"backbone {name!r} is not supported: its config.json, of type {kind}, does not say its {what} "
                f"({', '.join(needed[what])}); {_SUPPORTED}"
            )
    return Facts(
        **numbers,  # type: ignore[arg-type]  # none of them is None
        window=window_of(config),
        seq2seq=seq2seq,
        count=lambda: _size(name, config),
        project=lambda targets: adapted_projections(_on_meta(name, config), targets),
    )


def window_of(config: Mapping[str, Any]) -> int:
    """The most tokens that a model of this config reads.

    Where positions are scaled by the longest text of a batch (LongRoPE), it ends where scaling would begin, and where
    attention chooses from all tokens of a row, those that follow included (Doge), where it would begin to choose, so
    that no answer depends on another text.
    """
    text = {**_part(config, "encoder"), **config} if config.get("is_encoder_decoder") else config
    sizes = (text.get(key) for key in _WINDOW)
    default = _T5_WINDOW if config.get("is_encoder_decoder") else _WINDOW_WITHOUT_POSITIONS
    window = next((size for size in sizes if isinstance(size, int) and size > 0), default)
    for scaling in _position_scalings(text):
        if scaling.get("rope_type", scaling.get("type")) in ("longrope", "su"):
            original = scaling.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
            window = min(window, original or window)
    return min(window, text.get("keep_window_size") or window)


def _position_scalings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """How rotary positions are scaled: once for the model, or for each type of its layers."""
    for key in ("rope_parameters", "rope_scaling"):
        scaling = config.get(key)
        if isinstance(scaling, Mapping):
            yield scaling
            yield from (part for part in scaling.values() if isinstance(part, Mapping))


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with its type's defaults, and the names that the type itself has for a setting; as it is for an
    unknown type. Of an encoder-decoder with a config a side, the encoder's."""
    try:
        model_config = _model_config(config)
    except Exception:  # transformers raises many kinds; what is missing is then said
        return config
    completed = model_config.to_dict()
    for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings"):  # some types have another name
        completed[name] = completed.get(name) or getattr(model_config, name, None)
    return {**completed, **_part(completed, "encoder")}


def _model_config(config: Mapping[str, Any]) -> Any:
    """transformers' own config object, read as from a file, where infinity is written as an object."""
    from transformers import CONFIG_MAPPING

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(config, file)
        file.flush()
        return CONFIG_MAPPING[config["model_type"]].from_json_file(file.name)


def _on_meta(name: str, config: Mapping[str, Any]) -> Any:
    """The model that a config describes, without memory for its weights."""
    import torch
    import transformers

    try:
        model_config = _model_config(config)
        is_seq2seq = model_config.is_encoder_decoder
        family = transformers.AutoModelForSeq2SeqLM if is_seq2seq else transformers.AutoModelForCausalLM
        with torch.device("meta"):
            return family.from_config(model_config, attn_implementation="eager")  # whatever it was trained with
    except Exception as error:  # transformers raises many kinds; all mean that the config cannot be read
        raise ValueError(f"backbone {name!r}: no model can be made of its config.json ({reason_of(error)})") from None


def _size(name: str, config: Mapping[str, Any]) -> int:
    model = _on_meta(name, config)
    size = sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if model.config.is_encoder_decoder and not getattr(model.config, "scale_decoder_outputs", True) and tied:
        size += head.weight.numel()  # T5 v1.1 has a head of its own, which transformers ties until it reads the weights
    return size
