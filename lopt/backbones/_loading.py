"""Loading of models and tokenizers that transformers knows, and what identifies their weights."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from lopt.backbones._checks import refuse_unread
from lopt.backbones._configs import DEQUANTISED
from lopt.backbones._names import facts, local_folder
from lopt.errors import reason_of
from lopt.files import refuse_pointer


def torch_dtype(precision: str) -> Any:
    """The torch type of "bf16", "fp32" or "fp64"."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]


def default_device() -> Any:
    """The first GPU that is visible, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_source(kind: type, auto: str, name: str, revision: str, source: str | Path, precision: str) -> Any:
    """Loads a folder or hub name. Code that comes with a model is never executed.

    Args:
        kind: a backbone's class, made of (name, revision, model, tokenizer). auto: name of the transformers class that
            loads the model. name: what the backbone is called. revision: what identifies the weights. source: the
            folder or hub name. precision: "bf16", "fp32" or "fp64".

    Returns:
        The backbone, on the GPU when there is one.

    Raises:
        ValueError: it cannot be had, lacks some of its weights or has more of them, is an adapter, or has no fast
            tokenizer.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    facts(name)  # refuses what its config.json rules out
    options: dict[str, Any] = {"dtype": torch_dtype(precision), "trust_remote_code": False, "output_loading_info": True}
    if precision == "fp64":
        options["experts_implementation"] = "eager"  # PyTorch's grouped products have no fp64
    try:
        # trust_remote_code is said, not left open: transformers would ask on standard input.
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        options["config"] = _config_of(source)
        model, loading = _with_attention(getattr(transformers, auto).from_pretrained, source, options)
    except Exception as error:  # transformers and the hub's client raise many kinds; the user needs one line
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({reason_of(error)}); give a folder with config.json, weights and "
            "tokenizer, set LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:  # transformers would go on with random ones
        raise ValueError(
            f"backbone {name!r} lacks {len(missing)} of its weights ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}): its config.json is another model's, or its files are incomplete"
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # its weights are another folder's
        raise ValueError(
            f"backbone {name!r} has an adapter_config.json, so that transformers reads an adapter of PEFT and the "
            f"model below it, {model.name_or_path!r}: give a model with the adapter merged into it, or take that "
            "file away"
        )
    refuse_unread(name, model, loading["unexpected_keys"])
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"backbone {name!r} has no fast tokenizer; one with a tokenizer.json is needed")
    backbone = kind(name, revision, model.to(default_device()), tokenizer)
    if backbone.width != facts(name).width:
        raise ValueError(
            f"backbone {name!r}: its config.json says that embeddings are {facts(name).width} wide, and they are "
            f"{backbone.width} wide; give files that belong together"
        )
    return backbone


def _config_of(source: str | Path) -> Any:
    """The model's configuration, without what it says of how the model is run: that is decided here."""
    from transformers import AutoConfig

    ours = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **ours)
    quantised = getattr(config, "quantization_config", None)
    if isinstance(quantised, dict) and quantised.get("quant_method") in DEQUANTISED:
        quantised["dequantize"] = True  # a GPU might keep them as they are
    return config


def _with_attention(load: Any, source: str | Path, options: dict[str, Any]) -> Any:
    """Loads with PyTorch's attention, or with the family's own where PyTorch's cannot express it (Gemma 2, BLOOM)."""
    try:
        return load(source, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        return load(source, attn_implementation="eager", **options)


def source_of(name: str) -> str | Path:
    """What transformers loads for a name: a local folder, or the name itself, for the hub."""
    return local_folder(name) or name


def revision_of(name: str) -> str:
    """Hash of a local folder's files, or the commit of the hub; ValueError when neither is at hand."""
    folder = local_folder(name)
    if folder is not None:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".model", ".txt"))
        for file in files:
            refuse_pointer(file)
        return _folder_revision(folder, tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files))
    try:
        from huggingface_hub import hf_hub_download

        return "hub:" + Path(hf_hub_download(name, "config.json")).parent.name[:16]
    except Exception as error:
        raise ValueError(
            f"backbone {name!r} is not on this machine and the hub gave none ({reason_of(error)}); give a folder, set "
            "LOPT_MODEL_DIR to a mirror <model name>/, or use backbone embedded, which needs no hub"
        ) from None


@lru_cache(maxsize=8)
def _folder_revision(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]
