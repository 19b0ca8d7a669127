"""What tells the same model again where its files are others: the hub's, or a mirror's with some files more."""

import hashlib
import json

import torch

from lopt.backbones import Backbone

_VALUES = 1024  # of each tensor; any training changes some of them
_OF_FILES = {"transformers_version", "dtype", "torch_dtype"}  # in a configuration, what says nothing of the model
_TEXT = "The quick brown fox — naïve, 42 £ — jumps; it was\n“great” 😀"


def fingerprint(backbone: Backbone) -> str:
    """16 digits that depend on the weights as loaded (values spread evenly over each tensor), on the model's
    configuration, and on how a text is tokenised."""
    config = {n: v for n, v in backbone.model.config.to_dict().items() if n not in _OF_FILES and not n.startswith("_")}
    described = json.dumps([backbone.tokenizer(_TEXT)["input_ids"], config], sort_keys=True, default=str)
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(backbone.model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
