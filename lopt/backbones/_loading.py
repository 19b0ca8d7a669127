"""How models and tokenizers are loaded with transformers, and what identifies their weights."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt.backbones._checks import refuse_unused_weights
from lopt.backbones._configs import DEQUANTISED_FORMATS
from lopt.backbones._names import facts, local_folder
from lopt.device import default_device
from lopt.errors import first_line_of_error
from lopt.files import refuse_lfs_pointer


def torch_dtype(precision: str) -> Any:
    """Return the torch type of "bf16", "fp32" or "fp64"."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]


def load_from_source(
    backbone_class: type, auto_class: str, name: str, revision: str, source: str | Path, precision: str
) -> Any:
    """Load a backbone from a folder or from the hub. Code that comes with a model is never executed.

    Args:
        backbone_class: called with (name, revision, model, tokenizer).
        auto_class: name of the transformers class that loads the model.
        name: the backbone's name.
        revision: a text that identifies its weights.
        source: the folder, or the name on the hub.
        precision: "bf16", "fp32" or "fp64".

    Returns:
        The backbone, on the GPU if there is one.

    Raises:
        ValueError: the model cannot be loaded, lacks some weights, has weights that do not fit, is an adapter, or has
            no fast tokenizer.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    facts(name)  # raises if the config.json describes a model that is not supported
    options: dict[str, Any] = {"dtype": torch_dtype(precision), "trust_remote_code": False, "output_loading_info": True}
    if precision == "fp64":
        options["experts_implementation"] = "eager"  # PyTorch's grouped products do not support fp64
    try:
        # Without an explicit trust_remote_code, transformers would ask a question on standard input.
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        options["config"] = _read_model_config(source)
        model, loading_info = _load_with_attention(getattr(transformers, auto_class).from_pretrained, source, options)
    except Exception as error:  # transformers and the hub's client raise many kinds of errors
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({first_line_of_error(error)}); give a folder with config.json, "
            "weights and tokenizer, set LOPT_MODEL_DIR to a folder that holds <model name>/, or use backbone embedded, "
            "which needs no hub"
        ) from error
    missing_names = sorted(loading_info["missing_keys"])
    if missing_names:  # transformers would continue with random weights
        raise ValueError(
            f"backbone {name!r} lacks {len(missing_names)} of its weights ({', '.join(missing_names[:3])}"
            f"{', …' if len(missing_names) > 3 else ''}): config.json belongs to another model, or files are missing"
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # then the weights come from another folder
        raise ValueError(
            f"backbone {name!r} has an adapter_config.json, so transformers reads a PEFT adapter and its "
            f"base model, {model.name_or_path!r}: give a model with the adapter merged into it, or remove that file"
        )
    refuse_unused_weights(name, model, loading_info["unexpected_keys"])
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"backbone {name!r} has no fast tokenizer; give a model with a tokenizer.json")
    backbone = backbone_class(name, revision, model.to(default_device()), tokenizer)
    if backbone.width != facts(name).width:
        raise ValueError(
            f"backbone {name!r}: its config.json says that embeddings have width {facts(name).width}, but their width "
            f"is {backbone.width}; give files that belong together"
        )
    return backbone


def _read_model_config(source: str | Path) -> Any:
    """Return the model's config, with this program's settings for what a forward pass returns."""
    from transformers import AutoConfig

    output_settings = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **output_settings)
    quantisation = getattr(config, "quantization_config", None)
    if isinstance(quantisation, dict) and quantisation.get("quant_method") in DEQUANTISED_FORMATS:
        quantisation["dequantize"] = True  # on a GPU, transformers might leave the weights quantised
    return config


def _load_with_attention(load: Any, source: str | Path, options: dict[str, Any]) -> Any:
    """Load a model with PyTorch's attention, or with the family's own attention if PyTorch's cannot do the same
    (Gemma 2, BLOOM)."""
    try:
        return load(source, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        return load(source, attn_implementation="eager", **options)


def source_of(name: str) -> str | Path:
    """Return where transformers finds a model: a local folder, or else its name on the hub."""
    return local_folder(name) or name


def revision_of(name: str) -> str:
    """Return the hash of a local folder's files, or the commit on the hub.

    Raises:
        ValueError: neither a folder nor the hub has the model.
    """
    folder = local_folder(name)
    if folder is not None:
        suffixes = (".safetensors", ".bin", ".json", ".model", ".txt")
        files = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
        for file in files:
            refuse_lfs_pointer(file)
        return _hash_files(folder, tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    try:
        from huggingface_hub import hf_hub_download

        return "hub:" + Path(hf_hub_download(name, "config.json")).parent.name[:16]
    except Exception as error:
        raise ValueError(
            f"backbone {name!r} is not on this machine, and it could not be downloaded "
            f"({first_line_of_error(error)}); give a folder, set LOPT_MODEL_DIR to a folder that holds <model name>/, "
            "or use backbone embedded, which needs no hub"
        ) from None


@lru_cache(maxsize=8)
def _hash_files(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of a folder's files, given as (name, size, time of the last change).

    Size and time only serve the cache of this function: they change with a file, so no old hash is returned for it.
    """
    digest = hashlib.sha256()
    for name, _, _ in files:
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]
