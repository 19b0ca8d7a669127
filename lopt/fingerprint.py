"""A fingerprint that recognises a model wherever its files come from: the hub, or a mirror that holds more files."""

import hashlib
import json

import torch

from lopt.backbones import Backbone

_VALUES_PER_TENSOR = 1024  # any training changes some of them
_IGNORED_ENTRIES = {"transformers_version", "dtype", "torch_dtype"}  # they describe only the files
_SAMPLE_TEXT = "The quick brown fox — naïve, 42 £ — jumps; it was\n“great” 😀"


def model_fingerprint(backbone: Backbone) -> str:
    """Return 16 hexadecimal digits that depend on the loaded weights (values spread evenly over each tensor), on the
    model's configuration, and on how a text is tokenised."""
    model_config = {
        name: value
        for name, value in backbone.model.config.to_dict().items()
        if name not in _IGNORED_ENTRIES and not name.startswith("_")
    }
    description = json.dumps([backbone.tokenizer(_SAMPLE_TEXT)["input_ids"], model_config], sort_keys=True, default=str)
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(backbone.model.state_dict().items()):
        values = tensor.detach().reshape(-1)
        sample = values[:: max(1, len(values) // _VALUES_PER_TENSOR)][:_VALUES_PER_TENSOR].cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
